"""Random noise that nobody chose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from evalsuite.bench import Bench
from evalsuite.data.views import UniformNoise, View
from evalsuite.evaluators.accuracy import ACCURACY, AGREEMENT, NLL, labelled_scores
from evalsuite.evaluators.contract import Evaluator, check_epsilons
from evalsuite.records import Metric, Score


@dataclass(frozen=True)
class Noise(Evaluator):
    """Accuracy and agreement with the parent under uniform noise, the same draw for every candidate.

    Attributes:
        epsilons: Half-widths of U(-eps, eps) on [0, 1] images, in units of 1/255; clipped to [0, 1].
    """

    epsilons: tuple[float, ...] = (8.0, 16.0, 32.0)

    def __post_init__(self) -> None:
        check_epsilons("noise", self.epsilons)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy, NLL, agreement."""
        return ACCURACY, NLL, AGREEMENT

    @property
    def needs(self) -> tuple[View, ...]:
        """The test images with each noise."""
        return tuple(View(change=UniformNoise(epsilon)) for epsilon in self.epsilons)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields three scores per epsilon."""
        for view in self.needs:
            yield from labelled_scores(bench, view, group="noise")
