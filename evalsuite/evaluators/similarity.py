"""Similarity of parent and candidate: prediction flips, distances of outputs, and effects on classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from evalsuite.datasets.views import View
from evalsuite.evaluators.accuracy import AGREEMENT, CONTROL, POPULATION, SOFTMAX_DISTANCE
from evalsuite.evaluators.base import Condition, DataSummary, Evaluator, declare
from evalsuite.metrics.logits import softmax
from evalsuite.statistics.class_effects import harder_hit, holm
from evalsuite.types import Array, Metric, Score

if TYPE_CHECKING:
    from evalsuite.evaluation import Bench, Outputs

GROUP = "classes"
MOST_CLASSES = 100
"""With more classes, scores of single classes are left out; worst class and test are of all classes."""
LEVEL = 0.05
FLAGGED = 5
"""Most classes that are flagged, those with the smallest p-values."""

NEGATIVE_FLIPS = Metric(
    "negative_flip_rate", higher_is_better=False, unit="fraction",
    text="Share of images that the parent classifies correctly and the candidate does not (Yan et al. 2021, "
    "arXiv 2011.09161).",
)  # fmt: skip
POSITIVE_FLIPS = Metric(
    "positive_flip_rate", higher_is_better=None, unit="fraction",
    text="Share of images that the candidate classifies correctly and its parent does not (Yan et al. 2021, arXiv "
    "2011.09161); accuracy changes by this minus negative_flip_rate.",
)  # fmt: skip
SOFTMAX_LINF = Metric(
    "softmax_distance_linf", higher_is_better=False, unit="probability",
    text="Mean over images of the largest difference between softmax outputs of candidate and parent.",
)  # fmt: skip
LOGIT_L2 = Metric(
    "logit_distance", higher_is_better=False, unit="l2 distance",
    text="Mean l2 norm of the difference between the logits of candidate and parent, each less its mean over classes: "
    "what is added to all logits changes nothing.",
)  # fmt: skip
LOGIT_LINF = Metric(
    "logit_distance_linf", higher_is_better=False, unit="logits",
    text="Mean over images of the largest difference between logits of candidate and parent, less their means.",
)  # fmt: skip
PREDICTED = Metric(
    "predicted_classes", higher_is_better=None, unit="classes", functional="distinct",
    text="Number of classes that the network predicts for at least one image. Its evidence, the class of each image, "
    "identifies pruning-identified exemplars.",
)  # fmt: skip
CLASS_ACCURACY = Metric(
    "class_accuracy", higher_is_better=True, unit="fraction",
    text="Share of the images of one class that are classified correctly.",
)  # fmt: skip
WORST_CLASS = Metric(
    "worst_class_drop", higher_is_better=False, unit="fraction",
    text="The largest drop in accuracy of a class; noise alone makes the largest of many drops positive.",
)  # fmt: skip
CLASS_TEST = Metric(
    "class_impact_p", higher_is_better=None, unit="probability",
    text="Smallest p-value over classes, adjusted by Holm, of a score test of the accuracy drop of a class against "
    "that of all other images: at most 0.05 where some class is hit harder than the average.",
)  # fmt: skip
DISTANCES = (SOFTMAX_DISTANCE, SOFTMAX_LINF, LOGIT_L2, LOGIT_LINF)


@dataclass(frozen=True)
class Similarity(Evaluator):
    """Differences from the parent on clean images: negative and positive flips, distances, and effects on classes.

    Where the suite has several seeds, the parent has scores on ``control`` too: the agreement and the distances of
    the next seed's parent from it. A candidate at this distance is as different from its parent as an independently
    trained network.

    Attributes:
        classes: Whether to report the accuracy of each class too, where there are at most 100.

    References:
        Liebenwein et al. 2021, "Lost in Pruning", arXiv 2103.03014 (distances; there under noise); Hooker et al.
        2019, arXiv 1911.05248 (class impact); Yan et al. 2021, arXiv 2011.09161 (flips).
    """

    uses_control: ClassVar[bool] = True
    classes: bool = True

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Flip rates, four distances, the agreement of the control, predicted classes, and effects on classes."""
        return (
            NEGATIVE_FLIPS,
            POSITIVE_FLIPS,
            *DISTANCES,
            AGREEMENT,
            PREDICTED,
            CLASS_ACCURACY,
            WORST_CLASS,
            CLASS_TEST,
        )

    @property
    def needs(self) -> tuple[View, ...]:
        """The clean test images."""
        return (View(),)

    def conditions(self, data: DataSummary) -> Iterable[Condition]:
        """Yields ``clean``, each class, and ``control``; a class without test images is declared, but has no score."""
        yield from declare(
            (NEGATIVE_FLIPS, POSITIVE_FLIPS, *DISTANCES, PREDICTED, WORST_CLASS, CLASS_TEST), "clean"
        )
        if data.control:
            yield from declare((AGREEMENT, *DISTANCES), CONTROL)
        if self.classes and data.classes <= MOST_CLASSES:
            for k in range(data.classes):
                yield Condition(CLASS_ACCURACY.name, f"class/{k}", GROUP)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields scores on ``clean``, one for each class ``class/0`` ..., and a parent's on ``control``."""
        outputs, parent = bench.outputs(View()), bench.parent.outputs(View())
        negative, positive = _flips(outputs, parent)
        changes = {NEGATIVE_FLIPS: negative, POSITIVE_FLIPS: positive, **distances(outputs, parent)}
        for metric, values in changes.items():
            yield Score(metric.name, "clean", evidence={POPULATION: values})
        yield Score(PREDICTED.name, "clean", evidence={POPULATION: outputs.predictions.astype(np.int16)})
        if bench.control is not None and bench.parent is bench:
            yield from control_scores(bench.control.outputs(View()), outputs)
        if self.classes and bench.classes <= MOST_CLASSES:
            yield from _class_scores(outputs)
        yield from _class_effects(outputs, parent)


def control_scores(control: Outputs, parent: Outputs) -> Iterator[Score]:
    """Yields agreement and distances between an independently trained network and the parent."""
    values = {AGREEMENT: control.predictions == parent.predictions, **distances(control, parent)}
    for metric, rows in values.items():
        yield Score(metric.name, CONTROL, evidence={POPULATION: rows})


def distances(first: Outputs, second: Outputs) -> dict[Metric, Array]:
    """Returns the distances between the outputs of two networks on the same images, one number per image."""
    p = softmax(first.logits) - softmax(second.logits)
    z = first.logits.astype(np.float64) - second.logits
    z -= z.mean(axis=1, keepdims=True)
    return {
        SOFTMAX_DISTANCE: np.linalg.norm(p, axis=1),
        SOFTMAX_LINF: np.abs(p).max(axis=1),
        LOGIT_L2: np.linalg.norm(z, axis=1),
        LOGIT_LINF: np.abs(z).max(axis=1),
    }


def _flips(outputs: Outputs, parent: Outputs) -> tuple[Array, Array]:
    """Whether each image is a negative flip, and whether it is a positive one."""
    return parent.correct & ~outputs.correct, outputs.correct & ~parent.correct


def _class_scores(outputs: Outputs) -> Iterator[Score]:
    for k in np.unique(outputs.true_labels):
        correct = outputs.correct[outputs.true_labels == k]
        evidence = {f"{POPULATION} of class {k}": correct}
        yield Score(CLASS_ACCURACY.name, f"class/{k}", evidence=evidence, group=GROUP)


def _class_effects(outputs: Outputs, parent: Outputs) -> Iterator[Score]:
    """Yields the largest drop of a class, and the test of whether a class drops more than the others."""
    present, place = np.unique(outputs.true_labels, return_inverse=True)
    images, losses, gains = (
        np.bincount(place, weights, len(present)) for weights in (None, *_flips(outputs, parent))
    )
    drops = (losses - gains) / images
    p_values = holm(harder_hit(losses, gains, n=images))
    count = len(place)
    flags = tuple(
        f"class {present[k]} lost {drops[k]:.3f} of its accuracy, all images {(losses - gains).sum() / count:.3f}: "
        f"it is hit harder than the others (p = {p_values[k]:.2g}, Holm over {len(present)} classes)."
        for k in np.argsort(p_values, kind="stable")[:FLAGGED]
        if p_values[k] <= LEVEL
    )
    yield Score(WORST_CLASS.name, "clean", value=float(drops.max()), n=count, flags=flags)
    yield Score(CLASS_TEST.name, "clean", value=float(p_values.min()), n=count)
