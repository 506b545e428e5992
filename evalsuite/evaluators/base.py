"""The contract of an evaluator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from scipy.special import pdtrc

from evalsuite.datasets.views import View
from evalsuite.errors import SuiteError
from evalsuite.evaluation import Bench
from evalsuite.types import Array, Metric, Score


def check_once(evaluator: str, key: str, values: Sequence[object]) -> None:
    """Checks that a setting names nothing twice, since each condition has one score.

    Raises:
        SuiteError: Otherwise.
    """
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise SuiteError(f"{evaluator}: {', '.join(twice)} is in {key} twice; name each once")


class Evaluator(ABC):
    """Tests one candidate; derive a frozen dataclass whose fields are the keys of the suite's table.

    Attributes:
        version: Raise it when the meaning of the numbers changes: cells of older versions are measured again.
        uses_control: Whether `evaluate` uses `evalsuite.evaluation.Bench.control`: cells then depend
            on its weights too.
        uses_history: Whether `evaluate` uses `evalsuite.evaluation.Bench.history`: cells then depend on it too.
        measures_time: Whether `evaluate` reads a clock: its numbers then differ from run to run, and cells
            depend on the machine too.
    """

    version: ClassVar[int] = 1
    uses_control: ClassVar[bool] = False
    uses_history: ClassVar[bool] = False
    measures_time: ClassVar[bool] = False

    @property
    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """The kinds of numbers that `evaluate` may yield."""

    @property
    @abstractmethod
    def needs(self) -> tuple[View, ...]:
        """The image sets whose outputs `evaluate` asks for; the bench runs the union of all evaluators once."""

    @property
    def features(self) -> tuple[View, ...]:
        """The image sets whose penultimate features `evaluate` asks for as well; none by default.

        One that is not in `needs` may be missing from the data: asking for its outputs then raises
        `evalsuite.errors.DataError`.
        """
        return ()

    @property
    def extra_images(self) -> int:
        """Images that `evaluate` sends through networks by itself, beside its needs: for estimates of the cost.

        0 where nobody can count them before, as for attacks.
        """
        return 0

    @abstractmethod
    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields the scores of the bench's model.

        The caller computes values from evidence, checks names and counts, and records what is raised here as
        the reason of a cell without numbers.
        """


UNLIKELY = 1e-5
"""Chance below which so many missing classes are none."""


def sorted_by_class(labels: Array, first: int) -> tuple[str, ...]:
    """Returns a flag where the first images do not stand for all of them: they show few of the classes.

    Args:
        labels: Of all images, int (N,).
        first: How many of them are looked at; 0 for all.

    >>> sorted_by_class(np.repeat(np.arange(10), 100), 200)[0][:50]
    'The first 200 of 1000 images show 2 of 10 classes,'
    >>> sorted_by_class(np.tile(np.arange(10), 100), 200)
    ()
    """
    part = labels[: first or None]
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    there, absent = len(np.unique(part)), float(((1 - shares) ** len(part)).sum())
    missing = len(shares) - there  # about Poisson, for images drawn at random
    if len(part) == len(labels) or not missing or pdtrc(missing - 1, absent) >= UNLIKELY:
        return ()
    expected = len(shares) - absent
    return (
        f"The first {len(part)} of {len(labels)} images show {there} of {len(shares)} classes, where {len(part)} drawn "
        f"at random would show {expected:.0f}: they are sorted by class, so shuffle them or look at all.",
    )


def check_epsilons(evaluator: str, epsilons: tuple[float, ...]) -> None:
    """Checks radii in units of 1/255.

    Raises:
        SuiteError: If there are none, one is there twice, or one is outside (0, 255].
    """
    if not epsilons or not all(0 < epsilon <= 255 for epsilon in epsilons):
        raise SuiteError(
            f"{evaluator}: found epsilons = {list(epsilons)}, expected at least one number in (0, 255]; "
            "they are in units of 1/255"
        )
    check_once(evaluator, "epsilons", [f"{epsilon:g}" for epsilon in epsilons])  # as conditions are named
