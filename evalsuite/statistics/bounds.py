"""Bounds on the drops of all candidates of one method, which show a ratio to be non-inferior or inferior.

The networks at hand are fixed and the images are the sample (scope *networks*). With several seeds the drop is
the mean over the seeds; all seeds see the same images, so their evidence is averaged image by image.
`evalsuite.statistics.limits` has the limits of means, `evalsuite.statistics.replicate_limits` those of other
functionals.

A tolerance that is a share of the parent's value is as uncertain as that value: what this adds to the variance of
"drop minus tolerance" is added to all margins, as squares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

from evalsuite.errors import ContractError
from evalsuite.statistics.limits import (
    Z_LIMIT,
    Z_ONE_SIDED,
    Limits,
    added_variance,
    bonferroni_quantile,
    limits_of_means,
    limits_of_rates,
)
from evalsuite.statistics.paired import BIASED, check_paired, direction, is_rate
from evalsuite.statistics.rates import BISECTION_STEPS
from evalsuite.statistics.replicate_limits import (
    drops_and_references,
    limits_of_functional,
    limits_of_replicates,
    mean_drops,
    never_decided,
    weight_of_rare_error,
)
from evalsuite.statistics.resampling import Replicates, one_thread
from evalsuite.tolerances import Limit, parse_limit
from evalsuite.types import Bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from evalsuite.tolerances import Rule
    from evalsuite.types import Array, Floats, Metric


ROUNDING = 8 * float(np.finfo(np.float64).eps)
"""Relative difference up to which a drop equals the tolerance."""
DIFFERENCES = 1 << 22
"""Differences of images that are in memory at once."""
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
    return bounds_of_many([PairedDrops(metric, parents, candidates, tolerance)], weights=weights)[0]


@dataclass(frozen=True, slots=True)
class PairedDrops:
    """The drops of the candidates of one method on one condition, as `mean_bounds` takes them.

    Attributes:
        metric: What is compared.
        parents: Evidence of the parent of each seed.
        candidates: For each seed its candidates.
        tolerance: Largest drop that is commensurate.
    """

    metric: Metric
    parents: Sequence[Mapping[str, Array]]
    candidates: Sequence[Sequence[Mapping[str, Array]]]
    tolerance: Rule | Limit = 0.0

    @property
    def evidence(self) -> Iterator[Mapping[str, Array]]:
        """Evidence of all networks."""
        yield from self.parents
        for seed in self.candidates:
            yield from seed

    @property
    def limit(self) -> Limit:
        """The tolerance with its kind."""
        return parse_limit(self.tolerance)

    @property
    def share(self) -> float:
        """The share of the parent's value that the tolerance is; 0 where it is a number."""
        return self.limit.amount if self.limit.relative else 0.0


@one_thread()
def bounds_of_many(
    questions: Sequence[PairedDrops], *, weights: Mapping[str, Array] | Replicates
) -> list[Bounds]:
    """Returns the bounds of many drops, each as `mean_bounds` has them; those of rates are computed together."""
    for question in questions:
        _check(question.parents, question.candidates)
        direction(question.metric)
    drawn = weights if isinstance(weights, Replicates) else Replicates(weights)
    of_rates = dict(_limits_of_rates(questions, drawn))
    return [_bounds(question, of_rates.get(index), drawn) for index, question in enumerate(questions)]


def _bounds(question: PairedDrops, limits: Limits | None, drawn: Replicates) -> Bounds:
    """The bounds of one question; of a rate the `limits` are known."""
    metric, parents, candidates, share = (
        question.metric,
        question.parents,
        question.candidates,
        question.share,
    )
    added = np.zeros(len(candidates[0]))
    if metric.functional == "mean":
        limits = limits or _limits_of_image_means(question, drawn.weights)
        if share:
            added = _variance_of_moving_tolerance(question)
    else:
        limits, added = limits_of_functional(metric, parents, candidates, drawn=drawn, share=share)
    estimate = mean_drops(metric, parents, candidates, drawn)
    if share:
        limits = _with_moving_tolerance(estimate, limits, added)
    values = [drawn.value(metric.functional, parent) for parent in parents]
    return bounds_of_limits(estimate, limits, question.limit.at(float(np.mean(values))))


def _limits_of_rates(questions: Sequence[PairedDrops], drawn: Replicates) -> Iterator[tuple[int, Limits]]:
    """Yields the limits of the questions that are about rates, by index, computed in groups of bounded memory."""
    groups: dict[tuple[str, int], list[int]] = {}
    for index, question in enumerate(questions):
        if question.metric.functional == "mean" and all(map(is_rate, question.evidence)):
            _weights_of_mean(question.parents[0], drawn.weights)
            groups.setdefault((next(iter(question.parents[0])), len(question.parents)), []).append(index)
    for (population, seeds), members in groups.items():
        weights = drawn.weights[population]
        most = max(len(questions[index].candidates[0]) for index in members)
        step = max(1, DIFFERENCES // (seeds * weights.shape[1] * most))
        for at in range(0, len(members), step):
            own = members[at : at + step]
            limits = limits_of_rates([_worsening(questions[index]) for index in own], weights)
            yield from zip(own, limits, strict=True)


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
        parents = [mean_evidence(each) for each in zip(*(parents for parents, _ in members), strict=True)]
        candidates = [
            [mean_evidence(each) for each in zip(*seeds, strict=True)]
            for seeds in zip(*(candidates for _, candidates in members), strict=True)
        ]
        return mean_bounds(metric, parents, candidates, weights=weights, tolerance=tolerance)
    allowed = parse_limit(tolerance)
    drawn = weights if isinstance(weights, Replicates) else Replicates(weights)
    parts = [drops_and_references(metric, *member, drawn) for member in members]
    estimate, replicates, references = (np.mean(part, axis=0) for part in zip(*parts, strict=True))
    rare = [
        [weight_of_rare_error(metric, parents, column, drawn) for column in zip(*candidates, strict=True)]
        for parents, candidates in members
    ]
    limits = limits_of_replicates(estimate, replicates, np.mean(rare, axis=0))
    if metric.functional in BIASED:
        unknown = np.full(estimate.shape, np.nan)
        limits = Limits(limits.low, limits.high, unknown, unknown, never_decided, never_decided)
    if allowed.relative:
        added = added_variance(replicates, allowed.amount * np.abs(references))
        limits = _with_moving_tolerance(estimate, limits, added)
    value = np.mean([drawn.value(metric.functional, p) for parents, _ in members for p in parents])
    return bounds_of_limits(estimate, limits, allowed.at(float(value)))


def mean_evidence(each: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Returns one number per image, the mean of those of several conditions with the same images."""
    (population,) = each[0]
    total = np.zeros(len(each[0][population]))
    for evidence in each:
        total += np.ravel(evidence[population])
    return {population: total / len(each)}


def _limits_of_image_means(question: PairedDrops, weights: Mapping[str, Array]) -> Limits:
    """Limits on the mean of one number per image, which is no rate."""
    unit = all(inside_unit(evidence) for evidence in question.evidence)
    return limits_of_means(_worsening(question), _weights_of_mean(question.parents[0], weights), unit=unit)


def _variance_of_moving_tolerance(question: PairedDrops) -> Floats:
    """The variance that a tolerance relative to the parent's value adds to that of the mean drops, (R,)."""
    parents = [np.ravel(next(iter(parent.values()))).astype(np.float64) for parent in question.parents]
    values = np.mean(parents, axis=0)
    moving = question.share * np.sign(values.mean()) * values
    return added_variance(_worsening(question).mean(axis=0), moving) / len(values)


def _worsening(question: PairedDrops) -> Floats:
    """How much worse each candidate is on each image, shape (S, N, R)."""
    return _differences(question.parents, question.candidates) * (1 if direction(question.metric) else -1)


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
