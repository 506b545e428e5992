"""What a prune ratio may be counted in: every cost of a model is an axis of conclusions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from evalsuite.errors import UnknownNameError
from evalsuite.registry import unknown

if TYPE_CHECKING:
    from evalsuite.types import Cost

DEFAULT_AXIS = "nonzero"
"""The axis of the prune-potential literature, on which a ratio is counted where nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Is one cost of a model as something that pruning saves.

    Attributes:
        name: The field of `evalsuite.types.Cost`.
        noun: What is saved, in the plural: a ratio is a share of the parent's.
        label: What a chart calls the cost itself.
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


def known_axis(name: str) -> str:
    """Returns `name`, if it is that of an axis.

    Raises:
        UnknownNameError: If it is none.

    >>> known("macs")
    'macs'
    """
    if name not in AXES:
        raise UnknownNameError(unknown("axis", name, AXES))
    return name


def ratio_on_axis(candidate: Cost, parent: Cost, axis: str) -> float | None:
    """Returns ``1 - cost(candidate) / cost(parent)``; ``None`` where nobody could count one of them.

    A candidate that costs more than its parent has a ratio below 0. A whole program may show no parameters at all.
    """
    mine, other = getattr(candidate, axis), getattr(parent, axis)
    return None if mine is None or not other or not candidate.parameters else 1 - mine / other


def share(axis: str | None) -> str:
    """Returns what a ratio is a share of, as the end of a phrase; nothing on the usual axis.

    >>> share("packed"), share("nonzero"), share(None)
    (' of the packed bytes gone', '', '')
    """
    return "" if axis in (None, "", DEFAULT_AXIS) else f" of the {AXES[axis].noun} gone"
