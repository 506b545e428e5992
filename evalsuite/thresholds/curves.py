"""Curves of drops over the ratio as arrays, their thresholds, and their means.

A candidate is commensurate where its drop (how much worse it is than the parent of the same seed on the same
images, in the metric's own unit) is at most the tolerance; equality passes. Nothing is interpolated or
extrapolated: every answer is a ratio that was tested. Where several candidates of a curve have the same measured ratio
(a coarse method may make of two targets one network), the ratio is commensurate if all of them are.

A drop is a difference of two rounded numbers: ``0.905 - 0.9`` is a little more than 0.005. A drop therefore
equals the tolerance if they differ by at most `ULPS` units in the last place of the largest number involved
(the two values, the tolerance, and 1). That is 2e-15 for rates, far below the step 1/N of a rate over N
images, so that no candidate passes which is one image too bad.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evalsuite.types import Array, Floats

ULPS = 8
"""Two roundings of values, one of their difference, and those of a mean over a few seeds."""

TOLERANCE_PRECISION = 1e-9
"""Relative difference up to which two computations of one tolerance are equal."""

BOUNDS = ("highs", "uppers", "simultaneous_lowers", "method_uppers", "noninferiority_ps", "inferiority_ps")
"""Fields of `Curves` that come from bounds on the drops."""
NONINFERIORITY_ERROR = 0.025
"""One-sided error of the verdict that a drop is within its tolerance."""

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Curves:
    """Curves of drops over the ratio, one for each index of the leading axes.

    Attributes:
        ratios: Shape (..., T), measured ratios; NaN where nothing was tested.
        drops: Shape (..., T), how much worse than the parent, in the metric's unit; NaN where it could not be
            measured.
        widths: Shape (..., T), full widths of the drops' 95 % intervals; NaN where unknown.
        highs: Shape (..., T), upper ends of these intervals; NaN where unknown.
        uppers: Shape (..., T), one-sided 95 % upper bounds of the drops; NaN where unknown.
        simultaneous_lowers: Shape (..., T), simultaneous 97.5 % lower bounds of the drops; NaN where unknown.
        method_uppers: Shape (..., T), as `uppers`, with the seeds as a sample too; NaN where unknown.
        noninferiority_ps: Shape (..., T), p-values of "the drop is larger than `limits`"; NaN where unknown.
        inferiority_ps: Shape (..., T), p-values of "the drop is within `limits`"; NaN where unknown.
        codes: Shape (..., T), equal where the evidence behind two drops is the same; NaN where unknown.
        scales: Shape (..., T), the largest magnitude among the numbers behind a drop, and at least 1.
        reference: Shape (...), the parent's value.
        limits: Shape (...), the largest drop that is commensurate, in the metric's unit.
        n: Shape (...), the smallest number of images behind a drop; NaN where unknown.
        partial: Shape (...), whether a curve that belongs to this mean is missing altogether.
        grid: Shape (...), number of ratios that a search chose the tested ones from; 0 if they were fixed before.
    """

    ratios: Floats
    drops: Floats
    widths: Floats
    highs: Floats
    uppers: Floats
    simultaneous_lowers: Floats
    method_uppers: Floats
    noninferiority_ps: Floats
    inferiority_ps: Floats
    codes: Floats
    scales: Floats
    reference: Floats
    limits: Floats
    n: Floats
    partial: Flags
    grid: Floats

    @property
    def tested(self) -> Flags:
        """Where a ratio was tested, shape (..., T)."""
        return ~np.isnan(self.ratios)

    @property
    def exist(self) -> Flags:
        """Where there is a curve at all, shape (...)."""
        return any_along(self.tested, -1)


def any_along(flags: Flags, axis: int, *, keepdims: bool = False) -> Flags:
    """Returns whether any flag is set along `axis`."""
    return np.asarray(flags.any(axis=axis, keepdims=keepdims))


def is_test_against(tolerances: Floats, limits: Floats) -> Flags:
    """Returns which p-values (..., T), by the tolerances of their tests, are of tests against the limits (...)."""
    return np.isclose(tolerances, limits[..., None], rtol=TOLERANCE_PRECISION, atol=0.0)


def threshold_arrays(curves: Curves) -> dict[str, Array]:
    """Returns the thresholds of each curve, as arrays of shape (...) named like the fields of `Threshold`.

    Args:
        curves: Curves of shape (..., T) with T of at least 1, their ratios in any order.

    Returns:
        ``first_failure`` is NaN where nothing failed; ``underpowered`` is 1, 0, or NaN where it cannot be
        known.
    """
    limits = np.broadcast_to(curves.limits[..., None], curves.drops.shape)
    limits = limits + ULPS * np.finfo(np.float64).eps * np.maximum(curves.scales, limits)
    order = np.argsort(curves.ratios, axis=-1, kind="stable")  # NaN, not tested, comes last

    def sorted_by_ratio(array: Floats) -> Floats:
        return np.take_along_axis(array, order, axis=-1)

    x, drops, widths, limit = map(sorted_by_ratio, (curves.ratios, curves.drops, curves.widths, limits))
    passed = drops <= limit
    failed = ~np.isnan(x) & ~passed
    potential = longest_passing_prefix(x, passed)
    potential_any = _largest(x, passed)
    first_failure = np.fmin.reduce(np.where(failed, x, np.nan), axis=-1)
    deciding = ~np.isnan(drops) & ((x == potential[..., None]) | (x == first_failure[..., None]))
    unknown = any_along(deciding & np.isnan(widths), -1) | ~any_along(deciding, -1)
    wide = any_along(deciding & (widths > limit) & ~_shown(curves, sorted_by_ratio), -1)
    return {
        "potential": potential,
        "potential_any": potential_any,
        **_certified(
            x, limit, **{name: sorted_by_ratio(getattr(curves, name)) for name in ("drops", *BOUNDS)}
        ),
        "first_failure": first_failure,
        "censored": ~any_along(failed, -1),
        "infeasible": any_along(failed & (x == x[..., :1]), -1),
        "non_monotone": potential_any > potential,
        "incomplete": any_along(~np.isnan(x) & np.isnan(drops), -1),
        "underpowered": np.where(wide, 1.0, np.where(unknown, np.nan, 0.0)),
    }


def _shown(curves: Curves, sorted_by_ratio: Callable[[Floats], Floats]) -> Flags:
    """Where one of the two p-values decides: no more images are needed there."""
    tests = (sorted_by_ratio(p) for p in (curves.noninferiority_ps, curves.inferiority_ps))
    noninferior, inferior = (p <= NONINFERIORITY_ERROR for p in tests)
    return noninferior | inferior


def _certified(x: Floats, limit: Floats, *, drops: Floats, **bounds: Floats) -> dict[str, Array]:
    """Statements that follow from the bounds, NaN where there are none.

    A bound on the wrong side of the drop itself is moved to the drop: a ratio that failed is never certified, and
    one that passed is never shown to be inferior. With ``potential_low`` at most ``certified`` it follows that
    potential_low <= certified <= potential <= potential_high.
    """
    highs, uppers, method_uppers = (
        np.maximum(bounds[name], drops) for name in ("highs", "uppers", "method_uppers")
    )
    inferior = np.minimum(bounds["simultaneous_lowers"], drops) > limit
    has_upper, has_lower, has_method = (
        any_along(~np.isnan(bound), -1) for bound in (uppers, bounds["simultaneous_lowers"], method_uppers)
    )
    certified = longest_passing_prefix(x, uppers <= limit)
    low = np.minimum(longest_passing_prefix(x, highs <= limit), certified)
    high = _largest(x, ~np.isnan(x) & (x < _smallest(x, inferior)))
    both = has_upper & has_lower
    return {
        "certified": np.where(has_upper, certified, np.nan),
        "potential_low": np.where(both, low, np.nan),
        "potential_high": np.where(both, high, np.nan),
        "certified_method": np.where(has_method, longest_passing_prefix(x, method_uppers <= limit), np.nan),
    }


def longest_passing_prefix(ratios: Floats, passed: Flags) -> Floats:
    """Returns the largest ratio such that all candidates at it and below it passed."""
    failed = ~np.isnan(ratios) & ~passed
    return _largest(ratios, passed & (ratios < _smallest(ratios, failed)))


def _smallest(ratios: Floats, marked: Flags) -> Floats:
    """The smallest marked ratio, infinite where none is; the last axis is kept with length 1."""
    smallest: Floats = np.where(marked, ratios, np.inf).min(axis=-1, keepdims=True)
    return smallest


def _largest(ratios: Floats, marked: Flags) -> Floats:
    largest: Floats = np.where(marked, ratios, 0.0).max(axis=-1)
    return largest


def mean_curves(curves: Curves, axis: int, *, expected: int | NDArray[np.int_]) -> Curves:
    """Returns the mean curves along `axis`, which is kept with length 1.

    The mean drop is NaN where one of the curves was not measured: a mean over fewer is another quantity. The
    bounds of a mean of several drops do not follow from theirs (they may share images), so they are NaN.

    Args:
        curves: Curves whose indices T mean the same candidates along `axis`, up to the seed.
        axis: Index of a leading axis.
        expected: How many curves belong to each mean; where there are fewer, the mean is partial.
    """
    tested, member = curves.tested, curves.exist
    count = member.sum(axis=axis, keepdims=True)
    inside = member[..., None]
    with np.errstate(invalid="ignore", divide="ignore"):
        drops = _total(curves.drops, inside, axis) / count[..., None]
        bounds = {
            name: np.where(count[..., None] == 1, _total(getattr(curves, name), inside, axis), np.nan)
            for name in ("widths", *BOUNDS, "codes")
        }
        ratios = _total(curves.ratios, tested, axis) / tested.sum(axis=axis, keepdims=True)
        reference = _total(curves.reference, member, axis) / count
        limits = _total(curves.limits, member, axis) / count
    return Curves(
        ratios=_unrounded(ratios, curves.ratios, axis),
        drops=drops,
        **bounds,
        scales=np.where(inside, curves.scales, 1.0).max(axis=axis, keepdims=True),
        reference=reference,
        limits=_unrounded(limits, np.where(member, curves.limits, np.nan), axis),
        n=np.fmin.reduce(np.where(member, curves.n, np.nan), axis=axis, keepdims=True),
        partial=(count < expected) | any_along(member & curves.partial, axis, keepdims=True),
        grid=np.where(member, curves.grid, 0).max(axis=axis, keepdims=True),
    )


def _unrounded(means: Floats, values: Floats, axis: int) -> Floats:
    """The means, but the value itself where all are equal: their rounded mean may differ from it."""
    low, high = (reduced.reduce(values, axis=axis, keepdims=True) for reduced in (np.fmin, np.fmax))
    result: Floats = np.where(low == high, low, means)
    return result


def _total(values: Floats, inside: Flags, axis: int) -> Floats:
    total: Floats = np.where(inside, values, 0.0).sum(axis=axis, keepdims=True)
    return total


def concatenated(parts: Sequence[Curves], axis: int) -> Curves:
    """Returns the curves concatenated along a leading axis."""
    return Curves(
        **{f.name: np.concatenate([getattr(p, f.name) for p in parts], axis=axis) for f in fields(Curves)}
    )


def selected(curves: Curves, members: Sequence[int]) -> Curves:
    """Returns the curves with the indices `members` of axis 2."""
    return Curves(**{f.name: getattr(curves, f.name)[:, :, members] for f in fields(Curves)})
