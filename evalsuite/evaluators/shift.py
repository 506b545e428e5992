"""Natural distribution shift: other images of the same classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from evalsuite.datasets import DATASETS
from evalsuite.datasets.views import FOLDER_SUFFIX, View
from evalsuite.errors import SuiteError
from evalsuite.evaluators.accuracy import (
    ACCURACY,
    AGREEMENT,
    ECE,
    NLL,
    POPULATION,
    calibration_score,
    labelled_scores,
)
from evalsuite.evaluators.base import Condition, DataSummary, Evaluator, check_once, declare
from evalsuite.metrics.class_rules import right_on_same_classes
from evalsuite.registry import unknown_name
from evalsuite.statistics.rate_limits import rate_lower_limit
from evalsuite.types import Array, Metric, Score

if TYPE_CHECKING:
    from evalsuite.evaluation import Bench

GAP = Metric(
    "gap_to_clean", higher_is_better=False, unit="fraction", functional="mean_difference",
    text="Accuracy on the clean test images minus accuracy on the shifted ones; its drop from parent to candidate is "
    "the excess error (Liebenwein et al. 2021, arXiv 2103.03014).",
)  # fmt: skip
GROUP = "shift"


@dataclass(frozen=True)
class Shift(Evaluator):
    """Accuracy, likelihood, agreement and calibration on other images of the same classes, and the gap to clean.

    Attributes:
        sets: Registered data sets with the suite's classes, for example ``cifar10.1``; a name that ends with a
            slash is a folder under the data root with ``test_images.npy`` and ``test_labels.npy``.
        images: Use only the first so many images of each set; 0 for all.

    References:
        Recht et al. 2018, arXiv 1806.00451.
    """

    sets: tuple[str, ...] = ()
    images: int = 0

    def __post_init__(self) -> None:
        if not self.sets:
            raise SuiteError(
                "shift: found no image sets, expected names, for example sets = ['cifar10.1'], or a folder of your "
                "own, sets = ['ours/']"
            )
        for name in self.sets:
            if name not in DATASETS and not (name.endswith(FOLDER_SUFFIX) and len(name) > 1):
                raise SuiteError(
                    f"{unknown_name('data set', name, DATASETS)}; a folder of your own ends with a slash"
                )
        check_once("shift", "sets", [name.removesuffix(FOLDER_SUFFIX) for name in self.sets])
        if self.images < 0:
            raise SuiteError(f"shift: found images = {self.images}, expected a count, or 0 for all")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy, NLL, agreement, ECE, gap to clean."""
        return ACCURACY, NLL, AGREEMENT, ECE, GAP

    @property
    def needs(self) -> tuple[View, ...]:
        """The clean test images and every shifted set."""
        return View(), *map(self._view, self.sets)

    def conditions(self, data: DataSummary) -> Iterable[Condition]:
        """Yields five metrics per set."""
        for name in self.sets:
            yield from declare(self.metrics, data.condition(self._view(name)), GROUP)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields five scores per set."""
        for name in self.sets:
            view = self._view(name)
            condition = bench.condition(view)
            population = f"{condition}[:{self.images}]" if self.images else condition  # not the test images
            flags = _at_chance(bench, view)
            for score in labelled_scores(bench, view, group=GROUP, population=population):
                yield replace(score, flags=flags) if score.metric == ACCURACY.name else score
            yield calibration_score(bench, view, group=GROUP, population=population)
            evidence = {**_clean(bench, view), population: bench.outputs(view).correct}
            yield Score(GAP.name, condition, evidence=evidence, group=GROUP)

    def _view(self, name: str) -> View:
        return View(data=name, first=self.images, labelled=True)


def _clean(bench: Bench, view: View) -> dict[str, Array]:
    """Which clean test images are right, of the classes that a set has, scored as on that set."""
    clean, rule = bench.outputs(View()), bench.images(view).rule
    if rule is None or rule == bench.images(View()).rule:
        return {POPULATION: clean.correct}
    right = right_on_same_classes(clean.logits, clean.true_labels, rule)
    return {f"{POPULATION}, classes of {bench.condition(view)}": right}


def _at_chance(bench: Bench, view: View) -> tuple[str, ...]:
    """A flag where the parent is not shown to be better than chance: what a candidate loses cannot be seen there."""
    outputs, classes = bench.parent.outputs(view), bench.images(view).classes
    right, n = int(outputs.correct.sum()), len(outputs.correct)
    if rate_lower_limit(right, n) > 1 / classes:
        return ()
    return (
        f"The parent is right on {right} of {n} images, which is not shown to be more than chance ({1 / classes:.1%}).",
    )
