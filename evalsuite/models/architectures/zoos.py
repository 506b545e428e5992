"""Architectures of torchvision and timm; their weights are never downloaded."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from evalsuite.compat.calls import quiet_imports
from evalsuite.errors import SuiteError
from evalsuite.models.architectures.base import IMAGENET_MEAN, IMAGENET_STD
from evalsuite.models.architectures.external import ExternalArchitecture, build_network, unknown_model


@dataclass(frozen=True, kw_only=True)
class TorchvisionNetwork(ExternalArchitecture):
    """Classifier of torchvision: ``torchvision:resnet18``; normalised as its weights for ImageNet expect.

    Attributes:
        model: One of ``torchvision.models.list_models(module=torchvision.models)``.
    """

    model: str

    def __post_init__(self) -> None:
        names = torchvision_names()
        if self.model not in names:
            raise unknown_model("torchvision", self.model, names)
        self._set_default_preprocessing(IMAGENET_MEAN, IMAGENET_STD)
        super().__post_init__()
        if len(self.mean) != 3:
            raise SuiteError(
                f"model torchvision:{self.model}: found mean and std of {len(self.mean)} channels, expected 3: "
                "torchvision's networks take colour images"
            )

    def network(self) -> nn.Module:
        """Returns the network with `classes` logits."""
        from torchvision import models

        settings = {"weights": None, "num_classes": self.classes, **self.options}
        return build_network(f"torchvision:{self.model}", lambda: models.get_model(self.model, **settings))


@dataclass(frozen=True, kw_only=True)
class TimmNetwork(ExternalArchitecture):
    """Classifier of timm: ``timm:resnet18``; normalised as its default weights expect.

    Attributes:
        model: One of ``timm.list_models()``, with or without the tag of its weights.
    """

    model: str

    def __post_init__(self) -> None:
        with quiet_imports():
            import timm
            from timm.models import get_pretrained_cfg
        if not timm.is_model(self.model):
            raise unknown_model("timm", self.model, timm.list_models())
        config = get_pretrained_cfg(self.model)
        if config is None:
            self._set_default_preprocessing(IMAGENET_MEAN, IMAGENET_STD)
        else:
            self._set_default_preprocessing(config.mean, config.std)
        super().__post_init__()

    def network(self) -> nn.Module:
        """Returns the network with `classes` logits and as many input channels as `mean` has numbers."""
        import timm

        settings = {"num_classes": self.classes, "in_chans": len(self.mean), **self.options}
        return build_network(
            f"timm:{self.model}", lambda: timm.create_model(self.model, pretrained=False, **settings)
        )


def torchvision_names() -> list[str]:
    """Returns the names of torchvision's classifiers."""
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return names
