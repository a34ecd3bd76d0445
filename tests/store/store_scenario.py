"""A small run with a row of every kind, played again and again by the tests, and killed at chosen moments."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from lossmith.records import OK, Candidate, Evaluation, Request, Status
from lossmith.store import RunStore, fault_injection

GENERATIONS, POPULATION, CHUNK = 2, 4, 2
SPEC = 'method = "random"\nseed = 7\n'


def create(path: Path) -> RunStore:
    return RunStore.create(
        path,
        kind="search",
        task="digits/mlp",
        fingerprint={"digest": "abc", "shapes": [[64, 10]]},
        method="random",
        seed=7,
        spec_toml=SPEC,
    )


def candidates(generation: int) -> tuple[list[Candidate], list[Request | None]]:
    """The last one of every generation is screened and has no request."""
    proposed = [
        Candidate(
            loss=f'{{"family":"tree","n":{generation * 10 + i}}}',
            key=f"k{generation}{i}",
            lr_scale=0.1 + i,
            origin=f"draw {i}",
            genome=(0.1 * i, -(1 / 3) * generation),
            status=Status("screened", "invariant", "γ_T is positive") if i == POPULATION - 1 else OK,
        )
        for i in range(POPULATION)
    ]
    return proposed, [Request(c.loss, seed=0, budget=0.1, curve=2) if c.status.ok else None for c in proposed]


def result(request: Request, worker: str = "", attempt: int = 1) -> Evaluation:
    """What training this request always gives; worker, attempt and seconds may differ."""
    value = int(request.key[:8], 16) / 2**32
    where = {"worker": worker, "attempt": attempt, "seconds": float(attempt)}
    if value < 0.3:
        return Evaluation(request.key, Status("diverged", sentence="non-finite at step 3"), steps=3, **where)  # type: ignore[arg-type]
    metrics = {split: value / 3 for split in request.splits}
    return Evaluation(request.key, OK, metrics, ((1, value), (2, value / 3)), steps=50, **where)  # type: ignore[arg-type]


def play(path: Path, worker: str = "", backwards: bool = False) -> None:
    """Start the run or go on with it, to its end; `backwards` finishes a generation's chunks in the other order."""
    store = RunStore.open(path, write=True) if path.exists() else create(path)
    with store:
        attempt = store.begin_session()
        told = sum(g.told for g in store.generations())
        for number in range(told, GENERATIONS):
            before = store.checkpoint()
            memory = [] if before is None else list(before.document["memory"])
            proposed, requests = candidates(number)
            store.add_generation(number, proposed, requests)
            wanted = [r for r in requests if r is not None and store.evaluation(r.key) is None]
            chunks = [wanted[i : i + CHUNK] for i in range(0, len(wanted), CHUNK)]
            for chunk in reversed(chunks) if backwards else chunks:
                store.record([(r, result(r, worker, attempt)) for r in chunk], purpose="search")
            done = [store.evaluation(r.key) if r else None for r in requests]
            fitness = [e.metrics.get("fitness") if e else None for e in done]
            statuses = [e.status if e else c.status for c, e in zip(proposed, done, strict=True)]
            counts = {str(s): sum(str(o) == str(s) for o in statuses) for s in statuses}
            steps = sum(e.steps for e in done if e)
            state = {"memory": [*memory, fitness]}
            store.tell(number, fitness, counts, checkpoint=state, steps=steps, statuses=statuses)
        store.write_checkpoint("finalists", GENERATIONS, {"best": "k00"})
        final = Request(candidates(0)[0][0].loss, seed=1, splits=("selection", "test"))
        store.record([(final, result(final, worker, attempt))], purpose="finalist")
        store.add_event("verdict", "k00", {"sentence": "not shown"})
        store.set_state("finished")
        store.end_session()


def die_at(moment: int, path: Path) -> None:
    """Play with a hook that kills this process at its `moment`-th call."""
    seen = 0

    def hook(name: str, when: str) -> None:
        nonlocal seen
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    with fault_injection(hook):
        play(path)


def main(folder: str) -> None:
    """Play FOLDER/0, FOLDER/1, ... each in a fork; the k-th dies at the k-th moment, until one lives. Prints its k."""
    moment, lived = 0, False
    while not lived:
        child = os.fork()
        if child == 0:
            die_at(moment, Path(folder) / str(moment))
            os._exit(0)
        lived = os.waitpid(child, 0)[1] == 0
        moment += 1
    print(moment - 1)
