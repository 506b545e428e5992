"""Candidates on an axis of costs: what each saves there, and which of them lie on no curve over it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from evalsuite.config.suite import DENSE
from evalsuite.cost_axes import AXES, DEFAULT_AXIS, ratio_on_axis
from evalsuite.errors import StoreError
from evalsuite.runs.store import Key
from evalsuite.types import Candidate

COSTS = ("parameters", "nonzero", "macs", "macs_nonzero", "bytes", "packed")
"""Costs that the table of measurements shows."""
UNCOUNTED = "not tested on this axis: nobody can count its {noun}"
"""Why a candidate has no ratio; begins as other reasons that are no failure do."""

Place = tuple[str, float]
"""A method and a target ratio."""


def on_axis(found: Mapping[Key, Candidate], axis: str) -> dict[Key, Candidate]:
    """Returns the candidates with the ratios that they have on `axis`; those that nobody could count are left out.

    Args:
        found: Candidates and their parents.
        axis: One of `evalsuite.cost_axes.AXES`.

    Raises:
        StoreError: If an older evalsuite wrote the record of a parent and did not count this.
    """
    parents = {key.seed: one for key, one in found.items() if key.method == DENSE}
    for one in parents.values():
        if getattr(one.cost, axis) is None:
            raise StoreError(
                f"the parent of seed {one.seed} has no {AXES[axis].noun} in its record, for an older evalsuite wrote "
                "it; run the suite again in another folder (--out), or choose another axis"
            )
    counted = {key: _counted(one, parents.get(key.seed), axis) for key, one in found.items()}
    return {key: one for key, one in counted.items() if one is not None}


def _counted(one: Candidate, parent: Candidate | None, axis: str) -> Candidate | None:
    if one.axis == axis or parent is None or one.method == DENSE:
        return replace(one, axis=axis)
    share = ratio_on_axis(one.cost, parent.cost, axis)
    return None if share is None else replace(one, ratio=share, axis=axis)


def off_curve(keys: Iterable[Key], candidates: Mapping[Key, Candidate], axis: str) -> dict[Place, str]:
    """Returns the places that lie on no curve over `axis`, with the reason: a seed has no ratio above 0 there."""
    found: dict[Place, str] = {}
    for key in keys:
        one = candidates.get(key)
        place = (key.method, key.target_ratio)
        if key.method != DENSE and (one is None or one.ratio <= 0):
            noun = AXES[axis].noun
            found[place] = (
                f"was not made, or nobody can count its {noun}" if one is None else f"saves no {noun}"
            )
    return found


def notes(off: Mapping[Place, str]) -> Iterator[dict[str, Any]]:
    """Yields what a reader should know about places on no curve, a note for each method and reason."""
    by: dict[tuple[str, str], list[float]] = {}
    for (method, target), reason in off.items():
        by.setdefault((method, reason), []).append(target)
    for (method, reason), targets in by.items():
        places = ", ".join(f"{100 * target:.3g} %" for target in sorted(targets))
        yield {"method": method, "seed": "all", "note": f"Lies on no curve at {places}: it {reason}."}


def candidate_columns(key: Key, candidate: Candidate | None, axis: str, *, planned: float) -> dict[str, Any]:
    """Returns the first columns of a measurement: which candidate, its ratio, its costs.

    Args:
        key: Its address.
        candidate: ``None`` if it was not made, or has no ratio on the axis of the run.
        axis: What ratios of its method are counted in.
        planned: Its ratio where there is no candidate.
    """
    shared = {"method": key.method, "seed": key.seed, "target_ratio": key.target_ratio, "axis": axis}
    if candidate is None:
        return {**shared, "ratio": planned}
    spent = asdict(candidate.cost)
    counted = {"ratio": candidate.ratio, "axis": candidate.axis, "prunable_ratio": candidate.prunable_ratio}
    return {**shared, **counted, **{name: spent[name] for name in COSTS}}


def axes_of(suite: Mapping[str, Any]) -> dict[str, str]:
    """Returns what ratios of the methods of a recorded suite are counted in, where that is not the usual."""
    return {
        str(choice["label"]): str(choice["axis"])
        for choice in suite["producers"]
        if choice.get("axis", DEFAULT_AXIS) != DEFAULT_AXIS
    }
