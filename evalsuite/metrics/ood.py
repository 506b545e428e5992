"""Separation of two populations by a score: areas under curves, error rates, and their means over sets.

Of two populations, the in-distribution one is `negative` and comes first; larger scores mean more out of
distribution. The functionals called ``mean_...`` take one negative and any number of positive populations:
the unweighted mean over the positive ones, which share the negative one, as near and far groups are
summarised by OpenOOD.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evalsuite.errors import DataError
from evalsuite.metrics.weighted import columns, cumulated, ordered, resampled, row_sums, vector

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalsuite.metrics.weighted import Weights
    from evalsuite.types import Array, Floats

RECALL = 0.95
"""True-positive rate at which false-positive rates are taken."""


def auroc(negative: Array, positive: Array, *, weights: Weights = None) -> Floats:
    """Returns the area under the ROC curve: P(positive > negative) + P(positive = negative) / 2.

    Args:
        negative: In-distribution scores, larger = more out of distribution, shape (N,).
        positive: Out-of-distribution scores, shape (P,).
        weights: Multiplicities, shapes (B, N) and (B, P).

    References:
        Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve".

    >>> float(auroc(np.array([0.0, 1.0]), np.array([1.0, 2.0])))
    0.875
    """
    n, p = vector("negative", negative), vector("positive", positive)
    rising, place = ordered(p, weights)
    negatives, order = ordered(n, weights)  # searches in rising order are the fastest
    below, up_to = (np.searchsorted(rising, negatives, side=side) for side in ("left", "right"))

    def area(wn: Floats, wp: Floats) -> Floats:
        cumulative, wn = cumulated(columns(wp, place)), columns(wn, order)
        total = cumulative[:, -1]
        # pairs in which the positive does not have the larger score; ties count one half
        lost = row_sums(wn * (columns(cumulative, below) + columns(cumulative, up_to))) / 2
        pairs = row_sums(wn) * total
        return (pairs - lost) / pairs

    return resampled(area, (n.size, p.size), weights=weights)


def aupr_out(negative: Array, positive: Array, *, weights: Weights = None) -> Floats:
    """Returns the average precision with the out-of-distribution images as positives.

    It sums precision times gain in recall over the unique scores, without interpolation, as scikit-learn's
    ``average_precision_score`` does; OpenOOD integrates the same curve by the trapezoidal rule, which gives
    another number.
    The arguments are those of `auroc`; the value depends on the ratio of the numbers of images.
    """
    n, p = vector("negative", negative), vector("positive", positive)
    (falling_n, place_n), (falling_p, place_p) = ordered(-n, weights), ordered(-p, weights)
    negatives_above = np.searchsorted(falling_n, falling_p, side="right")
    positives_above = np.searchsorted(falling_p, falling_p, side="right")

    def precision(wn: Floats, wp: Floats) -> Floats:
        wp = columns(wp, place_p)
        false = columns(cumulated(columns(wn, place_n)), negatives_above)
        true = columns(cumulated(wp), positives_above)
        at_each = np.divide(true, true + false, out=np.zeros_like(true), where=true > 0)
        return row_sums(wp * at_each) / row_sums(wp)

    return resampled(precision, (n.size, p.size), weights=weights)


def aupr_in(negative: Array, positive: Array, *, weights: Weights = None) -> Floats:
    """Returns the average precision with the in-distribution images as positives; else as `aupr_out`."""
    return aupr_out(-vector("positive", positive), -vector("negative", negative), weights=_swapped(weights))


def fpr95_ood_positive(negative: Array, positive: Array, *, weights: Weights = None) -> Floats:
    """Returns the share of in-distribution images flagged when at least 95 % of the others are flagged.

    Images are flagged from a score on; of the unique scores the largest that flags 95 % is taken: the first
    point of the ROC curve, no point dropped, with a true-positive rate of at least 0.95. This is the
    convention of OpenOOD v1.5 and pytorch-ood. The arguments are those of `auroc`.

    References:
        Yang et al. 2022, "OpenOOD: Benchmarking generalized out-of-distribution detection".
    """
    n, p = vector("negative", negative), vector("positive", positive)
    falling, place = ordered(-p, weights)

    def rate(wn: Floats, wp: Floats) -> Floats:
        recall = np.cumsum(columns(wp, place), axis=1) / wp.sum(axis=1, keepdims=True)
        from_score = -falling[(recall >= RECALL).argmax(axis=1)]
        return row_sums(wn * (n >= from_score[:, None])) / row_sums(wn)

    return resampled(rate, (n.size, p.size), weights=weights)


def fpr95_id_positive(negative: Array, positive: Array, *, weights: Weights = None) -> Floats:
    """Returns the share of out-of-distribution images kept when at least 95 % of the others are kept.

    This is the convention of the ODIN lineage: `fpr95_ood_positive` with the sides and the sign of the scores
    swapped. The two differ widely when the spreads differ. The arguments are those of `auroc`.

    References:
        Liang et al. 2018, "Enhancing the reliability of out-of-distribution image detection", section 4.3.
    """
    return fpr95_ood_positive(
        -vector("positive", positive), -vector("negative", negative), weights=_swapped(weights)
    )


def mean_auroc(negative: Array, *positives: Array, weights: Weights = None) -> Floats:
    """Returns the unweighted mean of `auroc` over several positive populations.

    Args:
        negative: In-distribution scores, larger = more out of distribution, shape (N,).
        positives: Out-of-distribution scores of one set each, shapes (P1,), (P2,), ...; at least one.
        weights: Multiplicities of all populations in this order, shapes (B, N), (B, P1), (B, P2), ...

    References:
        Zhang et al. 2023, "OpenOOD v1.5: Enhanced benchmark for out-of-distribution detection", arXiv 2306.09301.

    >>> float(mean_auroc(np.array([0.0, 1.0]), np.array([2.0]), np.array([0.5, 0.5, 0.5])))
    0.75
    """
    return _averaged(auroc, negative, positives, weights=weights)


def mean_aupr_out(negative: Array, *positives: Array, weights: Weights = None) -> Floats:
    """Returns the unweighted mean of `aupr_out` over several positive populations, as `mean_auroc` does."""
    return _averaged(aupr_out, negative, positives, weights=weights)


def mean_aupr_in(negative: Array, *positives: Array, weights: Weights = None) -> Floats:
    """Returns the unweighted mean of `aupr_in` over several positive populations, as `mean_auroc` does."""
    return _averaged(aupr_in, negative, positives, weights=weights)


def mean_fpr95_ood_positive(negative: Array, *positives: Array, weights: Weights = None) -> Floats:
    """Returns the unweighted mean of `fpr95_ood_positive`, each set with a threshold of its own."""
    return _averaged(fpr95_ood_positive, negative, positives, weights=weights)


def mean_fpr95_id_positive(negative: Array, *positives: Array, weights: Weights = None) -> Floats:
    """Returns the unweighted mean of `fpr95_id_positive` over several positive populations."""
    return _averaged(fpr95_id_positive, negative, positives, weights=weights)


def _averaged(
    functional: Callable[..., Floats], negative: Array, positives: tuple[Array, ...], *, weights: Weights
) -> Floats:
    if not positives:
        raise DataError("there is no out-of-distribution set: give the scores of at least one")
    pairs = [None] * len(positives) if weights is None else [[weights[0], w] for w in weights[1:]]
    numbers = [functional(negative, p, weights=w) for p, w in zip(positives, pairs, strict=True)]
    return np.asarray(np.mean(numbers, axis=0, dtype=np.float64))


def _swapped(weights: Weights) -> Weights:
    return None if weights is None else list(reversed(weights))
