"""Two small residual networks without batch norm, used in formal verification and by strong attacks.

References:
    Wang et al. 2021, "Beta-CROWN", arXiv 2103.06624 (networks ``ResNet-2B`` and ``ResNet-4B``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from evalsuite.models.architectures.base import Architecture

HIDDEN = 100


class NormFreeBlock(nn.Module):
    """Two 3 x 3 convolutions with biases beside a shortcut; a 1 x 1 convolution where the stride is 2.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        stride: Of the first convolution, 1 or 2.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, stride=stride))

    def forward(self, maps: Tensor) -> Tensor:
        """Returns maps (N, out_channels, H', W') of maps (N, in_channels, H, W)."""
        inner = functional.relu(self.conv1(maps))
        return functional.relu(self.conv2(inner) + self.shortcut(maps))


class NormFreeNetwork(nn.Module):
    """A strided convolution, stages of two blocks that halve the maps, and two linear layers.

    Args:
        channels: Of the image.
        classes: Number of logits.
        width: Output channels of the first convolution; the stages have twice as many.
        stages: One or two.
    """

    def __init__(self, channels: int, classes: int, *, width: int, stages: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.layer1 = _stage(width, 2 * width)
        self.layer2 = _stage(2 * width, 2 * width) if stages == 2 else nn.Sequential()
        side = 32 // 2 ** (1 + stages)
        self.linear1 = nn.Linear(2 * width * side**2, HIDDEN)
        self.linear2 = nn.Linear(HIDDEN, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes) of normalised images (N, channels, 32, 32)."""
        maps = self.layer2(self.layer1(functional.relu(self.conv1(images))))
        logits: Tensor = self.linear2(functional.relu(self.linear1(maps.flatten(1))))
        return logits


@dataclass(frozen=True, kw_only=True)
class NormFreeResNet(Architecture):
    """A residual network without batch norm for 32 x 32 images."""

    width: ClassVar[int]
    stages: ClassVar[int]

    def network(self) -> nn.Module:
        """Returns the network; its keys are those of the published checkpoints."""
        return NormFreeNetwork(len(self.mean), self.classes, width=self.width, stages=self.stages)


class ResNet2B(NormFreeResNet):
    """ResNet-2B of the verification literature: two blocks, no batch norm, 32 x 32 images."""

    width = 8
    stages = 1


class ResNet4B(NormFreeResNet):
    """ResNet-4B of the verification literature: four blocks, no batch norm, 32 x 32 images."""

    width = 16
    stages = 2


def _stage(in_channels: int, out_channels: int) -> nn.Sequential:
    first = NormFreeBlock(in_channels, out_channels, stride=2)
    return nn.Sequential(first, NormFreeBlock(out_channels, out_channels, stride=1))
