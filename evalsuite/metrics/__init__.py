"""Metrics as functionals of a weighted sample: one definition for a number and for its uncertainty.

Each functional takes the per-image evidence and, as ``weights``, one array of multiplicities per
population of images. Without weights every image counts once, and the number has shape (). With weights of
shape (B, N) an image of weight w counts as w images, and there is one number for each of the B rows: with
resampling counts these are bootstrap replicates. Everything is float64; nothing here needs torch, the model
or the images.

Of two populations, the in-distribution one is `negative` and comes first; larger scores mean more out of
distribution.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from evalsuite.errors import ContractError, UnknownNameError
from evalsuite.metrics.calibration import ReliabilityBin, ece_equal_mass, ece_equal_width, reliability
from evalsuite.metrics.logits import (
    brier,
    confidence,
    correct,
    energy,
    log_softmax,
    msp,
    nll,
    softmax,
    temperature,
)
from evalsuite.metrics.weighted import columns, cumulated, resampled, row_sums, vector
from evalsuite.registry import unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from evalsuite.metrics.weighted import Weights
    from evalsuite.records import Array, Floats

__all__ = [
    "FUNCTIONALS", "ReliabilityBin", "aupr_in", "aupr_out", "auroc", "brier", "confidence", "correct",
    "ece_equal_mass", "ece_equal_width", "energy", "evaluate", "fpr95_id_positive", "fpr95_ood_positive",
    "log_softmax", "mean", "msp", "nll", "reliability", "softmax", "temperature",
]  # fmt: skip


def mean(values: Array, *, weights: Weights = None) -> Floats:
    """Returns the weighted mean: accuracy, negative log-likelihood, Brier score and other averages.

    >>> mean(np.array([0.0, 1.0]), weights=[np.array([[3.0, 1.0]])])
    array([0.25])
    """
    x = vector("values", values)
    return resampled(lambda w: row_sums(w * x) / row_sums(w), (x.size,), weights=weights)


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
    order = np.argsort(p, kind="stable")
    below, up_to = (np.searchsorted(p[order], n, side=side) for side in ("left", "right"))

    def area(wn: Floats, wp: Floats) -> Floats:
        reached = cumulated(columns(wp, order))
        total = reached[:, -1]
        lost = (
            row_sums(wn * (columns(reached, below) + columns(reached, up_to))) / 2
        )  # positives that do not win
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
    falling_n, falling_p = np.argsort(-n, kind="stable"), np.argsort(-p, kind="stable")
    reached_n = np.searchsorted(-n[falling_n], -p[falling_p], side="right")
    reached_p = np.searchsorted(-p[falling_p], -p[falling_p], side="right")

    def precision(wn: Floats, wp: Floats) -> Floats:
        wp = columns(wp, falling_p)
        false = columns(cumulated(columns(wn, falling_n)), reached_n)
        true = columns(cumulated(wp), reached_p)
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
    order = np.argsort(-p, kind="stable")

    def rate(wn: Floats, wp: Floats) -> Floats:
        recall = np.cumsum(columns(wp, order), axis=1) / wp.sum(axis=1, keepdims=True)
        from_score = p[order][(recall >= 0.95).argmax(axis=1)]
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


_COLUMNS: Mapping[Callable[..., Floats], tuple[int, ...]] = MappingProxyType(
    {
        mean: (1,),
        ece_equal_width: (2,),
        ece_equal_mass: (2,),
        auroc: (1, 1),
        aupr_out: (1, 1),
        aupr_in: (1, 1),
        fpr95_ood_positive: (1, 1),
        fpr95_id_positive: (1, 1),
    }
)
"""Functional to the number of arguments that it takes from each population."""

FUNCTIONALS: Mapping[str, Callable[..., Floats]] = MappingProxyType({f.__name__: f for f in _COLUMNS})
"""Name to functional, as `records.Metric.functional` refers to them."""


def evaluate(
    functional: str, evidence: Mapping[str, Array], *, weights: Mapping[str, Array] | None = None
) -> Floats:
    """Returns the functional called `functional` of the evidence, as scores keep it.

    Args:
        functional: Name in `FUNCTIONALS`.
        evidence: Population to per-image outputs, in the order in which the functional takes them
            (in-distribution first); shape (N,), or (N, c) where it takes c arguments of the
            same images (confidence, correct).
        weights: Population to multiplicities, shape (B, N); other populations may be among them.

    Returns:
        float64, shape () without weights, else (B,).

    Raises:
        UnknownNameError: If there is no such functional.
        DataError: If a population has no images.
        ContractError: If evidence or weights do not have the shapes that it takes, or are not finite.

    >>> float(evaluate("mean", {"clean": np.array([True, False])}))
    0.5
    """
    if functional not in FUNCTIONALS:
        raise UnknownNameError(unknown("functional", functional, FUNCTIONALS))
    function = FUNCTIONALS[functional]
    expected = _COLUMNS[function]
    if len(evidence) != len(expected):
        raise ContractError(
            f"{functional} takes {len(expected)} populations of images, found {len(evidence)}: "
            f"{', '.join(evidence) or 'none'}"
        )
    arguments = [
        column
        for (population, values), count in zip(evidence.items(), expected, strict=True)
        for column in _columns(population, values, count)
    ]
    return function(*arguments, weights=None if weights is None else _chosen(weights, evidence))


def _columns(population: str, values: Array, count: int) -> list[Floats]:
    x = np.asarray(values)
    table = x[:, None] if x.ndim == 1 else x
    if table.ndim != 2 or table.shape[1] != count:
        raise ContractError(
            f"the evidence of population {population!r} has shape {x.shape}, expected {count} per image"
        )
    return [vector(f"the evidence of population {population!r}", column) for column in table.T]


def _chosen(weights: Mapping[str, Array], evidence: Mapping[str, Array]) -> list[Array]:
    if missing := [population for population in evidence if population not in weights]:
        raise ContractError(
            f"there are no weights for population {missing[0]!r}: draw them for all populations"
        )
    return [weights[population] for population in evidence]


def _swapped(weights: Weights) -> Weights:
    return None if weights is None else list(reversed(weights))
