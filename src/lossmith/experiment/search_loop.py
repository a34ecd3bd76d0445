"""The search: ask, evaluate, tell, generation after generation, each step stored before the next is begun.

A killed search loses the trainings in flight and nothing else: the method's state is the checkpoint of the last told
generation, `ask` is a pure function of it, and every training is looked up in the store before it is done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lossmith.evaluation import Standing, mean_fitness, seed_block, top
from lossmith.experiment.events import GenerationFinished, Note
from lossmith.experiment.session import Session
from lossmith.experiment.spec import SearchSection
from lossmith.losses import from_json
from lossmith.records import Candidate, Evaluation, Request, Status
from lossmith.search import Method, Problem, State
from lossmith.store import RunStore

Position = tuple[int, int]


@dataclass(frozen=True)
class Tried:
    """A candidate that was evaluated, and how it stands."""

    candidate: Candidate
    standing: Standing


class SearchLoop:
    """One search in one session.

    Args:
        session: open for writing. method: the search method. problem: what it searches on.
        settings: generations, budget, seeds. run_seed: names the block of evaluation seeds.
    """

    def __init__(
        self, session: Session, method: Method, problem: Problem, settings: SearchSection, run_seed: int
    ) -> None:
        self.session, self.method, self.problem, self.settings = session, method, problem, settings
        self.seeds = seed_block(run_seed, "fitness", max(settings.seed_block, settings.seeds_per_candidate))
        self.tried: dict[Position, Tried] = {}
        self.first_of: dict[str, Position] = {}  # the cache: key → the candidate that was evaluated for it

    def run(self) -> list[Tried]:
        """Go on to the last generation.

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
        while number < self.settings.generations:
            state = self._generation(number, state)
            number += 1
        return list(self.tried.values())

    def _generation(self, number: int, state: State) -> State:
        store = self.session.store
        asked, state = self.method.ask(state)
        candidates = self._with_duplicates(number, asked)
        wanted = [self._requests(c, self.settings.seeds_per_candidate) if c.status.ok else [] for c in candidates]
        store.add_generation(number, candidates, [requests[0] if requests else None for requests in wanted])
        flat = [request for requests in wanted for request in requests]
        done = iter(self.session.evaluate(flat, "search"))
        statuses: list[Status] = []
        steps = 0
        for index, (candidate, requests) in enumerate(zip(candidates, wanted, strict=True)):
            status = candidate.status
            if requests:
                results = [next(done) for _ in requests]
                steps += sum(result.steps for result in results)
                failed = [result.status for result in results if not result.status.ok]
                status = failed[0] if failed else status
                self.tried[number, index] = Tried(candidate, self._standing((number, index), results))
            statuses.append(status)
        fitness = [self._fitness(number, index, c) for index, c in enumerate(candidates)]
        steps += self._elites_gain_a_seed()
        state = self.method.tell(state, asked, fitness)
        counts = Counter("duplicate_of" if s.kind == "duplicate_of" else str(s) for s in statuses)
        if not any(value is not None for value in fitness):
            text = f"generation {number + 1}: no candidate gave a number; the search goes on with fresh ones."
            store.add_event("empty_generation", str(number), {"text": text})
            self.session.emit(Note(text))
        document = {"state": self.method.dump(state), "seeds": self._extra_seeds()}
        store.tell(number, fitness, dict(sorted(counts.items())), checkpoint=document, steps=steps, statuses=statuses)
        self._report(number, counts)
        return state

    def _with_duplicates(self, number: int, asked: Sequence[Candidate]) -> list[Candidate]:
        """The candidates, those whose key was seen before marked as duplicates of the first that had it."""
        marked = []
        for index, candidate in enumerate(asked):
            if candidate.status.ok:
                key = f"{candidate.key}@{candidate.lr_scale!r}"
                first = self.first_of.setdefault(key, (number, index))
                if first != (number, index):
                    sentence = f"trains exactly like candidate {first[0]}.{first[1]}"
                    status = Status("duplicate_of", f"{first[0]}.{first[1]}", sentence)
                    candidate = replace(candidate, status=status)
            marked.append(candidate)
        return marked

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

    def _fitness(self, number: int, index: int, candidate: Candidate) -> float | None:
        """Mean over the seeds every candidate of the generation has had; a duplicate has its original's."""
        if candidate.status.kind == "duplicate_of":
            generation, _, position = candidate.status.detail.partition(".")
            number, index = int(generation), int(position)
        tried = self.tried.get((number, index))
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
        """Rebuild what the told generations left behind."""
        for row in store.candidates():
            if row.generation >= told:
                continue
            candidate = row.candidate
            position = (row.generation, row.position)
            if candidate.status.kind in ("screened", "duplicate_of"):
                continue
            candidate = replace(candidate, status=Status())
            self.first_of.setdefault(f"{candidate.key}@{candidate.lr_scale!r}", position)
            count = seeds.get(f"{position[0]}.{position[1]}", self.settings.seeds_per_candidate)
            results = [store.evaluation(request.key) for request in self._requests(candidate, count)]
            had = [result for result in results if result is not None]
            self.tried[position] = Tried(candidate, self._standing(position, had))

    def _report(self, number: int, counts: Counter[str]) -> None:
        best = top([t.standing for t in self.tried.values()], 1)
        value: float | None = None
        formula = ""
        if best:
            metric = self.session.task.metric
            value = metric.fitness(
                best[0].mean(len(best[0].fitness))
            )  # fitness is ± the value: applied twice it is undone
            task = self.session.task
            formula = str(
                from_json(self.tried[best[0].position].candidate.loss, head=task.head if callable(task.head) else None)
            )
        self.session.emit(
            GenerationFinished(
                number, self.settings.generations, value, self.session.task.metric.name, formula, dict(counts)
            )
        )
