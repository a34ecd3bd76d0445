"""Does TaylorGLO find a hidden learning rule faster than random search? No training: the fitness is a distance.

For each seed a random Taylor loss that passes the screen is hidden. A candidate's fitness is the distance of its
signature (γ_T and γ_N modulo constants and step size) to the hidden one. Both methods get the same number of
evaluations, the same screen and the same family; only TaylorGLO learns.

    python benchmarks/recover_rule.py [--seeds 5] [--evaluations 400]
"""

from __future__ import annotations

import argparse
import platform
import subprocess
from dataclasses import dataclass
from itertools import count
from statistics import median

from lossmith import rng
from lossmith.losses import Loss, Setting, Taylor, TaylorFamily, from_json
from lossmith.losses.learning_rule import check_invariant
from lossmith.losses.signature import Signature, distance, signature
from lossmith.search import Problem, method

SETTING = Setting("softmax", 10)
POPULATION = 20


@dataclass(frozen=True)
class Recovery:
    """How close each method came to the hidden rule of one seed: 0 is found, √2 is unrelated."""

    seed: int
    taylorglo: float
    random: float

    @property
    def margin(self) -> float:
        """How many times closer TaylorGLO came."""
        return self.random / self.taylorglo


def hidden_rule(seed: int) -> Signature:
    """The signature of a random third-order Taylor loss that passes the exact invariant."""
    family = TaylorFamily()
    for attempt in count():
        kernel = Taylor(family.sample(rng.stream(seed, "hidden rule", attempt)))
        if check_invariant(kernel, SETTING).ok:
            return signature(kernel, SETTING.classes)
    raise AssertionError("unreachable")


def closest(name: str, seed: int, evaluations: int) -> float:
    """The smallest distance to the hidden rule that a method reaches with so many evaluations."""
    hidden = hidden_rule(seed)
    search = method(name, population=POPULATION)
    state = search.init(Problem(SETTING, seed=seed))
    found: list[float] = []
    while len(found) < evaluations:
        asked, state = search.ask(state)
        fitness: list[float | None] = []
        for candidate in asked:
            loss = from_json(candidate.loss)
            assert isinstance(loss, Loss)
            fitness.append(distance(signature(loss, SETTING.classes), hidden) if candidate.status.ok else None)
        found += [value for value in fitness if value is not None]
        state = search.tell(state, asked, fitness)
    return min(found[:evaluations])


def recover(seed: int, evaluations: int) -> Recovery:
    """Both methods on one hidden rule."""
    return Recovery(seed, closest("taylorglo", seed, evaluations), closest("random", seed, evaluations))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=400)
    arguments = parser.parse_args()
    print(f"distance to a hidden learning rule after {arguments.evaluations} evaluations without training")
    print(f"{'seed':>4}  {'taylorglo':>10}  {'random':>10}  {'times closer':>12}")
    results = []
    for seed in range(arguments.seeds):
        results.append(recover(seed, arguments.evaluations))
        r = results[-1]
        print(f"{r.seed:>4}  {r.taylorglo:>10.2e}  {r.random:>10.2e}  {r.margin:>12.1f}")
    wins, margin = sum(r.margin > 1 for r in results), median(r.margin for r in results)
    print(f"taylorglo closer in {wins} of {len(results)} seeds; median margin {margin:.1f} times")
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    where = f"{platform.machine()} {platform.system()}, Python {platform.python_version()}"
    print(f"on {where}, commit {git.stdout.strip() or 'unknown'}")


if __name__ == "__main__":
    main()
