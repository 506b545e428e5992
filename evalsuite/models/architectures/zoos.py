"""Architectures of torchvision and timm; their weights are never downloaded."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from torch import nn

from evalsuite.compat.calls import quiet_imports
from evalsuite.errors import SuiteError
from evalsuite.models.architectures.base import IMAGENET_MEAN, IMAGENET_STD
from evalsuite.models.architectures.external import ExternalArchitecture, build_network, unknown_model
from evalsuite.plugin_config import OPTIONAL_KEY
from evalsuite.preprocessing import Preprocessing
from evalsuite.registry import unknown_name

_TRANSFORM_INPUT = ("googlenet", "inception_v3")
"""Networks whose weights were ported from another library: they expect images normalised with 0.5.

torchvision's functions set ``transform_input`` where they are given weights.
"""

IMAGE_SIZE_OPTIONS = ("image_size", "img_size")
"""Names under which torchvision's and timm's functions take the size of an image."""


@dataclass(frozen=True, kw_only=True)
class TorchvisionNetwork(ExternalArchitecture):
    """Classifier of torchvision: ``torchvision:resnet18``; preprocessed as its weights for ImageNet expect.

    Attributes:
        model: One of ``torchvision.models.list_models(module=torchvision.models)``.
        weights: Entry of the model's weights whose preprocessing the network's weights expect, such as
            ``IMAGENET1K_V1``; empty for the newest. Nothing is downloaded.
    """

    model: str
    weights: str = field(default="", metadata=OPTIONAL_KEY)

    def __post_init__(self) -> None:
        names = torchvision_names()
        if self.model not in names:
            raise unknown_model("torchvision", self.model, names)
        preset = self._preset()
        self._set_default_preprocessing(
            preset.mean if preset else IMAGENET_MEAN, preset.std if preset else IMAGENET_STD
        )
        super().__post_init__()
        normalised = (self.mean, self.std) == (IMAGENET_MEAN, IMAGENET_STD)
        if self.model in _TRANSFORM_INPUT and normalised and "transform_input" not in self.options:
            object.__setattr__(self, "options", {**self.options, "transform_input": True})
        if len(self.mean) != 3:
            raise SuiteError(
                f"model torchvision:{self.model}: found mean and std of {len(self.mean)} channels, expected 3: "
                "torchvision's networks take colour images"
            )

    def notes(self) -> tuple[str, ...]:
        """Returns a sentence where the network normalises its images once more."""
        if not self.options.get("transform_input"):
            return ()
        return (
            f"torchvision:{self.model} is built with transform_input, as torchvision builds it for its weights: images "
            "that are normalised for ImageNet are normalised once more, with 0.5. If yours was trained without, say "
            "options.transform_input=false.",
        )

    def network(self) -> nn.Module:
        """Returns the network with `classes` logits."""
        from torchvision import models

        settings = {"weights": None, "num_classes": self.classes, **self.options}
        return build_network(f"torchvision:{self.model}", lambda: models.get_model(self.model, **settings))

    def published_preprocessing(self) -> Preprocessing | None:
        """Returns the geometry of the transforms of the weights' entry.

        References:
            torchvision, ``transforms/_presets.py``, ``ImageClassification``.
        """
        preset = self._preset()
        if preset is None:
            return None
        (crop,), resize = preset.crop_size, tuple(preset.resize_size)
        published = Preprocessing((crop, crop), resize, preset.interpolation.value)
        return _of_image_size(published, self.options)

    def _preset(self) -> Any:
        """The transforms of the weights' entry; ``None`` where the model has no weights."""
        entries = torchvision_weights(self.model)
        if self.weights and self.weights not in entries:
            raise SuiteError(
                f"model torchvision:{self.model}: {unknown_name('weights entry', self.weights, entries)}"
            )
        name = self.weights or next(reversed(entries), "")
        return entries[name].transforms() if name else None


@dataclass(frozen=True, kw_only=True)
class TimmNetwork(ExternalArchitecture):
    """Classifier of timm: ``timm:resnet18``; preprocessed as its default weights expect, or those of its tag.

    Attributes:
        model: One of ``timm.list_models()``, with or without the tag of its weights.
    """

    model: str

    def __post_init__(self) -> None:
        with quiet_imports():
            import timm
        if not timm.is_model(self.model):
            raise unknown_model("timm", self.model, timm.list_models())
        config = _timm_config(self.model)
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

    def published_preprocessing(self) -> Preprocessing | None:
        """Returns the geometry of the configuration of the weights: input size, share of the crop, its mode, filter.

        References:
            timm, ``data/transforms_factory.py``, ``transforms_imagenet_eval``.
        """
        config = _timm_config(self.model)
        return None if config is None else _of_image_size(timm_geometry(config), self.options)


def torchvision_names() -> list[str]:
    """Returns the names of torchvision's classifiers."""
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return names


def torchvision_weights(model: str) -> dict[str, Any]:
    """Returns the entries of weights that torchvision publishes for a model, by name, the default last.

    Args:
        model: One of `torchvision_names`.
    """
    from torchvision import models

    enum = models.get_model_weights(model)
    default = getattr(enum, "DEFAULT", None)
    return {entry.name: entry for entry in sorted(enum, key=lambda entry: entry is default)}


def timm_geometry(config: Any) -> Preprocessing:
    """Returns the geometry of timm's transform for evaluation.

    Args:
        config: What timm calls a pretrained configuration: ``input_size``, ``crop_pct``, ``crop_mode``,
            ``interpolation``, ``mean``.
    """
    height, width = config.input_size[1:]
    share = config.crop_pct or 0.875
    scaled = (math.floor(height / share), math.floor(width / share))
    centred = Preprocessing((height, width), (min(scaled),), config.interpolation or "bicubic")
    if config.crop_mode == "squash":
        return replace(centred, resize=scaled)
    if config.crop_mode == "border":
        red, green, blue = (round(255 * value) for value in config.mean)
        return replace(centred, edge="longer", fill=(red, green, blue))
    return centred


@lru_cache(maxsize=64)
def _timm_config(model: str) -> Any:
    with quiet_imports():
        from timm.models import get_pretrained_cfg
    return get_pretrained_cfg(model)


def _of_image_size(published: Preprocessing, options: dict[str, Any]) -> Preprocessing:
    """The geometry at the image size that an option gives the network, if there is one."""
    size = next((options[key] for key in IMAGE_SIZE_OPTIONS if key in options), None)
    if size is None:
        return published
    numbers = (size,) if isinstance(size, int) else tuple(size)
    return published.scaled_to((numbers[0], numbers[-1]))
