"""The contract of an evaluator: what it needs, what it reports, and on which conditions."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy.special import pdtrc

from evalsuite.errors import SuiteError

if TYPE_CHECKING:
    from evalsuite.datasets.views import View
    from evalsuite.evaluation import Bench
    from evalsuite.types import Array, ImageSet, Metric, Score


@dataclass(frozen=True, slots=True)
class Condition:
    """One number that an evaluator reports, declared before anything is measured.

    Attributes:
        metric: Name of the metric.
        condition: What the images are: ``clean``, ``fog/3``.
        group: Conditions that are summarised together, for example ``corruptions``; empty for none.
    """

    metric: str
    condition: str
    group: str = ""


@dataclass(frozen=True)
class DataSummary:
    """What is known of the test images of a suite before a model is evaluated on them.

    Attributes:
        classes: Number of classes K.
        shape: Shape of one image, (C, H, W).
        images: Number of test images N.
        condition: Returns the name of the condition that a view shows, as
            `evalsuite.datasets.source.ImageSource.condition`; loads no images.
        class_names: Names of the classes, one each; empty where the data set has none.
        labelled: Whether the test images have labels.
        control: Whether parents have a control, an independently trained network: a suite of several seeds.
    """

    classes: int
    shape: tuple[int, int, int]
    images: int
    condition: Callable[[View], str]
    class_names: tuple[str, ...] = ()
    labelled: bool = True
    control: bool = True

    @classmethod
    def of(cls, images: ImageSet, condition: Callable[[View], str], *, control: bool = True) -> DataSummary:
        """Returns the summary of the test images of a suite.

        Args:
            images: The test images; only their shape and labels are looked at.
            condition: As the attribute.
            control: As the attribute.
        """
        count, channels, height, width = images.images.shape
        return cls(
            images.classes, (channels, height, width), count, condition,
            class_names=images.names, labelled=images.labels is not None, control=control,
        )  # fmt: skip


_RENAMED: Mapping[str, str] = MappingProxyType(
    {"controlled": "uses_control", "historical": "uses_history", "timed": "measures_time"}
)
"""Class attributes of plug-ins that were written for evalsuite 0.1; their old names work for one release."""


class Evaluator(ABC):
    """A test of one candidate; derive a frozen dataclass whose fields are the keys of the suite's table.

    Attributes:
        version: Raise it when the meaning of the numbers changes: cells of older versions are measured again.
        uses_control: Whether `evaluate` uses `evalsuite.evaluation.Bench.control`: cells then depend
            on its weights too.
        uses_history: Whether `evaluate` uses `evalsuite.evaluation.Bench.history`: cells then depend on it too.
        measures_time: Whether `evaluate` reads a clock: its numbers then differ from run to run, and cells
            depend on the machine too.
        image_by_image: Whether the evidence of every score has one row per test image, which depends on the networks
            and that image alone: the test can then be evaluated on some images after others (`check --sequential`).
    """

    version: ClassVar[int] = 1
    uses_control: ClassVar[bool] = False
    uses_history: ClassVar[bool] = False
    measures_time: ClassVar[bool] = False
    image_by_image: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Takes the old names of class attributes, with a warning that has the new ones."""
        super().__init_subclass__(**options)
        for old, new in _RENAMED.items():
            if old in vars(cls) and new not in vars(cls):
                warnings.warn(
                    f"evaluator {cls.__qualname__}: the class attribute {old!r} is now called {new!r}; rename it, "
                    "the old name stops working with the next release",
                    DeprecationWarning,
                    stacklevel=2,
                )
                setattr(cls, new, vars(cls)[old])

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
    def predictions(self) -> tuple[View, ...]:
        """The image sets, some of `needs`, of which `evaluate` can do with the most likely classes; none by default.

        Where `evalsuite.evaluation.Bench.is_screened`, their outputs have no likelihoods.
        """
        return ()

    @property
    def takes_gradient_steps(self) -> bool:
        """Whether `evaluate` follows the gradients of `evalsuite.evaluation.Bench.gradient_model`; not by default.

        Screened precision computes them in bfloat16.
        """
        return False

    @property
    def extra_images(self) -> int:
        """Images that `evaluate` sends through networks by itself, beside its needs: for estimates of the cost.

        0 where their number is unknown before, as for attacks.
        """
        return 0

    def conditions(self, data: DataSummary) -> Iterable[Condition] | None:  # noqa: ARG002  # for those who declare
        """Returns every metric on every condition that `evaluate` will report; loads neither images nor models.

        With them, a tolerance on a condition that no evaluator reports is refused before anything is computed.
        Scores that `evaluate` leaves out with a reason are declared too, and so are those that it reports for
        some models only.

        Args:
            data: What is known of the test images.

        Returns:
            One record for each pair of metric and condition; ``None``, the default, if the evaluator does not
            declare them: conditions are then checked after they were measured.
        """
        return None

    def for_conditions(
        self,
        conditions: Collection[str],  # noqa: ARG002  # for those who override it
        name_of: Callable[[View], str],  # noqa: ARG002
    ) -> Evaluator:
        """Returns an evaluator that reports these conditions as this one does, perhaps with fewer others beside them.

        A test that is `image_by_image` and looks at many image sets overrides it, so that none is passed whose checks
        are decided; the default is this evaluator.

        Args:
            conditions: Some of those that it reports.
            name_of: Returns the name of the condition that a view shows.
        """
        return self

    @abstractmethod
    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields the scores of the bench's model.

        The caller computes values from evidence, checks names and counts, and records what is raised here as
        the reason of a cell without numbers.
        """


def declare(metrics: Iterable[Metric], condition: str, group: str = "") -> Iterator[Condition]:
    """Yields the declaration of several metrics on one condition."""
    for metric in metrics:
        yield Condition(metric.name, condition, group)


UNLIKELY = 1e-5
"""Probability below which as many missing classes are not put down to chance."""


def sorted_by_class(labels: Array, first: int) -> tuple[str, ...]:
    """Returns a flag where the first images do not represent all of them: they show few of the classes.

    Args:
        labels: Of all images, int (N,).
        first: How many of them are evaluated; 0 for all.

    >>> sorted_by_class(np.repeat(np.arange(10), 100), 200)[0][:50]
    'The first 200 of 1000 images show 2 of 10 classes,'
    >>> sorted_by_class(np.tile(np.arange(10), 100), 200)
    ()
    """
    part = labels[: first or None]
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    present, expected_missing = len(np.unique(part)), float(((1 - shares) ** len(part)).sum())
    missing = len(shares) - present  # about Poisson, for images drawn at random
    if len(part) == len(labels) or not missing or pdtrc(missing - 1, expected_missing) >= UNLIKELY:
        return ()
    expected = len(shares) - expected_missing
    return (
        f"The first {len(part)} of {len(labels)} images show {present} of {len(shares)} classes, where {len(part)} "
        f"drawn at random would show {expected:.0f}: they are sorted by class, so shuffle them or look at all.",
    )


def check_once(evaluator: str, key: str, values: Sequence[object]) -> None:
    """Checks that a setting names nothing twice, since each condition has one score.

    Raises:
        SuiteError: Otherwise.
    """
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise SuiteError(f"{evaluator}: {', '.join(twice)} is in {key} twice; name each once")


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
