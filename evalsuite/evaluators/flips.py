"""Flip probability: how often the prediction changes from frame to frame of a perturbation sequence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evalsuite.datasets.transforms.sequences import PERTURBATIONS, PerturbationSequences
from evalsuite.datasets.views import View
from evalsuite.errors import DataError, SuiteError
from evalsuite.evaluators.base import Condition, DataSummary, Evaluator, check_once
from evalsuite.evaluators.published_means import missing_flags, unverified
from evalsuite.registry import unknown_name
from evalsuite.types import Array, Floats, Metric, Score

if TYPE_CHECKING:
    from evalsuite.evaluation import Bench

FLIPS = Metric(
    "flip_probability", higher_is_better=False, unit="fraction",
    text="Share of the frames of CIFAR-10-P on which the prediction differs from that on the frame before, or under "
    "noise, whose frames are independent, on the first; not divided by another network's "
    "(Hendrycks and Dietterich 2019, arXiv 1903.12261).",
)  # fmt: skip
GROUP = "videos"


@dataclass(frozen=True)
class Flips(Evaluator):
    """Flip probability on the perturbation sequences (videos) of CIFAR-10-P, for each perturbation and on average.

    There are 10,000 videos per perturbation with some thirty frames each: as many forward passes as three
    hundred test sets. With `videos` only some of them are used.

    Attributes:
        kinds: Which of the ten perturbations; all by default.
        videos: Use only the first so many of each; 0 for all.
        folder: Folder under the data root.

    References:
        Hendrycks and Dietterich 2019, arXiv 1903.12261, section 4.
    """

    kinds: tuple[str, ...] = PERTURBATIONS
    videos: int = 0
    folder: str = "CIFAR-10-P"

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in PERTURBATIONS:
                raise SuiteError(unknown_name("perturbation", kind, PERTURBATIONS))
        if not self.kinds:
            raise SuiteError("flips: found no kinds, expected at least one")
        if self.videos < 0:
            raise SuiteError(f"flips: found videos = {self.videos}, expected a count, or 0 for all")
        check_once("flips", "kinds", self.kinds)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Flip probability."""
        return (FLIPS,)

    @property
    def needs(self) -> tuple[View, ...]:
        """All frames of each perturbation."""
        return tuple(View(transform=sequences) for sequences in self._sequences())

    def conditions(self, data: DataSummary) -> Iterable[Condition]:
        """Yields each perturbation, and the mean over them."""
        for view in self.needs:
            yield Condition(FLIPS.name, data.condition(view), GROUP)
        yield Condition(FLIPS.name, GROUP)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields one score per perturbation, and one for their mean, all with one number per video.

        Raises:
            DataError: If the perturbations have different numbers of videos.
        """
        population = f"{self.folder}[:{self.videos}]" if self.videos else self.folder
        rates: list[Floats] = []
        for sequences in self._sequences():
            view = View(transform=sequences)
            frames = sequences.sequences(bench.image_source.place)
            predictions = bench.outputs(view).predictions.reshape(frames.shape[:2])
            rates.append(flip_rates(predictions, independent="noise" in sequences.kind))
            yield Score(FLIPS.name, bench.condition(view), evidence={population: rates[-1]}, group=GROUP)
        counts = [len(values) for values in rates]
        if len(set(counts)) > 1:
            raise DataError(
                f"{self.folder}: found {counts} videos of {', '.join(self.kinds)}, expected equally many"
            )
        unsure = unverified(
            bench, {sequences.kind: View(transform=sequences) for sequences in self._sequences()}
        )
        flags = (*unsure, *missing_flags(self.kinds, PERTURBATIONS, noun="perturbations"))
        yield Score(FLIPS.name, GROUP, evidence={population: np.mean(rates, axis=0)}, flags=flags)

    def _sequences(self) -> tuple[PerturbationSequences, ...]:
        return tuple(PerturbationSequences(kind, self.folder, self.videos) for kind in self.kinds)


def flip_rates(predictions: Array, *, independent: bool) -> Floats:
    """Returns the share of frames of each video on which the prediction flips.

    Args:
        predictions: Classes, shape (videos, frames), at least two frames.
        independent: Compare with the first frame, for noise that is drawn anew for each; else with the frame
            before.

    >>> flip_rates(np.array([[1, 2, 2, 1]]), independent=False), flip_rates(np.array([[1, 2, 2, 1]]), independent=True)
    (array([0.66666667]), array([0.66666667]))
    """
    before = predictions[:, :1] if independent else predictions[:, :-1]
    flipped: Floats = (predictions[:, 1:] != before).mean(axis=1, dtype=np.float64)
    return flipped
