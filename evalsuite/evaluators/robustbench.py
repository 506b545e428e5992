"""The number that RobustBench would publish."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evalsuite.datasets.views import View
from evalsuite.errors import SkippedError, SuiteError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.accuracy import POPULATION
from evalsuite.evaluators.attack import ROBUST_ACCURACY
from evalsuite.evaluators.base import Evaluator, sorted_by_class
from evalsuite.models.inference import gradient_obstacle
from evalsuite.random_streams import address
from evalsuite.types import Metric, Score

DATA = ("cifar10", "cifar100", "imagenet")
"""Data sets that have a published leaderboard."""


@dataclass(frozen=True)
class RobustBench(Evaluator):
    """Robust accuracy by RobustBench's own `benchmark`: the full AutoAttack, its standard version.

    Hours for thousands of images on a CPU: each image that withstands costs some 14,500 forward passes. The
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

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields one score, ``robustbench Linf/8:255``.

        Raises:
            SkippedError: If there is no official number for this data set or this model.
        """
        from evalsuite.compat.robustbench import AutoAttack, benchmark

        self._check(bench)
        outputs, cut = bench.outputs(View()), slice(0, self.images or None)
        linf = self.norm == "Linf"
        found = benchmark(
            bench.inference_model,
            np.array(bench.images(View()).images[cut]),
            outputs.known[cut],
            attack=AutoAttack(
                self.epsilon / 255 if linf else self.epsilon,
                seed=address(bench.seed, "robustbench") % 2**31,  # its seeds are 32 bits wide
                norm=self.norm,
            ),
        )
        whole = len(outputs.known[cut]) == len(outputs.known)
        population = POPULATION if whole else f"{POPULATION}[:{self.images}]"
        yield Score(
            ROBUST_ACCURACY.name,
            f"robustbench {self.norm}/{self.epsilon:g}{':255' if linf else ''}",
            evidence={population: found.withstood.cpu().numpy()},
            flags=sorted_by_class(outputs.known, self.images),
        )

    def _check(self, bench: Bench) -> None:
        name = bench.images(View()).name
        if name not in DATA:
            raise SkippedError(
                f"RobustBench has no leaderboard for the data set {name!r}, only for {', '.join(DATA)}; "
                "use an attack evaluator with apgd-ce, apgd-t, fab-t and square"
            )
        if obstacle := gradient_obstacle(bench.model):
            raise SkippedError(f"the model has no gradients ({obstacle}), which AutoAttack needs")
