"""The residual networks for 32 x 32 images, with both kinds of shortcut.

References:
    He et al. 2016, "Deep residual learning for image recognition", arXiv 1512.03385, section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.models.architectures.base import Architecture, he_normal

Shortcut = Literal["A", "B"]
WIDTHS = (16, 32, 64)


class ZeroPadding(nn.Module):
    """Shortcut of option A: every second pixel, with zero channels added, half of them in front and half behind.

    Their number follows from the block's convolutions, so that thinner networks of the same kind fit too.

    Args:
        first: The convolution that takes the same maps as the shortcut.
        last: The convolution to whose maps the shortcut is added.
    """

    def __init__(self, first: nn.Conv2d, last: nn.Conv2d) -> None:
        super().__init__()
        self.convolutions = (first, last)  # a tuple: their weights belong to the block, not to the shortcut

    def forward(self, maps: Tensor) -> Tensor:
        """Returns maps (N, C', H/2, W/2) of maps (N, C, H, W)."""
        first, last = self.convolutions
        added = max(last.out_channels - first.in_channels, 0)
        # A pool of one pixel takes the same pixels. Its gradient keeps channels last, which that of slices does not,
        # and the rectifier before it is many times faster. Traced programs have slices with and without gradients.
        traced = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]  # not in torch's stubs
        pooled = torch.is_grad_enabled() and not traced
        sampled = functional.avg_pool2d(maps, 1, 2) if pooled else maps[:, :, ::2, ::2]
        return functional.pad(sampled, (0, 0, 0, 0, added // 2, added - added // 2))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm beside a shortcut.

    Args:
        in_channels: Input channels.
        out_channels: Output channels; the first convolution has stride 2 where they differ.
        shortcut: Kind of the shortcut where they differ.
    """

    def __init__(self, in_channels: int, out_channels: int, *, shortcut: Shortcut) -> None:
        super().__init__()
        stride = 1 if in_channels == out_channels else 2
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Identity() if stride == 1 else self._shortcut(shortcut)

    def forward(self, maps: Tensor) -> Tensor:
        """Returns maps (N, out_channels, H', W') of maps (N, in_channels, H, W)."""
        inner = functional.relu(self.bn1(self.conv1(maps)))
        return functional.relu(self.bn2(self.conv2(inner)) + self.shortcut(maps))

    def _shortcut(self, kind: Shortcut) -> nn.Module:
        if kind == "A":
            return ZeroPadding(self.conv1, self.conv2)
        in_channels, out_channels = self.conv1.in_channels, self.conv1.out_channels
        return nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride=2, bias=False), nn.BatchNorm2d(out_channels)
        )


class ResidualNetwork(nn.Module):
    """A 3 x 3 convolution, three stages of residual blocks of 16, 32 and 64 channels, a linear layer.

    Args:
        channels: Of the image.
        classes: Number of logits.
        blocks: Residual blocks per stage.
        shortcut: Kind of the two shortcuts that change shape.
    """

    def __init__(self, channels: int, classes: int, *, blocks: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1, self.layer2, self.layer3 = (
            _stage(in_channels, out_channels, blocks=blocks, shortcut=shortcut)
            for in_channels, out_channels in pairwise((WIDTHS[0], *WIDTHS))
        )
        self.linear = nn.Linear(WIDTHS[-1], classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes) of normalised images (N, channels, H, W)."""
        maps = functional.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        logits: Tensor = self.linear(functional.adaptive_avg_pool2d(maps, 1).flatten(1))
        return logits


@dataclass(frozen=True, kw_only=True)
class CifarResNet(Architecture):
    """A residual network of ``6 n + 2`` layers.

    Attributes:
        shortcut: ``A`` is zero padding without weights, ``B`` a 1 x 1 convolution with batch norm.
    """

    depth: ClassVar[int]
    shortcut: Shortcut = "A"

    def network(self) -> nn.Module:
        """Returns the network; its keys are those of the published option-A checkpoints."""
        blocks = (self.depth - 2) // 6
        return ResidualNetwork(len(self.mean), self.classes, blocks=blocks, shortcut=self.shortcut)


class ResNet8(CifarResNet):
    """ResNet-8 for 32 x 32 images: 0.08 million parameters, 12 million multiply-accumulates; for quick trials."""

    depth = 8


class ResNet20(CifarResNet):
    """ResNet-20 for 32 x 32 images: 0.27 million parameters, 41 million multiply-accumulates."""

    depth = 20


class ResNet32(CifarResNet):
    """ResNet-32 for 32 x 32 images: 0.46 million parameters, 69 million multiply-accumulates."""

    depth = 32


class ResNet44(CifarResNet):
    """ResNet-44 for 32 x 32 images: 0.66 million parameters, 97 million multiply-accumulates."""

    depth = 44


class ResNet56(CifarResNet):
    """ResNet-56 for 32 x 32 images: 0.85 million parameters, 126 million multiply-accumulates."""

    depth = 56


class ResNet110(CifarResNet):
    """ResNet-110 for 32 x 32 images: 1.7 million parameters, 253 million multiply-accumulates."""

    depth = 110


def _stage(in_channels: int, out_channels: int, *, blocks: int, shortcut: Shortcut) -> nn.Sequential:
    inputs = (in_channels, *[out_channels] * (blocks - 1))
    return nn.Sequential(*[ResidualBlock(channels, out_channels, shortcut=shortcut) for channels in inputs])
