"""The densely connected network of 22 layers for 32 x 32 images.

References:
    Huang et al. 2017, "Densely connected convolutional networks", arXiv 1608.06993, section 3 (DenseNet-BC);
    Liebenwein et al. 2021, "Lost in pruning", arXiv 2103.03014, for depth 22 with growth 12.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.models.architectures.base import Architecture, he_normal

GROWTH = 12
BOTTLENECK = 4
BLOCKS = 3
"""Layers of two convolutions in each of the three dense stages: depth 22 = 2 * 3 * 3 + 4."""


class DenseLayer(nn.Module):
    """A 1 x 1 and a 3 x 3 convolution, each behind batch norm, whose maps are added to the channels.

    Args:
        in_channels: Input channels.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        inner = BOTTLENECK * GROWTH
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, GROWTH, 3, padding=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Returns maps (N, in_channels + 12, H, W) of maps (N, in_channels, H, W)."""
        inner = self.conv1(functional.relu(self.bn1(maps)))
        return torch.cat((maps, self.conv2(functional.relu(self.bn2(inner)))), 1)


class Transition(nn.Module):
    """A 1 x 1 convolution behind batch norm, and average pooling: half the channels, half the side.

    Args:
        in_channels: Input channels.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, in_channels // 2, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Returns maps (N, in_channels / 2, H / 2, W / 2) of maps (N, in_channels, H, W)."""
        return functional.avg_pool2d(self.conv1(functional.relu(self.bn1(maps))), 2)


class DenseNetwork(nn.Module):
    """A 3 x 3 convolution, three dense stages with transitions between them, a linear layer.

    Args:
        channels: Of the image.
        classes: Number of logits.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        width = 2 * GROWTH
        added = BLOCKS * GROWTH
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.dense1 = _stage(width)
        self.trans1 = Transition(width + added)
        width = (width + added) // 2
        self.dense2 = _stage(width)
        self.trans2 = Transition(width + added)
        width = (width + added) // 2
        self.dense3 = _stage(width)
        self.bn = nn.BatchNorm2d(width + added)
        self.fc = nn.Linear(width + added, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes) of normalised images (N, channels, H, W)."""
        maps = self.trans1(self.dense1(self.conv1(images)))
        maps = functional.relu(self.bn(self.dense3(self.trans2(self.dense2(maps)))))
        logits: Tensor = self.fc(functional.adaptive_avg_pool2d(maps, 1).flatten(1))
        return logits


@dataclass(frozen=True, kw_only=True)
class DenseNet22(Architecture):
    """DenseNet-BC of 22 layers, growth 12, for 32 x 32 images: 0.07 million parameters."""

    def network(self) -> nn.Module:
        """Returns the network."""
        return DenseNetwork(len(self.mean), self.classes)


def _stage(in_channels: int) -> nn.Sequential:
    return nn.Sequential(*[DenseLayer(in_channels + index * GROWTH) for index in range(BLOCKS)])
