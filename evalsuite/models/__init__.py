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
        "densenet22": "evalsuite.models.densenet:DenseNet22",
        "preresnet": "evalsuite.models.preresnet:PreResNet",
        "python": "evalsuite.models.references:PythonNetwork",
        "resnet110": "evalsuite.models.resnet:ResNet110",
        "resnet20": "evalsuite.models.resnet:ResNet20",
        "resnet2b": "evalsuite.models.normless:ResNet2B",
        "resnet32": "evalsuite.models.resnet:ResNet32",
        "resnet44": "evalsuite.models.resnet:ResNet44",
        "resnet4b": "evalsuite.models.normless:ResNet4B",
        "resnet56": "evalsuite.models.resnet:ResNet56",
        "resnet8": "evalsuite.models.resnet:ResNet8",
        "robustbench": "evalsuite.models.libraries:RobustBenchNetwork",
        "small-cnn": "evalsuite.models.cnn:SmallCNN",
        "timm": "evalsuite.models.libraries:TimmNetwork",
        "torchvision": "evalsuite.models.libraries:TorchvisionNetwork",
        "vgg16-bn": "evalsuite.models.vgg:VGG16",
        "vgg19-bn": "evalsuite.models.vgg:VGG19",
        "wide-resnet": "evalsuite.models.wide:WideResNet",
    },
    group="evalsuite.models",
)
register = MODELS.register
