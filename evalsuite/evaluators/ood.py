"""Out-of-distribution detection: inputs that belong to no known class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from evalsuite.datasets import DATASETS
from evalsuite.datasets.views import FOLDER_SUFFIX, View
from evalsuite.detectors.mahalanobis import Gaussians, gaussians
from evalsuite.detectors.table import DETECTORS
from evalsuite.errors import DataError, SkippedError, SuiteError
from evalsuite.evaluators.accuracy import POPULATION
from evalsuite.evaluators.base import Condition, DataSummary, Evaluator, check_once, declare
from evalsuite.registry import unknown_name
from evalsuite.types import Array, Floats, Metric, Score

if TYPE_CHECKING:
    from evalsuite.evaluation import Bench
    from evalsuite.models.features import Head

NEAR = "ood-near"
FAR = "ood-far"
"""Groups of image sets, and the conditions of the means over them."""

_MEASURES = (
    ("auroc", True, 0.01, "Area under the ROC curve, out-of-distribution positive, ties count one half"),
    ("aupr_out", True, None, "Average precision (no interpolation), out-of-distribution positive"),
    ("aupr_in", True, None, "Average precision (no interpolation), in-distribution positive"),
    ("fpr95_ood_positive", False, None, "Share of in-distribution images flagged where 95 % of outliers are"),
    ("fpr95_id_positive", False, None, "Share of outliers kept where 95 % of in-distribution images are"),
)


@dataclass(frozen=True)
class Ood(Evaluator):
    """Out-of-distribution detection: AUROC, AUPR both ways, FPR95 in both conventions, for each detector and set.

    The unweighted means over the near and over the far sets follow the OpenOOD v1.5 protocol. All detectors but
    ODIN share one forward pass per image set; a detector that a model does not support (no last linear layer, no
    gradients) or that has no training images is skipped with its reason, the others are not.

    Attributes:
        near: Registered data sets that resemble the suite's own; with a slash at the end, a folder of pictures or
            arrays under the data root.
        far: Those that do not.
        detectors: Names in `evalsuite.detectors.table`.
        images: Use only the first so many images of each outlier set; 0 for all.
        fit_images: Fit detectors on the first so many training images; 0 for all.
        neighbors: Rank of the nearest training image whose distance is the score of ``knn``: 50 is published for
            CIFAR-10, 200 for CIFAR-100, 1000 for ImageNet.

    References:
        Zhang et al. 2023, "OpenOOD v1.5: Enhanced benchmark for out-of-distribution detection", arXiv 2306.09301.
    """

    near: tuple[str, ...] = ()
    far: tuple[str, ...] = ()
    detectors: tuple[str, ...] = ("msp", "energy")
    images: int = 0
    fit_images: int = 10_000
    neighbors: int = 50

    def __post_init__(self) -> None:
        if not self.near + self.far:
            raise SuiteError(
                "ood: found no image sets, expected names in near or far, for example far = ['letters']"
            )
        for name in self.near + self.far:
            if not name.endswith(FOLDER_SUFFIX) and name not in DATASETS:
                raise SuiteError(unknown_name("data set", name, DATASETS))
        check_once("ood", "near and far", self.near + self.far)
        check_once("ood", "detectors", self.detectors)
        if not self.detectors:
            raise SuiteError(f"ood: found detectors [], expected some of {', '.join(DETECTORS)}")
        for name in self.detectors:
            if name not in DETECTORS:
                raise SuiteError(f"ood: {unknown_name('detector', name, DETECTORS)}")
        for key, count in (("images", self.images), ("fit_images", self.fit_images)):
            if count < 0:
                raise SuiteError(f"ood: found {key} = {count}, expected a count, or 0 for all")
        if self.neighbors < 1:
            raise SuiteError(f"ood: found neighbors = {self.neighbors}, expected at least 1")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Five measures per detector."""
        return tuple(
            Metric(
                f"{detector}_{name}",
                better,
                "fraction",
                f"{text}; score: {DETECTORS[detector].source}.",
                f"mean_{name}",
                tolerance,
            )
            for detector in self.detectors
            for name, better, tolerance, text in _MEASURES
        )

    @property
    def needs(self) -> tuple[View, ...]:
        """The clean test images and every outlier set."""
        return View(), *map(self._view, self.near + self.far)

    @property
    def features(self) -> tuple[View, ...]:
        """The same and training images, if a detector uses features."""
        kinds = {DETECTORS[detector].needs for detector in self.detectors}
        training = (self._training,) if "training" in kinds else ()
        return (*self.needs, *training) if kinds & {"features", "training"} else ()

    def conditions(self, data: DataSummary) -> Iterable[Condition]:  # noqa: ARG002  # the same for all data
        """Yields every metric on each outlier set, and on the mean of each group of several sets."""
        for condition, group, _ in self._conditions():
            yield from declare(self.metrics, condition, group)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields five scores per detector and outlier set, and for the mean of each group of several sets."""
        for view in self.needs:
            bench.outputs(view)  # a model that fails on one of them has no numbers at all
        basis = _BenchBasis(bench, self._training, self.neighbors)
        for detector in self.detectors:
            try:
                scorer = DETECTORS[detector].fit(basis)
                scores = {view: scorer.scores(_BenchSample(bench, view)) for view in self.needs}
            except SkippedError as error:
                yield from self._skipped(detector, str(error))
            else:
                flags = scorer.flags + (basis.flags if DETECTORS[detector].needs == "training" else ())
                yield from self._scores(detector, scores, flags)

    def _scores(self, detector: str, scores: dict[View, Floats], flags: tuple[str, ...]) -> Iterator[Score]:
        for condition, group, names in self._conditions():
            evidence = {POPULATION: scores[View()]}
            evidence |= {self._population(name): scores[self._view(name)] for name in names}
            for measure, *_ in _MEASURES:
                yield Score(f"{detector}_{measure}", condition, evidence=evidence, group=group, flags=flags)

    def _skipped(self, detector: str, reason: str) -> Iterator[Score]:
        for condition, *_ in self._conditions():
            for measure, *_ in _MEASURES:
                yield Score(f"{detector}_{measure}", condition, reason=reason)

    def _conditions(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """Yields condition, group and image sets: each set alone, then each group of several together."""
        for group, names in ((NEAR, self.near), (FAR, self.far)):
            for name in names:
                yield name, group, (name,)
        for group, names in ((NEAR, self.near), (FAR, self.far)):
            if len(names) > 1:  # named like the group that it summarises, which it is no member of
                yield group, "", names

    @property
    def _training(self) -> View:
        return View(split="train", first=self.fit_images)

    def _view(self, name: str) -> View:
        return View(data=name, first=self.images)

    def _population(self, name: str) -> str:
        """Name of the images in evidence: sets of other sizes are other populations."""
        return f"{name}[:{self.images}]" if self.images else name


@dataclass(frozen=True)
class _BenchSample:
    """The outputs of the bench's model on a view."""

    bench: Bench
    view: View

    @property
    def logits(self) -> Array:
        return self.bench.outputs(self.view).logits

    @property
    def features(self) -> Array:
        outputs = self.bench.outputs(self.view)
        if outputs.features is None:
            _ = self.bench.head  # raises the reason
            raise SkippedError("the model has no penultimate features; use detectors that need logits alone")
        return outputs.features

    def apply(self, score: Callable[..., Floats]) -> Floats:
        images = self.bench.images(self.view).images
        return score(self.bench.inference_model, images, device=self.bench.device)


@dataclass(frozen=True)
class _BenchBasis:
    """The training images that detectors are fitted to, with the outputs of the same model."""

    bench: Bench
    view: View
    neighbors: int

    @property
    def head(self) -> Head:
        return self.bench.head

    @cached_property
    def training(self) -> _BenchSample:
        _ = self.bench.head  # without it no pass is needed
        try:
            self.bench.outputs(self.view)
        except DataError as error:
            raise SkippedError(f"there are no training images to fit the detector on ({error})") from error
        return _BenchSample(self.bench, self.view)

    @property
    def labels(self) -> Array:
        return self.bench.outputs(self.training.view).true_labels

    @cached_property
    def gaussians(self) -> Gaussians:
        return gaussians(self.training.features, self.labels)

    @property
    def flags(self) -> tuple[str, ...]:
        """A warning where the first training images, in the order of their files, do not show every class."""
        present, classes = len(np.unique(self.labels)), self.bench.classes
        if present == classes:
            return ()
        return (
            f"The {len(self.labels)} training images that the detector is fitted on show {present} of {classes} "
            "classes: raise fit_images.",
        )
