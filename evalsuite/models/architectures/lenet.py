"""The two LeNets of the pruning literature, as the code of "Lost in Pruning" has them.

References:
    LeCun et al. 1998, "Gradient-based learning applied to document recognition"; lucaslie/torchprune, ``lenet5.py`` and
    ``fcnet.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from evalsuite.models.architectures.base import Architecture

SIDE = 28
"""Height and width of the images of LeNet-300-100."""


class LeNet5Network(nn.Module):
    """Two 3 x 3 convolutions with max pooling, a 6 x 6 convolution in the place of a linear layer, two linear layers.

    Args:
        channels: Of the image.
        classes: Number of logits.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 3)
        self.conv2 = nn.Conv2d(6, 16, 3)
        self.fc1 = nn.Conv2d(16, 120, 6)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes) of normalised images (N, channels, 32, 32)."""
        maps = functional.max_pool2d(functional.relu(self.conv1(images)), 2)
        maps = functional.max_pool2d(functional.relu(self.conv2(maps)), 2)
        features = functional.relu(self.fc1(maps)).flatten(1)
        logits: Tensor = self.fc3(functional.relu(self.fc2(features)))
        return logits


@dataclass(frozen=True, kw_only=True)
class LeNet5(Architecture):
    """LeNet-5 for 32 x 32 images: 0.08 million parameters.

    With 3 x 3 kernels, max pooling and ReLU, as in torchprune; LeCun et al. have 5 x 5 kernels, sub-sampling and tanh.
    """

    def network(self) -> nn.Module:
        """Returns the network; its keys are those of torchprune's."""
        return LeNet5Network(len(self.mean), self.classes)


class FullyConnected(nn.Module):
    """Linear layers of given widths with ReLU between them, on the pixels of an image.

    Args:
        widths: Pixels times channels, the hidden widths, the number of logits.
    """

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for number, (inputs, outputs) in enumerate(pairwise(widths)):
            if number:
                self.layers.add_module(f"relu{number - 1}", nn.ReLU())
            self.layers.add_module(f"linear{number}", nn.Linear(inputs, outputs))

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes) of normalised images (N, C, H, W)."""
        logits: Tensor = self.layers(images.flatten(1))
        return logits


@dataclass(frozen=True, kw_only=True)
class LeNet300(Architecture):
    """LeNet-300-100, three linear layers: 0.27 million parameters on grey images of 28 x 28.

    Attributes:
        side: Height and width of the images.
    """

    side: int = SIDE
    mean: tuple[float, ...] = (0.1307,)
    std: tuple[float, ...] = (0.3081,)

    def network(self) -> nn.Module:
        """Returns the network; its keys are those of torchprune's."""
        return FullyConnected(len(self.mean) * self.side**2, 300, 100, self.classes)
