"""Bounds on a drop that hold at every look at a growing sample: repeated p-values and confidence limits.

The drop is that of one candidate on the images seen so far. P-values are those of `evalsuite.statistics.bounds` with
the error of looking several times in them (`evalsuite.statistics.group_sequential`); limits are those at the critical
values of the look.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from evalsuite.metrics.functionals import evaluate
from evalsuite.statistics.bounds import PairedDrops, bounds_of_limits, bounds_of_many
from evalsuite.statistics.group_sequential import SequentialDesign, predictive_power
from evalsuite.statistics.limits import ONE_SIDED, SIMULTANEOUS, Limits
from evalsuite.statistics.paired import direction, is_rate
from evalsuite.statistics.rates import lower_score_quantile, score_limit, score_quantile
from evalsuite.statistics.resampling import drop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from evalsuite.statistics.resampling import Replicates
    from evalsuite.types import Array, Bounds, Floats, Metric

FUTILE = 0.05
"""Predictive power below which a check is given up as undecided."""


def is_bounded(metric: Metric) -> bool:
    """Returns whether a metric is the mean over images of one number in [0, 1] each, which stages may decide."""
    return metric.functional == "mean" and metric.unit == "fraction" and metric.higher_is_better is not None


def repeated_bounds(
    drops: PairedDrops,
    *,
    design: SequentialDesign,
    look: int,
    weights: Callable[[], Mapping[str, Array] | Replicates],
    family: int = 1,
) -> Bounds:
    """Returns bounds on one drop that hold however many looks there were before.

    Args:
        drops: One parent and one candidate, on the images seen so far, of a metric that `is_bounded`.
        design: The looks.
        look: Index of this one.
        weights: Returns what `evalsuite.statistics.bounds.bounds` takes; not called for rates.
        family: Number of drops whose lower limits hold together (Bonferroni).

    Returns:
        Arrays of one number. ``noninferiority_p`` and ``inferiority_p`` are repeated p-values; ``low`` to
        ``lower_simultaneous`` repeated confidence limits at the levels of `evalsuite.types.Bounds`.
    """
    levels = (1 - SIMULTANEOUS, 1 - SIMULTANEOUS, 1 - ONE_SIDED, (1 - SIMULTANEOUS) / family)
    z = [float(design.critical_values(level)[look]) for level in levels]
    if all(map(is_rate, drops.evidence)) and not drops.limit.relative:
        bounds = _bounds_of_rate(drops, z)
    else:
        bounds = _stretched(bounds_of_many([drops], weights=weights())[0], z, levels)
    return replace(
        bounds,
        noninferiority_p=design.repeated_p_values(look, bounds.noninferiority_p),
        inferiority_p=design.repeated_p_values(look, bounds.inferiority_p),
    )


def _bounds_of_rate(drops: PairedDrops, z: Sequence[float]) -> Bounds:
    """Score limits at other quantiles than the usual ones: two of the interval, the upper one, the lower one."""
    worsening = image_drops(drops)
    lost, gained, n = (
        np.array([float(x)]) for x in ((worsening > 0).sum(), (worsening < 0).sum(), len(worsening))
    )
    limits = Limits(
        low=-score_limit(gained, lost, n=n, z=z[0]),
        high=score_limit(lost, gained, n=n, z=z[1]),
        upper=score_limit(lost, gained, n=n, z=z[2], corrected=True),
        lower_simultaneous=-score_limit(gained, lost, n=n, z=z[3], corrected=True),
        quantile=lambda largest: score_quantile(lost, gained, n=n, limit=largest),
        lower_quantile=lambda largest: lower_score_quantile(lost, gained, n=n, limit=largest),
    )
    return bounds_of_limits((lost - gained) / n, limits, drops.limit.amount)


def _stretched(plain: Bounds, z: Sequence[float], levels: Sequence[float]) -> Bounds:
    """Bounds of another mean with margins that grow as the normal quantile of their level does."""
    ends = (plain.low, plain.high, plain.upper, plain.lower_simultaneous)
    low, high, upper, lower = (
        plain.drop + own / -float(ndtri(level)) * (end - plain.drop)
        for own, level, end in zip(z, levels, ends, strict=True)
    )
    return replace(plain, low=low, high=high, upper=upper, lower_simultaneous=lower)


def image_drops(drops: PairedDrops) -> Floats:
    """Returns how much worse the candidate is on each image, (N,)."""
    (parent,), ((candidate,),) = drops.parents, drops.candidates
    before, after = (
        np.ravel(next(iter(evidence.values()))).astype(np.float64) for evidence in (parent, candidate)
    )
    return (before - after) * (1 if direction(drops.metric) else -1)


def remaining_power(
    drops: PairedDrops, *, design: SequentialDesign, look: int, errors: tuple[float, float]
) -> float:
    """Returns the probability that a later look decides a check; see `predictive_power`.

    Args:
        drops: As for `repeated_bounds`.
        design: The looks.
        look: Index of this one.
        errors: Errors at which the check is called non-inferior, and inferior.
    """
    functional, higher = drops.metric.functional, direction(drops.metric)
    (parent,), ((candidate,),) = drops.parents, drops.candidates
    values = [float(evaluate(functional, evidence)) for evidence in (parent, candidate)]
    measured = drop(values[0], values[1], higher_is_better=higher)
    per_image = image_drops(drops)
    # one more image that differs: where none does, the next one may
    variance = (float((per_image**2).sum()) + 1) / (len(per_image) + 1) - measured**2
    margin, deviation = drops.limit.at(values[0]) - measured, np.sqrt(max(variance, 1e-12))
    return float(predictive_power(design, look, margin=margin, deviation=deviation, errors=errors))
