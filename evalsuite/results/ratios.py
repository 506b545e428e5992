"""Prune ratios of candidates on a cost axis: the share of the cost that each saves, and which lie on no curve."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from evalsuite.cost_axes import AXES, DEFAULT_AXIS, ratio_on_axis
from evalsuite.errors import StoreError
from evalsuite.runs.store import Key
from evalsuite.types import DENSE, Candidate

COST_COLUMNS = ("parameters", "nonzero", "macs", "macs_nonzero", "bytes", "packed")
"""Columns of costs in the table of measurements."""
NOT_COUNTED = "not tested on this axis: its {noun} cannot be counted"
"""Why a candidate has no ratio; begins like all reasons that are no failures."""

Place = tuple[str, float]
"""A method and a target ratio."""


def candidates_on_axis(candidates: Mapping[Key, Candidate], axis: str) -> dict[Key, Candidate]:
    """Returns the candidates with their ratios on `axis`; those whose cost cannot be counted are left out.

    Args:
        candidates: Candidates and their parents.
        axis: One of `evalsuite.cost_axes.AXES`.

    Raises:
        StoreError: If the record of a parent was written by an earlier version, which did not count this cost.
    """
    parents = {key.seed: candidate for key, candidate in candidates.items() if key.method == DENSE}
    for parent in parents.values():
        if getattr(parent.cost, axis) is None:
            raise StoreError(
                f"the parent of seed {parent.seed} has no {AXES[axis].noun} in its record, which an earlier version of "
                "evalsuite wrote; run the suite again in another folder (--out), or choose another axis"
            )
    on_axis = {key: _on_axis(candidate, parents.get(key.seed), axis) for key, candidate in candidates.items()}
    return {key: candidate for key, candidate in on_axis.items() if candidate is not None}


def _on_axis(candidate: Candidate, parent: Candidate | None, axis: str) -> Candidate | None:
    if candidate.axis == axis or parent is None or candidate.method == DENSE:
        return replace(candidate, axis=axis)
    ratio = ratio_on_axis(candidate.cost, parent.cost, axis)
    return None if ratio is None else replace(candidate, ratio=ratio, axis=axis)


def places_off_curve(keys: Iterable[Key], candidates: Mapping[Key, Candidate], axis: str) -> dict[Place, str]:
    """Returns the methods and target ratios on no curve over `axis`, with the reason: a seed has no ratio above 0."""
    reasons: dict[Place, str] = {}
    for key in keys:
        candidate = candidates.get(key)
        if key.method != DENSE and (candidate is None or candidate.ratio <= 0):
            noun = AXES[axis].noun
            missing = f"was not made, or its {noun} cannot be counted"
            reasons[key.method, key.target_ratio] = missing if candidate is None else f"saves no {noun}"
    return reasons


def off_curve_notes(reasons: Mapping[Place, str]) -> Iterator[dict[str, Any]]:
    """Yields a note for the report for each method and reason, with all target ratios on no curve."""
    targets_by_reason: dict[tuple[str, str], list[float]] = {}
    for (method, target), reason in reasons.items():
        targets_by_reason.setdefault((method, reason), []).append(target)
    for (method, reason), targets in targets_by_reason.items():
        listed = ", ".join(f"{100 * target:.3g} %" for target in sorted(targets))
        yield {"method": method, "seed": "all", "note": f"Lies on no curve at {listed}: it {reason}."}


def candidate_columns(key: Key, candidate: Candidate | None, axis: str, *, planned: float) -> dict[str, Any]:
    """Returns the first columns of a measurement: the candidate, its ratio, its costs.

    Args:
        key: Its address.
        candidate: ``None`` if it was not made, or has no ratio on the axis of the run.
        axis: Cost axis of the ratios of its method.
        planned: Its ratio if there is no candidate.
    """
    labels = {"method": key.method, "seed": key.seed, "target_ratio": key.target_ratio, "axis": axis}
    if candidate is None:
        return {**labels, "ratio": planned}
    costs = asdict(candidate.cost)
    ratios = {"ratio": candidate.ratio, "axis": candidate.axis, "prunable_ratio": candidate.prunable_ratio}
    return {**labels, **ratios, **{name: costs[name] for name in COST_COLUMNS}}


def axes_of_methods(suite: Mapping[str, Any]) -> dict[str, str]:
    """Returns the cost axis of the ratios of each method of a recorded suite, where it is not `DEFAULT_AXIS`."""
    return {
        str(choice["label"]): str(choice["axis"])
        for choice in suite["producers"]
        if choice.get("axis", DEFAULT_AXIS) != DEFAULT_AXIS
    }
