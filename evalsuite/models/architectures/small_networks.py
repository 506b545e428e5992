"""Small versions of the networks that people prune: two blocks of each library's own classes, for 32 or 64 pixels.

`evalsuite list models --prunable` and the tests of methods on networks build these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from evalsuite.models.architectures.base import Architecture
from evalsuite.models.architectures.uris import architecture_from_uri

_HERE = __name__
_VIT = {"img_size": 32, "patch_size": 8, "depth": 2, "num_heads": 4, "embed_dim": 32, "mlp_ratio": 2.0}
_SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}
_CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [8, 16, 16, 16]}


@dataclass(frozen=True)
class SmallNetwork:
    """A network of a library, made small.

    Attributes:
        uri: As for `evalsuite.models.architectures.uris.architecture_from_uri`.
        side: Of its images in pixels.
        options: Arguments of the function that builds it.
    """

    uri: str
    side: int = 64
    options: Mapping[str, Any] = field(default_factory=dict)

    def architecture(self) -> Architecture:
        """Returns its architecture for ten classes."""
        return architecture_from_uri(self.uri, classes=10, options=dict(self.options))


SMALL_NETWORKS: Mapping[str, SmallNetwork] = {
    "timm vit_tiny": SmallNetwork("timm:vit_tiny_patch16_224", 32, _VIT),
    "timm deit_tiny_distilled": SmallNetwork("timm:deit_tiny_distilled_patch16_224", 32, _VIT),
    "timm swin_tiny": SmallNetwork("timm:swin_tiny_patch4_window7_224", 64, _SWIN),
    "timm convnext_atto": SmallNetwork("timm:convnext_atto", 64, _CONVNEXT),
    "timm convnext_tiny (linear MLPs)": SmallNetwork("timm:convnext_tiny", 64, _CONVNEXT),
    "timm efficientnet_b0": SmallNetwork("timm:efficientnet_b0"),
    "timm mobilenetv3_small": SmallNetwork("timm:mobilenetv3_small_050"),
    "torchvision vit": SmallNetwork(f"{_HERE}:torchvision_vit", 32),
    "torchvision swin": SmallNetwork(f"{_HERE}:torchvision_swin"),
    "torchvision convnext": SmallNetwork(f"{_HERE}:torchvision_convnext"),
    "torchvision resnet18": SmallNetwork(f"{_HERE}:torchvision_resnet18"),
    "torchvision resnet50": SmallNetwork(f"{_HERE}:torchvision_resnet50"),
    "torchvision densenet": SmallNetwork(f"{_HERE}:torchvision_densenet"),
    "torchvision regnet_y_400mf": SmallNetwork("torchvision:regnet_y_400mf"),
    "transformers ViT": SmallNetwork(f"{_HERE}:transformers_vit", 32),
    "transformers ConvNext": SmallNetwork(f"{_HERE}:transformers_convnext"),
}
"""By the name that tables print; those of torchvision and transformers have the widths of the functions here."""


def torchvision_vit(num_classes: int = 10) -> nn.Module:
    """Returns the class of ``vit_b_16`` with two blocks of four heads."""
    from torchvision.models import VisionTransformer

    sizes = {
        "image_size": 32,
        "patch_size": 8,
        "num_layers": 2,
        "num_heads": 4,
        "hidden_dim": 32,
        "mlp_dim": 64,
    }
    network: nn.Module = VisionTransformer(**sizes, num_classes=num_classes)
    # zeros at first: the outputs of all images would be equal
    nn.init.normal_(network.get_parameter("heads.head.weight"), std=0.1)
    return network


def torchvision_swin(num_classes: int = 10) -> nn.Module:
    """Returns the class of ``swin_t`` with two stages of two blocks."""
    from torchvision.models import SwinTransformer

    network: nn.Module = SwinTransformer(
        patch_size=[4, 4],
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[4, 4],
        num_classes=num_classes,
    )
    return network


def torchvision_convnext(num_classes: int = 10) -> nn.Module:
    """Returns the class of ``convnext_tiny`` with two stages of two blocks."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    network: nn.Module = ConvNeXt(
        [CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 2)], num_classes=num_classes
    )
    return network


def torchvision_resnet18(num_classes: int = 10) -> nn.Module:
    """Returns the class of ``resnet18`` with a block for each stage."""
    from torchvision.models.resnet import BasicBlock, ResNet

    network: nn.Module = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=num_classes)
    return network


def torchvision_resnet50(num_classes: int = 10) -> nn.Module:
    """Returns the class of ``resnet50`` with a block for each stage."""
    from torchvision.models.resnet import Bottleneck, ResNet

    network: nn.Module = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=num_classes)
    return network


def torchvision_densenet(num_classes: int = 10) -> nn.Module:
    """Returns the class of ``densenet121`` with two blocks of two layers."""
    from torchvision.models import DenseNet

    network: nn.Module = DenseNet(8, (2, 2), 16, num_classes=num_classes)
    return network


def transformers_vit(num_classes: int = 10) -> nn.Module:
    """Returns ``ViTForImageClassification`` with two blocks of four heads."""
    from evalsuite.compat.transformers import network_of_settings

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return network_of_settings("vit", image_size=32, patch_size=8, num_labels=num_classes, **sizes)


def transformers_convnext(num_classes: int = 10) -> nn.Module:
    """Returns ``ConvNextForImageClassification`` with two stages of two blocks."""
    from evalsuite.compat.transformers import network_of_settings

    sizes = {"hidden_sizes": [16, 32], "depths": [2, 2], "num_stages": 2}
    return network_of_settings("convnext", num_labels=num_classes, **sizes)
