"""Do losses learned by gradient train better than cross-entropy and squared error do with a tuned learning rate?

    python benchmarks/gradient_methods.py [FOLDER] [sine | digits | mnist ...]

sine: ML3 meta-trained on one sine (and on ten), judged on ten others, five meta-training seeds, against squared error,
all of them plain and with a tuned learning rate. digits, mnist: ML3 (offline) and AdaLFL (online) on digits/mlp, 3,000
steps, and mnist/lenet5, 2,000 steps, against cross-entropy plain and tuned and the best of the shelf, five training
seeds; what AdaLFL found on digits/mlp also standing still and at other online rates. Every run is a folder that goes on
where it was interrupted; `lossmith show FOLDER/NAME` tells how far it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lossmith as lm
from lossmith.experiment import Run
from lossmith.losses import to_document
from lossmith.search import Method
from lossmith.tasks import AnyTask, resolve_task

SEEDS = 5
MANY_SINES = {"one-sine": "sine/mlp", "ten-sines": "sine/mlp@wave=10-19"}  # meta-trained on
ONLINE_RATES = (1e-5, 1e-4, 1e-3, 1e-2)
OTHER_SINES = "sine/mlp@wave=0-9"  # judged on
TASKS = {"digits": ("digits/mlp", 3_000, 60_000), "mnist": ("mnist/lenet5", 2_000, 60_000)}


def finished(path: Path, begin: Callable[[], Any]) -> Any:
    """The finished run at a path: taken up where it stopped, or begun."""
    return lm.resume(path) if (path / "lossmith.db").exists() else begin()


def searched(path: Path, method: Method, task: AnyTask, seed: int = 0, **more: Any) -> Run:
    found = finished(path, lambda: lm.search(method, task, seed=seed, path=path, **more))
    assert isinstance(found, Run)
    return found


def compared(
    path: Path, losses: Sequence[Run | lm.Loss | str], task: AnyTask, tune_lr: Sequence[int] | bool
) -> lm.Verdict:
    found = finished(path, lambda: lm.compare(losses, task, seeds=SEEDS, tune_lr=tune_lr, path=path))
    assert isinstance(found, lm.Verdict)
    return found


def sine(folder: Path) -> None:
    """ML3 as published (one sine, 500 meta-steps, Xavier), and meta-trained on ten further sines at once."""
    for seed in range(SEEDS):
        runs = []
        for name, reference in MANY_SINES.items():
            method = lm.ML3(meta_steps=500, initialisation="xavier")
            runs.append(
                searched(folder / f"{name}-{seed}", method, resolve_task(reference), seed, partial=1.0, finalists=1)
            )
        verdict = compared(folder / f"verdict-{seed}", ["mse", *runs], resolve_task(OTHER_SINES), tune_lr=True)
        print(f"\n## sine, meta-training seed {seed}: test MSE on ten other sines after 100 SGD steps\n")
        print(verdict.to_text(), flush=True)


def classes(folder: Path, name: str) -> None:
    reference, steps, shelf_steps = TASKS[name]
    task = lm.task(reference, steps=steps)
    path = folder / "shelf"
    shelf = finished(path, lambda: lm.shelf(task, training_steps=shelf_steps, finalists=3, path=path))
    methods = {"ml3": lm.ML3(meta_steps=2_500), "adalfl": lm.AdaLFL()}
    runs = [
        searched(folder / method, own, task, shelf=shelf, finalists=2, finalist_seeds=2)
        for method, own in methods.items()
    ]
    losses = [runs[1], "cross_entropy", shelf, runs[0]]  # all are judged against the first
    verdict = compared(folder / "verdict", losses, task, tune_lr=[1])
    print(f"\n## {reference}, {steps:,} steps\n\n{verdict.to_text()}", flush=True)


def adaptation(folder: Path) -> None:
    """What adapting is worth: the loss that AdaLFL found on digits/mlp, standing still and adapting at four rates."""
    reference, steps, _ = TASKS["digits"]
    found = to_document(Run(folder / "adalfl").best.loss)
    still = {key: value for key, value in found.items() if key != "online"}
    rules = {f"online lr {lr:g}": {"lr": lr, "optimizer": "adam", "every": 1} for lr in ONLINE_RATES}
    losses = [{**still, "name": "standing still"}, *({**still, "name": n, "online": rule} for n, rule in rules.items())]
    arms = [loss for document in losses if isinstance(loss := lm.from_json(document), lm.Loss)]
    verdict = compared(folder / "adaptation", arms, lm.task(reference, steps=steps), tune_lr=False)
    print(f"\n## the found loss of {reference}, adapting or not\n\n{verdict.to_text()}", flush=True)


def main(folder: Path, parts: list[str]) -> None:
    for part in parts:
        if part == "sine":
            sine(folder / part)
        else:
            classes(folder / part, part)
        if part == "digits":
            adaptation(folder / part)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/gradient-methods"), sys.argv[2:] or ["sine", *TASKS])
