"""Confidence intervals of single numbers, from the evidence of one network.

Not for comparisons: those are paired (`evalsuite.statistics.paired`, `evalsuite.statistics.bounds`), and much narrower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import bdtr, gammaincinv

from evalsuite.errors import DataError
from evalsuite.metrics.ood import RECALL
from evalsuite.statistics.rates import two_sided_quantile, wilson

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

    from evalsuite.types import Array, Floats


# functionals of in-distribution and outlier scores, and their means over several sets of outliers
AUROC = ("auroc", "mean_auroc")
AUPR_OOD_POSITIVE = ("aupr_out", "mean_aupr_out")
AUPR_ID_POSITIVE = ("aupr_in", "mean_aupr_in")
FPR_OOD_POSITIVE = ("fpr95_ood_positive", "mean_fpr95_ood_positive")
FPR_ID_POSITIVE = ("fpr95_id_positive", "mean_fpr95_id_positive")
UNSEEN_WEIGHT = 0.5
"""Smallest weight of one more error, as a share of the weight of an image in the smallest population."""
ROUNDING = 1e-12
"""Distance from perfect separation below which it is rounding: less than one pair of a million images each."""


def marginal_interval(
    functional: str, evidence: Mapping[str, Array], *, level: float = 0.95
) -> tuple[float, float] | None:
    """Returns the confidence interval of one number, for other images of the same kind; ``None`` where none is known.

    * A share of images that are right or wrong: Wilson's interval.
    * Another mean of one number per image (over draws, over corruptions, of a loss): mean and normal quantile times
      standard error, inside the range of the numbers if that is [0, 1]; Wilson's where all images have the same 0 or 1.
    * An AUROC, or the mean of several with the same in-distribution images: a gamma interval with DeLong's variance,
      for near 1 few images make the errors; of a perfect separation the ends are those of Wilson's interval on the
      smallest population.
    * An average precision (AUPR), or the mean of several: the same with the variance of its influence function. It
      is about test sets of these sizes, which its value depends on.
    * A false-positive rate at 95 % recall, or the mean of several: the images that are counted (Wilson's) and the score
      that the others set (ranks of a binomial) err independently, so their margins are added as squares.

    The others, calibration errors above all, have none: resampling one by itself is biased; drops of some have bounds.

    Args:
        functional: Name in `evalsuite.metrics.FUNCTIONALS`.
        evidence: Population to per-image outputs, in the order in which the functional takes them.
        level: Confidence of the two-sided interval.

    References:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference"; DeLong, DeLong and
        Clarke-Pearson 1988, "Comparing the areas under two or more correlated receiver operating characteristic
        curves: a nonparametric approach"; Zou and Donner 2008, "Construction of confidence limits about effect
        measures: a general approach" (margins as squares); Fay and Feuer 1997, "Confidence intervals for directly
        standardized rates: a method based on the gamma distribution".

    >>> [round(end, 3) for end in marginal_interval("mean", {"test": np.arange(200) < 104}) or ()]
    [0.451, 0.588]
    """
    samples = [np.asarray(values) for values in evidence.values()]
    if len(samples) > 1 and functional in (
        *AUROC,
        *AUPR_OOD_POSITIVE,
        *AUPR_ID_POSITIVE,
        *FPR_OOD_POSITIVE,
        *FPR_ID_POSITIVE,
    ):
        return _detection_interval(
            functional, *(sample.astype(np.float64) for sample in samples), level=level
        )
    if functional == "mean" and len(samples) == 1 and samples[0].ndim == 1:
        return _mean_interval(samples[0], level=level)
    return None


def _detection_interval(
    functional: str, inside: Floats, *outside: Floats, level: float
) -> tuple[float, float] | None:
    """The interval of a functional of in-distribution and outlier scores."""
    if functional in FPR_OOD_POSITIVE:
        return _fpr_interval([inside], list(outside), level=level)
    if functional in FPR_ID_POSITIVE:
        return _fpr_interval([-scores for scores in outside], [-inside], level=level)
    if min(len(inside), *map(len, outside)) < 2:
        return None
    if functional in AUROC:
        return _gamma_interval([_placement_values(inside, scores) for scores in outside], level=level)
    if functional in AUPR_OOD_POSITIVE:
        contributions = [_precision_contributions(scores, inside)[::-1] for scores in outside]
    else:
        contributions = [_precision_contributions(-inside, -scores) for scores in outside]
    return _gamma_interval(contributions, level=level)


def _mean_interval(values: Array, *, level: float) -> tuple[float, float] | None:
    if values.dtype == np.bool_:
        return wilson(int(values.sum()), len(values), level=level)
    x = values.astype(np.float64)
    in_unit_interval = bool(((x >= 0) & (x <= 1)).all())
    if in_unit_interval and x.min() == x.max() and x[0] in (0.0, 1.0):
        return wilson(int(x.sum()), len(x), level=level)
    if len(x) < 2:
        return None
    half = two_sided_quantile(level) * float(x.std(ddof=1)) / np.sqrt(len(x))
    return _symmetric_interval(float(x.mean()), float(half), clipped=in_unit_interval)


def _gamma_interval(contributions: list[tuple[Floats, Floats]], *, level: float) -> tuple[float, float]:
    """The interval of a mean of numbers, each of which is the mean of the contributions of one population's images.

    The distance to 1 (or, below 1/2, to 0) is modelled as a weighted sum of rare events, as few images make the
    errors of a good detector: its interval is that of a gamma distribution, with one more event of the largest
    weight for the upper end. The largest weight is at least that of half an image of the smallest population, even
    if no image of the sample has such a weight.

    Args:
        contributions: Of each number, the contributions of the population that all numbers share and those of its own
            population; the means of both are the number.
        level: Confidence.
    """
    shared = np.mean([of_shared for of_shared, _ in contributions], axis=0)
    of_sets = [of_set / len(of_set) / len(contributions) for _, of_set in contributions]
    weights = [shared / len(shared), *of_sets]
    variance = sum(float(weight.var(ddof=1)) * len(weight) for weight in weights)
    value = float(np.clip(shared.mean(), 0.0, 1.0))
    distance, smallest = min(value, 1 - value), min(map(len, weights))
    if (
        min(distance, np.sqrt(variance)) < ROUNDING
    ):  # all images contribute the same: there is no variance to estimate
        low, high = wilson(round(value * smallest), smallest, level=level)
        return min(low, value), max(high, value)
    deviations = (float(np.abs(weight - weight.mean()).max()) for weight in weights)
    largest = max(UNSEEN_WEIGHT / smallest, *deviations)
    low = _gamma_quantile(distance, variance, (1 - level) / 2)
    high = min(1.0, _gamma_quantile(distance + largest, variance + largest**2, (1 + level) / 2))
    return (low, high) if value < 0.5 else (1 - high, 1 - low)


def _gamma_quantile(mean: float, variance: float, share: float) -> float:
    """Quantile of the gamma distribution with this mean and variance."""
    return float(gammaincinv(mean**2 / variance, share)) * variance / mean


def _precision_contributions(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    """Contributions of each positive and each negative: the average precision plus its influence function.

    With T and F positives and negatives from a score on, the precision there is T / (T + F). One more positive of a
    higher score adds F / (T + F)^2 to it, one more negative subtracts T / (T + F)^2.
    """
    rising = np.sort(positive)
    true = len(rising) - np.searchsorted(rising, rising, side="left")
    false = len(negative) - np.searchsorted(np.sort(negative), rising, side="left")
    precision = true / (true + false)
    value = precision.mean()
    gained = np.concatenate([[0.0], np.cumsum(false / (true + false) ** 2)])
    lost = np.concatenate([[0.0], np.cumsum(true / (true + false) ** 2)])
    at_most = np.searchsorted(rising, rising, side="right")
    of_positive = precision + gained[at_most]
    of_negative = -lost[np.searchsorted(rising, negative, side="right")] * len(negative) / len(positive)
    return value + of_positive - of_positive.mean(), value + of_negative - of_negative.mean()


def _fpr_interval(counted: list[Floats], setting: list[Floats], *, level: float) -> tuple[float, float]:
    """The interval of the mean share of `counted` scores at or above the 95 % recall threshold of `setting` scores.

    One of the two lists has one set of scores.
    """
    thresholds = [_recall_thresholds(scores, two_sided_quantile(level)) for scores in setting]
    pairs = [(scores, triple) for scores in counted for triple in thresholds]
    shares = np.array([[np.mean(scores >= threshold) for threshold in triple] for scores, triple in pairs])
    centre = shares.mean(axis=0)
    shifts = np.abs(shares - shares[:, 1:2])
    of_thresholds = shifts.mean(axis=0) if len(setting) == 1 else np.hypot.reduce(shifts, axis=0) / len(pairs)
    flagged = [[scores >= triple[1] for triple in thresholds] for scores in counted]
    per_image = [flags[0] if len(thresholds) == 1 else np.mean(flags, axis=0) for flags in flagged]
    ends = [np.array(_mean_interval(values, level=level) or (0.0, 1.0)) for values in per_image]
    margins = [np.abs(pair - values.mean()) for pair, values in zip(ends, per_image, strict=True)]
    of_images = np.hypot.reduce(margins, axis=0) / len(counted)
    low, high = np.hypot(of_images, of_thresholds[[0, 2]])
    return max(0.0, float(centre[1] - low)), min(1.0, float(centre[1] + high))


def _recall_thresholds(scores: Floats, z: float) -> tuple[float, float, float]:
    """The threshold of 95 % recall, between the upper and the lower end of its interval."""
    ranked = np.sort(scores)[::-1]
    count = len(ranked)
    rank = int((np.arange(1, count + 1) / count >= RECALL).argmax())
    margin = int(np.ceil(z * np.sqrt(count * RECALL * (1 - RECALL))))
    lowest = ranked[rank + margin] if rank + margin < count else -np.inf
    return float(ranked[max(0, rank - margin)]), float(ranked[rank]), float(lowest)


def _placement_values(negative: Floats, positive: Floats) -> tuple[Floats, Floats]:
    """Share of positives above each negative, and of negatives below each positive; ties count one half."""
    return 1 - _share_below(positive, negative), _share_below(negative, positive)


def _share_below(values: Floats, points: Floats) -> Floats:
    """Share of the values below each point; those equal to it count one half."""
    ranked = np.sort(values)
    below, up_to = np.searchsorted(ranked, points, side="left"), np.searchsorted(ranked, points, side="right")
    return np.asarray((below + up_to) / (2 * len(ranked)), dtype=np.float64)


def _symmetric_interval(centre: float, half: float, *, clipped: bool) -> tuple[float, float]:
    low, high = centre - half, centre + half
    return (max(low, 0.0), min(high, 1.0)) if clipped else (low, high)


FEWEST_VALUES = 6
"""Fewer values cannot bound their median at 95 %: five all lie on one side of it with probability 1/16."""


def median_interval(values: ArrayLike, *, level: float = 0.95) -> tuple[float, float]:
    """Returns an interval that holds the median of the population with at least the confidence `level`.

    Its ends are order statistics: how many of n values lie below the median is binomial with 1/2, whatever the
    distribution. Values are taken as independent.

    Args:
        values: Finite, shape (N,).
        level: Confidence of the two-sided interval.

    Raises:
        DataError: If there are too few values: even the smallest and the largest would not bound it.

    References:
        Hahn and Meeker 1991, "Statistical Intervals", section 5.2.

    >>> median_interval([3.0, 1.0, 4.0, 1.5, 9.0, 2.0])
    (1.0, 9.0)
    """
    ranked = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ranked)
    cut = int(
        (bdtr(np.arange(n), n, 0.5) <= (1 - level) / 2).sum()
    )  # values that may be left out at each end
    if not cut:
        raise DataError(f"found {n} values, too few for an interval of their median at {level:.0%}")
    return float(ranked[cut - 1]), float(ranked[n - cut])
