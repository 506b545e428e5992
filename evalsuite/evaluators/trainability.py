"""Trainability: the accuracy of a pruned network in retraining, while the learning rate is still large."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from evalsuite.datasets.views import View
from evalsuite.evaluators.base import Condition, DataSummary, Evaluator, declare
from evalsuite.types import Metric, Phase, Score

if TYPE_CHECKING:
    from evalsuite.evaluation import Bench

RETRAINING = "retraining"
TRAINABILITY = Metric(
    "trainability_accuracy", higher_is_better=None, unit="fraction",
    text="Mean accuracy on the validation split after each epoch of the first learning-rate stage of the last "
    "retraining (Wang et al. 2023, arXiv 2301.05219, there on test images). Compare it under equal "
    "learning-rate schedules only.",
)  # fmt: skip


@dataclass(frozen=True)
class Trainability(Evaluator):
    """Mean accuracy over the first learning-rate stage of retraining, before the learning rate drops.

    Removing weights damages trainability, more at higher ratios; large learning rates and long training repair it.
    The number is comparable between candidates under equal learning-rate schedules alone, and undefined for a
    network that was not retrained, so it has no direction: parents have none, and no threshold can be set.

    It is read from the history, without a forward pass. The recipe of the retraining must have ``track = true``.
    Epochs of the warm-up count; with a schedule that has no drops (cosine, linear) the stage is the whole training, and
    a rewound training's first stage begins where it was rewound to. With an average of weights it is the average's.

    Deviation: on the validation split. The authors use test images after each epoch.

    References:
        Wang et al. 2023, "Why is the state of neural network pruning so confusing?", arXiv 2301.05219.
    """

    uses_history: ClassVar[bool] = True

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Trainability accuracy."""
        return (TRAINABILITY,)

    @property
    def needs(self) -> tuple[View, ...]:
        """None: the validation images went through the network in training."""
        return ()

    def conditions(self, data: DataSummary) -> Iterable[Condition]:  # noqa: ARG002  # the same for all data
        """Yields ``retraining``."""
        yield from declare(self.metrics, RETRAINING)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields one score on ``retraining``, or the reason why there is none."""
        if reason := missing_reason(bench.history):
            yield Score(TRAINABILITY.name, RETRAINING, reason=reason)
            return
        images = bench.images(View(split="validation")).images
        value = trainability_accuracy(bench.history[-1])
        yield Score(TRAINABILITY.name, RETRAINING, value=value, n=len(images))


def trainability_accuracy(phase: Phase) -> float:
    """Returns the mean of the curve of a training over its first learning-rate stage.

    >>> round(trainability_accuracy(Phase("retraining", 3, 10, 1, "", "", (0.5, 0.7, 0.9), stage=2)), 9)
    0.6
    """
    first_stage = phase.curve[: phase.stage]
    return math.fsum(first_stage) / len(first_stage)


def missing_reason(history: Sequence[Phase]) -> str:
    """Returns the reason why a model has no trainability; empty if it has."""
    if not history:
        return "its training is unknown"
    last = history[-1]
    if last.what != RETRAINING:
        return f"its last training was {last.what}, and trainability is that of a retraining"
    if not last.curve[: last.stage]:
        return "its retraining was not tracked: set track = true in the recipe of the retraining"
    return ""
