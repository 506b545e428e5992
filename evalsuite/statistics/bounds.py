"""Bounds on the drops of all candidates of one method: what certifies a ratio, and what rules it out.

The networks at hand are fixed and the images are the sample (scope *networks*). With several seeds the drop is
the mean over the seeds; all seeds see the same images, so their evidence is averaged image by image.
`evalsuite.statistics.limits` has the limits of means, `evalsuite.statistics.functionals` those of the rest.

A tolerance that is a share of the parent's value is as uncertain as that value: what this adds to the variance of
"drop minus tolerance" is added to all margins, as squares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri

from evalsuite.errors import ContractError
from evalsuite.metrics.functionals import evaluate
from evalsuite.statistics.limits import (
    FEWEST,
    ONE_SIDED,
    SIMULTANEOUS,
    Z_LIMIT,
    Z_ONE_SIDED,
    Limits,
    added_variance,
    critical,
    of_means,
    of_rates,
    together,
)
from evalsuite.statistics.paired import BIASED, check_paired, direction, is_rate
from evalsuite.statistics.rates import HALVINGS
from evalsuite.statistics.resampling import drop, interval, one_thread
from evalsuite.tolerances import limit
from evalsuite.types import Bounds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalsuite.tolerances import Limit, Rule
    from evalsuite.types import Array, Floats, Metric


LAST_DIGITS = 8 * float(np.finfo(np.float64).eps)
FARTHEST = 40.0
"""Normal quantile of a chance of 0 in double precision."""


def bounds(
    metric: Metric,
    parent: Mapping[str, Array],
    candidates: Sequence[Mapping[str, Array]],
    *,
    weights: Mapping[str, Array],
    tolerance: Rule | Limit = 0.0,
) -> Bounds:
    """Returns bounds on the drops of the candidates of one parent, made by one method.

    Args:
        metric: What is compared; it says which direction is worse.
        parent: The parent's evidence, population to per-image outputs.
        candidates: Evidence of the candidates for the same images in the same order, at rising ratios: all
            that were measured, for `Bounds.floor` holds for exactly these together.
        weights: What `bootstrap_weights` drew for these populations; at least 1,000 replicates.
        tolerance: Largest drop that is commensurate, in the metric's unit, or a share of the parent's value: ``"5%"``.

    Returns:
        Bounds over the candidates. `low` and `high` are those of `paired_drop_interval`. `upper` and `floor`
        are NaN for functionals in `BIASED`; they are infinite where a mean of numbers outside [0, 1] differs on
        fewer than `FEWEST` images, because such a sample shows no tail. If the tolerance is a share all of them are
        about the drop beside a tolerance that moves with the parent's value, so compare them with that of the sample;
        they hold for the drop itself as well. `p` has a resolution of 1 / (B + 1) where bounds come from B replicates.

    Raises:
        ContractError: If the metric has no direction, there are no candidates, weights are missing, or
            parent and candidates do not have the same images.

    References:
        Romano and Wolf 2005, "Exact and approximate stepdown methods for multiple hypothesis testing" (max-T);
        Efron and Tibshirani 1993, "An introduction to the bootstrap", section 12.5 (bootstrap-t).
    """
    return mean_bounds(metric, [parent], [candidates], weights=weights, tolerance=tolerance)


@one_thread()
def mean_bounds(
    metric: Metric,
    parents: Sequence[Mapping[str, Array]],
    candidates: Sequence[Sequence[Mapping[str, Array]]],
    *,
    weights: Mapping[str, Array],
    tolerance: Rule | Limit = 0.0,
) -> Bounds:
    """Returns bounds on the mean drops over seeds: the seeds are fixed, the images a sample.

    Args:
        metric: What is compared; it says which direction is worse.
        parents: Evidence of the parent of each seed, all on the same images.
        candidates: For each seed its candidates; those at one place belong to one target ratio.
        weights: See `bounds`.
        tolerance: See `bounds`; a share is one of the parents' mean value.

    Returns:
        Bounds over the places.

    Raises:
        ContractError: As `bounds`; or if the seeds differ in their images or numbers of candidates.

    References:
        Kish 1965, "Survey sampling", section 8.2 (design effect); Rao and Scott 1992, "A simple method for
        the analysis of clustered binary data" (counts divided by it).
    """
    _check(parents, candidates)
    direction(metric)
    allowed = limit(tolerance)
    share = allowed.amount if allowed.relative else 0.0
    if metric.functional == "mean":
        limits, added = _of_images(metric, parents, candidates, weights=weights, share=share)
    else:
        limits, added = of_functional(metric, parents, candidates, weights=weights, share=share)
    estimate = _estimated(metric, parents, candidates)
    if share:
        limits = _widened(estimate, limits, added)
    most = allowed.at(float(np.mean([_point(metric, parent) for parent in parents])))
    low, high, upper, floor = limits[:4]
    upper, floor = np.maximum(upper, estimate), np.minimum(floor, estimate)
    return Bounds(estimate, low, high, upper, floor, _chances(limits, estimate, most), most)


def _chances(limits: Limits, estimate: Floats, tolerance: float) -> Floats:
    """One-sided p-values of drops larger than the tolerance; equal numbers may differ in their last digits."""
    most = np.full_like(estimate, tolerance + LAST_DIGITS * max(1.0, tolerance))
    p: Floats = np.where(estimate > most, 1.0, ndtr(-limits.quantile(most)))
    return np.where(np.isnan(limits.upper), np.nan, p)


def _estimated(
    metric: Metric,
    parents: Sequence[Mapping[str, Array]],
    candidates: Sequence[Sequence[Mapping[str, Array]]],
) -> Floats:
    """Mean drops over the seeds, from the metric itself."""
    higher = direction(metric)
    drops = [
        [drop(_point(metric, parent), _point(metric, c), higher_is_better=higher) for c in seed]
        for parent, seed in zip(parents, candidates, strict=True)
    ]
    return np.asarray(np.mean(drops, axis=0))


def _widened(estimate: Floats, limits: Limits, added: Floats) -> Limits:
    """Limits on a drop beside a moving tolerance: its `added` variance joins each margin, as squares."""
    error = np.sqrt(np.maximum(added, 0.0))
    signs, quantiles = (-1, 1, 1, -1), (Z_LIMIT, Z_LIMIT, Z_ONE_SIDED, together(len(estimate)))
    low, high, upper, floor = (
        estimate + sign * np.hypot(np.maximum(sign * (end - estimate), 0.0), z * error)
        for sign, z, end in zip(signs, quantiles, limits[:4], strict=True)
    )
    return Limits(low, high, upper, floor, lambda most: _narrowed(limits, most - estimate, estimate, error))


def _narrowed(limits: Limits, room: Floats, estimate: Floats, error: Floats) -> Floats:
    """The largest normal quantiles at which the widened upper limits leave no more than `room` above estimates (R,).

    Found by bisection: at a quantile z the margin of the images may be what z times the `error` leaves of the room.
    """
    low, high = np.zeros_like(estimate), np.full_like(estimate, FARTHEST)
    for _ in range(HALVINGS):
        z = (low + high) / 2
        left = np.maximum(room, 0.0) ** 2 - (z * error) ** 2
        inside = (left >= 0) & (limits.quantile(estimate + np.sqrt(np.maximum(left, 0.0))) >= z)
        low, high = np.where(inside, z, low), np.where(inside, high, z)
    return low


def _point(metric: Metric, evidence: Mapping[str, Array]) -> float:
    return float(evaluate(metric.functional, evidence))


def _check(
    parents: Sequence[Mapping[str, Array]], candidates: Sequence[Sequence[Mapping[str, Array]]]
) -> None:
    counts = {len(seed) for seed in candidates}
    if len(parents) != len(candidates) or len(counts) != 1 or counts == {0}:
        raise ContractError(
            f"there are {len(parents)} parents and {[len(seed) for seed in candidates]} candidates, "
            "expected for each parent the same number of candidates, at least one"
        )
    for evidence in (*parents[1:], *(one for seed in candidates for one in seed)):
        check_paired(parents[0], evidence)


def _of_images(
    metric: Metric,
    parents: Sequence[Mapping[str, Array]],
    candidates: Sequence[Sequence[Mapping[str, Array]]],
    *,
    weights: Mapping[str, Array],
    share: float,
) -> tuple[Limits, Floats]:
    """Limits on the mean of one number per image, and the variance that a moving tolerance adds."""
    everything = (*parents, *(evidence for seed in candidates for evidence in seed))
    differences = _differences(parents, candidates) * (1 if direction(metric) else -1)
    drawn = _weights_of(parents[0], weights)
    if all(is_rate(evidence) for evidence in everything):
        limits = of_rates(differences, drawn)
    else:
        limits = of_means(differences, drawn, unit=all(_inside_unit(evidence) for evidence in everything))
    if not share:
        return limits, np.zeros(differences.shape[2])
    values = np.mean([np.ravel(next(iter(parent.values()))).astype(np.float64) for parent in parents], axis=0)
    moving = share * np.sign(values.mean()) * values
    return limits, added_variance(differences.mean(axis=0), moving) / len(values)


def _inside_unit(evidence: Mapping[str, Array]) -> bool:
    return all(bool(((x >= 0) & (x <= 1)).all()) for x in map(np.asarray, evidence.values()))


def _weights_of(parent: Mapping[str, Array], weights: Mapping[str, Array]) -> Array:
    """The weights of the only population of a mean."""
    ((population, values),) = parent.items()
    if population not in weights or np.shape(weights[population])[1:] != (len(values),):
        raise ContractError(
            f"there are no weights for the {len(values)} images of population {population!r}: "
            "draw them for all populations"
        )
    return weights[population]


def _differences(
    parents: Sequence[Mapping[str, Array]], candidates: Sequence[Sequence[Mapping[str, Array]]]
) -> Floats:
    """Parent minus candidate for each seed, image and candidate, shape (S, N, R)."""

    def values(evidence: Mapping[str, Array]) -> Floats:
        return np.ravel(np.asarray(next(iter(evidence.values())), dtype=np.float64))

    return np.stack(
        [
            values(parent)[:, None] - np.stack([values(candidate) for candidate in seed], axis=1)
            for parent, seed in zip(parents, candidates, strict=True)
        ]
    )


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
