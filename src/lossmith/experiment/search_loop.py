"""The search: ask, screen, tune, train, tell, generation after generation, each step stored before the next is begun.

A killed search loses the trainings in flight and nothing else: the method's state is the checkpoint of the last told
generation, `ask` is a pure function of it, and every training is looked up in the store before it is done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lossmith.evaluation import Standing, mean_fitness, seed_block, top
from lossmith.experiment.events import GenerationFinished, Note
from lossmith.experiment.preparation import Position, Prepared, Stages
from lossmith.experiment.session import Session
from lossmith.experiment.spec import SearchSection
from lossmith.losses import from_json
from lossmith.losses.simplify import formula
from lossmith.records import Candidate, Evaluation, Preparation, Request, Status
from lossmith.search import Method, Problem, State
from lossmith.store import RunStore


@dataclass(frozen=True)
class Tried:
    """A candidate that was trained, with its tuned loss where it was tuned, and how it stands."""

    candidate: Candidate
    standing: Standing


class SearchLoop:
    """One search in one session.

    Args:
        session: open for writing. method: the search method. problem: what it searches on.
        settings: generations, budget, seeds. run_seed: names the block of evaluation seeds.
        preparation: the stages between ask and training.
    """

    def __init__(
        self,
        session: Session,
        method: Method,
        problem: Problem,
        settings: SearchSection,
        run_seed: int,
        preparation: Preparation,
    ) -> None:
        self.session, self.method, self.problem, self.settings = session, method, problem, settings
        self.seeds = seed_block(run_seed, "fitness", max(settings.seed_block, settings.seeds_per_candidate))
        self.stages = Stages(preparation, run_seed)
        self.tried: dict[Position, Tried] = {}
        self.first_of: dict[str, Position] = {}  # the cache: key → the candidate that was evaluated for it
        self.takes_from: dict[Position, Position] = {}  # candidates whose result is an earlier one's

    def run(self) -> list[Tried]:
        """Go on to the last generation, or until the method has nothing left to ask.

        Returns:
            Every evaluated candidate in order.
        """
        store = self.session.store
        checkpoint = store.checkpoint("method")
        if checkpoint is None:
            number, state = 0, self.method.init(self.problem)
        else:
            number = checkpoint.generation + 1
            state = self.method.load(self.problem, checkpoint.document["state"])
            self._remember(store, number, dict(checkpoint.document["seeds"]))
        while number < self.settings.generations and not self.method.done(state):
            state = self._generation(number, state)
            number += 1
        return list(self.tried.values())

    def _generation(self, number: int, state: State) -> State:
        store = self.session.store
        asked, state = self.method.ask(state)
        candidates = self._with_duplicates(number, asked)
        worth = {(number, index): c for index, c in enumerate(candidates) if c.status.ok}
        firsts = [self._first_request(c) if c.status.ok else None for c in candidates]
        store.add_generation(number, candidates, firsts)
        prepared = self.stages.run(worth, self.session.evaluate)
        results = self._trained(prepared)
        statuses = [candidate.status for candidate in candidates]
        steps = 0
        for position, one in prepared.items():
            done = results.get(position, [])
            steps += one.steps + sum(result.steps for result in done)
            failed = [result.status for result in done if not result.status.ok]
            statuses[position[1]] = failed[0] if failed else one.status
        fitness = [self._fitness((number, index)) for index in range(len(candidates))]
        steps += self._elites_gain_a_seed()
        made = [prepared.get((number, index)) for index in range(len(candidates))]
        state = self.method.tell(state, asked, fitness, ["" if one is None else one.product for one in made])
        counts = Counter("duplicate_of" if s.kind == "duplicate_of" else str(s) for s in statuses)
        if not any(value is not None for value in fitness):
            text = self._nothing_found(number, state)
            store.add_event("empty_generation", str(number), {"text": text})
            self.session.emit(Note(text))
        document = {"state": self.method.dump(state), "seeds": self._extra_seeds()}
        tuned = [self._tuned(candidate, one) for candidate, one in zip(candidates, made, strict=True)]
        store.tell(
            number,
            fitness,
            dict(sorted(counts.items())),
            checkpoint=document,
            steps=steps,
            statuses=statuses,
            tuned=tuned,
        )
        self._report(number, counts)
        return state

    def _nothing_found(self, number: int, state: State) -> str:
        """What follows a generation in which no candidate gave a number."""
        what = f"{'generation' if self.method.rounds is None else 'block'} {number + 1}: no candidate gave a number"
        if number + 1 >= self.settings.generations:
            return f"{what}."
        if self.method.done(state):
            return f"{what}, and none is left to go on with."
        return f"{what}; the search goes on {'with fresh ones' if self.method.rounds is None else 'all the same'}."

    def _with_duplicates(self, number: int, asked: Sequence[Candidate]) -> list[Candidate]:
        """The candidates, those whose key was seen before marked as duplicates of the first that had it."""
        marked = []
        for index, candidate in enumerate(asked):
            if candidate.status.ok:
                key = f"{candidate.key}@{candidate.lr_scale!r}"
                first = self.first_of.setdefault(key, (number, index))
                if first != (number, index):
                    self.takes_from[number, index] = first
                    sentence = f"trains exactly like candidate {first[0]}.{first[1]}"
                    status = Status("duplicate_of", f"{first[0]}.{first[1]}", sentence)
                    candidate = replace(candidate, status=status)
            marked.append(candidate)
        return marked

    def _first_request(self, candidate: Candidate) -> Request:
        return self.stages.first_request(candidate) or self._requests(candidate, 1)[0]

    def _trained(self, prepared: Mapping[Position, Prepared]) -> dict[Position, list[Evaluation]]:
        """Train what came through the stages, and note how it stands."""
        count = self.settings.seeds_per_candidate
        wanted = {p: self._requests(one.candidate, count) for p, one in prepared.items() if one.status.ok}
        done = iter(self.session.evaluate([request for requests in wanted.values() for request in requests], "search"))
        results = {position: [next(done) for _ in requests] for position, requests in wanted.items()}
        for position, found in results.items():
            self.tried[position] = Tried(prepared[position].candidate, self._standing(position, found))
        self._take(prepared)
        return results

    def _take(self, prepared: Mapping[Position, Prepared]) -> None:
        self.takes_from |= {position: one.like for position, one in prepared.items() if one.like is not None}

    @staticmethod
    def _tuned(asked: Candidate, prepared: Prepared | None) -> str | None:
        """The loss that tuning made, where it is not the one that was asked."""
        return None if prepared is None or prepared.candidate.loss == asked.loss else prepared.candidate.loss

    def _requests(self, candidate: Candidate, count: int, start: int = 0) -> list[Request]:
        data_fraction = self.settings.budget if self.settings.fidelity == "data" else 1.0
        return [
            Request(
                candidate.loss,
                seed,
                self.settings.budget,
                lr_scale=candidate.lr_scale,
                data_fraction=data_fraction,
                stop_at_chance=True,
            )
            for seed in self.seeds[start : start + count]
        ]

    def _standing(self, position: Position, results: Sequence[Evaluation]) -> Standing:
        metric = self.session.task.metric
        return Standing(position, [metric.fitness(r.metrics["fitness"]) if r.status.ok else None for r in results])

    def _fitness(self, position: Position) -> float | None:
        """Mean over the seeds every candidate of the generation has had; one that takes another's result has that."""
        while position in self.takes_from:
            position = self.takes_from[position]
        tried = self.tried.get(position)
        return None if tried is None else mean_fitness(tried.standing.fitness[: self.settings.seeds_per_candidate])

    def _elites_gain_a_seed(self) -> int:
        """The best candidates so far are trained on one more seed each, so that luck does not keep its place."""
        best = top([t.standing for t in self.tried.values()], self.settings.elites)
        best = [standing for standing in best if len(standing.fitness) < len(self.seeds)]
        requests = [self._requests(self.tried[s.position].candidate, 1, len(s.fitness))[0] for s in best]
        if not requests:
            return 0
        results = self.session.evaluate(requests, "elite")
        for standing, result in zip(best, results, strict=True):
            standing.fitness.extend(self._standing(standing.position, [result]).fitness)
        return sum(result.steps for result in results)

    def _extra_seeds(self) -> dict[str, int]:
        """How many seeds each elite has had; everyone else has had the spec's."""
        usual = self.settings.seeds_per_candidate
        return {
            f"{position[0]}.{position[1]}": len(tried.standing.fitness)
            for position, tried in self.tried.items()
            if len(tried.standing.fitness) > usual
        }

    def _remember(self, store: RunStore, told: int, seeds: dict[str, int]) -> None:
        """Rebuild what the told generations left behind, by going through the stages again with stored answers."""

        def stored(requests: Sequence[Request], purpose: str) -> list[Evaluation]:
            return [found for request in requests if (found := store.evaluation(request.key)) is not None]

        generations: dict[int, dict[Position, Candidate]] = {number: {} for number in range(told)}
        for row in store.candidates():
            position = (row.generation, row.position)
            if row.generation >= told:
                continue
            if row.candidate.status.kind == "duplicate_of":
                first, _, place = row.candidate.status.detail.partition(".")
                self.takes_from[position] = (int(first), int(place))
            elif row.request is not None:  # nothing is ever requested for what the method itself screened
                candidate = replace(row.candidate, status=Status())
                self.first_of.setdefault(f"{candidate.key}@{candidate.lr_scale!r}", position)
                generations[row.generation][position] = candidate
        for worth in generations.values():
            prepared = self.stages.run(worth, stored)
            self._take(prepared)
            for position, one in prepared.items():
                if one.status.ok:
                    count = seeds.get(f"{position[0]}.{position[1]}", self.settings.seeds_per_candidate)
                    found = stored(self._requests(one.candidate, count), "search")
                    self.tried[position] = Tried(one.candidate, self._standing(position, found))

    def _report(self, number: int, counts: Counter[str]) -> None:
        best = top([t.standing for t in self.tried.values()], 1)
        value: float | None = None
        text = ""
        task = self.session.task
        if best:
            # Fitness is ± the value: applied twice it is undone.
            value = task.metric.fitness(best[0].mean(len(best[0].fitness)))
            found = self.tried[best[0].position].candidate.loss
            text = formula(from_json(found, head=task.head if callable(task.head) else None))
        generations = self.settings.generations
        steps = self.method.meta_steps_after(number + 1)
        of = self.method.meta_steps_after(generations)
        done = None if steps is None or of is None else (steps, of)
        self.session.emit(GenerationFinished(number, generations, value, task.metric.name, text, dict(counts), done))
