"""A replay as lines of torch: the numbers of all its times above the function, the choice among them inside."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

import numpy as np

from lossmith.losses.export_network import network_lines
from lossmith.losses.network import Network
from lossmith.losses.printer import number_text
from lossmith.losses.replay import Replay


def replay_numbers(kernel: Replay, before: Sequence[str]) -> str:
    """The times, and what the losses at these times need above the function.

    Args:
        before: that of each member.
    """
    times = ", ".join(map(number_text, kernel.times))
    text = f"\nTIMES = ({times},)  # training progress at which the loss has the numbers stored for it\n"
    if isinstance(kernel.kernel, Network):
        rows = ",\n".join(f"[\n{_numbers(phi)},\n]" for phi in kernel.course)
        return f"{text}\nWEIGHTS_AT = torch.tensor([\n{rows},\n])  # fmt: skip\n"
    return text + "".join(dict.fromkeys(before))


def replay_lines(kernel: Replay, lines: Sequence[Sequence[str]]) -> list[str]:
    """From the inputs to `value`.

    Args:
        lines: those of each member.
    """
    chosen = ["at = min(range(len(TIMES)), key=lambda i: abs(TIMES[i] - float(tau)))"]
    if isinstance(kernel.kernel, Network):
        return [*chosen, "WEIGHTS = WEIGHTS_AT[at]", *network_lines(kernel.kernel)]
    for place, own in enumerate(lines):
        chosen += [f"{'elif' if place else 'if'} at == {place}:", *(f"    {line}" for line in own)]
    return chosen


def _numbers(phi: Sequence[float]) -> str:
    """As short as float32 numbers can be written."""
    return fill(", ".join(map(str, np.asarray(phi, np.float32))), 110, break_long_words=False, break_on_hyphens=False)
