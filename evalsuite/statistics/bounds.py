"""Bounds on the drops of all candidates of one method, which show a ratio to be non-inferior or inferior.

The networks at hand are fixed and the images are the sample (scope *networks*). With several seeds the drop is
the mean over the seeds; all seeds see the same images, so their evidence is averaged image by image.
`evalsuite.statistics.limits` has the limits of means; those of other functionals are computed here.

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
    FEWEST_DIFFERENCES,
    ONE_SIDED,
    SIMULTANEOUS,
    Z_LIMIT,
    Z_ONE_SIDED,
    Limits,
    added_variance,
    bonferroni_quantile,
    limits_of_means,
    limits_of_rates,
    max_t_critical_value,
)
from evalsuite.statistics.paired import BIASED, check_paired, direction, is_rate
from evalsuite.statistics.rates import BISECTION_STEPS
from evalsuite.statistics.resampling import Replicates, drop, interval, one_thread
from evalsuite.tolerances import parse_limit
from evalsuite.types import Bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from evalsuite.tolerances import Limit, Rule
    from evalsuite.types import Array, Floats, Metric


ROUNDING = 8 * float(np.finfo(np.float64).eps)
"""Relative difference up to which a drop equals the tolerance."""
LARGEST_QUANTILE = 40.0
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
        metric: What is compared; its direction tells which value is worse.
        parent: The parent's evidence, population to per-image outputs.
        candidates: Evidence of the candidates for the same images in the same order, at rising ratios: all
            that were measured, for `Bounds.lower_simultaneous` holds for exactly these together.
        weights: What `bootstrap_weights` drew for these populations; at least 1,000 replicates.
        tolerance: Largest drop that is commensurate, in the metric's unit, or a share of the parent's value: ``"5%"``.

    Returns:
        Bounds over the candidates. `low` and `high` are those of `paired_drop_interval`. `upper` and
        `lower_simultaneous` are NaN for functionals in `BIASED`; they are infinite where a mean of numbers outside
        [0, 1] differs on fewer than `FEWEST_DIFFERENCES` images, because such a sample shows no tail. If the tolerance
        is a share of the parent's value, they bound the drop relative to a tolerance that moves with that value;
        compare them with the tolerance of the sample. They hold for the drop itself as well. `noninferiority_p` has a
        resolution of 1 / (B + 1) where bounds come from B replicates.

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
    weights: Mapping[str, Array] | Replicates,
    tolerance: Rule | Limit = 0.0,
) -> Bounds:
    """Returns bounds on the mean drops over seeds: the seeds are fixed, the images a sample.

    Args:
        metric: What is compared; its direction tells which value is worse.
        parents: Evidence of the parent of each seed, all on the same images.
        candidates: For each seed its candidates; those with the same index belong to one target ratio.
        weights: See `bounds`; as `Replicates`, those of values that were computed before are not computed again.
        tolerance: See `bounds`; a share is one of the parents' mean value.

    Returns:
        Bounds with one number per target ratio.

    Raises:
        ContractError: See `bounds`; or if the seeds differ in their images or numbers of candidates.

    References:
        Kish 1965, "Survey sampling", section 8.2 (design effect); Rao and Scott 1992, "A simple method for
        the analysis of clustered binary data" (counts divided by it).
    """
    _check(parents, candidates)
    direction(metric)
    allowed = parse_limit(tolerance)
    share = allowed.amount if allowed.relative else 0.0
    replicates = weights if isinstance(weights, Replicates) else Replicates(weights)
    if metric.functional == "mean":
        limits, added = _limits_of_image_means(
            metric, parents, candidates, weights=replicates.weights, share=share
        )
    else:
        limits, added = limits_of_functional(metric, parents, candidates, drawn=replicates, share=share)
    estimate = _mean_drops(metric, parents, candidates)
    if share:
        limits = _with_moving_tolerance(estimate, limits, added)
    largest = allowed.at(float(np.mean([_value(metric, parent) for parent in parents])))
    return bounds_of_limits(estimate, limits, largest)


def bounds_of_limits(estimate: Floats, limits: Limits, largest: float) -> Bounds:
    """Returns the bounds that limits of estimates (R,) give, beside a tolerance in the metric's unit."""
    upper = np.maximum(limits.upper, estimate)
    lower = np.minimum(limits.lower_simultaneous, estimate)
    return Bounds(
        estimate, limits.low, limits.high, upper, lower, *p_values(limits, estimate, largest), largest
    )


def p_values(limits: Limits, estimate: Floats, tolerance: float) -> tuple[Floats, Floats]:
    """Returns one-sided p-values of "the drop is above the tolerance" and of "it is within the tolerance", each (R,).

    Equal numbers may differ in their last digits. A measured drop above the tolerance is no evidence that the true one
    is within it, and conversely: one of the two is 1.
    """
    largest = np.full_like(estimate, tolerance + ROUNDING * max(1.0, tolerance))
    above, unknown = estimate > largest, np.isnan(limits.upper)
    noninferiority = np.where(above, 1.0, ndtr(-limits.quantile(largest)))
    inferiority = np.where(above, ndtr(-limits.lower_quantile(largest)), 1.0)
    return np.where(unknown, np.nan, noninferiority), np.where(unknown, np.nan, inferiority)


def _mean_drops(
    metric: Metric,
    parents: Sequence[Mapping[str, Array]],
    candidates: Sequence[Sequence[Mapping[str, Array]]],
) -> Floats:
    """Mean drops over the seeds, from the metric itself."""
    higher = direction(metric)
    drops = [
        [drop(_value(metric, parent), _value(metric, c), higher_is_better=higher) for c in seed]
        for parent, seed in zip(parents, candidates, strict=True)
    ]
    return np.asarray(np.mean(drops, axis=0))


def _with_moving_tolerance(estimate: Floats, limits: Limits, added: Floats) -> Limits:
    """Limits on a drop relative to a moving tolerance: the `added` variance joins each margin, as squares."""
    error = np.sqrt(np.maximum(added, 0.0))
    signs, quantiles = (-1, 1, 1, -1), (Z_LIMIT, Z_LIMIT, Z_ONE_SIDED, bonferroni_quantile(len(estimate)))
    low, high, upper, lower = (
        estimate + sign * np.hypot(np.maximum(sign * (end - estimate), 0.0), z * error)
        for sign, z, end in zip(signs, quantiles, limits[:4], strict=True)
    )

    def quantile(largest: Floats) -> Floats:
        return _quantile_with_moving_tolerance(
            lambda margin: limits.quantile(estimate + margin), largest - estimate, error
        )

    def lower_quantile(largest: Floats) -> Floats:
        return _quantile_with_moving_tolerance(
            lambda margin: limits.lower_quantile(estimate - margin), estimate - largest, error
        )

    return Limits(low, high, upper, lower, quantile, lower_quantile)


def _quantile_with_moving_tolerance(
    quantile: Callable[[Floats], Floats], margin: Floats, error: Floats
) -> Floats:
    """The largest normal quantiles at which widened limits differ from the estimates (R,) by at most `margin`.

    Found by bisection: at a quantile z the part of the images in the margin is what z times the `error` leaves of it.

    Args:
        quantile: From margins of the images alone (R,) to the quantiles at which limits keep within them.
        margin: From the estimate to the tolerance; where it is negative the quantile is 0.
        error: Standard error that the tolerance adds.
    """
    low, high = np.zeros_like(margin), np.full_like(margin, LARGEST_QUANTILE)
    for _ in range(BISECTION_STEPS):
        z = (low + high) / 2
        left = np.maximum(margin, 0.0) ** 2 - (z * error) ** 2
        inside = (left >= 0) & (quantile(np.sqrt(np.maximum(left, 0.0))) >= z)
        low, high = np.where(inside, z, low), np.where(inside, high, z)
    return low


def _value(metric: Metric, evidence: Mapping[str, Array]) -> float:
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
    for evidence in (*parents[1:], *(candidate for seed in candidates for candidate in seed)):
        check_paired(parents[0], evidence)


@one_thread()
def group_mean_bounds(
    metric: Metric,
    members: Sequence[tuple[Sequence[Mapping[str, Array]], Sequence[Sequence[Mapping[str, Array]]]]],
    *,
    weights: Mapping[str, Array] | Replicates,
    tolerance: Rule | Limit = 0.0,
) -> Bounds:
    """Returns bounds on the drops of a mean over several conditions, which may share images.

    Args:
        metric: What is compared.
        members: Parents and candidates of each condition, as `mean_bounds` takes them.
        weights: See `mean_bounds`.
        tolerance: See `mean_bounds`; a share is one of the parent's mean value over the conditions.

    Returns:
        Bounds with one number per target ratio; NaN for functionals in `BIASED`.
    """
    if metric.functional == "mean" and len({tuple(parents[0]) for parents, _ in members}) == 1:
        parents = [_mean_evidence(each) for each in zip(*(parents for parents, _ in members), strict=True)]
        candidates = [
            [_mean_evidence(each) for each in zip(*seeds, strict=True)]
            for seeds in zip(*(candidates for _, candidates in members), strict=True)
        ]
        return mean_bounds(metric, parents, candidates, weights=weights, tolerance=tolerance)
    allowed = parse_limit(tolerance)
    drawn = weights if isinstance(weights, Replicates) else Replicates(weights)
    parts = [_drops_and_references(metric, *member, drawn) for member in members]
    estimate, replicates, references = (np.mean(part, axis=0) for part in zip(*parts, strict=True))
    rare = [
        [weight_of_rare_error(metric, parents, column) for column in zip(*candidates, strict=True)]
        for parents, candidates in members
    ]
    limits = limits_of_replicates(estimate, replicates, np.mean(rare, axis=0))
    if metric.functional in BIASED:
        unknown = np.full(estimate.shape, np.nan)
        limits = Limits(limits.low, limits.high, unknown, unknown, _never_decided, _never_decided)
    if allowed.relative:
        added = added_variance(replicates, allowed.amount * np.abs(references))
        limits = _with_moving_tolerance(estimate, limits, added)
    value = np.mean([_value(metric, parent) for parents, _ in members for parent in parents])
    return bounds_of_limits(estimate, limits, allowed.at(float(value)))


def _mean_evidence(each: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """One number per image: the mean of those of several conditions."""
    (population,) = each[0]
    total = np.zeros(len(each[0][population]))
    for evidence in each:
        total += np.ravel(evidence[population])
    return {population: total / len(each)}


def _limits_of_image_means(
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
    drawn = _weights_of_mean(parents[0], weights)
    if all(is_rate(evidence) for evidence in everything):
        limits = limits_of_rates(differences, drawn)
    else:
        limits = limits_of_means(
            differences, drawn, unit=all(inside_unit(evidence) for evidence in everything)
        )
    if not share:
        return limits, np.zeros(differences.shape[2])
    values = np.mean([np.ravel(next(iter(parent.values()))).astype(np.float64) for parent in parents], axis=0)
    moving = share * np.sign(values.mean()) * values
    return limits, added_variance(differences.mean(axis=0), moving) / len(values)


def inside_unit(evidence: Mapping[str, Array]) -> bool:
    """Returns whether every number of the evidence lies in [0, 1]."""
    return all(bool(((x >= 0) & (x <= 1)).all()) for x in map(np.asarray, evidence.values()))


def _weights_of_mean(parent: Mapping[str, Array], weights: Mapping[str, Array]) -> Array:
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
    estimate, replicates, references = _drops_and_references(metric, parents, candidates, drawn)
    added = added_variance(replicates, share * np.abs(references))
    if metric.functional in BIASED:
        unknown = np.full(estimate.shape, np.nan)
        ends = interval((replicates - 2 * (replicates.mean(axis=0) - estimate)).T)
        return Limits(*ends, unknown, unknown, _never_decided, _never_decided), added
    weight = np.array(
        [weight_of_rare_error(metric, parents, column) for column in zip(*candidates, strict=True)]
    )
    return limits_of_replicates(estimate, replicates, weight), added


def _never_decided(largest: Floats) -> Floats:
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


def _drops_and_references(
    metric: Metric,
    parents: Sequence[Mapping[str, Array]],
    candidates: Sequence[Sequence[Mapping[str, Array]]],
    drawn: Replicates,
) -> tuple[Floats, Floats, Floats]:
    """Mean drops over the seeds (R,), their replicates (B, R), and replicates of the parents' mean value (B,)."""
    higher = direction(metric)
    estimates = _mean_drops(metric, parents, candidates)
    drops, references = [], []
    for parent, seed in zip(parents, candidates, strict=True):
        reference = drawn(metric.functional, parent)
        values = (drawn(metric.functional, candidate) for candidate in seed)
        drops.append(np.stack([drop(reference, value, higher_is_better=higher) for value in values], axis=-1))
        references.append(reference)
    return estimates, np.asarray(np.mean(drops, axis=0)), np.asarray(np.mean(references, axis=0))


def weight_of_rare_error(
    metric: Metric, parents: Sequence[Mapping[str, Array]], candidates: Sequence[Mapping[str, Array]]
) -> float:
    """Returns the weight of one image where the sample has too few errors to estimate their rate; elsewhere 0.

    That is where a candidate makes fewer than `FEWEST_DIFFERENCES` errors among the images of the smaller population,
    unless its scores are those of the parent to the last digit: then both compute the same function.
    """
    pairs = list(zip(parents, candidates, strict=True))
    same = all(np.array_equal(p[name], c[name]) for p, c in pairs for name in p)
    if metric.functional not in PERFECT_SEPARATION or same:
        return 0.0
    first, *others = (len(values) for values in parents[0].values())
    weight = 1 / min(first, len(others) * min(others))
    value = np.mean([evaluate(metric.functional, candidate) for candidate in candidates])
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
