"""The official RobustBench benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from evalsuite.datasets.views import View
from evalsuite.errors import SkippedError, SuiteError
from evalsuite.evaluators.accuracy import ROBUST_ACCURACY, population_of_first
from evalsuite.evaluators.base import Condition, DataSummary, Evaluator, declare, sorted_by_class
from evalsuite.models.inference import gradient_obstacle
from evalsuite.random_streams import address
from evalsuite.types import Metric, Score

if TYPE_CHECKING:
    from evalsuite.evaluation import Bench

DATA = ("cifar10", "cifar100", "imagenet")
"""Data sets that have a published leaderboard."""


@dataclass(frozen=True)
class RobustBench(Evaluator):
    """Robust accuracy by RobustBench's own `benchmark`: the full AutoAttack, its standard version.

    Hours for thousands of images on a CPU: each image that is robust costs some 14,500 forward passes. The
    library's code runs unchanged on the suite's own test images; on other data sets than CIFAR and ImageNet
    there is no official number, and the cell is skipped.

    Attributes:
        norm: ``Linf`` or ``L2``.
        epsilon: Radius: in units of 1/255 in Linf (8 is published for CIFAR, 4 for ImageNet), for images in
            [0, 1] in L2 (0.5).
        images: Attack only the first so many test images; 0 for all 10,000, as the leaderboard does.

    References:
        Croce et al. 2021, "RobustBench", arXiv 2010.09670; Croce and Hein 2020, arXiv 2003.01690.
    """

    norm: Literal["Linf", "L2"] = "Linf"
    epsilon: float = 8.0
    images: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 255:
            raise SuiteError(
                f"robustbench-benchmark: found epsilon = {self.epsilon}, expected a number in (0, 255]"
            )
        if self.images < 0:
            raise SuiteError(
                f"robustbench-benchmark: found images = {self.images}, expected a count, or 0 for all"
            )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Robust accuracy."""
        return (ROBUST_ACCURACY,)

    @property
    def needs(self) -> tuple[View, ...]:
        """The clean test images."""
        return (View(),)

    def conditions(self, data: DataSummary) -> Iterable[Condition]:  # noqa: ARG002  # the same for all data
        """Yields one, ``robustbench Linf/8:255``; data sets without a leaderboard have no score."""
        yield from declare(self.metrics, self._condition)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields one score, ``robustbench Linf/8:255``.

        Raises:
            SkippedError: If there is no official number for this data set or this model.
        """
        from evalsuite.compat.robustbench import AutoAttack, benchmark

        self._check(bench)
        labels, cut = bench.outputs(View()).true_labels, slice(0, self.images or None)
        result = benchmark(
            bench.inference_model,
            np.array(bench.images(View()).images[cut]),
            labels[cut],
            attack=AutoAttack(
                self.epsilon / 255 if self.norm == "Linf" else self.epsilon,
                seed=address(bench.seed, "robustbench") % 2**31,  # its seeds are 32 bits wide
                norm=self.norm,
            ),
        )
        population = population_of_first(len(labels[cut]), len(labels))
        yield Score(
            ROBUST_ACCURACY.name,
            self._condition,
            evidence={population: result.robust_images.cpu().numpy()},
            flags=sorted_by_class(labels, self.images),
        )

    @property
    def _condition(self) -> str:
        return f"robustbench {self.norm}/{self.epsilon:g}{':255' if self.norm == 'Linf' else ''}"

    def _check(self, bench: Bench) -> None:
        name = bench.images(View()).name
        if name not in DATA:
            raise SkippedError(
                f"RobustBench has no leaderboard for the data set {name!r}, only for {', '.join(DATA)}; "
                "use an attack evaluator with apgd-ce, apgd-t, fab-t and square"
            )
        if obstacle := gradient_obstacle(bench.model):
            raise SkippedError(f"the model has no gradients ({obstacle}), which AutoAttack needs")
