"""Accuracy, likelihood and agreement on clean images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from evalsuite.datasets.views import View
from evalsuite.evaluation import Bench
from evalsuite.evaluators.base import Evaluator
from evalsuite.metrics.logits import correct_among
from evalsuite.types import Array, Metric, Score

ACCURACY = Metric(
    "accuracy", higher_is_better=True, unit="fraction", tolerance=0.005,
    text="Share of images whose most likely class is the label (top-1).",
)  # fmt: skip
TOP = 5
TOP5 = Metric(
    "accuracy_top5", higher_is_better=True, unit="fraction",
    text="Share of images whose label is among the five most likely classes; of equal logits the first classes count.",
)  # fmt: skip
MANY = 20
"""Classes from which on the five most likely ones tell something."""
NLL = Metric(
    "nll", higher_is_better=False, unit="nats", tolerance=0.02,
    text="Mean negative log-likelihood of the label, from a float64 log-softmax.",
)  # fmt: skip
AGREEMENT = Metric(
    "agreement", higher_is_better=True, unit="fraction",
    text="Share of images on which the candidate predicts the class that its parent predicts; 1 minus the churn.",
)  # fmt: skip
ECE = Metric(
    "ece_equal_width", higher_is_better=False, unit="fraction", functional="ece_equal_width", tolerance=0.01,
    text="Expected calibration error, 15 bins over the confidence of the predicted class, equal width, "
    "((m-1)/15, m/15] (Guo et al. 2017, arXiv 1706.04599).",
)  # fmt: skip
SOFTMAX_DISTANCE = Metric(
    "softmax_distance", higher_is_better=False, unit="l2 distance",
    text="Mean l2 norm of the difference between the softmax outputs of the candidate and its parent on the "
    "same images, from 0 to the square root of 2 (Liebenwein et al. 2021, arXiv 2104.03438).",
)  # fmt: skip
POPULATION = "test"
"""Name of the test images in evidence: clean or changed, they are the same images, so all of it is paired."""
CONTROL = "control"
"""Condition of how far an independently trained network is from the parent, among the parent's scores."""


@dataclass(frozen=True)
class Accuracy(Evaluator):
    """Test accuracy, negative log-likelihood, and agreement with the parent on clean images.

    Where there are at least 20 classes, the accuracy of the five most likely ones too.
    """

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy, that of the five most likely classes, NLL, agreement."""
        return ACCURACY, TOP5, NLL, AGREEMENT

    @property
    def needs(self) -> tuple[View, ...]:
        """The clean test images."""
        return (View(),)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields three scores on ``clean``, four where there are many classes."""
        yield from labelled_scores(bench, View())
        if bench.classes >= MANY:
            outputs = bench.outputs(View())
            among = correct_among(outputs.logits, outputs.known, TOP)
            yield Score(TOP5.name, bench.condition(View()), evidence={POPULATION: among})


def labelled_scores(
    bench: Bench, view: View, *, group: str = "", population: str = POPULATION
) -> Iterator[Score]:
    """Yields accuracy, NLL and agreement with the parent on one labelled view."""
    outputs, condition = bench.outputs(view), bench.condition(view)
    agrees = outputs.predictions == bench.parent.outputs(view).predictions
    for metric, values in ((ACCURACY, outputs.correct), (NLL, outputs.nll), (AGREEMENT, agrees)):
        yield Score(metric.name, condition, evidence={population: values}, group=group)


def calibration_score(bench: Bench, view: View, *, group: str = "", population: str = POPULATION) -> Score:
    """Returns the calibration error on one labelled view."""
    outputs = bench.outputs(view)
    sure = np.column_stack([outputs.confidence, outputs.correct.astype(np.float64)])
    return Score(ECE.name, bench.condition(view), evidence={population: sure}, group=group)


def single(score: Score) -> Score:
    """Returns a score whose evidence has single precision: half the room, for there are 75 corrupted sets and more.

    Numbers are rounded down, so that a confidence on the upper edge of a bin stays in it.
    """
    kept = {population: _rounded_down(values) for population, values in score.evidence.items()}
    return replace(score, evidence=kept)


def _rounded_down(values: Array) -> Array:
    if values.dtype != np.float64:
        return values
    found = values.astype(np.float32)
    return np.where(found > values, np.nextafter(found, np.float32(-np.inf)), found)
