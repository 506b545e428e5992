"""Which known architecture a state dict belongs to, told from the names and shapes of its tensors alone."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from evalsuite.compat.calls import quiet_imports
from evalsuite.errors import CheckpointError, SuiteError
from evalsuite.models import MODELS
from evalsuite.models.architectures.base import Architecture, from_settings
from evalsuite.models.architectures.zoos import torchvision_names
from evalsuite.models.checkpoints.loading import load_candidate, rebuilt
from evalsuite.models.checkpoints.reading import matched
from evalsuite.models.cost import cost
from evalsuite.models.surgery.low_rank_factors import EXPAND, REDUCE, put_together
from evalsuite.models.surgery.width_inference import check_widths

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


Shapes = dict[str, tuple[int, ...]]

VARIANTS: Mapping[str, tuple[dict[str, Any], ...]] = {
    **{f"resnet{depth}": ({}, {"shortcut": "B"}) for depth in (20, 32, 44, 56, 110)},
    **{f"vgg{depth}-bn": ({}, {"bias": False}) for depth in (16, 19)},
    "wide-resnet": tuple(
        {"depth": depth, "width": width}
        for depth, widths in ((16, (1, 2, 4, 8, 10)), (22, (2, 8)), (28, (2, 4, 10, 12)), (40, (1, 2, 4)))
        for width in widths
    ),
    "preresnet": tuple(
        {"depth": depth, "selection": selection}
        for depth in (20, 29, 56, 101, 110, 164)
        for selection in (True, False)
    ),
}
"""Settings to try for architectures that ship with evalsuite; the others are tried as they stand."""

_PAIR = re.compile(rf"\.({REDUCE}|{EXPAND})(?=\.(weight|bias)$)")
_CLASSES = 1009  # stands for the number of classes in the shapes of a candidate; nobody's width
_COUNTER = "num_batches_tracked"  # absent from old checkpoints
_ELSEWHERE = {"torchvision", "timm", "robustbench", "python"}
_SIZE = (64, 64)  # of an image that all networks whose widths can be confused take
_ALIKE = 0.4  # share of patterns of names that two members of a family have in common at least


@dataclass(frozen=True, slots=True)
class Fit:
    """Is an architecture whose tensors have the names of the given ones.

    Attributes:
        reference: For `evalsuite.models.architectures.uris.architecture`.
        settings: Its settings, `classes` among them.
        differences: Dimensions of tensors that are smaller than the architecture's.
        parameters: Numbers in the architecture's tensors.
    """

    reference: str
    settings: Mapping[str, Any]
    differences: int = 0
    parameters: int = 0

    @property
    def shrunk(self) -> bool:
        """Whether some layers have fewer channels than the architecture."""
        return self.differences > 0

    @property
    def origin(self) -> str:
        """Registered name of the architecture, or of the library that has it."""
        return self.reference.partition(":")[0]

    @property
    def table(self) -> dict[str, Any]:
        """What `from_settings` builds the architecture from."""
        name = self.reference.partition(":")[2]
        return {"name": self.origin, **({"model": name} if name else {}), **self.settings}

    @property
    def architecture(self) -> Architecture:
        """The architecture, with the preprocessing that is usual for it."""
        return from_settings(self.table)


def detect_architecture(weights: Mapping[str, Tensor]) -> Fit:
    """Returns the one known architecture that `weights` fit: exactly, or else with fewer channels.

    Several shrunk ones of one origin differ in their widths alone: with the weights' own widths they become
    the same network, and the one with the fewest differences that then runs is returned.

    Args:
        weights: As `read_weights` returns them.

    Raises:
        CheckpointError: If none or several fit; the sentence names them, or the nearest.
    """
    found = fits(weights)
    equal = [fit for fit in found if fit.shrunk == found[0].shrunk]
    if len({fit.origin if fit.shrunk else _text(fit.reference, fit.settings) for fit in equal}) > 1:
        names = ", ".join(_text(fit.reference, fit.settings) for fit in equal)
        raise CheckpointError(f"the weights fit several known architectures: {names}; name one of them")
    if not found:
        near = ", ".join(f"{name} ({share:.0%} of the names of tensors)" for name, share in nearest(weights))
        raise CheckpointError(
            "the weights fit no architecture that evalsuite or torchvision knows"
            f"{f'; nearest: {near}' if near else ''}; name the architecture: torchvision:..., timm:..., "
            "robustbench:..., file.py:function or package.module:function"
        )
    return found[0] if len(equal) == 1 else next((fit for fit in equal if _works(fit, weights)), found[0])


def fits(weights: Mapping[str, Tensor]) -> list[Fit]:
    """Returns the known architectures that `weights` fit: exact ones first, then the nearest."""
    found = [_fit(weights, *candidate) for candidate in _candidates(weights)]
    return sorted((fit for fit in found if fit), key=lambda fit: (fit.differences, fit.parameters))


def nearest(weights: Mapping[str, Tensor], limit: int = 3) -> list[tuple[str, float]]:
    """Returns the known architectures that share the most names of tensors with `weights`, and the share.

    Args:
        weights: As `read_weights` returns them.
        limit: How many at most; those without a common name are left out.
    """
    shares: dict[str, float] = {}
    for reference, settings in _candidates(weights):
        expected = signature(reference, json.dumps(settings)).keys()
        found = {name for name in matched(weights, expected) if not name.endswith(_COUNTER)}
        shares[_text(reference, settings)] = len(found & expected) / len(found | expected)
    return sorted(((n, s) for n, s in shares.items() if s), key=lambda pair: (-pair[1], pair[0]))[:limit]


@functools.cache
def signature(reference: str, settings: str = "{}") -> Shapes:
    """Returns names and shapes of the tensors of an architecture; no memory is taken for its weights.

    Args:
        reference: Registered name, or ``torchvision:`` and a name.
        settings: In JSON, without ``classes``: for that, the shapes have 1009.
    """
    table = Fit(reference, {**json.loads(settings), "classes": _CLASSES}).table
    with quiet_imports(), torch.random.fork_rng(devices=[]), _Hollow():
        network = from_settings(table).network()
    return {
        name: tuple(tensor.shape)
        for name, tensor in network.state_dict().items()
        if not name.endswith(_COUNTER)
    }


class _Hollow(TorchFunctionMode):
    """Gives new tensors no memory, and leaves initial values out."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if getattr(function, "__module__", "") == nn.init.__name__:
            return named.get("tensor", args[0] if args else None)
        if function is torch.empty:
            named["device"] = "meta"
        return function(*args, **named)


def _candidates(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The architectures of the families whose first member has names like those of `weights`."""
    patterns = _patterns(weights)
    own = (
        [(name, settings) for settings in VARIANTS.get(name, ({},))]
        for name in MODELS
        if name not in _ELSEWHERE and _buildable(name)
    )
    for family in (*own, *_families()):
        reference, settings = family[0]
        first = _patterns(signature(reference, json.dumps(settings)))
        if len(first & patterns) >= _ALIKE * len(first | patterns):
            yield from family


def _buildable(name: str) -> bool:
    """Whether an architecture, perhaps of a plug-in, can be built without settings."""
    return all(
        field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        for field in dataclasses.fields(MODELS.get(name))
    )


@functools.cache
def _families() -> tuple[list[tuple[str, dict[str, Any]]], ...]:
    """The classifiers of torchvision by the module that defines them."""
    from torchvision import models

    families: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for name in torchvision_names():
        module = models.get_model_builder(name).__module__
        families.setdefault(module, []).append((f"torchvision:{name}", {}))
    return tuple(families.values())


def _patterns(names: Mapping[str, object]) -> set[str]:
    """Names without their numbers; both factors of a layer have that of the layer."""
    whole = (_PAIR.sub("", name) for name in names if not name.endswith(_COUNTER))
    return {re.sub(r"\d+", "#", name) for name in whole}


def _fit(weights: Mapping[str, Tensor], reference: str, settings: dict[str, Any]) -> Fit | None:
    expected = signature(reference, json.dumps(settings))
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in matched(weights, expected).items()
        if not name.endswith(_COUNTER)
    }
    found = put_together(shapes, expected)
    if found.keys() != expected.keys() or any(len(found[name]) != len(expected[name]) for name in expected):
        return None
    pairs = [
        (axis, size, whole)
        for name, shape in expected.items()
        for axis, (size, whole) in enumerate(zip(found[name], shape, strict=True))
    ]
    classes = {size for _, size, whole in pairs if whole == _CLASSES}
    smaller = [(axis, size, whole) for axis, size, whole in pairs if size != whole != _CLASSES]
    if len(classes) != 1 or any(axis > 1 or not 0 < size < whole for axis, size, whole in smaller):
        return None
    count = sum(math.prod(shape) for shape in expected.values())
    return Fit(reference, {**settings, "classes": classes.pop()}, len(smaller), count)


def _works(fit: Fit, weights: Mapping[str, Tensor]) -> bool:
    """Whether an architecture with the widths of `weights` runs: grouped layers are told apart by that."""
    architecture = fit.architecture
    try:
        model = rebuilt(architecture, weights)
        check_widths(model, (len(architecture.mean), *_SIZE), classes=architecture.classes)
    except CheckpointError:
        return False
    return True


def _text(reference: str, settings: Mapping[str, Any]) -> str:
    listed = ", ".join(f"{key} = {value}" for key, value in settings.items() if key != "classes")
    return f"{reference} with {listed}" if listed else reference


LARGEST = 4096
"""Pixels along a side of an image that multiply-accumulates are counted for."""

_CIFAR, _IMAGENET, _INCEPTION = (3, 32, 32), (3, 224, 224), (3, 299, 299)
_SHAPE = re.compile(r"(\d{1,4})x(\d{1,4})x(\d{1,4})")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchitectureMatch:
    """Is which known architecture some weights fit, and what the two cost together.

    Attributes:
        fits: The architecture with its settings; a sentence if there is none, or more than one.
        image: (C, H, W) of the image that multiply-accumulates are counted for; ``None`` if there are none.
        macs: Multiply-accumulates of convolutions and linear layers for one image; ``None`` if not counted.
        macs_nonzero: Those of them that are not by a zero weight.
        uncounted: Why there are none; empty if there are.
    """

    fits: str
    image: tuple[int, int, int] | None = None
    macs: int | None = None
    macs_nonzero: int | None = None
    uncounted: str = ""


def match_architecture(
    weights: Mapping[str, Tensor], *, image_shape: Sequence[int] | None = None
) -> ArchitectureMatch:
    """Returns which known architecture `weights` fit and, if it is exactly one, its multiply-accumulates.

    Args:
        weights: As `read_weights` returns them.
        image_shape: (C, H, W) of an image; without it, what the architecture was made for: 3x32x32, for
            torchvision's 3x224x224 (Inception v3: 3x299x299).
    """
    try:
        fit = detect_architecture(weights)
    except CheckpointError as error:
        return ArchitectureMatch(
            fits=str(error), uncounted="the order of the layers is unknown without an architecture"
        )
    settings = ", ".join(f"{key}={value}" for key, value in fit.settings.items())
    fits = f"{fit.reference}{' with fewer channels' if fit.shrunk else ''} ({settings})"
    channels, height, width = image_shape or _usual(fit)
    try:
        plugin = replace(fit.architecture, mean=(0.0,) * channels, std=(1.0,) * channels)  # costs nothing
        model = load_candidate(weights, plugin, image_shape=(channels, height, width))
    except (CheckpointError, SuiteError) as error:
        return ArchitectureMatch(fits=fits, uncounted=f"{error}; images of another shape: --image")
    found = cost(model, (channels, height, width))
    return ArchitectureMatch(
        fits=fits, image=(channels, height, width), macs=found.macs, macs_nonzero=found.macs_nonzero
    )


def image_shape(text: str) -> tuple[int, int, int]:
    """Returns the shape of an image that is written as channels, height and width.

    Raises:
        SuiteError: If it is written otherwise, or a number is 0 or above `LARGEST`.

    >>> image_shape("3x32x32")
    (3, 32, 32)
    """
    found = _SHAPE.fullmatch(text.strip())
    sizes = [int(size) for size in found.groups()] if found else []
    if not sizes or not all(0 < size <= LARGEST for size in sizes):
        raise SuiteError(
            f"image {text!r}: expected channels x height x width, such as 3x32x32, of 1 to {LARGEST}"
        )
    channels, height, width = sizes
    return channels, height, width


def _usual(fit: Fit) -> tuple[int, int, int]:
    """The image that an architecture was made for."""
    if fit.origin != "torchvision":
        return _CIFAR
    return _INCEPTION if fit.reference == "torchvision:inception_v3" else _IMAGENET
