"""What is in a file of weights, by its tensors alone: no architecture is needed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evalsuite.errors import CheckpointError
from evalsuite.models.checkpoints.reading import matched, read_checkpoint
from evalsuite.models.packing import packed, plain_zeros

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

GROUPS = (4, 8, 16, 32)
"""Sizes M of the groups in which N:M patterns are looked for, the smallest first."""

FULL = 0.9
"""Share of the groups of an N:M pattern that must have exactly N weights; random zeros do not."""

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "indexes")  # the last: network slimming's


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerContent:
    """Is the weight of one convolution or linear layer.

    Attributes:
        name: Key of the weight.
        kind: A convolution has kernels, a linear layer (or an embedding) has not.
        shape: Outputs, inputs (of one group), then the kernel.
        weights: How many it has.
        nonzero: How many of them are not exactly zero.
        sparsity: Share of zeros, in [0, 1].
        pattern: ``N:M`` if, leaving out filters that are zero throughout, each M consecutive inputs at one
            output and kernel position have at most N <= M / 2 non-zero weights, and at least `FULL` of these
            groups have exactly N, and inputs that are zero throughout do not hold half of the zeros; for the
            smallest such M of `GROUPS`. Else empty.
        zero_filters: Outputs of which every weight is zero.
        zero_inputs: Inputs of which every weight is zero.
        parent_shape: The same weight's in the parent; ``None`` without a parent, or if it has no such weight.
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
class Inspection:
    """Is what a file of weights holds.

    Attributes:
        file: Its name.
        format: ``safetensors``, ``torch zip`` (1.6 and later) or ``torch legacy``.
        bytes: Size on disk.
        packed: Bytes of its tensors, losslessly packed; see `evalsuite.models.packing`.
        wrapper: Keys that lead to the state dict in the file, with dots between them; empty if it lies bare.
        prefix: What was taken from every key.
        folded: Names of weights that were put together from parts: a mask, weight norm.
        extras: Keys beside the state dict that were left.
        dtypes: Types of number in the file to how many tensors have them.
        tensors: How many the state dict has, running statistics and counters among them.
        parameters: Numbers in floating-point tensors other than running statistics, zeros included.
        nonzero: Those of them that are not exactly zero.
        prunable: Weights of convolutions and linear layers. Grouped convolutions count here, since the shapes
            alone do not tell them apart; in a model's `Cost` they do not.
        prunable_nonzero: Those of them that are not exactly zero.
        layers: The convolutions and linear layers, in the order of the file.
        pattern: The ``N:M`` pattern of every layer that has zeros and enough inputs for it; else empty.
        structured: Whether shapes are smaller than the parent's, layers of the parent are missing, or at least
            half of the zeros lie in filters and inputs that are zero throughout.
        ratio: ``1 - nonzero / nonzero(parent)``; ``None`` without a parent.
        prunable_ratio: The same over prunable weights.
        smaller: Layers whose weight is smaller than the parent's.
        missing: Layers of the parent that the file has not.
        added: Layers that the parent has not.
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
    layers: tuple[LayerContent, ...]
    pattern: str
    structured: bool
    ratio: float | None
    prunable_ratio: float | None
    smaller: tuple[str, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]


def inspect(path: Path, *, parent: Path | None = None, masks: Path | None = None) -> Inspection:
    """Returns what is in the file at `path`; `dataclasses.asdict` of it is JSON.

    Args:
        path: As for `read_weights`.
        parent: The dense model's weights, to measure ratios against.
        masks: A file of masks for `path`, as for `read_weights`.

    Raises:
        CheckpointError: If a file cannot be read, or the parent has no weights that are not zero.
    """
    found = read_checkpoint(path, masks=masks)
    weights = dict(found.weights)
    above: dict[str, Tensor] | None = None
    if parent is not None:
        above = read_checkpoint(parent).weights
        _check_parent(parent, above)
        weights = matched(weights, above)
    layers = tuple(layer_content(name, weights[name], above) for name in _prunable(weights))
    nonzero, prunable_nonzero = _nonzero(_parameters(weights)), _nonzero(_prunable(weights))
    smaller = tuple(layer.name for layer in layers if _is_smaller(layer))
    missing = tuple(name for name in _prunable(above or {}) if name not in weights)
    return Inspection(
        file=path.name,
        format=found.format,
        bytes=path.stat().st_size,
        packed=len(packed(plain_zeros(weights))),
        wrapper=found.wrapper,
        prefix=found.prefix,
        folded=found.folded,
        extras=found.extras,
        dtypes=found.dtypes,
        tensors=len(weights),
        parameters=_numbers(_parameters(weights)),
        nonzero=nonzero,
        prunable=_numbers(_prunable(weights)),
        prunable_nonzero=prunable_nonzero,
        layers=layers,
        pattern=_shared_pattern(layers),
        structured=bool(smaller or missing) or _is_structured(_prunable(weights)),
        ratio=None if above is None else _ratio(nonzero, _nonzero(_parameters(above))),
        prunable_ratio=None if above is None else _ratio(prunable_nonzero, _nonzero(_prunable(above))),
        smaller=smaller,
        missing=missing,
        added=() if above is None else tuple(name for name in _prunable(weights) if name not in above),
    )


def pattern(weight: Tensor) -> str:
    """Returns the N:M pattern of a weight as `LayerContent` defines it, or an empty text.

    Args:
        weight: Outputs, inputs, and perhaps a kernel.

    References:
        Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks" (2:4, along the inputs).

    >>> import torch
    >>> pattern(torch.tensor([[0.0, 1, 0, 2], [3, 0, 4, 0]]))
    '2:4'
    """
    rows = (weight != 0).flatten(2) if weight.dim() > 2 else (weight != 0).unsqueeze(2)
    rows = rows[rows.flatten(1).any(1)]  # a filter that is gone says nothing about the others
    outputs, inputs, positions = rows.shape
    dead = rows[:, ~rows.any(0).any(1)].numel()
    if 2 * dead >= rows.numel() - int(rows.sum()):  # true of a weight without zeros, too
        return ""
    for size in (size for size in GROUPS if inputs % size == 0):
        counts = rows.reshape(outputs, inputs // size, size, positions).sum(2)
        most = int(counts.max())
        if most <= size // 2 and float((counts == most).float().mean()) >= FULL:
            return f"{most}:{size}"
    return ""


def layer_content(name: str, weight: Tensor, above: Mapping[str, Tensor] | None = None) -> LayerContent:
    """Returns what the weight of one layer is.

    Args:
        name: Its key.
        weight: Outputs, inputs, and perhaps a kernel.
        above: Weights of the parent by name.
    """
    nonzero = int(weight.count_nonzero())
    old = None if above is None else above.get(name)
    return LayerContent(
        name=name,
        kind="linear" if weight.dim() == 2 else "convolution",
        shape=tuple(weight.shape),
        weights=weight.numel(),
        nonzero=nonzero,
        sparsity=1 - nonzero / weight.numel(),
        pattern=pattern(weight),
        zero_filters=int((~_alive(weight, dim=0)).sum()),
        zero_inputs=int((~_alive(weight, dim=1)).sum()),
        parent_shape=None if old is None else tuple(old.shape),
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
        if name.rpartition(".")[2] == "weight" and tensor.dim() >= 2 and tensor.numel()
    }


def _numbers(weights: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in weights.values())


def _nonzero(weights: Mapping[str, Tensor]) -> int:
    return sum(int(tensor.count_nonzero()) for tensor in weights.values())


def _check_parent(path: Path, weights: Mapping[str, Tensor]) -> None:
    if not _nonzero(_prunable(weights)):
        raise CheckpointError(
            f"weights {path}: found no convolution or linear weight that is not zero, expected a dense parent"
        )


def _ratio(nonzero: int, before: int) -> float:
    return 1 - nonzero / before


def _alive(weight: Tensor, *, dim: int) -> Tensor:
    """Which entries along `dim` have a weight that is not zero."""
    return (weight != 0).transpose(0, dim).flatten(1).any(1)


def _is_smaller(layer: LayerContent) -> bool:
    old = layer.parent_shape
    return old is not None and len(old) == len(layer.shape) and layer.weights < math.prod(old)


def _is_structured(weights: Mapping[str, Tensor]) -> bool:
    """Whether at least half of the zeros lie in filters and inputs that are zero throughout."""
    zeros = _numbers(weights) - _nonzero(weights)
    kept = sum(
        int(_alive(weight, dim=0).sum()) * int(_alive(weight, dim=1).sum()) * weight[0, 0].numel()
        for weight in weights.values()
    )
    return zeros > 0 and 2 * (_numbers(weights) - kept) >= zeros


def _shared_pattern(layers: tuple[LayerContent, ...]) -> str:
    sparse = [layer for layer in layers if layer.nonzero < layer.weights and layer.shape[1] >= GROUPS[0]]
    patterns = {layer.pattern for layer in sparse}
    return patterns.pop() if len(patterns) == 1 else ""
