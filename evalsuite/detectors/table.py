"""All detectors by name, with their sources, their requirements and their fit to a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal, Protocol

import numpy as np

from evalsuite.detectors.logits import entropy, gen, max_logit
from evalsuite.detectors.mahalanobis import Gaussians
from evalsuite.detectors.nearest_neighbours import neighbors
from evalsuite.detectors.odin import odin
from evalsuite.detectors.shaping import ash, gradnorm, react, react_limit, scale
from evalsuite.detectors.vim import principal, virtual_logit
from evalsuite.errors import SkippedError
from evalsuite.metrics.logits import energy, msp
from evalsuite.models.features import Head
from evalsuite.types import Array, Floats

Needs = Literal["logits", "features", "training", "gradients"]
"""Requirement of a detector beside the logits: features, training images and their features, or gradients."""


class Sample(Protocol):
    """A model's outputs on some images, and a way to call it on them again."""

    @property
    def logits(self) -> Array:
        """float32 (N, K)."""

    @property
    def features(self) -> Array:
        """float32 (N, D); raises `evalsuite.errors.SkippedError` where the model has none."""

    def apply(self, score: Callable[..., Floats]) -> Floats:
        """Returns ``score(model, images, device=device)``, float64 (N,)."""


class Basis(Protocol):
    """The data that detectors are fitted to; missing data raise `evalsuite.errors.SkippedError`."""

    @property
    def head(self) -> Head:
        """The classifier."""

    @property
    def training(self) -> Sample:
        """Training images."""

    @property
    def labels(self) -> Array:
        """Their classes, int64 (N,)."""

    @property
    def gaussians(self) -> Gaussians:
        """Gaussians of the training features, fitted once for all detectors."""

    @property
    def neighbors(self) -> int:
        """Rank of the neighbour whose distance counts."""


@dataclass(frozen=True)
class Scorer:
    """A detector that is fitted to one model.

    Attributes:
        scores: Function of a sample to scores, float64 (N,); larger means more out of distribution.
        flags: Warnings about its scores.
    """

    scores: Callable[[Sample], Floats]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Detector:
    """A method that scores how unlike the training data an image is.

    Attributes:
        source: Description and publication; the report prints it.
        needs: Requirement beside the logits.
        fit: Fits it to one model.
    """

    source: str
    needs: Needs
    fit: Callable[[Basis], Scorer]


def _from_logits(scores: Callable[[Array], Floats]) -> Callable[[Basis], Scorer]:
    return lambda _: Scorer(lambda sample: scores(sample.logits))


def _energy(logits: Array) -> Floats:
    energies = energy(logits)
    if np.abs(energies).max() <= 1e-4:
        raise SkippedError(
            "the energy is 0 for every image: the model returns log-probabilities; remove its log_softmax"
        )
    return energies


def _shaped(scores: Callable[[Array, Head], Floats]) -> Callable[[Basis], Scorer]:
    def fit(basis: Basis) -> Scorer:
        head = basis.head
        return Scorer(lambda sample: scores(sample.features, head))

    return fit


def _react(basis: Basis) -> Scorer:
    head, limit = basis.head, react_limit(basis.training.features)
    return Scorer(lambda sample: react(sample.features, head, limit=limit))


def _distance(relative: bool) -> Callable[[Basis], Scorer]:
    def fit(basis: Basis) -> Scorer:
        features, fitted = basis.training.features, basis.gaussians
        flags: tuple[str, ...] = ()
        if fitted.rank < features.shape[1]:
            flags = (
                f"The covariance of the {features.shape[1]} penultimate features has rank {fitted.rank} over "
                f"{len(features)} training images (dead units, or too few images): the pseudo-inverse leaves out the "
                "other directions, and with them any outlier that differs there alone.",
            )
        score = fitted.relative if relative else fitted.mahalanobis
        return Scorer(lambda sample: score(sample.features), flags)

    return fit


def _knn(basis: Basis) -> Scorer:
    features = basis.training.features
    fitted = neighbors(features, rank=basis.neighbors)
    zeros = int((~features.any(axis=1)).sum())
    flags = (
        (
            f"{zeros} of {len(features)} training images have penultimate features that are all zero, and so no "
            "direction: they count as a point of their own.",
        )
        if zeros
        else ()
    )
    return Scorer(lambda sample: fitted.distances(sample.features), flags)


def _vim(basis: Basis) -> Scorer:
    features = basis.training.features
    fitted = virtual_logit(
        features, basis.training.logits, basis.head, dimensions=principal(features.shape[1])
    )
    return Scorer(lambda sample: fitted.scores(sample.features, sample.logits))


DETECTORS: Mapping[str, Detector] = MappingProxyType(
    {
        "msp": Detector(
            "maximum softmax probability (Hendrycks and Gimpel 2017, arXiv 1610.02136)",
            "logits", _from_logits(msp),
        ),
        "max_logit": Detector(
            "maximum logit (Hendrycks et al. 2022, arXiv 1911.11132)", "logits", _from_logits(max_logit)
        ),
        "energy": Detector(
            "energy score at T = 1 (Liu et al. 2020, arXiv 2010.03759)", "logits", _from_logits(_energy)
        ),
        "entropy": Detector("entropy of the softmax probabilities", "logits", _from_logits(entropy)),
        "gen": Detector(
            "generalised entropy, gamma = 0.1, of the 100 largest probabilities (Liu et al. 2023, CVPR)",
            "logits", _from_logits(gen),
        ),
        "odin": Detector(
            "ODIN, T = 1000, step 0.0014 on [0, 1] images (Liang et al. 2018, arXiv 1706.02690)",
            "gradients", lambda _: Scorer(lambda sample: sample.apply(odin)),
        ),
        "mahalanobis": Detector(
            "Mahalanobis distance of the penultimate features to the nearest class mean, shared covariance "
            "(Lee et al. 2018, arXiv 1807.03888)",
            "training", _distance(relative=False),
        ),
        "relative_mahalanobis": Detector(
            "Mahalanobis distance to the nearest class mean minus that under one Gaussian for all classes "
            "(Ren et al. 2021, arXiv 2106.09022)",
            "training", _distance(relative=True),
        ),
        "knn": Detector(
            "distance of the normalised penultimate features to the k-th nearest of the training images "
            "(Sun et al. 2022, arXiv 2204.06507)",
            "training", _knn,
        ),
        "vim": Detector(
            "virtual-logit matching, half of the directions principal (Wang et al. 2022, arXiv 2203.10807)",
            "training", _vim,
        ),
        "react": Detector(
            "energy after clipping penultimate features at the 90th percentile of training images "
            "(Sun et al. 2021, arXiv 2111.12797)",
            "training", _react,
        ),
        "ash_b": Detector(
            "energy after ASH-B, 90th percentile of the penultimate features (Djurisic et al. 2023, arXiv 2209.09858)",
            "features", _shaped(partial(ash, variant="b")),
        ),
        "ash_p": Detector(
            "energy after ASH-P, 90th percentile of the penultimate features (Djurisic et al. 2023, arXiv 2209.09858)",
            "features", _shaped(partial(ash, variant="p")),
        ),
        "ash_s": Detector(
            "energy after ASH-S, 90th percentile of the penultimate features (Djurisic et al. 2023, arXiv 2209.09858)",
            "features", _shaped(partial(ash, variant="s")),
        ),
        "scale": Detector(
            "energy after SCALE, 85th percentile of the penultimate features (Xu et al. 2024, arXiv 2310.00227)",
            "features", _shaped(scale),
        ),
        "gradnorm": Detector(
            "L1 norm of the last layer's gradient towards the uniform distribution "
            "(Huang et al. 2021, arXiv 2110.00218)",
            "features", lambda _: Scorer(lambda sample: gradnorm(sample.features, sample.logits)),
        ),
    }
)  # fmt: skip
"""Name to detector: those of logits, ODIN, those of features."""
