"""Residual networks of bottlenecks for 32 x 32 images: the ResNets of "Lost in Pruning", and ResNeXt.

References:
    He et al. 2016, arXiv 1512.03385, figure 5; Xie et al. 2017, arXiv 1611.05431; bearpaw/pytorch-classification, which
    lucaslie/torchprune takes its networks for CIFAR from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from evalsuite.models.architectures.base import Architecture, he_normal

EXPANSION = 4


class BottleneckBlock(nn.Module):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1, each with batch norm, beside a shortcut.

    Args:
        in_channels: Input channels.
        width: Channels of the first two convolutions.
        out_channels: Output channels; a shortcut of a 1 x 1 convolution where they or the stride differ.
        stride: Of the 3 x 3 convolution.
        groups: Of the 3 x 3 convolution.
    """

    def __init__(
        self, in_channels: int, width: int, out_channels: int, *, stride: int, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.downsample.append(nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False))
            self.downsample.append(nn.BatchNorm2d(out_channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Returns maps (N, out_channels, H', W') of maps (N, in_channels, H, W)."""
        inner = functional.relu(self.bn1(self.conv1(maps)))
        inner = functional.relu(self.bn2(self.conv2(inner)))
        return functional.relu(self.bn3(self.conv3(inner)) + self.downsample(maps))


class BottleneckNetwork(nn.Module):
    """A 3 x 3 convolution, three stages of bottlenecks, the second and third with stride 2, a linear layer.

    Args:
        channels: Of the image.
        classes: Number of logits.
        stem: Channels of the first convolution.
        widths: Of the bottlenecks, inside and at the output, by stage.
        blocks: Bottlenecks per stage.
        groups: Of the 3 x 3 convolutions.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        stem: int,
        widths: tuple[tuple[int, int], ...],
        blocks: int,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        inputs = (stem, *(outer for _, outer in widths))
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(
                *(
                    BottleneckBlock(outer if index else inputs[stage], inner, outer, groups=groups,
                                    stride=2 if stage and not index else 1)
                    for index in range(blocks)
                )
            )
            for stage, (inner, outer) in enumerate(widths)
        )  # fmt: skip
        self.fc = nn.Linear(widths[-1][1], classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes) of normalised images (N, channels, H, W)."""
        maps = functional.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        logits: Tensor = self.fc(functional.adaptive_avg_pool2d(maps, 1).flatten(1))
        return logits


@dataclass(frozen=True, kw_only=True)
class BottleneckResNet(Architecture):
    """A residual network with (depth - 2) / 6 bottlenecks per stage: what torchprune calls ResNet from depth 44 on.

    A bottleneck has three layers, so it is deeper than its name says: 83 layers for 56.
    """

    depth: ClassVar[int]

    def network(self) -> nn.Module:
        """Returns the network; its keys are those of bearpaw/pytorch-classification."""
        widths = tuple((width, EXPANSION * width) for width in (16, 32, 64))
        blocks = (self.depth - 2) // 6
        return BottleneckNetwork(len(self.mean), self.classes, stem=16, widths=widths, blocks=blocks)


class BottleneckResNet56(BottleneckResNet):
    """ResNet-56 of bottlenecks, as "Lost in Pruning" prunes it for 32 x 32 images: 0.87 million parameters."""

    depth = 56


class BottleneckResNet110(BottleneckResNet):
    """ResNet-110 of bottlenecks, as "Lost in Pruning" prunes it for 32 x 32 images: 1.7 million parameters."""

    depth = 110


@dataclass(frozen=True, kw_only=True)
class ResNeXt(Architecture):
    """ResNeXt-29 for 32 x 32 images: 8 groups of 64 channels, 34.4 million parameters.

    Attributes:
        cardinality: Groups of the 3 x 3 convolutions.
        base_width: Channels of one group in the first stage.
    """

    cardinality: int = 8
    base_width: int = 64

    def network(self) -> nn.Module:
        """Returns the network of Xie et al. 2017, table 7: three blocks per stage."""
        widths = tuple((self.cardinality * self.base_width << stage, 256 << stage) for stage in range(3))
        return BottleneckNetwork(
            len(self.mean), self.classes, stem=64, widths=widths, blocks=3, groups=self.cardinality
        )
