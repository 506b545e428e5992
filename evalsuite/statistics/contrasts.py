"""How much worse one candidate is than another on the same images: a pruned network and its control, at each ratio.

The control is a dense network that was trained like the candidate. What the candidate loses beyond it is what pruning
costs; the rest is the training. As for drops, images are paired and are the sample; each pair is a test by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, stdtrit

from evalsuite.statistics.bounds import ROUNDING, inside_unit, p_values
from evalsuite.statistics.limits import (
    FEWEST_DIFFERENCES,
    SIMULTANEOUS,
    Z_LIMIT,
    effective_counts,
    mean_quantile,
    unseen_tail,
)
from evalsuite.statistics.paired import BIASED, direction, is_rate
from evalsuite.statistics.rates import lower_score_quantile, score_limit, score_quantile
from evalsuite.statistics.replicate_limits import limits_of_replicates, weight_of_rare_error
from evalsuite.statistics.resampling import drop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalsuite.statistics.resampling import Replicates
    from evalsuite.types import Array, Floats, Metric


@dataclass(frozen=True, slots=True)
class Contrast:
    """The metric on one condition of a candidate and of its control, for one seed or several.

    Attributes:
        metric: What is compared.
        controls: Evidence of the control of each seed.
        candidates: Evidence of the candidate of each seed, on the same images.
        tolerance: Largest difference that is commensurate, in the metric's unit.
    """

    metric: Metric
    controls: tuple[Mapping[str, Array], ...]
    candidates: tuple[Mapping[str, Array], ...]
    tolerance: float

    @property
    def on_one_set(self) -> bool:
        """Whether all evidence is of the same images; means over several image sets are not."""
        return len({tuple(evidence) for evidence in self.controls}) == 1


@dataclass(frozen=True, slots=True)
class ContrastBounds:
    """What is known of some contrasts, each array of shape (K,); positive = the candidate is worse.

    Attributes:
        difference: How much worse the candidates are than their controls, mean over the seeds.
        low: Lower ends of two-sided 95 % intervals; NaN where there is none.
        high: Upper ends of these.
        noninferiority_p: One-sided p-values of "the difference is above the tolerance"; NaN where no test is sound.
        inferiority_p: The same of "it is within the tolerance".
    """

    difference: Floats
    low: Floats
    high: Floats
    noninferiority_p: Floats
    inferiority_p: Floats


def contrast_bounds(contrasts: Sequence[Contrast], *, replicates: Replicates) -> ContrastBounds:
    """Returns the bounds of many contrasts at once; score limits of all rates are one computation.

    Args:
        contrasts: Metrics with a direction; parents and candidates on the same images.
        replicates: Of values that are no means of one number per image.
    """
    table = np.full((5, len(contrasts)), np.nan)
    rates: dict[int, tuple[float, float, float]] = {}
    for index, contrast in enumerate(contrasts):
        if contrast.metric.functional == "mean" and contrast.on_one_set:
            differences = _differences(contrast)
            if all(map(is_rate, (*contrast.controls, *contrast.candidates))):
                rates[index] = tuple(float(x[0]) for x in effective_counts(differences))  # type: ignore[assignment]
            else:
                evidence = (*contrast.controls, *contrast.candidates)
                table[:, index] = _bounds_of_mean(
                    differences.mean(axis=0), contrast.tolerance, unit=all(map(inside_unit, evidence))
                )
        else:
            table[:, index] = _bounds_of_functional(contrast, replicates)
    if rates:
        tolerances = np.array([contrasts[index].tolerance for index in rates])
        table[:, list(rates)] = _bounds_of_rates(np.array(list(rates.values())).T, tolerances)
    return ContrastBounds(*table)


def _differences(contrast: Contrast) -> Floats:
    """Control minus candidate in the direction of the metric, of each seed and image, (S, N, 1)."""
    sign = 1 if direction(contrast.metric) else -1
    pairs = zip(contrast.controls, contrast.candidates, strict=True)
    return np.stack([sign * (_column(control) - _column(candidate)) for control, candidate in pairs])[
        ..., None
    ]


def _column(evidence: Mapping[str, Array]) -> Floats:
    return np.ravel(np.asarray(next(iter(evidence.values())), dtype=np.float64))


def _bounds_of_rates(counts: Floats, tolerances: Floats) -> Floats:
    """Rows of `ContrastBounds` from losses, gains and images (3, K)."""
    lost, gained, n = counts
    estimate = (lost - gained) / n
    largest = tolerances + ROUNDING * np.maximum(1.0, tolerances)
    above = estimate > largest
    return np.stack(
        [
            estimate,
            -score_limit(gained, lost, n=n, z=Z_LIMIT),
            score_limit(lost, gained, n=n, z=Z_LIMIT),
            np.where(above, 1.0, ndtr(-score_quantile(lost, gained, n=n, limit=largest))),
            np.where(above, ndtr(-lower_score_quantile(lost, gained, n=n, limit=largest)), 1.0),
        ]
    )


def _bounds_of_mean(values: Floats, tolerance: float, *, unit: bool) -> Floats:
    """The same of a mean of one number per image (N, 1).

    A few different images do not show how large a rare difference may be; of numbers in [0, 1] each counts as 1.
    """
    estimate = float(values.mean())
    if (values != 0).sum() < FEWEST_DIFFERENCES or not values.std() > 0:
        lost = float((values > 0).sum())
        upper = float(ndtr(-score_quantile(lost, 0.0, n=len(values), limit=tolerance))) if unit else 1.0
        return np.array([estimate, np.nan, np.nan, 1.0 if estimate > tolerance else upper, 1.0])
    margin = float(stdtrit(len(values) - 1, SIMULTANEOUS)) * values.std(ddof=1) / np.sqrt(len(values))
    largest = np.full(1, tolerance + ROUNDING * max(1.0, tolerance))
    within = largest - (0.0 if unit else unseen_tail(values))
    upper = float(ndtr(-mean_quantile(-values, -within)[0]))
    lower = float(ndtr(-mean_quantile(values, largest)[0]))
    above = estimate > largest[0]
    return np.array(
        [
            estimate,
            estimate - margin,
            estimate + margin,
            1.0 if above else upper,
            lower if above else 1.0,
        ]
    )


def _bounds_of_functional(contrast: Contrast, replicates: Replicates) -> Floats:
    """The same of any functional, from replicates."""
    metric = contrast.metric
    higher, name = direction(metric), metric.functional
    pairs = list(zip(contrast.controls, contrast.candidates, strict=True))
    values = [
        drop(replicates.value(name, a), replicates.value(name, b), higher_is_better=higher) for a, b in pairs
    ]
    draws = [drop(replicates(name, a), replicates(name, b), higher_is_better=higher) for a, b in pairs]
    estimate, drawn = np.atleast_1d(np.mean(values)), np.asarray(np.mean(draws, axis=0))
    if name in BIASED:
        return np.array([estimate[0], np.nan, np.nan, np.nan, np.nan])
    weight = np.array([weight_of_rare_error(metric, contrast.controls, contrast.candidates, replicates)])
    limits = limits_of_replicates(estimate, drawn[:, None], weight)
    tests = p_values(limits, estimate, contrast.tolerance)
    return np.array([x[0] for x in (estimate, limits.low, limits.high, *tests)])
