"""The contract of an architecture: frozen settings that build a network and own its preprocessing."""

from __future__ import annotations

import dataclasses
import difflib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from evalsuite.errors import SuiteError
from evalsuite.models import MODELS
from evalsuite.models.checkpoints.names import some
from evalsuite.registry import unknown, wanted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)
"""Per-channel mean and standard deviation of the CIFAR-10 training images in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """Builds a network from its settings; derive a frozen dataclass whose fields are the keys of a table.

    The model owns its preprocessing: `mean` and `std` belong to the weights, not to the images.

    Attributes:
        classes: Number of logits K.
        mean: Subtracted from each channel of an image in [0, 1]; its length is the number of channels.
        std: Each channel is then divided by it.
        bypass: Names of layers that are skipped: each is replaced by the identity. For weights of tools that
            remove whole layers; `evalsuite.models.surgery.bypass` finds them.
    """

    classes: int = 10
    mean: tuple[float, ...] = CIFAR_MEAN
    std: tuple[float, ...] = CIFAR_STD
    bypass: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        label = type(self).__name__
        if self.classes < 2:
            raise SuiteError(f"model {label}: found classes = {self.classes}, expected at least 2")
        if not self.mean or len(self.mean) != len(self.std):
            raise SuiteError(
                f"model {label}: found {len(self.mean)} numbers in mean and {len(self.std)} in std, "
                "expected one of each per image channel"
            )
        if not all(0 < value < float("inf") for value in self.std):
            raise SuiteError(f"model {label}: found std = {self.std}, expected finite numbers above 0")
        if not all(abs(value) < float("inf") for value in self.mean):
            raise SuiteError(f"model {label}: found mean = {self.mean}, expected finite numbers")

    @abstractmethod
    def network(self) -> nn.Module:
        """Returns the network: normalised float images (N, ``len(mean)``, H, W) to logits (N, `classes`).

        Initial weights come from torch's global generator.
        """


class Normalized(nn.Module):
    """Is a network behind its preprocessing; only the network's weights are in the state dict.

    Args:
        network: Takes normalised images.
        mean: One number per channel.
        std: One number per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, K) of float images in [0, 1], (N, C, H, W)."""
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


def assemble(architecture: Architecture) -> nn.Module:
    """Returns a freshly initialised model that takes images in [0, 1] and returns logits.

    Args:
        architecture: What to build; initial weights come from torch's global generator.

    Returns:
        Float images in [0, 1], (N, C, H, W), to logits (N, K); in training mode.

    Raises:
        SuiteError: If a layer to bypass is not there.
    """
    network = architecture.network()
    for name in architecture.bypass:
        _skip(network, name)
    return Normalized(network, mean=architecture.mean, std=architecture.std)


def core(model: nn.Module) -> nn.Module:
    """Returns the network inside a `Normalized` model, or the model itself."""
    return model.network if isinstance(model, Normalized) else model


def he_normal(network: nn.Module) -> None:
    """Draws the weights of the convolutions of `network` anew: normal, scaled to the number of outputs.

    References:
        He et al. 2015, "Delving deep into rectifiers", arXiv 1502.01852, equation 14.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _skip(network: nn.Module, name: str) -> None:
    layers = [layer for layer, module in network.named_modules() if layer and not [*module.children()]]
    if name not in layers:
        near = difflib.get_close_matches(name, layers, n=2)
        guess = f" did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise SuiteError(f"bypass: the network has no layer {name!r}:{guess} It has {some(layers)}")
    network.set_submodule(name, nn.Identity())


def from_settings(settings: Mapping[str, Any]) -> Architecture:
    """Returns the architecture that a table such as ``{"name": "resnet20", "shortcut": "B"}`` describes.

    Args:
        settings: ``name`` is a registered model; the other keys are its fields.

    Raises:
        SuiteError: If the table has no name, an unknown key or a value of the wrong type.
        UnknownNameError: If no model has the name.

    >>> from_settings({"name": "resnet20", "classes": 100}).classes
    100
    """
    values = dict(settings)
    name = values.pop("name", None)
    if not isinstance(name, str):
        raise SuiteError(f"model: found name = {name!r}, expected one of {', '.join(MODELS)}")
    kind = MODELS.get(name)
    fields = [field.name for field in dataclasses.fields(kind) if field.init]
    for key in values:
        if key not in fields:
            raise SuiteError(unknown(f"key of model {name}", key, fields))
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise SuiteError(f"model {name}: the key {where!r} is missing") from error
        found = f"found {first['input']!r}"
        raise SuiteError(f"model {name}: key {where!r}: {found}, {wanted(first['msg'])}") from error


def to_settings(architecture: Architecture) -> dict[str, Any]:
    """Returns the table from which `from_settings` builds `architecture` again, ready for JSON.

    Raises:
        SuiteError: If its class is not registered.

    >>> from evalsuite.models.architectures.cnn import SmallCNN
    >>> from_settings(to_settings(SmallCNN(classes=5))) == SmallCNN(classes=5)
    True
    """
    kind = type(architecture)
    name = next((name for name in MODELS if MODELS.get(name) is kind), None)
    if name is None:
        raise SuiteError(f"model {kind.__name__}: it is not registered; decorate it with @models.register")
    return {"name": name, **TypeAdapter(kind).dump_python(architecture, mode="json")}
