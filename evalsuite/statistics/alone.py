"""One number by itself: which values its images allow, whatever any parent has.

Not for comparisons: those are paired (`evalsuite.statistics.paired`, `evalsuite.statistics.bounds`), and much narrower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evalsuite.metrics.ood import RECALL
from evalsuite.statistics.rates import quantile, wilson

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalsuite.records import Array, Floats

RANKED = ("auroc", "mean_auroc")
FLAGGED = ("fpr95_ood_positive", "mean_fpr95_ood_positive")
KEPT = ("fpr95_id_positive", "mean_fpr95_id_positive")


def own_interval(
    functional: str, evidence: Mapping[str, Array], *, level: float = 0.95
) -> tuple[float, float] | None:
    """Returns the confidence interval of one number, for other images of the same kind; ``None`` where nobody has it.

    * A share of images that are right or wrong: Wilson's interval.
    * Another mean of one number per image (over draws, over corruptions, of a loss): mean and normal quantile times
      standard error, inside the range of the numbers if that is [0, 1]; Wilson's where all images have the same 0 or 1.
    * An AUROC, or the mean of several with the same in-distribution images: DeLong's variance, inside [0, 1]; of a
      perfect separation the ends are those of Wilson's interval on the smallest population.

    * A false-positive rate at 95 % recall, or the mean of several: the images that are counted (Wilson's) and the score
      that the others set (ranks of a binomial) err independently, so their margins are added as squares.

    The others have none: resampling a calibration error by itself is biased, an average precision slow; their *drops*
    have bounds.

    Args:
        functional: Name in `evalsuite.metrics.FUNCTIONALS`.
        evidence: Population to per-image outputs, in the order in which the functional takes them.
        level: Confidence of the two-sided interval.

    References:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference"; DeLong, DeLong and
        Clarke-Pearson 1988, "Comparing the areas under two or more correlated receiver operating characteristic
        curves: a nonparametric approach"; Zou and Donner 2008, "Construction of confidence limits about effect
        measures: a general approach" (margins as squares).

    >>> [round(end, 3) for end in own_interval("mean", {"test": np.arange(200) < 104}) or ()]
    [0.451, 0.588]
    """
    samples = [np.asarray(values) for values in evidence.values()]
    if functional in RANKED and len(samples) > 1:
        return _area(*(one.astype(np.float64) for one in samples), level=level)
    if functional in (*FLAGGED, *KEPT) and len(samples) > 1:
        inside, *outside = (one.astype(np.float64) for one in samples)
        if functional in FLAGGED:
            return _at_recall([inside], outside, level=level)
        return _at_recall([-one for one in outside], [-inside], level=level)
    if functional == "mean" and len(samples) == 1 and samples[0].ndim == 1:
        return _mean(samples[0], level=level)
    return None


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


def _area(negative: Floats, *positives: Floats, level: float) -> tuple[float, float] | None:
    """Of a mean of areas: what an in-distribution image adds to all of them is one number."""
    sizes = [len(one) for one in (negative, *positives)]
    if min(sizes) < 2:
        return None
    wins = [_wins(negative, one) for one in positives]
    shared = np.mean([below for below, _ in wins], axis=0)
    own = sum(float(above.var(ddof=1)) / len(above) for _, above in wins) / len(wins) ** 2
    variance = float(shared.var(ddof=1)) / len(negative) + own
    area = float(shared.mean())
    if variance == 0 and area in (0.0, 1.0):
        return wilson(round(area * min(sizes)), min(sizes), level=level)
    return _ends(area, quantile(level) * float(np.sqrt(variance)), unit=True)


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
