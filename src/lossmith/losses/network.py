"""The network loss family (ALGORITHMS §5): ℓ is a small perceptron on (p, t), the same for every output.

Bechtle et al., *Meta-Learning via Learned Loss*, ICPR 2020, arXiv 1906.05374 (ML3: 2-50-50-1, softplus), and Raymond et
al., *Meta-Learning Adaptive Loss Functions*, TMLR 2025, arXiv 2301.13247 (AdaLFL: 2-40-40-1, smooth leaky ReLU). With
a(·) = max(·, 0) and no biases:

    ℓ(p, t) = out(w · a(W_n … a(W_1 (p, t))))      φ = the numbers of W_1, …, W_n, w

out is softplus(s) = log(1 + e^s), or smooth leaky ReLU γs + (1 − γ)·log(1 + e^{βs})/β with γ = .01 and β = 10.

Deviations: ML3's public code draws Xavier-uniform weights and its successors draw Kaiming-normal ones; both are here,
the latter by default. Without biases a network is positively homogeneous before `out`, which `losses.network_program`
uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses.codec import register
from lossmith.losses.expression import Node
from lossmith.losses.family import Kernel
from lossmith.losses.inputs import Inputs

Output = Literal["softplus", "smooth_leaky_relu"]
Initialisation = Literal["kaiming", "xavier"]
OUTPUTS: tuple[Output, ...] = ("softplus", "smooth_leaky_relu")
INITIALISATIONS: tuple[Initialisation, ...] = ("kaiming", "xavier")
GAMMA, BETA = 0.01, 10.0  # of the smooth leaky ReLU
LINEAR = 40.0  # from here on log(1 + e^x) is x in float64 too; torch's own edge, 20, is felt in the derivatives
_LARGEST = 4096  # units of a layer, layers: a document from elsewhere shall not ask for more


@register
@dataclass(frozen=True)
class Network(Kernel):
    """One loss of the network family.

    Args:
        weights: φ: W_1 [h_1, 2] row by row, its columns for p and t; W_2 [h_2, h_1], …; w [h_n].
        hidden: units of each hidden layer, (h_1, …, h_n).
        output: "softplus" or "smooth_leaky_relu".

    Raises:
        LossError: layers or an output that do not exist, the wrong number of weights, one that is not finite.

    Example:
        >>> import numpy as np
        >>> print(Network.ml3(np.random.default_rng(0)))
        network(2-50-50-1, softplus)
    """

    family: ClassVar[str] = "network"
    weights: tuple[float, ...]
    hidden: tuple[int, ...] = (50, 50)
    output: Output = "softplus"
    _numbers: np.ndarray[Any, np.dtype[np.float64]] = field(init=False, repr=False, compare=False)
    _elsewhere: dict[tuple[torch.dtype, torch.device], Tensor] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        hidden, output = checked_architecture(self.hidden, self.output)
        try:
            numbers = np.array(self.weights, np.float64).reshape(-1) + 0.0  # minus zero becomes zero
        except (TypeError, ValueError):
            raise LossError(f"network weights = {self.weights!r:.60}: a list of numbers was expected.") from None
        if len(numbers) != (expected := weight_count(hidden)):
            layers = "-".join(map(str, layer_sizes(hidden)))
            raise LossError(f"a network {layers} has {expected} weights (no biases); here are {len(numbers)}.")
        if not (finite := np.isfinite(numbers)).all():
            place = int(finite.argmin())
            raise LossError(f"network weights[{place}] = {numbers[place]}: every weight must be finite.")
        weights = tuple(numbers.tolist())
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "hidden", hidden)
        object.__setattr__(self, "output", output)
        object.__setattr__(self, "_numbers", numbers)

    @classmethod
    def ml3(cls, generator: np.random.Generator, *, initialisation: Initialisation = "kaiming") -> Network:
        """ML3's architecture with drawn weights; see `drawn`."""
        return cls.drawn(generator, (50, 50), "softplus", initialisation=initialisation)

    @classmethod
    def adalfl(cls, generator: np.random.Generator, *, initialisation: Initialisation = "kaiming") -> Network:
        """AdaLFL's architecture with drawn weights; see `drawn`."""
        return cls.drawn(generator, (40, 40), "smooth_leaky_relu", initialisation=initialisation)

    @classmethod
    def drawn(
        cls,
        generator: np.random.Generator,
        hidden: Sequence[int] = (50, 50),
        output: Output = "softplus",
        *,
        initialisation: Initialisation = "kaiming",
    ) -> Network:
        """A network with weights drawn layer by layer, in the order of φ.

        Args:
            generator: moves on.
            hidden, output: as for the class.
            initialisation: "kaiming": N(0, 2/fan_in), as EvoMAL's authors initialise ML3; "xavier": uniform on
                ±√(6/(fan_in + fan_out)), as ML3's own code does.

        Raises:
            LossError: as for the class; another initialisation.
        """
        if initialisation not in INITIALISATIONS:
            raise LossError(f"initialisation {initialisation!r}: use one of {', '.join(INITIALISATIONS)}.")
        sizes = layer_sizes(checked_architecture(hidden, output)[0])
        layers = []
        for fan_in, fan_out in pairwise(sizes):
            if initialisation == "kaiming":
                layers.append(generator.normal(0.0, math.sqrt(2 / fan_in), fan_in * fan_out))
            else:
                bound = math.sqrt(6 / (fan_in + fan_out))
                layers.append(generator.uniform(-bound, bound, fan_in * fan_out))
        return cls(tuple(np.concatenate(layers).tolist()), tuple(hidden), output)

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("p", "t"))

    @property
    def phi(self) -> tuple[float, ...]:
        return self.weights

    def value(self, x: Inputs, phi: Sequence[float] | Tensor | None = None) -> Tensor:
        """ℓ elementwise.

        Args:
            x: p and t, each broadcastable to [N, C] (or pairs [N, C, 2]).
            phi: other weights: K numbers, a tensor [K], or a tensor [P, K] for P losses at once, whose inputs are
                [N, C] or [P, N, C].

        Returns:
            [N, C], or [P, N, C].

        Raises:
            LossError: another number of weights.
        """
        p, t = x["p"], x["t"]
        assert isinstance(p, Tensor)
        t = torch.as_tensor(t, dtype=p.dtype, device=p.device)
        shape = np.broadcast_shapes(p.shape, t.shape)
        weights = self._tensor(p) if phi is None else phi
        if not isinstance(weights, Tensor):
            weights = torch.tensor(weights, dtype=p.dtype, device=p.device)
        hidden = torch.stack((p.expand(shape), t.expand(shape)), -1)
        if weights.dim() > 1 and len(shape) > 2:
            hidden = hidden.reshape(shape[0], -1, 2)  # [P, M, 2]
        else:
            hidden, shape = hidden.reshape(-1, 2), (*weights.shape[:-1], *shape)
        first, *others = unpacked(weights, self.hidden)
        hidden = hidden @ first.mT  # [M, h], or [P, M, h]
        for layer in others:
            hidden = hidden.relu() @ layer.mT
        return activated(hidden.reshape(shape), self.output)

    def with_phi(self, phi: Sequence[float]) -> Network:
        return Network(tuple(phi), self.hidden, self.output)

    def expression(self) -> Node:
        raise LossError(f"{self} is a loss without a formula: show it as curves, or export it to torch or json.")

    def __str__(self) -> str:
        return f"network({'-'.join(map(str, layer_sizes(self.hidden)))}, {self.output.replace('_', ' ')})"

    def document(self) -> dict[str, Any]:
        return {"hidden": list(self.hidden), "output": self.output, "weights": list(self.weights)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Network:
        for name in ("hidden", "output", "weights"):
            if name not in document:
                raise LossError(f"the network loss lacks the field {name!r}.")
        weights, hidden = document["weights"], document["hidden"]
        for name, value in (("weights", weights), ("hidden", hidden)):
            if not isinstance(value, list | tuple):
                raise LossError(f"network {name} = {value!r:.60}: a list was expected.")
        if not all(isinstance(w, int | float) and not isinstance(w, bool) for w in weights):
            raise LossError("network weights: a list of numbers was expected.")
        return cls(tuple(weights), tuple(hidden), document["output"])

    def _tensor(self, like: Tensor) -> Tensor:
        """The weights beside a tensor. Those elsewhere than on the CPU are kept: each copy there is waited for."""
        numbers = torch.as_tensor(self._numbers, dtype=like.dtype)
        if like.device.type == "cpu":
            return numbers
        place = (like.dtype, like.device)
        if place not in self._elsewhere:
            with torch.inference_mode(False):
                self._elsewhere[place] = numbers.to(like.device)
        return self._elsewhere[place]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_elsewhere": {}}


def checked_architecture(hidden: object, output: Output) -> tuple[tuple[int, ...], Output]:
    """Hidden layers and output as plain values; LossError says which of them is wrong and what fits."""
    sizes = tuple(hidden) if isinstance(hidden, Sequence) and not isinstance(hidden, str) else ()
    whole = all(isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= _LARGEST for size in sizes)
    if not sizes or not whole or len(sizes) > _LARGEST:
        raise LossError(f"network hidden = {hidden!r:.60}: the units of each hidden layer, for instance (50, 50).")
    if output not in OUTPUTS:
        raise LossError(f"network output {output!r:.60}: use {' or '.join(OUTPUTS)}.")
    return sizes, output


def layer_sizes(hidden: Sequence[int]) -> tuple[int, ...]:
    """Units of all layers, inputs and output included.

    >>> layer_sizes((50, 50))
    (2, 50, 50, 1)
    """
    return (2, *hidden, 1)


def weight_count(hidden: Sequence[int]) -> int:
    """Number of weights of a network.

    >>> weight_count((50, 50)), weight_count((40, 40))
    (2650, 1720)
    """
    return sum(a * b for a, b in pairwise(layer_sizes(hidden)))


def unpacked(weights: Tensor, hidden: Sequence[int]) -> list[Tensor]:
    """φ [K] or [P, K] as its matrices, [out, in] or [P, out, in].

    Raises:
        LossError: another number of weights.
    """
    if weights.shape[-1] != (count := weight_count(hidden)):
        raise LossError(f"phi has {weights.shape[-1]} numbers; this network has {count} weights.")
    shapes = [(fan_out, fan_in) for fan_in, fan_out in pairwise(layer_sizes(hidden))]
    parts = torch.split(weights, [a * b for a, b in shapes], -1)
    return [part.reshape(*part.shape[:-1], *shape) for part, shape in zip(parts, shapes, strict=True)]


def activated(s: Tensor, output: Output) -> Tensor:
    """What leaves the network; finite wherever s is, and so are its first two derivatives."""
    if output == "softplus":
        return F.softplus(s, threshold=LINEAR)
    return GAMMA * s + (1 - GAMMA) * F.softplus(s, beta=BETA, threshold=LINEAR)
