"""Inspection of a checkpoint by its tensors alone: sizes, sparsity and structure, without an architecture."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from evalsuite.errors import CheckpointError, first_few
from evalsuite.models.checkpoints.reading import read_checkpoint
from evalsuite.models.checkpoints.state_dict_keys import match_keys
from evalsuite.models.checkpoints.training_state import is_training_state
from evalsuite.models.cost import PROJECTIONS
from evalsuite.models.packing import pack, with_positive_zeros

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from evalsuite.models.checkpoints.network_lists import Entry
    from evalsuite.types import WeightSet

NM_GROUP_SIZES = (4, 8, 16, 32)
"""Sizes M of the groups in which N:M patterns are searched, the smallest first."""

NM_MIN_FULL_SHARE = 0.9
"""Share of the groups of an N:M pattern that must have exactly N weights: random zeros do not reach it."""

_QUERIES = re.compile(r"(.+)\.(qkv|in_proj|q_proj|query)[._]weight")
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "indexes")  # the last: network slimming's


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInspection:
    """The weight of one convolution or linear layer.

    Attributes:
        name: Key of the weight.
        kind: A convolution has kernels, a linear layer (or an embedding) does not.
        shape: Outputs, inputs (of one group), then the kernel.
        weights: How many it has.
        nonzero: How many of them are not exactly zero.
        sparsity: Share of zeros, in [0, 1].
        pattern: ``N:M`` if, apart from filters that are all zero, each M consecutive inputs at one output and
            kernel position have at most N <= M / 2 non-zero weights, and at least `NM_MIN_FULL_SHARE` of these
            groups have exactly N, and inputs that are all zero do not hold half of the zeros; for the smallest
            such M of `NM_GROUP_SIZES`. Else empty.
        zero_filters: Outputs of which every weight is zero.
        zero_inputs: Inputs of which every weight is zero.
        parent_shape: Of the same weight in the parent; ``None`` without a parent, or if it has no such weight.
    """

    name: str
    kind: Literal["convolution", "linear"]
    shape: tuple[int, ...]
    weights: int
    nonzero: int
    sparsity: float
    pattern: str
    zero_filters: int
    zero_inputs: int
    parent_shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInspection:
    """The content of a checkpoint, in numbers.

    Attributes:
        file: Its name.
        format: ``safetensors``, ``torch zip`` (1.6 and later), ``torch legacy`` or ``model folder``.
        bytes: Size on disk.
        packed: Bytes of its tensors, losslessly packed; see `evalsuite.models.packing`.
        wrapper: Keys that lead to the state dict in the file, joined by dots; empty if the file is the state dict.
        prefix: The prefix that was removed from every key.
        folded: Names of weights that were computed from several tensors: with a mask, or from a weight norm.
        extras: Other keys of the file, which were ignored.
        dtypes: Types of number in the file to how many tensors have them.
        tensors: How many the state dict has, running statistics and counters among them.
        parameters: Numbers in floating-point tensors other than running statistics, zeros included.
        nonzero: Those of them that are not exactly zero.
        prunable: Weights of convolutions and linear layers. Grouped convolutions count here, since their shapes
            do not show the groups; in a model's `Cost` they do not.
        prunable_nonzero: Those of them that are not exactly zero.
        layers: The convolutions and linear layers, in the order of the file.
        pattern: The ``N:M`` pattern of every layer that has zeros and enough inputs for it; else empty.
        structured: Whether shapes are smaller than the parent's, layers of the parent are missing, or at least
            half of the zeros lie in filters and inputs that are all zero.
        ratio: ``1 - nonzero / nonzero(parent)``; ``None`` without a parent.
        prunable_ratio: The same over prunable weights.
        smaller: Layers whose weight is smaller than the parent's.
        missing: Layers of the parent that the file lacks.
        added: Layers that the parent lacks.
        note: Sentences on which of several networks or sets of weights was taken, on keys that were renamed, and on
            attention heads that may be gone; else empty.
    """

    file: str
    format: str
    bytes: int
    packed: int
    wrapper: str
    prefix: str
    folded: tuple[str, ...]
    extras: tuple[str, ...]
    dtypes: dict[str, int]
    tensors: int
    parameters: int
    nonzero: int
    prunable: int
    prunable_nonzero: int
    layers: tuple[LayerInspection, ...]
    pattern: str
    structured: bool
    ratio: float | None
    prunable_ratio: float | None
    smaller: tuple[str, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]
    note: str = ""


def inspect_checkpoint(
    path: Path,
    *,
    parent: Path | None = None,
    masks: Path | None = None,
    choice: WeightSet = "",
    entry: Entry = "",
) -> CheckpointInspection:
    """Returns the content of the file at `path`, in numbers; `dataclasses.asdict` of it is JSON.

    Args:
        path: As for `read_weights`.
        parent: The dense model's weights, to measure ratios against.
        masks: A file of masks for `path`, as for `read_weights`.
        choice: Which of two sets of weights in `path`, as for `read_weights`.
        entry: Which of several networks in `path`, as for `read_weights`.

    Raises:
        CheckpointError: If a file cannot be read, or the parent has no weights that are not zero.
    """
    checkpoint = read_checkpoint(path, masks=masks, choice=choice, entry=entry)
    beside = {key: None for key in checkpoint.weights if is_training_state(key)}
    weights = {key: tensor for key, tensor in checkpoint.weights.items() if key not in beside}
    parent_weights = None if parent is None else _parent_weights(parent)
    weights = weights if parent_weights is None else match_keys(weights, parent_weights)
    parameters, prunable = _parameters(weights), _prunable(weights)
    layers = tuple(inspect_layer(name, prunable[name], parent_weights) for name in prunable)
    changes = _compare_layers(layers, weights, parent_weights)
    return CheckpointInspection(
        file=path.name,
        format=checkpoint.format,
        bytes=checkpoint.bytes,
        packed=len(pack(with_positive_zeros(weights))),
        wrapper=checkpoint.wrapper,
        prefix=checkpoint.prefix,
        folded=checkpoint.folded,
        extras=(*checkpoint.extras, *beside),
        dtypes=checkpoint.dtypes,
        tensors=len(weights),
        parameters=_numbers(parameters),
        nonzero=_nonzero(parameters),
        prunable=_numbers(prunable),
        prunable_nonzero=_nonzero(prunable),
        layers=layers,
        pattern=_shared_pattern(layers),
        structured=bool(changes.smaller or changes.missing) or _is_structured(prunable),
        ratio=_ratio(parameters, parent_weights and _parameters(parent_weights)),
        prunable_ratio=_ratio(prunable, parent_weights and _prunable(parent_weights)),
        **asdict(changes),
        note=" ".join(filter(None, [checkpoint.note, heads_note(weights, parent_weights)])),
    )


def heads_note(weights: Mapping[str, Tensor], parent_weights: Mapping[str, Tensor] | None = None) -> str:
    """Returns a sentence where attention has narrower queries than it had; empty if none has.

    Args:
        weights: A state dict.
        parent_weights: Of the dense network, under the same names; without, queries are expected to be as wide as the
            tokens, as they are in the vision transformers of the libraries.
    """
    widths = _query_widths(weights)
    if parent_weights is None:
        dense = {name: tokens for name, (_, tokens) in widths.items()}
    else:
        dense = {name: rows for name, (rows, _) in _query_widths(parent_weights).items()}
    narrower = [name for name, (rows, _) in widths.items() if rows < dense.get(name, 0)]
    if not narrower:
        return ""
    first = narrower[0]
    return (
        f"Attention heads were removed or narrowed in {len(narrower)} modules: queries of {first_few([first])} have "
        f"{widths[first][0]} of {dense[first]} rows. Weights do not record the number of heads; where shapes do not "
        "decide it, check takes it as --setting num_heads=N, for one candidate as the key or column num_heads."
    )


def _query_widths(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Attention modules to the rows of their queries and the width of the tokens."""
    matches = [match for match in map(_QUERIES.fullmatch, weights) if match and weights[match[0]].dim() == 2]
    joint = ("qkv", "in_proj")
    return {
        match[1]: (len(weights[match[0]]) // (3 if match[2] in joint else 1), weights[match[0]].shape[1])
        for match in matches
    }


def nm_pattern(weight: Tensor) -> str:
    """Returns the N:M pattern of a weight as `LayerInspection` defines it, or an empty text.

    Args:
        weight: Outputs, inputs, and perhaps a kernel.

    References:
        Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks" (2:4, along the inputs).

    >>> import torch
    >>> nm_pattern(torch.tensor([[0.0, 1, 0, 2], [3, 0, 4, 0]]))
    '2:4'
    """
    nonzero = (weight != 0).flatten(2) if weight.dim() > 2 else (weight != 0).unsqueeze(2)
    nonzero = nonzero[nonzero.flatten(1).any(1)]  # filters that are all zero have no pattern
    outputs, inputs, positions = nonzero.shape
    in_zero_inputs = nonzero[:, ~nonzero.any(0).any(1)].numel()
    if 2 * in_zero_inputs >= nonzero.numel() - int(nonzero.sum()):  # true of a weight without zeros, too
        return ""
    for size in (size for size in NM_GROUP_SIZES if inputs % size == 0):
        counts = nonzero.reshape(outputs, inputs // size, size, positions).sum(2)
        most = int(counts.max())
        if most <= size // 2 and float((counts == most).float().mean()) >= NM_MIN_FULL_SHARE:
            return f"{most}:{size}"
    return ""


def inspect_layer(
    name: str, weight: Tensor, parent_weights: Mapping[str, Tensor] | None = None
) -> LayerInspection:
    """Returns shape, sparsity and pattern of the weight of one layer.

    Args:
        name: Its key.
        weight: Outputs, inputs, and perhaps a kernel.
        parent_weights: Weights of the parent by name.
    """
    nonzero = int(weight.count_nonzero())
    parent_weight = None if parent_weights is None else parent_weights.get(name)
    return LayerInspection(
        name=name,
        kind="linear" if weight.dim() == 2 else "convolution",
        shape=tuple(weight.shape),
        weights=weight.numel(),
        nonzero=nonzero,
        sparsity=1 - nonzero / weight.numel(),
        pattern=nm_pattern(weight),
        zero_filters=int((~_has_nonzero(weight, dim=0)).sum()),
        zero_inputs=int((~_has_nonzero(weight, dim=1)).sum()),
        parent_shape=None if parent_weight is None else tuple(parent_weight.shape),
    )


def _parameters(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in weights.items()
        if tensor.is_floating_point() and name.rpartition(".")[2] not in _BUFFERS
    }


def _prunable(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in _parameters(weights).items()
        if name.rpartition(".")[2] in ("weight", *PROJECTIONS) and tensor.dim() >= 2 and tensor.numel()
    }


def _numbers(weights: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in weights.values())


def _nonzero(weights: Mapping[str, Tensor]) -> int:
    return sum(int(tensor.count_nonzero()) for tensor in weights.values())


def _parent_weights(path: Path) -> dict[str, Tensor]:
    """The weights of the dense model, of which some must be there and not zero."""
    weights = read_checkpoint(path).weights
    if not _nonzero(_prunable(weights)):
        raise CheckpointError(
            f"weights {path}: found no convolution or linear weight that is not zero, expected a dense parent"
        )
    return weights


@dataclass(frozen=True, slots=True)
class _LayerChanges:
    """Names of the layers that differ from the parent's; see `CheckpointInspection`."""

    smaller: tuple[str, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]


def _compare_layers(
    layers: tuple[LayerInspection, ...],
    weights: Mapping[str, Tensor],
    parent_weights: Mapping[str, Tensor] | None,
) -> _LayerChanges:
    """Returns how layers differ from the parent's; in nothing without a parent."""
    if parent_weights is None:
        return _LayerChanges((), (), ())
    return _LayerChanges(
        smaller=tuple(layer.name for layer in layers if _is_smaller(layer)),
        missing=tuple(name for name in _prunable(parent_weights) if name not in weights),
        added=tuple(layer.name for layer in layers if layer.name not in parent_weights),
    )


def _ratio(weights: Mapping[str, Tensor], parent_weights: Mapping[str, Tensor] | None) -> float | None:
    """Returns the share of the parent's non-zero numbers that are gone; ``None`` without a parent."""
    return None if parent_weights is None else 1 - _nonzero(weights) / _nonzero(parent_weights)


def _has_nonzero(weight: Tensor, *, dim: int) -> Tensor:
    """Returns which entries along `dim` have a weight that is not zero."""
    return (weight != 0).transpose(0, dim).flatten(1).any(1)


def _is_smaller(layer: LayerInspection) -> bool:
    shape = layer.parent_shape
    return shape is not None and len(shape) == len(layer.shape) and layer.weights < math.prod(shape)


def _is_structured(weights: Mapping[str, Tensor]) -> bool:
    """Returns whether at least half of the zeros lie in filters and inputs that are all zero."""
    zeros = _numbers(weights) - _nonzero(weights)
    remaining = sum(
        int(_has_nonzero(weight, dim=0).sum()) * int(_has_nonzero(weight, dim=1).sum()) * weight[0, 0].numel()
        for weight in weights.values()
    )
    return zeros > 0 and 2 * (_numbers(weights) - remaining) >= zeros


def _shared_pattern(layers: tuple[LayerInspection, ...]) -> str:
    sparse = [
        layer for layer in layers if layer.nonzero < layer.weights and layer.shape[1] >= NM_GROUP_SIZES[0]
    ]
    patterns = {layer.pattern for layer in sparse}
    return patterns.pop() if len(patterns) == 1 else ""
