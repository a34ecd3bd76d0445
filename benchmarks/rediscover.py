"""Does a search find what statistics knows? Linear regression, with outliers in the training targets and without.

    python benchmarks/rediscover.py [FOLDER] [SEEDS]

With Gaussian noise squared error is the best loss there is; with 20 % gross outliers it is among the worst, and a good
loss must pull no harder at a residual of five standard deviations than at one. GP-LFL knows neither. It gets the
metric (squared error of the predictions on clean data) and nothing else. Every candidate is trained at nine learning
rates and judged by its best, so that no loss wins by its scale.

Printed per seed: the found loss, and |∂ℓ/∂residual| at 5σ over that at 1σ, averaged over targets and signs. An
interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import Tensor

import lossmith as lm
from lossmith.experiment import Run
from lossmith.losses import readable
from lossmith.rng import torch_stream

ROWS, FEATURES, STEPS = 240, 60, 150
LEARNING_RATES = 10.0 ** torch.arange(-3.0, 1.01, 0.5)  # [L]
OUTLIERS = 0.2
SIGNAL = 2.0  # standard deviation of the clean target, in units of the noise
GENERATIONS, POPULATION = 15, 25


def data(seed: int, outliers: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training x, noisy y; clean x, y to be judged by. The noise has standard deviation 1."""
    g = torch_stream(seed, "rediscover")
    true = torch.randn(FEATURES, generator=g) * SIGNAL / FEATURES**0.5
    x, x_clean = torch.randn(ROWS, FEATURES, generator=g), torch.randn(1000, FEATURES, generator=g)
    noise = torch.randn(ROWS, generator=g)
    if outliers:
        gross = torch.rand(ROWS, generator=g) < OUTLIERS
        size = (10 + 20 * torch.rand(ROWS, generator=g)) * torch.randn(ROWS, generator=g).sign()
        noise = torch.where(gross, size, noise)
    return x, x @ true + noise, x_clean, x_clean @ true


def fit(loss: lm.Loss, seed: int, outliers: bool) -> float:
    """Squared error on clean data after momentum descent at the best of the learning rates."""
    x, y, x_clean, y_clean = data(seed, outliers)
    count = len(LEARNING_RATES)
    theta = torch.zeros(FEATURES, count, requires_grad=True)  # one regression per learning rate, side by side
    velocity = torch.zeros_like(theta)
    target = y[:, None].expand(-1, count).reshape(-1, 1)
    for _ in range(STEPS):
        output = (x @ theta).reshape(-1, 1)
        # The mean over all rows of all regressions, times their number: each has the gradient it would have alone.
        (gradient,) = torch.autograd.grad(loss(output, target) * count, theta)
        velocity = 0.9 * velocity + gradient
        with torch.no_grad():
            theta -= LEARNING_RATES * velocity
    errors = (x_clean @ theta.detach() - y_clean[:, None]).square().mean(0)  # [L]
    return float(errors.nan_to_num(nan=torch.inf).min())


def with_outliers(loss: lm.Loss, trial: lm.Trial) -> float:
    return fit(loss, trial.seed, True)


def with_gaussian_noise(loss: lm.Loss, trial: lm.Trial) -> float:
    return fit(loss, trial.seed, False)


def task(outliers: bool) -> lm.Task:
    """Linear regression as a training function."""
    train = with_outliers if outliers else with_gaussian_noise
    return lm.Task.from_function(
        train, head="identity", metric="mse", controls=["mse"], outputs=1, steps=STEPS, name=train.__name__
    )


def pull_ratio(loss: lm.Loss) -> float:
    """|∂ℓ/∂p| at residual ±5 over that at ±1, both averaged over the targets of the task."""

    def pull(residual: float) -> float:
        t = torch.linspace(-2 * SIGNAL, 2 * SIGNAL, 81, dtype=torch.float64)[:, None]
        p = torch.cat([t + residual, t - residual]).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(p, torch.cat([t, t])), p)
        return float(gradient.abs().mean())

    return pull(5.0) / pull(1.0)


def searched(outliers: bool, seed: int, folder: Path, workers: int | None) -> Run:
    """The finished search."""
    path = folder / f"{'outliers' if outliers else 'gaussian'}-{seed}"
    if (path / "lossmith.db").exists():
        found = lm.resume(path, task=task(outliers), workers=workers)
        assert isinstance(found, Run)
        return found
    settings = {"population": POPULATION}
    return lm.search(
        "gplfl", task(outliers), generations=GENERATIONS, partial=1.0, seed=seed, path=path, settings=settings,
        finalist_seeds=5, workers=workers,
    )  # fmt: skip


def main(folder: Path, seeds: int) -> None:
    torch.set_num_threads(1)  # a training function gets as many threads as there are here
    print("noise      seed  |pull 5σ|/|pull 1σ|  error  error of mse  loss")
    for outliers, wanted in ((True, "below 2"), (False, "above 3")):
        ratios = []
        for seed in range(seeds):
            run = searched(outliers, seed, folder, os.cpu_count())
            found = run.best.loss
            assert isinstance(found, lm.Loss)
            ratios.append(pull_ratio(found))
            mse = lm.loss("mse", head="identity")
            assert isinstance(mse, lm.Loss)
            fresh = [sum(fit(loss, 10_000 + s, outliers) for s in range(10)) / 10 for loss in (found, mse)]
            name = "outliers" if outliers else "gaussian"
            print(
                f"{name:9}  {seed:4}  {ratios[-1]:19.2f}  {fresh[0]:5.3f}  {fresh[1]:12.3f}  {readable(found)}",
                flush=True,
            )
        held = sum(r < 2 for r in ratios) if outliers else sum(r > 3 for r in ratios)
        print(f"{wanted} in {held} of {seeds} seeds")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/rediscover"), int(sys.argv[2]) if len(sys.argv) > 2 else 5)
