"""The VGG networks with batch norm in their form for 32 x 32 images: one linear layer.

References:
    Simonyan and Zisserman 2015, "Very deep convolutional networks for large-scale image recognition", arXiv
    1409.1556, table 1, columns D and E; Li et al. 2017, "Pruning filters for efficient convnets", arXiv
    1608.08710, for the form with one linear layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from evalsuite.models.architectures.base import Architecture, he_normal

WIDTHS = (64, 128, 256, 512, 512)


class VGGNetwork(nn.Module):
    """Five stages of 3 x 3 convolutions, each followed by pooling, then one linear layer.

    Args:
        channels: Of the image.
        classes: Number of logits.
        depths: Convolutions per stage.
        bias: Whether the convolutions have biases.
    """

    def __init__(self, channels: int, classes: int, *, depths: tuple[int, ...], bias: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        in_channels = channels
        for width, depth in zip(WIDTHS, depths, strict=True):
            for _ in range(depth):
                conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=bias)
                layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
                in_channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(in_channels, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes) of normalised images (N, channels, H, W), H and W at least 32."""
        maps = functional.adaptive_avg_pool2d(self.features(images), 1)
        logits: Tensor = self.classifier(maps.flatten(1))
        return logits


@dataclass(frozen=True, kw_only=True)
class VGG(Architecture):
    """A VGG network with batch norm for 32 x 32 images.

    Attributes:
        bias: Whether the convolutions have biases, which batch norm makes redundant; implementations differ.
    """

    depths: ClassVar[tuple[int, ...]]
    bias: bool = True

    def network(self) -> nn.Module:
        """Returns the network, with common keys: ``features.0.weight``, ..., ``classifier.bias``."""
        return VGGNetwork(len(self.mean), self.classes, depths=self.depths, bias=self.bias)


class VGG16(VGG):
    """VGG-16 with batch norm for 32 x 32 images: 14.7 million parameters, 313 million multiply-accumulates."""

    depths = (2, 2, 3, 3, 3)


class VGG19(VGG):
    """VGG-19 with batch norm for 32 x 32 images: 20.0 million parameters, 398 million multiply-accumulates."""

    depths = (2, 2, 4, 4, 4)
