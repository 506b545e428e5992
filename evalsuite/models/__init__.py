"""Networks: architectures by name, safe loading of other people's weights, surgery, cost, forward passes.

Importing this package is light; its modules import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalsuite.registry import Registry

if TYPE_CHECKING:
    from evalsuite.models.architecture import Architecture

MODELS: Registry[type[Architecture]] = Registry(
    "model",
    builtin={
        "resnet110": "evalsuite.models.resnet:ResNet110",
        "resnet20": "evalsuite.models.resnet:ResNet20",
        "resnet2b": "evalsuite.models.normless:ResNet2B",
        "resnet32": "evalsuite.models.resnet:ResNet32",
        "resnet44": "evalsuite.models.resnet:ResNet44",
        "resnet4b": "evalsuite.models.normless:ResNet4B",
        "resnet56": "evalsuite.models.resnet:ResNet56",
        "small-cnn": "evalsuite.models.cnn:SmallCNN",
    },
    group="evalsuite.models",
)
register = MODELS.register
