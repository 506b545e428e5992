"""The contract of an architecture: frozen settings that build a network and own its preprocessing."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evalsuite.errors import SuiteError, first_few
from evalsuite.plugin_config import OPTIONAL_KEY
from evalsuite.preprocessing import INTERPOLATIONS, Preprocessing

if TYPE_CHECKING:
    from collections.abc import Sequence

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)
"""Per-channel mean and standard deviation of the CIFAR-10 training images in [0, 1]."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Per-channel mean and standard deviation that torchvision's weights for ImageNet expect."""


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """Settings from which a network is built; derive a frozen dataclass whose fields are the keys of a table.

    The model owns its preprocessing: `mean` and `std` belong to the weights, not to the images.

    Attributes:
        classes: Number of logits K.
        mean: Subtracted from each channel of an image in [0, 1]; its length is the number of channels.
        std: Each channel is then divided by it.
        bypass: Names of layers that are skipped: each is replaced by the identity. For weights of tools that
            remove whole layers; `evalsuite.models.surgery.bypass` finds such layers.
        resize: Of pictures before the crop: one number is the shorter edge, two are height and width; empty for
            what the weights were published with, or for the crop's own size if that is given alone.
        crop: Height and width in pixels that the network sees, or one number for both; empty for what the weights
            were published with.
        interpolation: Filter of the resize; empty for what the weights were published with, or bilinear.
        heads: Attention modules by name to how many heads they have, where some were removed. Weights alone tell it
            unless their shapes also fit narrower heads.
        num_heads: How many heads all attention modules have, or each in the order of the network, where that is not the
            number that they are built with: weights do not record it. Empty for what the network is built with.
    """

    classes: int = 10
    mean: tuple[float, ...] = CIFAR_MEAN
    std: tuple[float, ...] = CIFAR_STD
    bypass: tuple[str, ...] = ()
    resize: int | tuple[int, ...] = field(default=(), metadata=OPTIONAL_KEY)
    crop: int | tuple[int, ...] = field(default=(), metadata=OPTIONAL_KEY)
    interpolation: str = field(default="", metadata=OPTIONAL_KEY)
    heads: dict[str, int] = field(default_factory=dict, metadata=OPTIONAL_KEY, hash=False)
    num_heads: int | tuple[int, ...] = field(default=(), metadata=OPTIONAL_KEY)

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
        self._check_geometry(label)
        if (counts := _numbers(self.num_heads)) and min(counts) < 1:
            raise SuiteError(f"model {label}: found num_heads = {list(counts)}, expected numbers from 1 on")

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How a picture of any size becomes the network's pixels: the settings, else what the weights state."""
        published = self.published_preprocessing()
        resize, crop = _numbers(self.resize), _numbers(self.crop)
        if crop:  # what it replaces is the published size, so the published resize is none for it
            size = (crop[0], crop[-1])
            resized = Preprocessing(size, (min(size),))
            if published is not None:
                resized = replace(resized, interpolation=published.interpolation, engine=published.engine)
            published = resized
        if published is None:
            return None
        return replace(
            published,
            resize=resize or published.resize,
            interpolation=self.interpolation or published.interpolation,
        )

    def published_preprocessing(self) -> Preprocessing | None:
        """Returns the geometry that the weights were published with; ``None`` where there is no such statement."""
        return None

    def notes(self) -> tuple[str, ...]:
        """Returns sentences for readers of the network's numbers: what it does that its settings do not show."""
        return ()

    def _check_geometry(self, label: str) -> None:
        """Refuses settings of the geometry that cannot be, or that have no effect."""
        resize, crop = _numbers(self.resize), _numbers(self.crop)
        for key, numbers in (("resize", resize), ("crop", crop)):
            if len(numbers) > 2 or (numbers and min(numbers) < 1):
                raise SuiteError(
                    f"model {label}: found {key} = {list(numbers)}, expected one or two numbers of at least 1 pixel"
                )
        if self.interpolation and self.interpolation not in INTERPOLATIONS:
            raise SuiteError(
                f"model {label}: found interpolation = {self.interpolation!r}, expected one of "
                f"{', '.join(INTERPOLATIONS)}"
            )
        if (resize or self.interpolation) and not crop and self.published_preprocessing() is None:
            key = "resize" if resize else "interpolation"
            raise SuiteError(
                f"model {label}: found {key} without crop, and its weights state no size: give crop too, "
                "the height and width that the network sees"
            )

    @abstractmethod
    def network(self) -> nn.Module:
        """Returns the network: normalised float images (N, ``len(mean)``, H, W) to logits (N, `classes`).

        Initial weights come from torch's global generator.
        """


class Normalized(nn.Module):
    """A network behind its preprocessing; only the network's weights are in the state dict.

    Its output is the logits, also of a network that returns a record or a dictionary which holds them.

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
        output = self.network((images - self.mean) / self.std)
        return output if isinstance(output, Tensor) else logits_in(output)


def logits_in(output: Any) -> Tensor:
    """Returns the logits in what a network returns, where they are obvious; else the output as it is.

    Obvious are an attribute or a key ``logits`` (transformers, torchvision's GoogLeNet in training), or the one
    floating-point tensor of two dimensions in a dictionary, a tuple or a list.

    >>> logits_in({"features": torch.ones(2, 3, 4, 4), "scores": torch.zeros(2, 10)}).shape
    torch.Size([2, 10])
    """
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, Tensor):
        return named
    parts = output.values() if isinstance(output, Mapping) else output
    if not isinstance(output, Mapping | tuple | list):
        return output  # type: ignore[no-any-return]  # a caller that expects logits refuses it
    tensors = [part for part in parts if isinstance(part, Tensor) and part.is_floating_point()]
    matrices = [tensor for tensor in tensors if tensor.dim() == 2]
    return matrices[0] if len(matrices) == 1 else output  # type: ignore[return-value]  # as above


def output_note(model: nn.Module, images: Tensor) -> str:
    """Returns a sentence about where the logits of a model are; empty if its network returns nothing else.

    Args:
        model: In evaluation mode.
        images: Some images in [0, 1], (N, C, H, W).
    """
    if not isinstance(model, Normalized):
        return ""
    with torch.inference_mode():
        output = model.network((images - model.mean) / model.std)
    if isinstance(output, Tensor):
        return ""
    return f"The network returns {type(output).__name__}, not a tensor; its logits are what is measured."


def build_model(architecture: Architecture) -> nn.Module:
    """Returns a freshly initialised model that takes images in [0, 1] and returns logits.

    Args:
        architecture: What to build; initial weights come from torch's global generator.

    Returns:
        Float images in [0, 1], (N, C, H, W), to logits (N, K); in training mode.

    Raises:
        SuiteError: If a layer to bypass, or an attention module of `heads`, does not exist, or `num_heads` does not
            fit.
    """
    network = architecture.network()
    for name in architecture.bypass:
        _replace_by_identity(network, name)
    if architecture.heads or architecture.num_heads:
        from evalsuite.models.surgery import attention  # surgery imports architectures

        if counts := _numbers(architecture.num_heads):
            attention.split_into_heads(network, counts)
        attention.keep_head_counts(network, architecture.heads)
    return Normalized(network, mean=architecture.mean, std=architecture.std)


def unwrap_model(model: nn.Module) -> nn.Module:
    """Returns the network inside a `Normalized` model, or the model itself."""
    return model.network if isinstance(model, Normalized) else model


def _numbers(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


def he_normal(network: nn.Module) -> None:
    """Draws the weights of the convolutions of `network` anew: normal, scaled to the number of outputs.

    References:
        He et al. 2015, "Delving deep into rectifiers", arXiv 1502.01852, equation 14.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _replace_by_identity(network: nn.Module, name: str) -> None:
    layers = [layer for layer, module in network.named_modules() if layer and not [*module.children()]]
    if name not in layers:
        near = difflib.get_close_matches(name, layers, n=2)
        guess = f" did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise SuiteError(f"bypass: the network has no layer {name!r}:{guess} It has {first_few(layers)}")
    network.set_submodule(name, nn.Identity())
