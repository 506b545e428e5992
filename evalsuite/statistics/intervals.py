"""One number by itself: which values its images allow, whatever any parent has.

Not for comparisons: those are paired (`evalsuite.statistics.paired`, `evalsuite.statistics.bounds`), and much narrower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import bdtr, gammaincinv

from evalsuite.errors import DataError
from evalsuite.metrics.ood import RECALL
from evalsuite.statistics.rates import quantile, wilson

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

    from evalsuite.types import Array, Floats


RANKED = ("auroc", "mean_auroc")
FOUND = ("aupr_out", "mean_aupr_out")
KNOWN = ("aupr_in", "mean_aupr_in")
FLAGGED = ("fpr95_ood_positive", "mean_fpr95_ood_positive")
KEPT = ("fpr95_id_positive", "mean_fpr95_id_positive")
UNSEEN = 0.5
"""Share of an image's weight that one may have which the sample shows none of."""
LEAST_ERROR = 1e-12
"""What is missing to a perfect separation is rounding if it is smaller: less than one pair of a million images each."""


def marginal_interval(
    functional: str, evidence: Mapping[str, Array], *, level: float = 0.95
) -> tuple[float, float] | None:
    """Returns the confidence interval of one number, for other images of the same kind; ``None`` where nobody has it.

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

    >>> [round(end, 3) for end in own_interval("mean", {"test": np.arange(200) < 104}) or ()]
    [0.451, 0.588]
    """
    samples = [np.asarray(values) for values in evidence.values()]
    if len(samples) > 1 and functional in (*RANKED, *FOUND, *KNOWN, *FLAGGED, *KEPT):
        return _apart(functional, *(one.astype(np.float64) for one in samples), level=level)
    if functional == "mean" and len(samples) == 1 and samples[0].ndim == 1:
        return _mean(samples[0], level=level)
    return None


def _apart(functional: str, inside: Floats, *outside: Floats, level: float) -> tuple[float, float] | None:
    """Of a number that says how far outliers are told apart from in-distribution images."""
    if functional in FLAGGED:
        return _at_recall([inside], list(outside), level=level)
    if functional in KEPT:
        return _at_recall([-one for one in outside], [-inside], level=level)
    if min(len(inside), *map(len, outside)) < 2:
        return None
    if functional in RANKED:
        return _spread([_wins(inside, one) for one in outside], level=level)
    if functional in FOUND:
        pulls = [_pulls(one, inside)[::-1] for one in outside]
    else:
        pulls = [_pulls(-inside, -one) for one in outside]
    return _spread(pulls, level=level)


def _mean(values: Array, *, level: float) -> tuple[float, float] | None:
    if values.dtype == np.bool_:
        return wilson(int(values.sum()), len(values), level=level)
    x = values.astype(np.float64)
    unit = bool(((x >= 0) & (x <= 1)).all())
    if unit and x.min() == x.max() and x[0] in (0.0, 1.0):
        return wilson(int(x.sum()), len(x), level=level)
    if len(x) < 2:
        return None
    half = quantile(level) * float(x.std(ddof=1)) / np.sqrt(len(x))
    return _ends(float(x.mean()), float(half), unit=unit)


def _spread(pulls: list[tuple[Floats, Floats]], *, level: float) -> tuple[float, float]:
    """Of a mean of numbers, of which each is the mean of what the images of one population contribute to it.

    What is missing to 1 (or, below 1/2, to 0) is taken as a weighted sum of rare events, as few images make the
    errors of a good detector: its interval is that of a gamma distribution, with one more event of the largest
    weight for the upper end. The largest weight is at least that of half an image of the smallest population, whether
    the sample has such a one or not.

    Args:
        pulls: Of each number, the contributions of the population that all share and of its own one; their means are
            the number.
        level: Confidence.
    """
    shared = np.mean([of_shared for of_shared, _ in pulls], axis=0)
    weights = [shared / len(shared), *(of_own / len(of_own) / len(pulls) for _, of_own in pulls)]
    variance = sum(float(one.var(ddof=1)) * len(one) for one in weights)
    value = float(np.clip(shared.mean(), 0.0, 1.0))
    missing, least = min(value, 1 - value), min(map(len, weights))
    if min(missing, np.sqrt(variance)) < LEAST_ERROR:  # all images say the same: of others nobody knows
        low, high = wilson(round(value * least), least, level=level)
        return min(low, value), max(high, value)
    largest = max(UNSEEN / least, *(float(np.abs(one - one.mean()).max()) for one in weights))
    low = _gamma(missing, variance, (1 - level) / 2)
    high = min(1.0, _gamma(missing + largest, variance + largest**2, (1 + level) / 2))
    return (low, high) if value < 0.5 else (1 - high, 1 - low)


def _gamma(mean: float, variance: float, share: float) -> float:
    """Quantile of the gamma distribution with this mean and variance."""
    return float(gammaincinv(mean**2 / variance, share)) * variance / mean


def _pulls(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    """What each positive and each negative contributes to the average precision: it plus its influence function.

    With T and F positives and negatives from a score on, the precision there is T / (T + F). One more positive of a
    higher score adds F / (T + F)^2 to it, one more negative takes T / (T + F)^2.
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


def _at_recall(counted: list[Floats], setting: list[Floats], *, level: float) -> tuple[float, float]:
    """Of the mean share of `counted` scores from where 95 % of the `setting` ones are; one list has one set."""
    cuts = [_cuts(scores, quantile(level)) for scores in setting]
    pairs = [(scores, cut) for scores in counted for cut in cuts]
    shares = np.array([[np.mean(scores >= one) for one in cut] for scores, cut in pairs])
    centre = shares.mean(axis=0)
    moved = np.abs(shares - shares[:, 1:2])
    of_cuts = moved.mean(axis=0) if len(setting) == 1 else np.hypot.reduce(moved, axis=0) / len(pairs)
    flagged = [[scores >= cut[1] for cut in cuts] for scores in counted]
    each = [one[0] if len(cuts) == 1 else np.mean(one, axis=0) for one in flagged]
    margins = [np.abs(np.array(_mean(one, level=level) or (0.0, 1.0)) - one.mean()) for one in each]
    of_images = np.hypot.reduce(margins, axis=0) / len(counted)
    low, high = np.hypot(of_images, of_cuts[[0, 2]])
    return max(0.0, float(centre[1] - low)), min(1.0, float(centre[1] + high))


def _cuts(scores: Floats, z: float) -> tuple[float, float, float]:
    """The score that 95 % of all reach, and before and behind it the ends of its interval, from above."""
    ranked = np.sort(scores)[::-1]
    count = len(ranked)
    place = int((np.arange(1, count + 1) / count >= RECALL).argmax())
    apart = int(np.ceil(z * np.sqrt(count * RECALL * (1 - RECALL))))
    lowest = ranked[place + apart] if place + apart < count else -np.inf
    return float(ranked[max(0, place - apart)]), float(ranked[place]), float(lowest)


def _wins(negative: Floats, positive: Floats) -> tuple[Floats, Floats]:
    """Share of positives above each negative, and of negatives below each positive; ties count one half."""
    return 1 - _share_below(positive, negative), _share_below(negative, positive)


def _share_below(values: Floats, points: Floats) -> Floats:
    """Share of the values below each point; those equal to it count one half."""
    ranked = np.sort(values)
    below, up_to = np.searchsorted(ranked, points, side="left"), np.searchsorted(ranked, points, side="right")
    return np.asarray((below + up_to) / (2 * len(ranked)), dtype=np.float64)


def _ends(centre: float, half: float, *, unit: bool) -> tuple[float, float]:
    low, high = centre - half, centre + half
    return (max(low, 0.0), min(high, 1.0)) if unit else (low, high)


LEAST = 6
"""Fewer values cannot bound their median at 95 %: all of five lie on one side of it with a chance of 1 in 16."""


def median_interval(values: ArrayLike, *, level: float = 0.95) -> tuple[float, float]:
    """Returns an interval that holds the median of the population with at least the confidence `level`.

    Its ends are order statistics: how many of n values lie below the median is binomial with 1/2, whatever the
    distribution. Values are taken as independent.

    Args:
        values: Finite, shape (N,).
        level: Confidence of the two-sided interval.

    Raises:
        DataError: If there are too few values: the smallest and the largest would not do.

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
