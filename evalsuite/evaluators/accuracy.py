"""Accuracy, likelihood and agreement on clean images; metrics and scores that other evaluators share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from evalsuite.datasets.views import View
from evalsuite.evaluation import WITHOUT_LIKELIHOODS
from evalsuite.evaluators.base import Condition, DataSummary, Evaluator, declare
from evalsuite.metrics.logits import correct_among
from evalsuite.types import Array, Metric, Score

if TYPE_CHECKING:
    from evalsuite.evaluation import Bench, Outputs
    from evalsuite.types import Floats

ACCURACY = Metric(
    "accuracy", higher_is_better=True, unit="fraction", tolerance=0.005,
    text="Share of images whose most likely class is the label (top-1).",
)  # fmt: skip
TOP = 5
TOP5 = Metric(
    "accuracy_top5", higher_is_better=True, unit="fraction",
    text="Share of images whose label is among the five most likely classes; of equal logits the first classes count.",
)  # fmt: skip
TOP5_CLASSES = 20
"""Number of classes from which on the top-5 accuracy is reported."""
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
    "same images, from 0 to the square root of 2 (Liebenwein et al. 2021, arXiv 2103.03014).",
)  # fmt: skip
ROBUST_ACCURACY = Metric(
    "robust_accuracy", higher_is_better=True, unit="fraction", tolerance=0.01,
    text="Share of images that are classified correctly before and after the attack, which may use the weights.",
)  # fmt: skip
POPULATION = "test"
"""Name of the test images in evidence: clean or transformed, they are the same images, so all evidence is paired."""
CONTROL = "control"
"""Condition of how far an independently trained network is from the parent, among the parent's scores."""
LABELLED = (ACCURACY, NLL, AGREEMENT)
"""What `labelled_scores` yields."""


@dataclass(frozen=True)
class Accuracy(Evaluator):
    """Test accuracy, negative log-likelihood, and agreement with the parent on clean images.

    Where there are at least 20 classes, the accuracy of the five most likely ones too.
    """

    image_by_image: ClassVar[bool] = True

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy, that of the five most likely classes, NLL, agreement."""
        return ACCURACY, TOP5, NLL, AGREEMENT

    @property
    def needs(self) -> tuple[View, ...]:
        """The clean test images."""
        return (View(),)

    def conditions(self, data: DataSummary) -> Iterable[Condition]:
        """Yields ``clean``: three metrics, four where there are many classes."""
        top = (TOP5,) if data.classes >= TOP5_CLASSES else ()
        yield from declare((*LABELLED, *top), data.condition(View()))

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields three scores on ``clean``, four where there are many classes."""
        yield from labelled_scores(bench, View())
        if bench.classes >= TOP5_CLASSES:
            outputs = bench.outputs(View())
            among = correct_among(outputs.logits, outputs.true_labels, TOP)
            yield Score(TOP5.name, bench.condition(View()), evidence={POPULATION: among})


def labelled_scores(
    bench: Bench, view: View, *, group: str = "", population: str = POPULATION
) -> Iterator[Score]:
    """Yields accuracy, NLL and agreement with the parent on one labelled view; where it is screened, no NLL."""
    outputs, condition = bench.outputs(view), bench.condition(view)
    agrees = outputs.predictions == bench.parent.outputs(view).predictions
    nll = None if bench.is_screened(view) else outputs.nll
    for metric, values in zip(LABELLED, (outputs.correct, nll, agrees), strict=True):
        if values is None:
            yield Score(metric.name, condition, group=group, reason=WITHOUT_LIKELIHOODS)
        else:
            yield Score(metric.name, condition, evidence={population: values}, group=group)


def population_of_first(count: int, total: int) -> str:
    """Returns the population of the first `count` of `total` test images; that of all of them if they are all."""
    return POPULATION if count == total else f"{POPULATION}[:{count}]"


def calibration_score(bench: Bench, view: View, *, group: str = "", population: str = POPULATION) -> Score:
    """Returns the calibration error on one labelled view; where it is screened, the reason why there is none."""
    if bench.is_screened(view):
        return Score(ECE.name, bench.condition(view), group=group, reason=WITHOUT_LIKELIHOODS)
    outputs = bench.outputs(view)
    evidence = {population: confidence_and_correct(outputs)}
    return Score(ECE.name, bench.condition(view), evidence=evidence, group=group)


def confidence_and_correct(outputs: Outputs) -> Floats:
    """Returns the evidence of calibration errors: confidence, and 1 where the prediction is right; float64 (N, 2)."""
    return np.column_stack([outputs.confidence, outputs.correct.astype(np.float64)])


def float32_evidence(score: Score) -> Score:
    """Returns a score with evidence in single precision: half the bytes, for there are 75 corrupted sets and more.

    Numbers are rounded down, so that a confidence on the upper edge of a bin stays in it.
    """
    evidence = {population: _rounded_down(values) for population, values in score.evidence.items()}
    return replace(score, evidence=evidence)


def _rounded_down(values: Array) -> Array:
    if values.dtype != np.float64:
        return values
    nearest = values.astype(np.float32)
    return np.where(nearest > values, np.nextafter(nearest, np.float32(-np.inf)), nearest)
