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
from evalsuite.metrics.calibration import (
    ReliabilityBin,
    ece_by_chance,
    ece_classwise,
    ece_equal_mass,
    ece_equal_width,
    ece_l2_debiased,
    ece_l2_squared_debiased,
    mce,
    reliability,
    signed_gap,
)
from evalsuite.metrics.corruption_error import mean_difference, mean_ratio, smallest_mean
from evalsuite.metrics.logits import (
    brier,
    confidence,
    correct,
    correct_among,
    energy,
    log_softmax,
    msp,
    nll,
    softmax,
    temperature,
)
from evalsuite.metrics.ood import (
    aupr_in,
    aupr_out,
    auroc,
    fpr95_id_positive,
    fpr95_ood_positive,
    mean_aupr_in,
    mean_aupr_out,
    mean_auroc,
    mean_fpr95_id_positive,
    mean_fpr95_ood_positive,
)
from evalsuite.metrics.quantiles import distinct, median
from evalsuite.metrics.smooth import ece_smooth
from evalsuite.metrics.weighted import resampled, row_sums, vector
from evalsuite.registry import unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from evalsuite.metrics.weighted import Weights
    from evalsuite.types import Array, Floats

__all__ = [
    "FUNCTIONALS", "ReliabilityBin", "aupr_in", "aupr_out", "auroc", "brier", "confidence", "correct",
    "correct_among", "distinct", "ece_by_chance", "ece_classwise", "ece_equal_mass", "ece_equal_width",
    "ece_l2_debiased", "ece_l2_squared_debiased", "ece_smooth", "energy", "evaluate", "fpr95_id_positive",
    "fpr95_ood_positive", "log_softmax", "mce", "mean", "mean_aupr_in", "mean_aupr_out", "mean_auroc",
    "mean_difference", "mean_fpr95_id_positive", "mean_fpr95_ood_positive", "mean_ratio", "median", "msp", "nll",
    "reliability", "signed_gap", "smallest_mean", "softmax", "temperature",
]  # fmt: skip


def mean(values: Array, *, weights: Weights = None) -> Floats:
    """Returns the weighted mean: accuracy, negative log-likelihood, Brier score and other averages.

    >>> mean(np.array([0.0, 1.0]), weights=[np.array([[3.0, 1.0]])])
    array([0.25])
    """
    x = vector("values", values)
    return resampled(lambda w: row_sums(w * x) / row_sums(w), (x.size,), weights=weights)


_WHOLE = 0
_COLUMNS: Mapping[Callable[..., Floats], tuple[int, ...]] = MappingProxyType(
    {
        mean: (1,),
        median: (1,),
        distinct: (1,),
        ece_equal_width: (2,),
        ece_equal_mass: (2,),
        ece_l2_debiased: (2,),
        ece_l2_squared_debiased: (2,),
        ece_smooth: (2,),
        ece_classwise: (_WHOLE,),
        mce: (2,),
        signed_gap: (2,),
        mean_ratio: (_WHOLE,),
        smallest_mean: (_WHOLE,),
        mean_difference: (1, 1),
        auroc: (1, 1),
        aupr_out: (1, 1),
        aupr_in: (1, 1),
        fpr95_ood_positive: (1, 1),
        fpr95_id_positive: (1, 1),
        mean_auroc: (1, 1),
        mean_aupr_out: (1, 1),
        mean_aupr_in: (1, 1),
        mean_fpr95_ood_positive: (1, 1),
        mean_fpr95_id_positive: (1, 1),
    }
)
"""Functional to the number of arguments that it takes from each population; `_WHOLE`: one table, however wide."""

_SEVERAL = frozenset(
    {mean_auroc, mean_aupr_out, mean_aupr_in, mean_fpr95_ood_positive, mean_fpr95_id_positive}
)
"""Functionals whose last population may be there any number of times."""

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
            same images (confidence, correct), or a table of them.
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
    if function in _SEVERAL:
        expected += expected[-1:] * (len(evidence) - len(expected))
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


def _columns(population: str, values: Array, count: int) -> list[Array]:
    x = np.asarray(values)
    if count == _WHOLE:
        return [x]
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
