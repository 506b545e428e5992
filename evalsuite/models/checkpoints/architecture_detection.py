"""Detection of the architecture that a state dict belongs to, by the names and shapes of its tensors alone."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from evalsuite.compat.calls import quiet_imports
from evalsuite.compat.transformers import is_model_folder
from evalsuite.errors import CheckpointError, SuiteError
from evalsuite.models import MODELS
from evalsuite.models.architectures.base import Architecture
from evalsuite.models.architectures.huggingface import HuggingFaceNetwork
from evalsuite.models.architectures.settings import from_settings
from evalsuite.models.architectures.zoos import torchvision_names, torchvision_weights
from evalsuite.models.checkpoints.loading import build_with_weights, load_candidate
from evalsuite.models.checkpoints.state_dict_keys import COUNTER, match_keys
from evalsuite.models.checkpoints.timm_fingerprints import timm_models_like
from evalsuite.models.checkpoints.torchvision_table import torchvision_modules
from evalsuite.models.checkpoints.training_state import is_training_state
from evalsuite.models.cost import cost
from evalsuite.models.surgery.low_rank_factors import EXPAND, REDUCE, merge_factor_shapes
from evalsuite.models.surgery.width_inference import check_widths

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Shapes = dict[str, tuple[int, ...]]
_Family = list[tuple[str, dict[str, Any]]]

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
"""Settings to try for architectures that ship with evalsuite; the others are tried with their defaults."""

MAX_IMAGE_SIDE = 4096
"""Pixels along a side of an image that multiply-accumulates are counted for."""

_DRAWS = {
    "bernoulli_",
    "exponential_",
    "normal_",
    "uniform_",
}  # their kernels for meta tensors import torch's compiler
_FACTOR = re.compile(rf"\.({REDUCE}|{EXPAND})(?=\.(weight|bias)$)")
CLASSES = 1009  # placeholder for the number of classes in shapes; no architecture has layers of this width
_EXTERNAL = {"torchvision", "timm", "robustbench", "python", "hf"}
_LISTED = 8  # architectures that a sentence names at most
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.\w+$")  # of the file's bytes, as torchvision names its files
_OF_TRANSFORMERS = re.compile(r"(\w+)\.(embeddings|embedder|encoder|layers|stages)\..+")
_TRIAL_SIZE = (64, 64)  # of an image that all networks whose widths can be confused take
_MIN_FAMILY_OVERLAP = 0.4  # share of patterns of names that two members of a family have in common at least
_CIFAR_SHAPE, _IMAGENET_SHAPE, _INCEPTION_SHAPE = (3, 32, 32), (3, 224, 224), (3, 299, 299)
_OPTION_A = re.compile(r"resnet(8|20|32|44|56|110)")  # their shortcuts have no weights
_IMAGE_SHAPE = re.compile(r"(\d{1,4})x(\d{1,4})x(\d{1,4})")


@dataclass(frozen=True, slots=True)
class ArchitectureFit:
    """An architecture whose tensors have the names of those in a state dict, and the same or larger shapes.

    Attributes:
        uri: For `evalsuite.models.architectures.uris.architecture_from_uri`.
        settings: Its settings, `classes` among them.
        differences: Number of dimensions in which tensors are smaller than the architecture's.
        parameters: Numbers in the architecture's tensors.
    """

    uri: str
    settings: Mapping[str, Any]
    differences: int = 0
    parameters: int = 0

    @property
    def is_smaller(self) -> bool:
        """Whether some layers have fewer channels than the architecture."""
        return self.differences > 0

    @property
    def doubt(self) -> str:
        """Why the network may be another one although the tensors fit; empty where the file states what it is."""
        if self.scheme == "hf" or self.settings.get("weights"):
            return ""
        sentence = (
            "guessed from names and shapes of the tensors: strides, activations and all else without weights"
        )
        if self.settings.get("shortcut", "A") == "A" and _OPTION_A.fullmatch(self.scheme):
            sentence += ", such as shortcuts of average pooling in place of option A,"
        return f"{sentence} may be other ones"

    @property
    def scheme(self) -> str:
        """Registered name of the architecture, or of the library that has it."""
        return self.uri.partition(":")[0]

    @property
    def table(self) -> dict[str, Any]:
        """The settings from which `from_settings` builds the architecture."""
        name = self.uri.partition(":")[2]
        return {"name": self.scheme, **({"model": name} if name else {}), **self.settings}

    @property
    def architecture(self) -> Architecture:
        """The architecture, with its default preprocessing."""
        return from_settings(self.table)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchitectureMatch:
    """The known architecture of some weights, and what the model costs.

    Attributes:
        fits: The architecture with its settings; a sentence if there is none, or more than one.
        image: (C, H, W) of the image that multiply-accumulates are counted for; ``None`` if they are not.
        macs: Multiply-accumulates of convolutions and linear layers for one image; ``None`` if not counted.
        macs_nonzero: Those of them that are not by a zero weight.
        doubt: Why an architecture that fits may be another one; empty where it is stated.
        uncounted: Why multiply-accumulates are not counted; empty if they are.
    """

    fits: str
    image: tuple[int, int, int] | None = None
    macs: int | None = None
    macs_nonzero: int | None = None
    uncounted: str = ""
    doubt: str = ""


def detect_architecture(weights: Mapping[str, Tensor], *, file: Path | None = None) -> ArchitectureFit:
    """Returns the one known architecture that `weights` fit: exactly, or else with fewer channels.

    Several smaller ones of one library differ in their widths alone: with the widths of the weights they become
    the same network, and the one with the fewest differences that then runs is returned.

    Args:
        weights: As `read_weights` returns them.
        file: Where they were read from: a model folder states its architecture, and a file that torchvision
            publishes its preprocessing.

    Raises:
        CheckpointError: If none or several fit; the sentence names them, or the nearest.
    """
    if file is not None and is_model_folder(file):
        folder = HuggingFaceNetwork(model=str(file.resolve()))
        return ArchitectureFit(f"hf:{folder.model}", {"classes": folder.classes})
    fit = _detected(weights)
    entry = published_entry(fit.uri, file) if file is not None else ""
    return replace(fit, settings={**fit.settings, "weights": entry}) if entry else fit


def published_entry(uri: str, file: Path) -> str:
    """Returns the entry of torchvision's weights that a file is, by the hash in its name, else by that of its bytes.

    Args:
        uri: Of the architecture.
        file: A file of weights.

    Returns:
        Its name, such as ``IMAGENET1K_V1``; empty if it is none of them, or torchvision has no such model.
    """
    library, _, model = uri.partition(":")
    if library != "torchvision" or not file.is_file() or model not in torchvision_names():
        return ""
    entries = {entry.url.rpartition("-")[2][:8]: name for name, entry in torchvision_weights(model).items()}
    name = _HASH_IN_NAME.search(file.name)
    if name and name[1] in entries:
        return entries[name[1]]
    with file.open("rb") as stream:
        return entries.get(hashlib.file_digest(stream, "sha256").hexdigest()[:8], "")


def _detected(weights: Mapping[str, Tensor]) -> ArchitectureFit:
    weights = {key: tensor for key, tensor in weights.items() if not is_training_state(key)}
    candidates = fitting_architectures(weights) or timm_architectures(weights)
    best = [fit for fit in candidates if fit.is_smaller == candidates[0].is_smaller]
    if len({fit.scheme if fit.is_smaller else _text(fit.uri, fit.settings) for fit in best}) > 1:
        raise CheckpointError(
            f"the weights fit several known architectures: {_list_of(best)}; name one of them, which also decides the "
            "preprocessing"
        )
    if not candidates:
        _check_library(weights)
        near = ", ".join(
            f"{name} ({share:.0%} of the names of tensors)" for name, share in nearest_architectures(weights)
        )
        raise CheckpointError(
            "the weights fit no architecture that evalsuite, torchvision or timm knows"
            f"{f'; nearest: {near}' if near else ''}; name the architecture: torchvision:..., timm:..., "
            "robustbench:..., hf:FOLDER, file.py:function or package.module:function"
        )
    return best[0] if len(best) == 1 else next((fit for fit in best if _runs(fit, weights)), best[0])


def fitting_architectures(weights: Mapping[str, Tensor]) -> list[ArchitectureFit]:
    """Returns the known architectures that `weights` fit: exact ones first, then those with fewest differences.

    Those of torchvision, whose import takes seconds, are tried where none of evalsuite's fits exactly: the two share
    no network.
    """
    fits = _fits(weights, _registered_families())
    if not any(not fit.is_smaller and _is_built_in(fit) for fit in fits):
        fits += _fits(weights, _torchvision_families())
    return sorted(fits, key=lambda fit: (fit.differences, fit.parameters))


def timm_architectures(weights: Mapping[str, Tensor]) -> list[ArchitectureFit]:
    """Returns the networks of timm whose tensors have the names and shapes of `weights`."""
    names = timm_models_like(weights)
    first = next((fit for name in names if (fit := _fit(weights, f"timm:{name}", {}))), None)
    if first is None or first.is_smaller:
        return []
    return [replace(first, uri=f"timm:{name}") for name in names]


def nearest_architectures(weights: Mapping[str, Tensor], limit: int = 3) -> list[tuple[str, float]]:
    """Returns the known architectures that share the most names of tensors with `weights`, and the share.

    Args:
        weights: As `read_weights` returns them.
        limit: How many at most; those without a common name are left out.
    """
    shares: dict[str, float] = {}
    families = [*_registered_families(), *_torchvision_families()]
    for uri, settings in _candidates(weights, families):
        expected = tensor_shapes(uri, json.dumps(settings)).keys()
        names = {name for name in match_keys(weights, expected) if not name.endswith(COUNTER)}
        shares[_text(uri, settings)] = len(names & expected) / len(names | expected)
    nonzero = [(name, share) for name, share in shares.items() if share]
    return sorted(nonzero, key=lambda pair: (-pair[1], pair[0]))[:limit]


@functools.cache
def tensor_shapes(uri: str, settings: str = "{}") -> Shapes:
    """Returns names and shapes of the tensors of an architecture, without allocating memory for its weights.

    Args:
        uri: Registered name, or ``torchvision:`` and a name.
        settings: In JSON, without ``classes``: for that, the shapes have 1009.
    """
    network = without_memory(uri, {**json.loads(settings), "classes": CLASSES})
    return {
        name: tuple(tensor.shape)
        for name, tensor in network.state_dict().items()
        if not name.endswith(COUNTER)
    }


def without_memory(uri: str, settings: Mapping[str, Any] | None = None) -> nn.Module:
    """Returns the network of an architecture, on the meta device where that is possible: shapes without numbers.

    Args:
        uri: Registered name, or the name of a library and of its network.
        settings: Of the architecture.
    """
    return built_without_memory(ArchitectureFit(uri, settings or {}).table)


def built_without_memory(table: Mapping[str, Any]) -> nn.Module:
    """Returns the network of a table of settings, as `without_memory` does."""
    with quiet_imports(), torch.random.fork_rng(devices=[]), _MetaTensors():
        return from_settings(table).network()


def match_architecture(
    weights: Mapping[str, Tensor], *, image_shape: Sequence[int] | None = None, file: Path | None = None
) -> ArchitectureMatch:
    """Returns the known architecture that `weights` fit and, if it is exactly one, its multiply-accumulates.

    Args:
        weights: As `read_weights` returns them.
        image_shape: (C, H, W) of an image; without it, that of the architecture's training images: 3x32x32, for
            torchvision's 3x224x224 (Inception v3: 3x299x299), for timm's and transformers' that of their
            preprocessing.
        file: As for `detect_architecture`.
    """
    try:
        fit = detect_architecture(weights, file=file)
        settings = ", ".join(f"{key}={value}" for key, value in fit.settings.items())
        fits = f"{fit.uri}{' with fewer channels' if fit.is_smaller else ''} ({settings})"
    except CheckpointError as error:
        alike = [] if fitting_architectures(weights) else timm_architectures(weights)
        if not alike:
            return ArchitectureMatch(
                fits=str(error), uncounted="the order of the layers is unknown without an architecture"
            )
        fit, fits = alike[0], str(error)  # tensors of the same names and shapes cost the same
    channels, height, width = image_shape or _training_image_shape(fit)
    try:  # the preprocessing has no multiply-accumulates: any will do
        architecture = replace(fit.architecture, mean=(0.0,) * channels, std=(1.0,) * channels)
        model = load_candidate(weights, architecture, image_shape=(channels, height, width))
    except (CheckpointError, SuiteError) as error:
        return ArchitectureMatch(
            fits=fits, uncounted=f"{error}; images of another shape: --image", doubt=fit.doubt
        )
    total = cost(model, (channels, height, width))
    return ArchitectureMatch(
        fits=fits,
        image=(channels, height, width),
        macs=total.macs,
        macs_nonzero=total.macs_nonzero,
        doubt=fit.doubt,
    )


def parse_image_shape(text: str) -> tuple[int, int, int]:
    """Returns the shape of an image that is written as channels, height and width.

    Raises:
        SuiteError: If it is written otherwise, or a number is 0 or above `MAX_IMAGE_SIDE`.

    >>> parse_image_shape("3x32x32")
    (3, 32, 32)
    """
    match = _IMAGE_SHAPE.fullmatch(text.strip())
    sizes = [int(size) for size in match.groups()] if match else []
    if not sizes or not all(0 < size <= MAX_IMAGE_SIDE for size in sizes):
        raise SuiteError(
            f"image {text!r}: expected channels x height x width, such as 3x32x32, of 1 to {MAX_IMAGE_SIDE}"
        )
    channels, height, width = sizes
    return channels, height, width


class _MetaTensors(TorchFunctionMode):
    """A mode in which new tensors get no memory and initial values are not drawn."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = dict(kwargs or {})
        name, tensor = getattr(function, "__name__", ""), keywords.get("tensor", args[0] if args else None)
        if getattr(function, "__module__", "") == nn.init.__name__:
            return tensor
        if name in _DRAWS and isinstance(tensor, Tensor) and tensor.is_meta:
            return tensor
        if function is torch.empty:
            keywords["device"] = "meta"
        return function(*args, **keywords)


def _fits(weights: Mapping[str, Tensor], families: Iterable[_Family]) -> list[ArchitectureFit]:
    candidates = (_fit(weights, *candidate) for candidate in _candidates(weights, families))
    return [fit for fit in candidates if fit]


def _candidates(
    weights: Mapping[str, Tensor], families: Iterable[_Family]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the architectures of the families whose first member has names like those of `weights`."""
    patterns = _name_patterns(weights)
    for family in families:
        uri, settings = family[0]
        first = _name_patterns(tensor_shapes(uri, json.dumps(settings)))
        if len(first & patterns) >= _MIN_FAMILY_OVERLAP * len(first | patterns):
            yield from family


def _registered_families() -> Iterator[_Family]:
    """Yields the registered architectures that can be built without settings, each with its variants."""
    for name in MODELS:
        if name not in _EXTERNAL and _has_defaults(name):
            yield [(name, settings) for settings in VARIANTS.get(name, ({},))]


def _is_built_in(fit: ArchitectureFit) -> bool:
    """Whether an architecture is evalsuite's own, and not that of a plug-in, which may be anyone's."""
    return MODELS.get(fit.uri).__module__.startswith("evalsuite.")


def _has_defaults(name: str) -> bool:
    """Returns whether an architecture, perhaps of a plug-in, can be built without settings."""
    return all(
        field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        for field in dataclasses.fields(MODELS.get(name))
    )


@functools.cache
def _torchvision_families() -> tuple[_Family, ...]:
    """Returns the classifiers of torchvision by the module that defines them."""
    families: dict[str, _Family] = {}
    for name, module in torchvision_modules().items():
        families.setdefault(module, []).append((f"torchvision:{name}", {}))
    return tuple(families.values())


def _name_patterns(names: Mapping[str, object]) -> set[str]:
    """Returns names without their numbers; both factors of a layer have the name of the layer."""
    layers = (_FACTOR.sub("", name) for name in names if not name.endswith(COUNTER))
    return {re.sub(r"\d+", "#", name) for name in layers}


def _fit(weights: Mapping[str, Tensor], uri: str, settings: dict[str, Any]) -> ArchitectureFit | None:
    expected = tensor_shapes(uri, json.dumps(settings))
    factor_shapes = {
        name: tuple(tensor.shape)
        for name, tensor in match_keys(weights, expected).items()
        if not name.endswith(COUNTER)
    }
    shapes = merge_factor_shapes(factor_shapes, expected)
    if shapes.keys() != expected.keys() or any(len(shapes[name]) != len(expected[name]) for name in expected):
        return None
    sizes = [
        (axis, size, full)
        for name, shape in expected.items()
        for axis, (size, full) in enumerate(zip(shapes[name], shape, strict=True))
    ]
    classes = {size for _, size, full in sizes if full == CLASSES}
    smaller = [(axis, size, full) for axis, size, full in sizes if size != full != CLASSES]
    if len(classes) != 1 or any(axis > 1 or not 0 < size < full for axis, size, full in smaller):
        return None
    parameters = sum(math.prod(shape) for shape in expected.values())
    return ArchitectureFit(uri, {**settings, "classes": classes.pop()}, len(smaller), parameters)


def _runs(fit: ArchitectureFit, weights: Mapping[str, Tensor]) -> bool:
    """Returns whether an architecture with the widths of `weights` runs, which decides between grouped layers."""
    architecture = fit.architecture
    try:
        model = build_with_weights(architecture, weights)
        check_widths(model, (len(architecture.mean), *_TRIAL_SIZE), classes=architecture.classes)
    except CheckpointError:
        return False
    return True


def _check_library(weights: Mapping[str, Tensor]) -> None:
    """Says what works for weights of transformers, whose names are in no table here.

    Raises:
        CheckpointError: If `weights` have its names.
    """
    names = [match[1] for name in weights if (match := _OF_TRANSFORMERS.fullmatch(name))]
    model = names[0] if names else ""
    body = [name for name in weights if name.startswith(f"{model}.")]
    if (
        names
        and len(body) < len(weights)
        and all(
            name.startswith((f"{model}.", "classifier.", "cls_classifier.", "distillation_classifier."))
            for name in weights
        )
    ):
        raise CheckpointError(
            f"the weights are those of a classifier of transformers ({model!r} and a classifier): give the folder that "
            "its save_pretrained wrote in the place of this file, or name it as the architecture: hf:FOLDER"
        )


def _list_of(fits: Sequence[ArchitectureFit]) -> str:
    names = [_text(fit.uri, fit.settings) for fit in fits]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _text(uri: str, settings: Mapping[str, Any]) -> str:
    listed = ", ".join(f"{key} = {value}" for key, value in settings.items() if key != "classes")
    return f"{uri} with {listed}" if listed else uri


def _training_image_shape(fit: ArchitectureFit) -> tuple[int, int, int]:
    if fit.scheme in ("timm", "hf"):
        geometry = fit.architecture.preprocessing
        return (3, *geometry.crop) if geometry else _IMAGENET_SHAPE
    if fit.scheme != "torchvision":
        return _CIFAR_SHAPE
    return _INCEPTION_SHAPE if fit.uri == "torchvision:inception_v3" else _IMAGENET_SHAPE
