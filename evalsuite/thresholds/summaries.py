"""Groups of conditions: what the mean and the minimum of their thresholds say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evalsuite.thresholds.curves import marked_any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalsuite.thresholds.curves import Flags
    from evalsuite.types import Array

PROVEN = ("certified", "potential_low", "potential_high", "certified_method", "certified_jointly")
FLAGS = ("censored", "infeasible", "non_monotone", "incomplete")


def with_summaries(
    found: dict[str, Array], groups: Sequence[Sequence[int]], exist: Flags
) -> dict[str, Array]:
    """Returns verdicts, and behind them along axis 2 those on the mean, then on the minimum of each group.

    Args:
        found: Arrays of shape (methods, seeds, entities) by name.
        groups: Indices of the members of each group.
        exist: Which curves there are.
    """
    parts = [found]
    for summary in (_mean_summary, _minimum_summary):
        for members in groups:
            inside = {name: array[:, :, members] for name, array in found.items()}
            parts.append(summary(inside, exist[:, :, members]))
    return {name: np.concatenate([part[name] for part in parts], axis=2) for name in found}


def _mean_summary(found: dict[str, Array], member: Flags) -> dict[str, Array]:
    """The means of the potentials over axis 2, and the flags of that number."""
    count = np.maximum(member.sum(axis=2, keepdims=True), 1)
    means = {
        name: np.where(member, found[name], 0.0).sum(axis=2, keepdims=True) / count
        for name in ("potential", "potential_any")
    }
    return _shared(found, member) | means | dict.fromkeys(PROVEN, np.full(count.shape, np.nan))


def _minimum_summary(found: dict[str, Array], member: Flags) -> dict[str, Array]:
    """The minima of the potentials over axis 2, and the flags of that number.

    The minimum of what each condition certifies is certified for all of them, without a correction: it exceeds
    the smallest true potential only if that very condition is certified too far (intersection-union test,
    Berger 1982). Upper ends of intervals have no such rule.
    """
    minima = {
        name: np.where(member, found[name], np.inf).min(axis=2, keepdims=True)  # NaN stays NaN
        for name in ("potential", "potential_any", "certified", "certified_method", "certified_jointly")
    }
    unknown = np.full(minima["potential"].shape, np.nan)
    attained = member & (found["potential"] == minima["potential"])
    censored = ~marked_any(attained & ~found["censored"], 2, keepdims=True)
    ends = {"potential_low": unknown, "potential_high": unknown}
    return _shared(found, member) | minima | ends | {"censored": censored}


def _shared(found: dict[str, Array], member: Flags) -> dict[str, Array]:
    """What mean and minimum have in common."""
    power = np.where(member, found["underpowered"], 0.0)
    wide = marked_any(power == 1, 2, keepdims=True)
    return {
        **{name: marked_any(member & found[name], 2, keepdims=True) for name in (*FLAGS, "at_chance")},
        "first_failure": np.fmin.reduce(
            np.where(member, found["first_failure"], np.nan), axis=2, keepdims=True
        ),
        "underpowered": np.where(wide, 1.0, power.sum(axis=2, keepdims=True)),  # NaN stays NaN
    }
