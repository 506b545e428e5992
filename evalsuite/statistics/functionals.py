"""Limits on mean drops from the replicates of any functional: areas under curves, error rates, ratios.

Upper limits are percentiles of the replicates, corrected for bias and skewness; simultaneous lower bounds come from
their standard deviation. Where a detector makes hardly an error on the sample, no bound is nearer to the drop than
the rule of three allows: detectors that separate the sample without an error need not separate every image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri

from evalsuite.metrics import evaluate
from evalsuite.statistics.limits import (
    FEWEST,
    ONE_SIDED,
    SIMULTANEOUS,
    Z_ONE_SIDED,
    Limits,
    added_variance,
    critical,
)
from evalsuite.statistics.paired import BIASED, direction
from evalsuite.statistics.resampling import drop, interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalsuite.records import Array, Floats, Metric

MOST_SKEWED = 0.9
"""Where the correction for skewness would break down."""
BEST = {
    f"{mean}{name}": best
    for mean in ("", "mean_")
    for name, best in (
        ("auroc", 1.0), ("aupr_in", 1.0), ("aupr_out", 1.0), ("fpr95_id_positive", 0.0), ("fpr95_ood_positive", 0.0),
    )
}  # fmt: skip
"""What a functional is where the two populations are told apart without an error."""


def of_functional(
    metric: Metric,
    parents: Sequence[Mapping[str, Array]],
    candidates: Sequence[Sequence[Mapping[str, Array]]],
    *,
    weights: Mapping[str, Array],
    share: float,
) -> tuple[Limits, Floats]:
    """Limits from the replicates of any functional, and the variance that a moving tolerance adds."""
    (estimate, _), (replicates, references) = (
        _evaluated(metric, parents, candidates, drawn) for drawn in (None, weights)
    )
    added = added_variance(replicates, share * np.abs(references))
    if metric.functional in BIASED:
        unknown = np.full(estimate.shape, np.nan)
        ends = interval((replicates - 2 * (replicates.mean(axis=0) - estimate)).T)
        return Limits(*ends, unknown, unknown, lambda most: np.full_like(most, np.nan)), added
    error = replicates.std(axis=0)
    moving = error > 0
    farthest = critical((replicates - estimate)[:, moving] / error[moving])
    one = np.array([_unseen(metric, parents, column) for column in zip(*candidates, strict=True)])
    rare, unseen = (-one * np.log(1 - level) for level in (ONE_SIDED, SIMULTANEOUS))
    low, high = interval(replicates.T)
    shape = Shape.of(replicates, estimate)

    def quantile(most: Floats) -> Floats:
        # a sample may have none of the errors that lie between estimate and tolerance
        with np.errstate(divide="ignore", invalid="ignore"):
            chance = np.where(one > 0, np.exp(-(most - estimate) / one), 0.0)
        return np.minimum(shape.quantile(most), -ndtri(np.clip(chance, 0.0, 1.0)))

    return Limits(
        np.minimum(low, estimate - unseen),
        np.maximum(high, estimate + unseen),
        np.maximum(shape.upper(), estimate + rare),
        estimate - np.maximum(farthest * error, unseen),
        quantile,
    ), added


def _evaluated(
    metric: Metric,
    parents: Sequence[Mapping[str, Array]],
    candidates: Sequence[Sequence[Mapping[str, Array]]],
    drawn: Mapping[str, Array] | None,
) -> tuple[Floats, Floats]:
    """Mean drops over the seeds, (R,) or (B, R), and mean values of the parents, () or (B,)."""
    higher = direction(metric)
    drops, references = [], []
    for parent, seed in zip(parents, candidates, strict=True):
        reference = evaluate(metric.functional, parent, weights=drawn)
        values = (evaluate(metric.functional, candidate, weights=drawn) for candidate in seed)
        drops.append(np.stack([drop(reference, value, higher_is_better=higher) for value in values], axis=-1))
        references.append(reference)
    return np.asarray(np.mean(drops, axis=0)), np.asarray(np.mean(references, axis=0))


def _unseen(
    metric: Metric, parents: Sequence[Mapping[str, Array]], candidates: Sequence[Mapping[str, Array]]
) -> float:
    """What one image weighs where the sample has too few errors to say how rare they are; elsewhere 0.

    That is where a candidate makes fewer than `FEWEST` errors among the images of the smaller population, unless its
    scores are those of the parent to the last digit: it is then the same network in other clothes.
    """
    pairs = list(zip(parents, candidates, strict=True))
    same = all(np.array_equal(p[name], c[name]) for p, c in pairs for name in p)
    if metric.functional not in BEST or same:
        return 0.0
    first, *others = (len(values) for values in parents[0].values())
    weight = 1 / min(first, len(others) * min(others))
    value = np.mean([evaluate(metric.functional, candidate) for candidate in candidates])
    return weight if abs(value - BEST[metric.functional]) < FEWEST * weight else 0.0


@dataclass(frozen=True)
class Shape:
    """Is how replicates lie about the estimate, for upper limits that allow for their bias and skewness.

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
    def of(cls, replicates: Floats, estimate: Floats) -> Shape:
        """Returns the shape of replicates (B, R) of estimates (R,)."""
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
        moved = self.bias + moved / (1 - np.minimum(self.acceleration * moved, MOST_SKEWED))
        shares = np.maximum(ndtr(moved), ONE_SIDED)
        places = np.clip(np.ceil((len(self.ranked) + 1) * shares), 1, len(self.ranked)).astype(int) - 1
        upper: Floats = np.take_along_axis(self.ranked, places[None], axis=0)[0]
        return upper

    def quantile(self, most: Floats) -> Floats:
        """Returns the largest normal quantiles at which upper limits are within `most`, (R,).

        B replicates show no more than one error in B + 1, unless all are the same. The largest of them is the last
        limit that there is.
        """
        inside = (self.ranked <= most).sum(axis=0)
        plain = ndtri(np.maximum(inside, 0.5) / (len(self.ranked) + 1))
        beyond = plain - self.bias
        straight = np.minimum(1 + self.acceleration * beyond, 1 / (1 - MOST_SKEWED))
        bent = np.divide(beyond, straight, out=np.copysign(np.inf, beyond), where=straight > 0) - self.bias
        found = np.where(inside == len(self.ranked), plain, np.minimum(bent, plain))
        found = np.where(inside > 0, found, -np.inf)
        return np.where((self.ranked[0] == self.ranked[-1]) & (inside > 0), np.inf, found)
