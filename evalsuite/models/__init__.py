"""Networks: architectures by name, safe loading of untrusted weights, surgery, cost, forward passes.

Importing this package is light; its modules import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalsuite.registry import Registry

if TYPE_CHECKING:
    from evalsuite.models.architectures.base import Architecture

MODELS: Registry[type[Architecture]] = Registry(
    "model",
    builtin={
        "bottleneck-resnet110": "evalsuite.models.architectures.bottleneck:BottleneckResNet110",
        "bottleneck-resnet56": "evalsuite.models.architectures.bottleneck:BottleneckResNet56",
        "densenet100": "evalsuite.models.architectures.densenet:DenseNet100",
        "densenet22": "evalsuite.models.architectures.densenet:DenseNet22",
        "densenet40": "evalsuite.models.architectures.densenet:DenseNet40",
        "hf": "evalsuite.models.architectures.huggingface:HuggingFaceNetwork",
        "lenet-300-100": "evalsuite.models.architectures.lenet:LeNet300",
        "lenet-5": "evalsuite.models.architectures.lenet:LeNet5",
        "preresnet": "evalsuite.models.architectures.preresnet:PreResNet",
        "python": "evalsuite.models.architectures.external:PythonNetwork",
        "resnet110": "evalsuite.models.architectures.resnet:ResNet110",
        "resnet20": "evalsuite.models.architectures.resnet:ResNet20",
        "resnet2b": "evalsuite.models.architectures.norm_free_resnet:ResNet2B",
        "resnet32": "evalsuite.models.architectures.resnet:ResNet32",
        "resnet44": "evalsuite.models.architectures.resnet:ResNet44",
        "resnet4b": "evalsuite.models.architectures.norm_free_resnet:ResNet4B",
        "resnet56": "evalsuite.models.architectures.resnet:ResNet56",
        "resnet8": "evalsuite.models.architectures.resnet:ResNet8",
        "resnext29": "evalsuite.models.architectures.bottleneck:ResNeXt",
        "robustbench": "evalsuite.models.architectures.robustbench:RobustBenchNetwork",
        "small-cnn": "evalsuite.models.architectures.cnn:SmallCNN",
        "timm": "evalsuite.models.architectures.zoos:TimmNetwork",
        "torchvision": "evalsuite.models.architectures.zoos:TorchvisionNetwork",
        "vgg16-bn": "evalsuite.models.architectures.vgg:VGG16",
        "vgg19-bn": "evalsuite.models.architectures.vgg:VGG19",
        "wide-resnet": "evalsuite.models.architectures.wide_resnet:WideResNet",
    },
    group="evalsuite.models",
)
