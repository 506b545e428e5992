"""Equal accuracy is not the same network: what changed between parent and candidate, and for whom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evalsuite.datasets.views import View
from evalsuite.evaluation import Bench, Outputs
from evalsuite.evaluators.accuracy import AGREEMENT, CONTROL, POPULATION, SOFTMAX_DISTANCE
from evalsuite.evaluators.base import Evaluator
from evalsuite.metrics.logits import softmax
from evalsuite.statistics.class_effects import harder_hit, holm
from evalsuite.types import Array, Metric, Score

GROUP = "classes"
MOST_CLASSES = 100
"""From more on, a row per class is more than anybody reads; worst class and test are of all classes."""
LEVEL = 0.05
NAMED = 5
"""Classes that a flag names, the surest first."""

BROKEN = Metric(
    "broken", higher_is_better=False, unit="fraction",
    text="Share of images that the parent classifies correctly and the candidate does not (negative flips).",
)  # fmt: skip
FIXED = Metric(
    "fixed", higher_is_better=None, unit="fraction",
    text="Share of images that the candidate classifies correctly and its parent does not (positive flips); "
    "accuracy changes by fixed minus broken.",
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
    "is what pruning-identified exemplars are found by.",
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


@dataclass(frozen=True)
class Similarity(Evaluator):
    """What changed against the parent on clean images: broken and fixed images, distances, and classes hit hardest.

    Where the suite has several seeds, the parent has scores on ``control`` too: the agreement and the distances of
    the next seed's parent from it. A candidate that is as far away as that has nothing left of its parent.

    Attributes:
        classes: Whether to report the accuracy of each class too, where there are at most 100.

    References:
        Liebenwein et al. 2021, "Lost in Pruning", arXiv 2104.03438 (distances; there under noise); Hooker et al.
        2019, arXiv 1911.05248 (class impact); Yan et al. 2021, arXiv 2011.09161 (flips).
    """

    uses_control: ClassVar[bool] = True
    classes: bool = True

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Broken and fixed, four distances, the agreement of the control, predicted classes, and the classes."""
        distances = (SOFTMAX_DISTANCE, SOFTMAX_LINF, LOGIT_L2, LOGIT_LINF)
        return BROKEN, FIXED, *distances, AGREEMENT, PREDICTED, CLASS_ACCURACY, WORST_CLASS, CLASS_TEST

    @property
    def needs(self) -> tuple[View, ...]:
        """The clean test images."""
        return (View(),)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields scores on ``clean``, one for each class ``class/0`` ..., and a parent's on ``control``."""
        mine, parents = bench.outputs(View()), bench.parent.outputs(View())
        changes = {
            BROKEN: parents.correct & ~mine.correct,
            FIXED: mine.correct & ~parents.correct,
            **distances(mine, parents),
        }
        for metric, values in changes.items():
            yield Score(metric.name, "clean", evidence={POPULATION: values})
        yield Score(PREDICTED.name, "clean", evidence={POPULATION: mine.predictions.astype(np.int16)})
        if bench.control is not None and bench.parent is bench:
            yield from control_scores(bench.control.outputs(View()), mine)
        if self.classes and bench.classes <= MOST_CLASSES:
            yield from _by_class(mine)
        yield from _hit(mine, parents)


def control_scores(control: Outputs, parent: Outputs) -> Iterator[Score]:
    """Yields how far an independently trained network is from the parent."""
    apart = {AGREEMENT: control.predictions == parent.predictions, **distances(control, parent)}
    for metric, values in apart.items():
        yield Score(metric.name, CONTROL, evidence={POPULATION: values})


def distances(mine: Outputs, others: Outputs) -> dict[Metric, Array]:
    """Returns the distances between the outputs of two networks on the same images, one number per image."""
    p = softmax(mine.logits) - softmax(others.logits)
    z = mine.logits.astype(np.float64) - others.logits
    z -= z.mean(axis=1, keepdims=True)
    return {
        SOFTMAX_DISTANCE: np.linalg.norm(p, axis=1),
        SOFTMAX_LINF: np.abs(p).max(axis=1),
        LOGIT_L2: np.linalg.norm(z, axis=1),
        LOGIT_LINF: np.abs(z).max(axis=1),
    }


def _by_class(mine: Outputs) -> Iterator[Score]:
    for k in np.unique(mine.known):
        inside = mine.correct[mine.known == k]
        evidence = {f"{POPULATION} of class {k}": inside}
        yield Score(CLASS_ACCURACY.name, f"class/{k}", evidence=evidence, group=GROUP)


def _hit(mine: Outputs, parents: Outputs) -> Iterator[Score]:
    """Yields the largest drop of a class, and the test of whether some class is hit harder than the others."""
    present, place = np.unique(mine.known, return_inverse=True)
    images, losses, gains = (
        np.bincount(place, weights, len(present))
        for weights in (None, parents.correct & ~mine.correct, mine.correct & ~parents.correct)
    )
    drops = (losses - gains) / images
    chances = holm(harder_hit(losses, gains, n=images))
    count = len(place)
    flags = tuple(
        f"class {present[k]} lost {drops[k]:.3f} of its accuracy, all images {(losses - gains).sum() / count:.3f}: "
        f"it is hit harder than the others (p = {chances[k]:.2g}, Holm over {len(present)} classes)."
        for k in np.argsort(chances, kind="stable")[:NAMED]
        if chances[k] <= LEVEL
    )
    yield Score(WORST_CLASS.name, "clean", value=float(drops.max()), n=count, flags=flags)
    yield Score(CLASS_TEST.name, "clean", value=float(chances.min()), n=count)
