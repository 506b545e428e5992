"""Densely connected networks for 32 x 32 images: DenseNet-BC of 22 and 100 layers, and DenseNet-40.

References:
    Huang et al. 2017, "Densely connected convolutional networks", arXiv 1608.06993, section 3 (DenseNet-BC);
    Liebenwein et al. 2021, "Lost in pruning", arXiv 2103.03014, for depth 22 with growth 12; Liu et al. 2017, arXiv
    1708.06519, for DenseNet-40.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.models.architectures.base import Architecture, he_normal

GROWTH = 12
BOTTLENECK = 4


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


class PlainDenseLayer(nn.Module):
    """A 3 x 3 convolution behind batch norm, whose maps are added to the channels: no bottleneck.

    Args:
        in_channels: Input channels.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, GROWTH, 3, padding=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Returns maps (N, in_channels + 12, H, W) of maps (N, in_channels, H, W)."""
        return torch.cat((maps, self.conv1(functional.relu(self.bn1(maps)))), 1)


class Transition(nn.Module):
    """A 1 x 1 convolution behind batch norm, and average pooling: half the side, and perhaps half the channels.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Returns maps (N, out_channels, H / 2, W / 2) of maps (N, in_channels, H, W)."""
        return functional.avg_pool2d(self.conv1(functional.relu(self.bn1(maps))), 2)


class DenseNetwork(nn.Module):
    """A 3 x 3 convolution, three dense stages with transitions between them, a linear layer.

    Args:
        channels: Of the image.
        classes: Number of logits.
        blocks: Layers of each stage.
        layer: Their kind.
        compression: Channels before a transition for each behind it.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        blocks: int = 3,
        layer: type[DenseLayer | PlainDenseLayer] = DenseLayer,
        compression: int = 2,
    ) -> None:
        super().__init__()
        width = 2 * GROWTH
        added = blocks * GROWTH
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.dense1 = _stage(width, blocks, layer)
        self.trans1 = Transition(width + added, (width + added) // compression)
        width = (width + added) // compression
        self.dense2 = _stage(width, blocks, layer)
        self.trans2 = Transition(width + added, (width + added) // compression)
        width = (width + added) // compression
        self.dense3 = _stage(width, blocks, layer)
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


@dataclass(frozen=True, kw_only=True)
class DenseNet100(Architecture):
    """DenseNet-BC of 100 layers, growth 12, for 32 x 32 images: 0.77 million parameters."""

    def network(self) -> nn.Module:
        """Returns the network."""
        return DenseNetwork(len(self.mean), self.classes, blocks=16)


@dataclass(frozen=True, kw_only=True)
class DenseNet40(Architecture):
    """DenseNet of 40 layers, growth 12, for 32 x 32 images: 1.06 million parameters.

    No bottlenecks, and transitions keep all channels. It starts with 24 channels, as bearpaw/pytorch-classification has
    it; Huang et al. and network slimming (Liu et al. 2017, 1.02 million) have 16.
    """

    def network(self) -> nn.Module:
        """Returns the network."""
        return DenseNetwork(len(self.mean), self.classes, blocks=12, layer=PlainDenseLayer, compression=1)


def _stage(in_channels: int, blocks: int, layer: type[DenseLayer | PlainDenseLayer]) -> nn.Sequential:
    return nn.Sequential(*[layer(in_channels + index * GROWTH) for index in range(blocks)])
