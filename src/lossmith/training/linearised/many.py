"""One tensor for each of P candidates, in the memory order that suits what is done with it next."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lossmith.training.population.stacked import to_images


@dataclass(frozen=True)
class Many:
    """P tensors of one shape.

    Args:
        raw: [P, *shape], or where `is_images` [N, P·C, *spatial] for a shape [N, C, *spatial], in channels-last order
            on the CPU: what a convolution of P groups takes.
        count: P.
    """

    raw: Tensor
    count: int
    is_images: bool = False

    def leading(self) -> Tensor:
        """[P, *shape]."""
        if not self.is_images:
            return self.raw
        n, channels, *space = self.raw.shape
        return self.raw.reshape(n, self.count, channels // self.count, *space).transpose(0, 1)

    def images(self) -> Tensor:
        """[N, P·C, *spatial]."""
        return self.raw if self.is_images else to_images(self.raw)

    def like(self, raw: Tensor) -> Many:
        """Other numbers in the same layout."""
        return Many(raw, self.count, self.is_images)

    def __add__(self, other: Many) -> Many:
        if self.is_images == other.is_images:
            return self.like(self.raw + other.raw)
        return Many(self.images() + other.images(), self.count, is_images=True)


def leading(raw: Tensor) -> Many:
    """Of [P, *shape]."""
    return Many(raw, len(raw))


def images(raw: Tensor, count: int) -> Many:
    """Of [N, P·C, *spatial]."""
    return Many(raw, count, is_images=True)


def dense_images(tensor: Tensor) -> Tensor:
    """The same numbers in the memory order of `Many.images`."""
    if tensor.dim() != 4 or tensor.device.type != "cpu":
        return tensor.contiguous()
    n, c, h, w = tensor.shape
    # Strides by hand: with one channel both orders are one, and torch would take the tensor to be in the other.
    return tensor.permute(0, 2, 3, 1).contiguous().as_strided((n, c, h, w), (h * w * c, 1, w * c, c))


class Repeated:
    """What all candidates share, once for each of them along the channels; kept from one chunk to the next.

    Args:
        tensor: [N, C, *spatial].
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = self._kept = dense_images(tensor)
        self._count = 1

    def __call__(self, count: int) -> Tensor:
        """[N, P·C, *spatial]."""
        if count != self._count:
            own = self.tensor.repeat(1, count, *[1] * (self.tensor.dim() - 2))
            self._kept, self._count = dense_images(own), count
        return self._kept
