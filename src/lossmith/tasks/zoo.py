"""Base models of the built-in tasks. Modules only: they know no data, no head and no loss.

Initial weights are torch's defaults, drawn from the global generator: build a model inside `rng.torch_global_scope`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from lossmith.tasks.ranges import check_number


def mlp(sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """A multi-layer perceptron.

    Args:
        sizes: inputs, hidden layers, outputs: at least two, e.g. (64, 256, 10). Inputs `[B, ...]` are flattened.
        activation: makes the module between two layers.

    Raises:
        TaskError: fewer than two sizes, or one that is no positive whole number.
    """
    check_number("number of mlp sizes", len(sizes), least=2, whole=True)
    for size in sizes:
        check_number("mlp size", size, least=1, whole=True)
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


def lenet5(channels: int = 1, classes: int = 10) -> nn.Sequential:
    """LeNet-5 for 28×28 images `[B, channels, 28, 28]`, with ReLU and max pooling.

    Reference: LeCun, Bottou, Bengio, Haffner (1998), Gradient-based learning applied to document recognition, fig. 2.
    Deviations: ReLU, max pooling without weights, full connections; padding stands for the 32×32 canvas.
    """
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2),  # [B, 6, 28, 28]
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),  # [B, 16, 10, 10]
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),  # [B, 400]
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )


def mnist_cnn() -> nn.Sequential:
    """The network of the published MNIST searches, for images `[B, 1, 28, 28]`.

    Reference: Gonzalez & Miikkulainen (2020), Improved Training Speed, Accuracy, and Data Utilization Through Loss
    Function Optimization. Dropout draws from torch's global generator while training.
    """
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding="same"),
        nn.ReLU(),
        nn.MaxPool2d(2),  # [B, 32, 14, 14]
        nn.Conv2d(32, 64, 5, padding="same"),
        nn.ReLU(),
        nn.MaxPool2d(2),  # [B, 64, 7, 7]
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 1024),
        nn.ReLU(),
        nn.Dropout(0.4),
        nn.Linear(1024, 10),
    )


class PreActivationBlock(nn.Module):
    """h ← shortcut + conv(relu(bn(conv(relu(bn(h)))))): "full pre-activation", fig. 4(e) of the paper.

    Where the shape changes, the shortcut is a 1×1 convolution of the first activation; otherwise the identity of h.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        same = stride == 1 and before == after
        self.shortcut = None if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        active = F.relu(self.norm1(h))
        kept = h if self.shortcut is None else self.shortcut(active)
        change: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return change + kept


def preresnet20(classes: int = 10) -> nn.Sequential:
    """Pre-activation ResNet-20 for images `[B, 3, 32, 32]`: three stages of three blocks with 16, 32, 64 channels.

    Reference: He, Zhang, Ren, Sun (2016), Identity Mappings in Deep Residual Networks (arXiv:1603.05027).
    Deviations: where the shape changes the shortcut is a 1×1 convolution of the first activation.
    """
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False)]
    channels = 16
    for stage in (16, 32, 64):
        for block in range(3):
            layers.append(PreActivationBlock(channels, stage, stride=2 if stage > 16 and block == 0 else 1))
            channels = stage
    layers += [nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)]
    return nn.Sequential(*layers)
