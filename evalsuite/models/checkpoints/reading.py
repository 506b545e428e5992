"""Weights from files that somebody else made: data, never code."""

from __future__ import annotations

import errno
import pickle
import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch import Tensor, nn

from evalsuite.errors import CheckpointError
from evalsuite.models.architectures.base import core
from evalsuite.models.checkpoints.containers import check_budget, container, damaged
from evalsuite.models.checkpoints.conversion import refusal
from evalsuite.models.checkpoints.masks import folded, masked
from evalsuite.models.checkpoints.names import (
    ALIASES,
    MASK_WRAPPERS,
    WRAPPERS,
    some,
    stripped,
    unwrapped,
    without_prefixes,
)
from evalsuite.models.checkpoints.pickles import survey

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from evalsuite.models.checkpoints.containers import Container, Format

_COUNTER = "num_batches_tracked"  # absent from checkpoints older than torch 0.4.1, and unused in evaluation
_PROTOCOL = 3  # of pickle: the last without operations that torch.load does not follow
_GLOBAL = re.compile(r"GLOBAL ([\w.<>]+)")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Is the state dict in a file, ready to load.

    Attributes:
        weights: Keys without prefixes, dense finite tensors on the processor, half precision widened.
        format: Of the file.
        wrapper: Keys that lead to the state dict in the file, with dots between them; empty if it lies bare.
        prefix: What was taken from every key.
        folded: Names of weights that were put together from parts: a mask, weight norm.
        dtypes: Types of number in the file to how many tensors have them.
        extras: Keys beside the state dict that were left.
    """

    weights: dict[str, Tensor]
    format: Format
    wrapper: str
    prefix: str
    folded: tuple[str, ...]
    dtypes: dict[str, int]
    extras: tuple[str, ...]


def read_weights(path: Path, *, masks: Path | None = None) -> dict[str, Tensor]:
    """Returns the tensors of a state dict in a file, without ever running what is in it.

    Args:
        path: safetensors, or what ``torch.save`` wrote (``.pt``, ``.pth``, ``.th``, ``.tar``): a state dict,
            bare or under one of `WRAPPERS`, beside whatever else. Told apart by content.
        masks: A second such file, of zeros and ones under the names of weights, perhaps with ``_mask`` or
            ``.mask`` behind them; the weights are multiplied by them.

    Returns:
        Keys without `PREFIXES`, dense finite tensors on the processor; half precision is widened to float32, and
        masks (`torch.nn.utils.prune`, distiller) are multiplied into the weights.

    Raises:
        CheckpointError: If there is no such file, it is damaged, it wants to run code, it holds no tensors,
            or one of them is NaN or infinite.
    """
    return read_checkpoint(path, masks=masks).weights


def read_checkpoint(path: Path, *, masks: Path | None = None) -> Checkpoint:
    """Returns what `read_weights` returns beside how it was written.

    Args:
        path: As for `read_weights`.
        masks: As for `read_weights`.

    Raises:
        CheckpointError: As for `read_weights`.
    """
    file, content = _read(path)
    wrapper, tensors = unwrapped(content)
    if not tensors:
        raise CheckpointError(
            f"weights {path}: found {_summary(content)}, expected a state dict of named tensors, "
            f"bare or under one of {', '.join(WRAPPERS)}"
        )
    prefix, weights = without_prefixes(_dense(file, tensors))
    weights, names = folded(path, weights)
    if beside := _beside(file, content):
        weights, names = masked(path, weights, beside), (*names, *beside)
    if masks is not None:
        weights = masked(masks, weights, _read_masks(masks))
    _check_finite(path, weights)
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
    extras = _extras(content, wrapper, tensors)
    return Checkpoint(weights, file.format, ".".join(wrapper), prefix, names, dict(dtypes), extras)


def load_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies `weights` into `module`, which they must fit exactly.

    `ALIASES`, prefixes and missing ``num_batches_tracked`` are forgiven; half precision widens.

    Args:
        module: A network, or one that `assemble` put behind its preprocessing.
        weights: As `read_weights` returns them.

    Raises:
        CheckpointError: If a key is missing or unexpected, or a shape or kind of number differs.
    """
    network = core(module)
    expected: dict[str, Tensor] = network.state_dict()
    found = matched(weights, expected)
    for name, tensor in expected.items():
        if name.endswith(_COUNTER):
            found.setdefault(name, tensor)
    check_classes(module, weights)
    _check_fit(found, expected)
    ready = OrderedDict(found)
    ready._metadata = getattr(expected, "_metadata", {})  # type: ignore[attr-defined]  # as torch does: layouts have versions
    network.load_state_dict(ready)


def check_classes(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Checks that the head in `weights` has as many classes as that of `module`: do so before any resizing.

    Args:
        module: As for `load_weights`; its last linear layer is the head.
        weights: As `read_weights` returns them.

    Raises:
        CheckpointError: If the numbers of classes differ.
    """
    expected: dict[str, Tensor] = core(module).state_dict()
    heads = [name for name, tensor in expected.items() if tensor.dim() == 2 and name.endswith("weight")]
    head = matched(weights, expected).get(heads[-1]) if heads else None
    if head is not None and head.dim() == 2 and len(head) != len(expected[heads[-1]]):
        raise CheckpointError(
            f"the weights do not fit: the head {heads[-1]} in the file has {len(head)} classes, the model has "
            f"{len(expected[heads[-1]])} as the data set: name the data set that the weights were trained on"
        )


def matched(weights: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Returns `weights` under the keys of `names` that they mean; keys that mean none of them stay.

    >>> sorted(matched({"fc.bias": torch.zeros(1), "extra": torch.zeros(1)}, ["linear.bias"]))
    ['extra', 'linear.bias']
    """
    known = {short: name for name, short in stripped(names)[1].items()}
    short_weights = without_prefixes(weights)[1]
    renamed: dict[str, Tensor] = {}
    for key, tensor in short_weights.items():
        alias = ".".join(ALIASES.get(part, part) for part in key.split("."))
        free = key not in known and alias in known and alias not in short_weights
        renamed[known.get(alias if free else key, key)] = tensor
    return renamed


def _read(path: Path) -> tuple[Container, object]:
    """What kind of file it is, and what is in it."""
    file = container(path)
    try:
        content = safetensors.torch.load_file(path) if file.format == "safetensors" else _unpickled(file)
    except CheckpointError:
        raise
    except OSError as error:
        if error.errno == errno.EINVAL:  # a position in the file that cannot be
            raise damaged(path, error) from error
        raise CheckpointError(f"weights {path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a malformed file fails in many ways, each of them a damaged file
        raise damaged(path, error) from error
    return file, content


def _unpickled(file: Container) -> object:
    found = survey(file)
    if found.wanted or found.protocol > _PROTOCOL:
        raise refusal(file, found)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch warns of here is refused elsewhere, in one sentence
            return torch.load(file.path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if wanted := _GLOBAL.search(str(error)):  # an older torch takes less for data than `survey` does
            found.wanted[wanted[1]] = None
            raise refusal(file, found) from error
        raise


def _read_masks(path: Path) -> dict[str, Tensor]:
    file, content = _read(path)
    _, tensors = unwrapped(content, (*MASK_WRAPPERS, *WRAPPERS))
    return without_prefixes(_dense(file, tensors))[1]


def _beside(file: Container, content: object) -> dict[str, Tensor]:
    """The masks that distiller keeps beside a state dict."""
    schedule = content.get("compression_sched") if isinstance(content, Mapping) else None
    if not isinstance(schedule, Mapping) or not isinstance(schedule.get("masks_dict"), Mapping):
        return {}
    return without_prefixes(_dense(file, unwrapped(schedule["masks_dict"], ())[1]))[1]


def _dense(file: Container, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they can be computed with: no gradient, half precision widened."""
    declared = sum(tensor.numel() * max(4, tensor.element_size()) for tensor in tensors.values())
    check_budget(file.path, file.size, declared)  # a view may repeat one number for ever
    return {key: _widened(file.path, key, tensor.detach()) for key, tensor in tensors.items()}


def _widened(path: Path, name: str, tensor: Tensor) -> Tensor:
    strange = tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex()
    try:
        if not strange:
            return tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor
    except (RuntimeError, NotImplementedError):  # a type of number that torch can store but not convert
        strange = True
    kind = "quantised" if tensor.is_quantized else tensor.layout
    raise CheckpointError(
        f"weights {path}: {some([name])} is a {kind} tensor of {tensor.dtype} on {tensor.device}, "
        "expected dense real numbers: convert it before saving"
    )


def _extras(content: object, wrapper: tuple[str, ...], tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    left = content if isinstance(content, Mapping) else {}
    return tuple(some([key]) for key in left if key not in wrapper[:1] and (wrapper or key not in tensors))


def _summary(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    return f"a dictionary without tensors (keys: {some(content) or 'none'})"


def _check_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    for name, tensor in weights.items():
        if broken := tensor.numel() - int(torch.isfinite(tensor).sum()):
            raise CheckpointError(
                f"weights {path}: {some([name])} holds {broken} NaN or infinite values of {tensor.numel()}; "
                "the training diverged or the file is damaged"
            )


def _check_fit(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    shared = [name for name in expected if name in found]
    complaints = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of another shape": [
            f"{name} (file {tuple(found[name].shape)}, model {tuple(expected[name].shape)})"
            for name in shared
            if found[name].shape != expected[name].shape
        ],
        "of another kind of number": [
            f"{name} (file {found[name].dtype}, model {expected[name].dtype})"
            for name in shared
            if found[name].is_floating_point() != expected[name].is_floating_point()
        ],
    }
    if any(complaints.values()):
        text = "; ".join(f"{kind}: {some(names)}" for kind, names in complaints.items() if names)
        raise CheckpointError(
            f"the weights do not fit the model: {text}; "
            "name the architecture and the settings that the weights were trained with"
        )
