"""The small search that the tests of resuming kill: as a module for tests in this process, as a program for SIGKILL.

    python searched.py FOLDER [WORKERS] [FAULT] [METHOD]

FAULT is "ask", "evaluate", "record", "tell" or "checkpoint": the process raises there, once, in the second generation;
"none" leaves it alone.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import lossmith as lm
from lossmith.experiment.run import Run
from lossmith.store import fault_injection

GENERATIONS = 5
armed = ExitStack()  # kept for the life of the process


class InjectedFault(Exception):
    """Raised where a test wants a process to fail."""


SETTINGS: dict[str, dict[str, object]] = {
    "taylorglo": {"population": 5},
    "random_trees": {"population": 5},
    "glo": {"population": 5, "elite_count": 1, "tree_generations": 3},
    "gplfl": {"population": 5, "rejection_steps": 20},
    "evomal": {"population": 5, "rejection_steps": 20, "meta_steps": 4},
}
GRADIENT: dict[str, dict[str, object]] = {  # searches by gradient: blocks of meta-steps in the place of generations
    "taylor_unroll": {"population": 3, "meta_steps": 120, "unroll_length": 2, "reinitialise": 2, "meta_lr": 0.02},
    "ml3": {"population": 2, "meta_steps": 150},
    "adalfl": {"population": 1, "meta_steps": 100, "online_lr": 1e-3},
}


def begin_or_resume(folder: Path, workers: int = 0, method: str = "taylorglo") -> Run:
    """Run the search in `folder` to its end, from wherever it stands."""
    if (folder / "lossmith.db").exists():
        found = lm.resume(folder, workers=workers)
        assert isinstance(found, Run)
        return found
    task = lm.task("digits/mlp@noise=0.4", steps=200)
    return lm.search(
        method,
        task,
        settings={**SETTINGS, **GRADIENT}[method],
        generations=None if method in GRADIENT else GENERATIONS,
        partial=20,
        path=folder,
        workers=workers,
        finalists=2,
        finalist_seeds=2,
    )


def inject(fault: str) -> None:
    """Make this process fail once at a point of the second generation."""
    if fault in ("record", "tell", "checkpoint"):
        seen = {"count": 0}

        def hook(name: str, moment: str) -> None:
            if name == fault and moment == "before":
                seen["count"] += 1
                if seen["count"] == (7 if fault == "record" else 2):
                    raise InjectedFault(fault)

        armed.enter_context(fault_injection(hook))
    elif fault == "ask":
        from lossmith.search import TaylorGLO

        original = TaylorGLO.ask

        def ask(self, state):  # type: ignore[no-untyped-def]
            if state.generation == 1:
                raise InjectedFault(fault)
            return original(self, state)

        TaylorGLO.ask = ask  # type: ignore[method-assign]
    else:
        from lossmith.evaluation import executors

        calls = {"count": 0}
        evaluate_chunk = executors.evaluate_chunk

        def failing(task, requests, plan, *more):  # type: ignore[no-untyped-def]
            calls["count"] += 1
            if calls["count"] == 7:
                raise InjectedFault(fault)
            return evaluate_chunk(task, requests, plan, *more)

        executors.evaluate_chunk = failing


if __name__ == "__main__":
    if len(sys.argv) > 3 and sys.argv[3] != "none":
        inject(sys.argv[3])
    begin_or_resume(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0, *sys.argv[4:])
