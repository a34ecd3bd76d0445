"""TaylorGLO against random search at equal evaluations on digits/mlp@noise=0.4: what does the search itself add?

    python benchmarks/vs_random.py [FOLDER] [SEEDS]

Runs 300 evaluations of each method per seed (15 generations of 20), then trains both winners in full on the same test
seeds. An interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

import lossmith as lm
from lossmith.experiment import Run

TASK = "digits/mlp@noise=0.4"
GENERATIONS, POPULATION = 15, 20
TEST_SEEDS = 10


def searched(method: str, seed: int, folder: Path) -> Run:
    """The finished run of one method and seed."""
    path = folder / f"{method}-{seed}"
    workers = os.cpu_count()
    if (path / "lossmith.db").exists():
        found = lm.resume(path, workers=workers)
        assert isinstance(found, Run)
        return found
    settings = {"population": POPULATION}
    return lm.search(method, TASK, generations=GENERATIONS, seed=seed, path=path, settings=settings, workers=workers)


def main(folder: Path, seeds: int) -> None:
    margins = []
    print("seed  method     search   selection  test (mean of 10)")
    for seed in range(seeds):
        runs = {method: searched(method, seed, folder) for method in ("taylorglo", "random")}
        place = folder / f"verdict-{seed}"
        if (place / "lossmith.db").exists():
            verdict = lm.resume(place, workers=os.cpu_count())
        else:
            losses = [runs["random"], runs["taylorglo"]]
            verdict = lm.compare(losses, TASK, seeds=TEST_SEEDS, path=place, workers=os.cpu_count())
        assert isinstance(verdict, lm.Verdict)
        test = {arm.name.split("-")[0]: statistics.mean(arm.measured.values()) for arm in verdict.arms}
        for method, run in runs.items():
            winner = run.winner
            assert winner is not None
            print(
                f"{seed:4}  {method:9}  {winner.search_score:.4f}   {winner.selection_score:.4f}     {test[method]:.4f}"
            )
        print(f"      {verdict.sentence}")
        margins.append(test["random"] - test["taylorglo"])
    print(
        f"test error of random minus TaylorGLO: median {statistics.median(margins):+.4f}, per seed "
        f"{', '.join(f'{m:+.4f}' for m in margins)}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/vs-random"), int(sys.argv[2]) if len(sys.argv) > 2 else 3)
