"""A small convolutional network for 32 x 32 images that one processor core trains in seconds."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from evalsuite.errors import SuiteError
from evalsuite.models.architectures.base import Architecture


@dataclass(frozen=True, kw_only=True)
class SmallCNN(Architecture):
    """Four convolutions with batch norm, the first with stride 4: 1.8 million MACs at 32 x 32.

    Attributes:
        widths: Output channels of the stem (4 x 4, stride 4) and of the three 3 x 3 convolutions, of which
            the second has stride 2.
    """

    widths: tuple[int, int, int, int] = (24, 48, 64, 64)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.widths) != 4 or min(self.widths) < 1:
            raise SuiteError(
                f"model small-cnn: found widths = {self.widths}, expected four numbers of at least 1"
            )

    def network(self) -> nn.Module:
        """Returns stem, three convolutions, global average pooling and a linear layer."""
        stem, first, second, third = self.widths
        return nn.Sequential(
            OrderedDict(
                stem=_layer(nn.Conv2d(len(self.mean), stem, 4, stride=4, bias=False)),
                layer1=_layer(nn.Conv2d(stem, first, 3, padding=1, bias=False)),
                layer2=_layer(nn.Conv2d(first, second, 3, stride=2, padding=1, bias=False)),
                layer3=_layer(nn.Conv2d(second, third, 3, padding=1, bias=False)),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                linear=nn.Linear(third, self.classes),
            )
        )


def _layer(conv: nn.Conv2d) -> nn.Sequential:
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(conv.out_channels), relu=nn.ReLU()))
