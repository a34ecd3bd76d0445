"""Where does a step of a stacked population go, operation by operation?

    python benchmarks/engine_profile.py [NETWORK] [P] [--dtype bfloat16] [--sequential]

torch's profiler over some steps of one network of benchmarks/engine.py, on one core; --sequential profiles one
candidate at a time instead. The time of an operation is its own, without that of the operations it calls; what torch
does not see (the interpreter of the losses, Python) is the rest. These are wall seconds: run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import time

from contestants import CASES, population, roots, sequential
from measuring import WARM, one_core, table, where
from torch.profiler import ProfilerActivity, profile

from lossmith.losses import Loss, Tree

SECONDS = 3.0  # of steps profiled, about
ROWS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", nargs="?", default="64-256-10", choices=[case.name for case in CASES])
    parser.add_argument("size", nargs="?", type=int, default=16, metavar="P")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--sequential", action="store_true")
    arguments = parser.parse_args()
    one_core()
    case = next(case for case in CASES if case.name == arguments.network)
    losses = [Loss(Tree(root)) for root in roots(1 if arguments.sequential else arguments.size)]
    run = (sequential if arguments.sequential else population)(case.task(), losses, dtype=arguments.dtype)
    profiler = profile(activities=[ProfilerActivity.CPU])
    at: list[float] = []

    def watch(done: int) -> None:
        at.append(time.perf_counter())
        if done == WARM:
            profiler.start()
            at[:] = [time.perf_counter()]

    run(WARM + 2, lambda done: at.append(time.perf_counter()))
    steps = max(2, round(SECONDS / (at[-1] - at[-2])))
    run(WARM + steps, watch)
    profiler.stop()
    each = 1e6 / steps / len(losses)
    whole = (at[-1] - at[0]) * each
    seen = sorted(profiler.key_averages(), key=lambda event: event.self_cpu_time_total, reverse=True)
    lines = [(e.key, f"{e.count / steps:.1f}", e.self_cpu_time_total * 1e-6 * each) for e in seen]
    shown = lines[:ROWS]
    shown.append(("all other operations", "", sum(line[2] for line in lines[ROWS:])))
    shown.append(("outside torch", "", whole - sum(line[2] for line in lines)))
    path = "one at a time" if arguments.sequential else f"{arguments.size} at once"
    print(f"{where()}\n\n{case.name}, {path}, {arguments.dtype}, {whole:.0f} µs per candidate and step\n")
    header = ("operation", "calls per step", "µs per candidate", "share")
    print(table(header, [(name, calls, f"{own:.1f}", f"{own / whole:.1%}") for name, calls, own in shown]))


if __name__ == "__main__":
    main()
