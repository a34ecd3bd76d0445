"""A network loss as lines of torch: its numbers above the function, its layers inside."""

from __future__ import annotations

from itertools import pairwise
from textwrap import fill

from lossmith.losses.network import BETA, GAMMA, LINEAR, Network, layer_sizes
from lossmith.losses.printer import number_text


def network_numbers(kernel: Network) -> str:
    """The weights as a constant tensor, in the order of φ."""
    layers = " - ".join(map(str, layer_sizes(kernel.hidden)))
    numbers = fill(", ".join(map(number_text, kernel.weights)), 110, break_long_words=False, break_on_hyphens=False)
    return (
        f"\n# the weights of a perceptron {layers} without biases, layer by layer, [out, in]\n"
        f"WEIGHTS = torch.tensor([\n{numbers},\n], dtype=torch.float64)  # fmt: skip\n"
    )


def network_lines(kernel: Network) -> list[str]:
    """From p and t to `value`, each in the shape of p."""
    sizes = [fan_in * fan_out for fan_in, fan_out in pairwise(layer_sizes(kernel.hidden))]
    shapes = [(fan_out, fan_in) for fan_in, fan_out in pairwise(layer_sizes(kernel.hidden))]
    lines = ["value = torch.stack((p, t), -1)"]
    for place, shape in enumerate(shapes):
        inner = "torch.relu(value)" if place else "value"
        lines.append(f"value = {inner} @ layers[{place}].reshape{shape}.T")
    return [
        f"layers = WEIGHTS.to(z).split({sizes})",
        "with torch.autocast(z.device.type, enabled=False):  # products in full precision",
        *(f"    {line}" for line in lines),
        "value = value.squeeze(-1)",
        f"value = {_output(kernel)}",
    ]


def _output(kernel: Network) -> str:
    if kernel.output == "softplus":
        return f"F.softplus(value, threshold={LINEAR})"
    return f"{GAMMA} * value + (1 - {GAMMA}) * F.softplus(value, beta={BETA}, threshold={LINEAR})"
