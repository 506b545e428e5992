"""Confidence limits of drops of any functional, from replicates: AUROC, AUPR, FPR95, squared calibration errors.

Upper limits are corrected for bias and skewness (BCa); lower ones have normal tails, since families of hundreds of
tests need quantiles that ranks of replicates do not resolve. Near a perfect score a sample may have none of the errors
that matter: the weight of one image is then added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri

from evalsuite.statistics.limits import (
    FEWEST_DIFFERENCES,
    ONE_SIDED,
    SIMULTANEOUS,
    Z_ONE_SIDED,
    Limits,
    added_variance,
    max_t_critical_value,
)
from evalsuite.statistics.paired import BIASED, direction
from evalsuite.statistics.resampling import drop, interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalsuite.statistics.resampling import Replicates
    from evalsuite.types import Array, Floats, Metric

LARGEST_CORRECTION = 0.9
"""Largest product of acceleration and quantile: the correction for skewness diverges at 1."""
PERFECT_SEPARATION = {
    f"{mean}{name}": value
    for mean in ("", "mean_")
    for name, value in (
        ("auroc", 1.0), ("aupr_in", 1.0), ("aupr_out", 1.0), ("fpr95_id_positive", 0.0), ("fpr95_ood_positive", 0.0),
    )
}  # fmt: skip
"""Value of a functional where the scores separate the two populations without an error."""


def limits_of_functional(
    metric: Metric,
    parents: Sequence[Mapping[str, Array]],
    candidates: Sequence[Sequence[Mapping[str, Array]]],
    *,
    drawn: Replicates,
    share: float,
) -> tuple[Limits, Floats]:
    """Limits from the replicates of any functional, and the variance that a moving tolerance adds."""
    estimate, replicates, references = drops_and_references(metric, parents, candidates, drawn)
    added = added_variance(replicates, share * np.abs(references))
    if metric.functional in BIASED:
        unknown = np.full(estimate.shape, np.nan)
        ends = interval((replicates - 2 * (replicates.mean(axis=0) - estimate)).T)
        return Limits(*ends, unknown, unknown, never_decided, never_decided), added
    weight = np.array(
        [weight_of_rare_error(metric, parents, column, drawn) for column in zip(*candidates, strict=True)]
    )
    return limits_of_replicates(estimate, replicates, weight), added


def never_decided(largest: Floats) -> Floats:
    """Returns the quantile of a functional without sound bounds: unknown whatever the tolerance."""
    return np.full_like(largest, np.nan)


def limits_of_replicates(estimate: Floats, replicates: Floats, weight: Floats) -> Limits:
    """Returns limits of R drops of a smooth functional.

    Args:
        estimate: Drops, (R,).
        replicates: Of the drops, (B, R).
        weight: Weight of one image where errors are too rare to be resampled, elsewhere 0; (R,).
    """
    error = replicates.std(axis=0)
    varying = error > 0
    critical_value = max_t_critical_value((replicates - estimate)[:, varying] / error[varying])
    rare, unseen = (-weight * np.log(1 - level) for level in (ONE_SIDED, SIMULTANEOUS))
    low, high = interval(replicates.T)
    bca = BcaCorrection.of(replicates, estimate)

    def unseen_quantile(distance: Floats) -> Floats:
        # a sample may have none of the errors that lie between estimate and tolerance
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            chance = np.where(weight > 0, np.exp(-distance / weight), 0.0)
        return -ndtri(np.clip(chance, 0.0, 1.0))

    def quantile(largest: Floats) -> Floats:
        return np.minimum(bca.quantile(largest), unseen_quantile(largest - estimate))

    def lower_quantile(largest: Floats) -> Floats:
        return np.minimum(
            _lower_quantile_of_replicates(estimate, replicates, largest), unseen_quantile(estimate - largest)
        )

    return Limits(
        np.minimum(low, estimate - unseen),
        np.maximum(high, estimate + unseen),
        np.maximum(bca.upper(), estimate + rare),
        estimate - np.maximum(critical_value * error, unseen),
        quantile,
        lower_quantile,
    )


def _lower_quantile_of_replicates(estimate: Floats, replicates: Floats, largest: Floats) -> Floats:
    """The smaller of the normal quantile and that of the percentile, where any replicate is within the tolerance."""
    error = replicates.std(axis=0)
    distance = estimate - largest
    normal = np.divide(distance, error, out=np.copysign(np.inf, distance), where=error > 0)
    within = (replicates <= largest).sum(axis=0)
    percentile = -ndtri((1 + within) / (len(replicates) + 2))
    quantiles: Floats = np.where(within > 0, np.minimum(normal, percentile), normal)
    return quantiles


def mean_drops(
    metric: Metric,
    parents: Sequence[Mapping[str, Array]],
    candidates: Sequence[Sequence[Mapping[str, Array]]],
    drawn: Replicates,
) -> Floats:
    """Returns the mean drops over the seeds (R,), from the metric itself."""
    higher, name = direction(metric), metric.functional
    drops = [
        [drop(drawn.value(name, parent), drawn.value(name, c), higher_is_better=higher) for c in seed]
        for parent, seed in zip(parents, candidates, strict=True)
    ]
    return np.asarray(np.mean(drops, axis=0))


def drops_and_references(
    metric: Metric,
    parents: Sequence[Mapping[str, Array]],
    candidates: Sequence[Sequence[Mapping[str, Array]]],
    drawn: Replicates,
) -> tuple[Floats, Floats, Floats]:
    """Returns mean drops over the seeds (R,), their replicates (B, R), and replicates of the parents' mean (B,)."""
    higher = direction(metric)
    estimates = mean_drops(metric, parents, candidates, drawn)
    drops, references = [], []
    for parent, seed in zip(parents, candidates, strict=True):
        reference = drawn(metric.functional, parent)
        values = (drawn(metric.functional, candidate) for candidate in seed)
        drops.append(np.stack([drop(reference, value, higher_is_better=higher) for value in values], axis=-1))
        references.append(reference)
    return estimates, np.asarray(np.mean(drops, axis=0)), np.asarray(np.mean(references, axis=0))


def weight_of_rare_error(
    metric: Metric,
    parents: Sequence[Mapping[str, Array]],
    candidates: Sequence[Mapping[str, Array]],
    drawn: Replicates,
) -> float:
    """Returns the weight of one image where the sample has too few errors to estimate their rate; elsewhere 0.

    That is where a candidate makes fewer than `FEWEST_DIFFERENCES` errors among the images of the smaller population,
    unless its scores are those of the parent to the last digit: then both compute the same function.
    """
    pairs = list(zip(parents, candidates, strict=True))
    if metric.functional not in PERFECT_SEPARATION:
        return 0.0
    if all(np.array_equal(p[name], c[name]) for p, c in pairs for name in p):
        return 0.0
    first, *others = (len(values) for values in parents[0].values())
    weight = 1 / min(first, len(others) * min(others))
    value = np.mean([drawn.value(metric.functional, candidate) for candidate in candidates])
    return weight if abs(value - PERFECT_SEPARATION[metric.functional]) < FEWEST_DIFFERENCES * weight else 0.0


@dataclass(frozen=True)
class BcaCorrection:
    """The bias and skewness of replicates about their estimate, which upper limits are corrected for.

    The acceleration is a sixth of their skewness: that of an estimate which is nearly a mean. A limit is never nearer
    than the percentile without the correction.

    Attributes:
        ranked: Replicates, each column sorted, (B, R).
        bias: Normal quantile of the share of replicates below the estimate, (R,).
        acceleration: (R,).

    References:
        Efron 1987, "Better bootstrap confidence intervals" (BCa); Efron and Tibshirani 1993, section 14.3.
    """

    ranked: Floats
    bias: Floats
    acceleration: Floats

    @classmethod
    def of(cls, replicates: Floats, estimate: Floats) -> BcaCorrection:
        """Returns the correction of replicates (B, R) of estimates (R,)."""
        centred = replicates - replicates.mean(axis=0)
        spread = centred.std(axis=0)
        third = (centred**3).mean(axis=0)
        skewness = np.divide(third, spread**3, out=np.zeros_like(spread), where=spread > 0)
        below = (replicates < estimate).mean(axis=0) + (replicates == estimate).mean(axis=0) / 2
        edge = 0.5 / len(replicates)
        return cls(np.sort(replicates, axis=0), ndtri(np.clip(below, edge, 1 - edge)), skewness / 6)

    def upper(self) -> Floats:
        """Returns one-sided 95 % upper limits, (R,)."""
        moved = self.bias + Z_ONE_SIDED
        moved = self.bias + moved / (1 - np.minimum(self.acceleration * moved, LARGEST_CORRECTION))
        shares = np.maximum(ndtr(moved), ONE_SIDED)
        places = np.clip(np.ceil((len(self.ranked) + 1) * shares), 1, len(self.ranked)).astype(int) - 1
        upper: Floats = np.take_along_axis(self.ranked, places[None], axis=0)[0]
        return upper

    def quantile(self, largest: Floats) -> Floats:
        """Returns the largest normal quantiles at which upper limits are at most `largest`, (R,).

        B replicates show an error of at least one in B + 1, unless all are equal. No limit exceeds the largest of them.
        """
        inside = (self.ranked <= largest).sum(axis=0)
        percentile = ndtri(np.maximum(inside, 0.5) / (len(self.ranked) + 1))
        shifted = percentile - self.bias
        scale = np.minimum(1 + self.acceleration * shifted, 1 / (1 - LARGEST_CORRECTION))
        corrected = np.divide(shifted, scale, out=np.copysign(np.inf, shifted), where=scale > 0) - self.bias
        quantiles = np.where(inside == len(self.ranked), percentile, np.minimum(corrected, percentile))
        quantiles = np.where(inside > 0, quantiles, -np.inf)
        return np.where((self.ranked[0] == self.ranked[-1]) & (inside > 0), np.inf, quantiles)
