"""Wide residual networks for 32 x 32 images.

References:
    Zagoruyko and Komodakis 2016, "Wide residual networks", arXiv 1605.07146, table 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import SuiteError
from evalsuite.models.architectures.base import Architecture, he_normal

WIDTHS = (16, 32, 64)


class WideBlock(nn.Module):
    """Two 3 x 3 convolutions, each behind batch norm, beside a shortcut.

    Args:
        in_channels: Input channels.
        out_channels: Output channels; where they differ, the shortcut is a 1 x 1 convolution behind the first norm.
        stride: Of the first convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = nn.Sequential()
        if in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False))

    def forward(self, maps: Tensor) -> Tensor:
        """Returns maps (N, out_channels, H', W') of maps (N, in_channels, H, W)."""
        active = functional.relu(self.bn1(maps))
        inner = functional.relu(self.bn2(self.conv1(active)))
        total: Tensor = self.conv2(inner) + (self.shortcut(active) if len(self.shortcut) else maps)
        return total


class WideNetwork(nn.Module):
    """A 3 x 3 convolution, three stages of wide blocks, batch norm, a linear layer.

    Args:
        channels: Of the image.
        classes: Number of logits.
        blocks: Per stage.
        width: How many times 16, 32 and 64 channels.
    """

    def __init__(self, channels: int, classes: int, *, blocks: int, width: int) -> None:
        super().__init__()
        widths = tuple(width * base for base in WIDTHS)
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
        self.layer1, self.layer2, self.layer3 = (
            _stage(in_channels, out_channels, blocks=blocks, stride=stride)
            for (in_channels, out_channels), stride in zip(
                pairwise((WIDTHS[0], *widths)), (1, 2, 2), strict=True
            )
        )
        self.bn1 = nn.BatchNorm2d(widths[-1])
        self.linear = nn.Linear(widths[-1], classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes) of normalised images (N, channels, H, W)."""
        maps = functional.relu(self.bn1(self.layer3(self.layer2(self.layer1(self.conv1(images))))))
        logits: Tensor = self.linear(functional.adaptive_avg_pool2d(maps, 1).flatten(1))
        return logits


@dataclass(frozen=True, kw_only=True)
class WideResNet(Architecture):
    """Wide residual network for 32 x 32 images; WRN-16-8 by default: 11.0 million parameters.

    Attributes:
        depth: Layers, 6 n + 4: 16, 22, 28, 40, ...
        width: How many times 16, 32 and 64 channels.
    """

    depth: int = 16
    width: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 10 or self.depth % 6 != 4 or self.width < 1:
            raise SuiteError(
                f"model wide-resnet: found depth = {self.depth}, width = {self.width}, "
                "expected a depth of 6 n + 4 (10, 16, 22, 28, ...) and a width of at least 1"
            )

    def network(self) -> nn.Module:
        """Returns the network."""
        blocks = (self.depth - 4) // 6
        return WideNetwork(len(self.mean), self.classes, blocks=blocks, width=self.width)


def _stage(in_channels: int, out_channels: int, *, blocks: int, stride: int) -> nn.Sequential:
    first = WideBlock(in_channels, out_channels, stride=stride)
    return nn.Sequential(first, *[WideBlock(out_channels, out_channels, stride=1) for _ in range(blocks - 1)])
