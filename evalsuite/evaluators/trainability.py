"""How well a pruned network trains again: its accuracy while the learning rate is still large."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from evalsuite.datasets.views import View
from evalsuite.evaluation import Bench
from evalsuite.evaluators.base import Evaluator
from evalsuite.types import Metric, Phase, Score

RETRAINING = "retraining"
TRAINABILITY = Metric(
    "trainability_accuracy", higher_is_better=None, unit="fraction",
    text="Mean accuracy on the validation split after each epoch of the first learning-rate stage of the last "
    "retraining (Wang et al. 2023, arXiv 2301.05219, there on test images). Compare it under equal "
    "learning-rate schedules only.",
)  # fmt: skip


@dataclass(frozen=True)
class Trainability(Evaluator):
    """Mean accuracy over the first learning-rate stage of retraining, before a drop of the rate repairs the rest.

    Removing weights damages trainability, more at higher ratios; large learning rates and long training repair it.
    The number is comparable between candidates under equal learning-rate schedules alone, and says nothing of a
    network that was not retrained, so it has no direction: parents have none, and no threshold can be set.

    It is read from the history, so no image is looked at. The recipe of the retraining must say ``track = true``.
    Epochs of the warm-up count; with a schedule that has no drops (cosine, linear) the stage is the whole training, and
    a rewound training's first stage begins where it was rewound to. With an average of weights it is the average's.

    Deviation: on the validation split. The authors look at test images after each epoch.

    References:
        Wang et al. 2023, "Why is the state of neural network pruning so confusing?", arXiv 2301.05219.
    """

    uses_history: ClassVar[bool] = True

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """One."""
        return (TRAINABILITY,)

    @property
    def needs(self) -> tuple[View, ...]:
        """None: the validation images had their turn in training."""
        return ()

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields one score on ``retraining``, or the reason why there is none."""
        if reason := unknown_because(bench.history):
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
    begun = phase.curve[: phase.stage]
    return math.fsum(begun) / len(begun)


def unknown_because(history: Sequence[Phase]) -> str:
    """Returns why the last training of a model tells no trainability; empty if it does."""
    if not history:
        return "nobody knows how it was trained"
    last = history[-1]
    if last.what != RETRAINING:
        return f"its last training was {last.what}, and trainability is that of a retraining"
    if not last.curve[: last.stage]:
        return "its retraining was not tracked: set track = true in the recipe of the retraining"
    return ""
