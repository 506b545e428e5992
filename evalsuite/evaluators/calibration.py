"""Knowing how sure it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from evalsuite.bench import Bench, Outputs
from evalsuite.data.views import View
from evalsuite.errors import CellError
from evalsuite.evaluators.accuracy import NLL, POPULATION
from evalsuite.evaluators.contract import Evaluator
from evalsuite.metrics import brier, temperature
from evalsuite.records import Array, Metric, Score

SCALED = "_scaled"
_BINS = "15 bins over the confidence of the predicted class"
_PLAIN = (
    Metric(
        "ece_equal_width", higher_is_better=False, unit="fraction", functional="ece_equal_width", tolerance=0.01,
        text=f"Expected calibration error, {_BINS}, equal width, ((m-1)/15, m/15] (Guo et al. 2017, arXiv 1706.04599).",
    ),
    Metric(
        "ece_equal_mass", higher_is_better=False, unit="fraction", functional="ece_equal_mass",
        text=f"Expected calibration error, {_BINS}, equal mass (Nguyen and O'Connor 2015).",
    ),
    Metric(
        "brier", higher_is_better=False, unit="squared error",
        text="Mean over images of the sum over classes of (p - 1[label])^2, from 0 to 2.",
    ),
    NLL,
)  # fmt: skip
TEMPERATURE = Metric(
    "temperature", higher_is_better=None, unit="1",
    text="Temperature that minimises the NLL on held-out images; above 1 means over-confident.",
)  # fmt: skip


@dataclass(frozen=True)
class Calibration(Evaluator):
    """Calibration error (equal width, equal mass) and Brier score, before and after temperature scaling.

    Attributes:
        held_out: Where the temperature comes from. ``validation``: the validation split. ``cross-fit``: each
            half of the test images is scaled by the temperature of the other half, for checkpoints of other
            people who may have trained on every training image.
    """

    held_out: Literal["validation", "cross-fit"] = "validation"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Four measures, the same after scaling, and the temperature; NLL before scaling is the accuracy test's."""
        after = (
            replace(one, name=one.name + SCALED, text=f"After temperature scaling: {one.text}")
            for one in _PLAIN
        )
        return *_PLAIN[:-1], *after, TEMPERATURE

    @property
    def needs(self) -> tuple[View, ...]:
        """The clean test images, and the validation images if they are used."""
        return (View(), View(split="validation")) if self.held_out == "validation" else (View(),)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields all measures on ``clean``."""
        outputs = bench.outputs(View())
        yield from (score for score in _measures(outputs) if score.metric != NLL.name)
        try:
            scaled, fitted = self._scaled(bench, outputs)
        except CellError as error:  # there is no best temperature: what needs none is reported all the same
            names = (TEMPERATURE.name, *(metric.name + SCALED for metric in _PLAIN))
            yield from (Score(name, "clean", reason=str(error)) for name in names)
            return
        yield from (replace(score, metric=score.metric + SCALED) for score in _measures(scaled))
        yield Score(TEMPERATURE.name, "clean", value=fitted, n=len(outputs.logits))

    def _scaled(self, bench: Bench, outputs: Outputs) -> tuple[Outputs, float]:
        """Outputs after scaling, and the temperature (the geometric mean of the two of a cross-fit)."""
        if self.held_out == "validation":
            held = bench.outputs(View(split="validation"))
            fitted = temperature(held.logits, held.known)
            return Outputs(_divided(outputs.logits, fitted), outputs.labels), fitted
        halves = [np.arange(len(outputs.logits)) % 2 == side for side in (0, 1)]
        fits = [temperature(outputs.logits[half], outputs.known[half]) for half in halves]
        logits = np.empty(outputs.logits.shape, np.float64)
        for half, other in zip(halves, reversed(fits), strict=True):
            logits[half] = _divided(outputs.logits[half], other)
        return Outputs(logits, outputs.labels), float(np.sqrt(fits[0] * fits[1]))


def _divided(logits: Array, temperature: float) -> Array:
    return logits.astype(np.float64) / temperature


def _measures(outputs: Outputs) -> Iterator[Score]:
    sure = np.column_stack([outputs.confidence, outputs.correct.astype(np.float64)])
    evidence = {
        "ece_equal_width": sure,
        "ece_equal_mass": sure,
        "brier": brier(outputs.logits, outputs.known),
        "nll": outputs.nll,
    }
    for name, values in evidence.items():
        yield Score(name, "clean", evidence={POPULATION: values})
