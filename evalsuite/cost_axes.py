"""Cost axes: the costs of a model that prune ratios and thresholds may be counted in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from evalsuite.errors import UnknownNameError
from evalsuite.registry import unknown_name

if TYPE_CHECKING:
    from evalsuite.types import Cost

DEFAULT_AXIS = "nonzero"
"""The axis of the prune-potential literature, on which a ratio is counted by default."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One cost of a model that pruning saves.

    Attributes:
        name: The field of `evalsuite.types.Cost`.
        noun: The cost as a plural noun: a ratio is a share of the parent's.
        label: Its label in charts.
    """

    name: str
    noun: str
    label: str


AXES: Mapping[str, Axis] = MappingProxyType(
    {
        axis.name: axis
        for axis in (
            Axis(DEFAULT_AXIS, "non-zero parameters", "Parameters that are not zero"),
            Axis("prunable_nonzero", "non-zero prunable weights", "Prunable weights that are not zero"),
            Axis("parameters", "parameters", "Parameters"),
            Axis("macs", "multiply-accumulates", "Multiply-accumulates per image"),
            Axis(
                "macs_nonzero",
                "multiply-accumulates by non-zero weights",
                "Multiply-accumulates per image, zeros skipped",
            ),
            Axis("bytes", "bytes on disk", "Bytes on disk"),
            Axis("packed", "packed bytes", "Bytes, losslessly packed"),
        )
    }
)
"""The axes by name."""


def check_axis(name: str) -> str:
    """Returns `name`, if an axis has it.

    Raises:
        UnknownNameError: If none has.

    >>> check_axis("macs")
    'macs'
    """
    if name not in AXES:
        raise UnknownNameError(unknown_name("axis", name, AXES))
    return name


def ratio_on_axis(candidate: Cost, parent: Cost, axis: str) -> float | None:
    """Returns ``1 - cost(candidate) / cost(parent)``; ``None`` where one of them is unknown.

    A candidate that costs more than its parent has a ratio below 0. A whole program may show no parameters at all.
    """
    pruned, whole = getattr(candidate, axis), getattr(parent, axis)
    return None if pruned is None or not whole or not candidate.parameters else 1 - pruned / whole


def share_phrase(axis: str | None) -> str:
    """Returns the end of a phrase about a ratio, which names its cost; nothing on the default axis.

    >>> share_phrase("packed"), share_phrase("nonzero"), share_phrase(None)
    (' of the packed bytes gone', '', '')
    """
    return "" if axis in (None, "", DEFAULT_AXIS) else f" of the {AXES[axis].noun} gone"
