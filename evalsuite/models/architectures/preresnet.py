"""Pre-activation residual networks with bottlenecks for 32 x 32 images, in the form that network slimming prunes.

References:
    He et al. 2016, "Identity mappings in deep residual networks", arXiv 1603.05027, figure 1b;
    Liu et al. 2017, "Learning efficient convolutional networks through network slimming", arXiv 1708.06519.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import SuiteError
from evalsuite.models.architectures.base import Architecture, he_normal
from evalsuite.models.surgery.channel_selection import ChannelSelection

WIDTHS = (16, 32, 64)
EXPANSION = 4


class PreActivationBlock(nn.Module):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1, each behind batch norm, beside a shortcut.

    Args:
        in_channels: Input channels.
        width: Channels of the first two convolutions; the third has four times as many.
        stride: Of the second convolution and of the shortcut.
        selection: Whether the first convolution reads a selection of channels.
    """

    def __init__(self, in_channels: int, width: int, *, stride: int, selection: bool) -> None:
        super().__init__()
        out_channels = EXPANSION * width
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.select = ChannelSelection(in_channels) if selection else nn.Identity()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.downsample = nn.Sequential()
        if in_channels != out_channels:
            self.downsample.append(nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False))

    def forward(self, maps: Tensor) -> Tensor:
        """Returns maps (N, 4 width, H', W') of maps (N, in_channels, H, W)."""
        inner = self.conv1(functional.relu(self.select(self.bn1(maps))))
        inner = self.conv2(functional.relu(self.bn2(inner)))
        total: Tensor = self.conv3(functional.relu(self.bn3(inner))) + self.downsample(maps)
        return total


class PreActivationNetwork(nn.Module):
    """A 3 x 3 convolution, three stages of bottlenecks, batch norm, a linear layer.

    Args:
        channels: Of the image.
        classes: Number of logits.
        blocks: Per stage.
        selection: Whether layers behind the residual stream read a selection of its channels.
    """

    def __init__(self, channels: int, classes: int, *, blocks: int, selection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
        stages: list[nn.Module] = []
        in_channels = WIDTHS[0]
        for width, stride in zip(WIDTHS, (1, 2, 2), strict=True):
            first = PreActivationBlock(in_channels, width, stride=stride, selection=selection)
            in_channels = EXPANSION * width
            rest = [
                PreActivationBlock(in_channels, width, stride=1, selection=selection)
                for _ in range(blocks - 1)
            ]
            stages.append(nn.Sequential(first, *rest))
        self.layer1, self.layer2, self.layer3 = stages
        self.bn = nn.BatchNorm2d(in_channels)
        self.select = ChannelSelection(in_channels) if selection else nn.Identity()
        self.fc = nn.Linear(in_channels, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes) of normalised images (N, channels, H, W)."""
        maps = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        maps = functional.relu(self.select(self.bn(maps)))
        logits: Tensor = self.fc(functional.adaptive_avg_pool2d(maps, 1).flatten(1))
        return logits


@dataclass(frozen=True, kw_only=True)
class PreResNet(Architecture):
    """Pre-activation residual network with bottlenecks for 32 x 32 images, with channel selection.

    Attributes:
        depth: Layers, 9 n + 2: 29, 56, 101, 164, ...
        selection: Whether layers behind the residual stream read a selection of its channels, which weights
            call ``select.indexes``; without it there are no such buffers.
    """

    depth: int = 164
    selection: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 11 or self.depth % 9 != 2:
            raise SuiteError(
                f"model preresnet: found depth = {self.depth}, expected 9 n + 2: 29, 56, 101, 164, ..."
            )

    def network(self) -> nn.Module:
        """Returns the network; its keys are those of network slimming's checkpoints."""
        blocks = (self.depth - 2) // 9
        return PreActivationNetwork(len(self.mean), self.classes, blocks=blocks, selection=self.selection)
