"""The common corruptions of CIFAR-10-C, generated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from evalsuite.bench import Bench
from evalsuite.data.corruptions import CORRUPTIONS
from evalsuite.data.views import Corruption, View
from evalsuite.errors import SuiteError
from evalsuite.evaluators.accuracy import ACCURACY, AGREEMENT, NLL, POPULATION, labelled_scores
from evalsuite.evaluators.contract import Evaluator, check_once
from evalsuite.records import Array, Metric, Score
from evalsuite.registry import unknown

GROUP = "corruptions"
SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruptions(Evaluator):
    """Accuracy under the 15 common corruptions, each at the severities asked for, and the mean over all.

    Attributes:
        severities: 1 to 5.
        kinds: Which of the 15; all by default.

    References:
        Hendrycks and Dietterich 2019, arXiv 1903.12261, with the CIFAR constants.
    """

    severities: tuple[int, ...] = SEVERITIES
    kinds: tuple[str, ...] = CORRUPTIONS

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in CORRUPTIONS:
                raise SuiteError(unknown("corruption", kind, CORRUPTIONS))
        if not self.severities or not set(self.severities) <= set(SEVERITIES):
            raise SuiteError(
                f"corruptions: found severities {list(self.severities)}, expected some of 1 to 5"
            )
        if not self.kinds:
            raise SuiteError("corruptions: found no kinds, expected at least one")
        check_once("corruptions", "kinds", self.kinds)
        check_once("corruptions", "severities", self.severities)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy, NLL, agreement."""
        return ACCURACY, NLL, AGREEMENT

    @property
    def needs(self) -> tuple[View, ...]:
        """The test images under each corruption and severity."""
        return tuple(View(change=Corruption(kind, level)) for kind in self.kinds for level in self.severities)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields three scores per corruption and severity, and three for the mean over all of them.

        The mean is over images and conditions at once, so that it has evidence of its own: one number per
        image. A painted frost (``frost*``) is reported but stays out of the group and its mean.
        """
        means: dict[str, list[Array]] = defaultdict(list)
        for view in self.needs:
            published = "*" not in bench.condition(view)
            for score in labelled_scores(bench, view, group=GROUP if published else ""):
                yield score
                if published:
                    means[score.metric].append(score.evidence[POPULATION])
        for metric, values in means.items():
            mean = np.asarray(np.mean(np.stack(values), axis=0, dtype=np.float64))
            yield Score(metric, GROUP, evidence={POPULATION: mean})
