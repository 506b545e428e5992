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
from evalsuite.metrics.functionals import FUNCTIONALS, evaluate
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
from evalsuite.metrics.weighted import mean

__all__ = [
    "FUNCTIONALS", "ReliabilityBin", "aupr_in", "aupr_out", "auroc", "brier", "confidence", "correct",
    "correct_among", "distinct", "ece_by_chance", "ece_classwise", "ece_equal_mass", "ece_equal_width",
    "ece_l2_debiased", "ece_l2_squared_debiased", "ece_smooth", "energy", "evaluate", "fpr95_id_positive",
    "fpr95_ood_positive", "log_softmax", "mce", "mean", "mean_aupr_in", "mean_aupr_out", "mean_auroc",
    "mean_difference", "mean_fpr95_id_positive", "mean_fpr95_ood_positive", "mean_ratio", "median", "msp", "nll",
    "reliability", "signed_gap", "smallest_mean", "softmax", "temperature",
]  # fmt: skip
