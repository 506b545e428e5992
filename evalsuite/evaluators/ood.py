"""Spotting inputs that belong to no known class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from evalsuite.bench import Bench
from evalsuite.data import DATASETS
from evalsuite.data.views import View
from evalsuite.errors import SuiteError
from evalsuite.evaluators.accuracy import POPULATION
from evalsuite.evaluators.contract import Evaluator, check_once
from evalsuite.metrics import energy, msp
from evalsuite.records import Array, Floats, Metric, Score
from evalsuite.registry import unknown

DETECTORS: Mapping[str, Callable[[Array], Floats]] = MappingProxyType({"msp": msp, "energy": energy})
"""Scores from logits (N, K), float64 (N,); larger means more out of distribution."""

_MEASURES = (
    ("auroc", True, 0.01, "Area under the ROC curve, out-of-distribution positive, ties count one half"),
    ("aupr_out", True, None, "Average precision (no interpolation), out-of-distribution positive"),
    ("aupr_in", True, None, "Average precision (no interpolation), in-distribution positive"),
    ("fpr95_ood_positive", False, None, "Share of in-distribution images flagged where 95 % of outliers are"),
    ("fpr95_id_positive", False, None, "Share of outliers kept where 95 % of in-distribution images are"),
)
_SOURCES = MappingProxyType(
    {
        "msp": "maximum softmax probability (Hendrycks and Gimpel 2017, arXiv 1610.02136)",
        "energy": "energy score at T = 1 (Liu et al. 2020, arXiv 2010.03759)",
    }
)


@dataclass(frozen=True)
class Ood(Evaluator):
    """Out-of-distribution detection by MSP and energy: AUROC, AUPR both ways, FPR95 in both conventions.

    Attributes:
        near: Registered data sets that resemble the suite's own.
        far: Registered data sets that do not.
        detectors: Scores from logits.
        images: Use only the first so many images of each outlier set; 0 for all.
    """

    near: tuple[str, ...] = ()
    far: tuple[str, ...] = ()
    detectors: tuple[str, ...] = ("msp", "energy")
    images: int = 0

    def __post_init__(self) -> None:
        if not self.near + self.far:
            raise SuiteError(
                "ood: found no image sets, expected names in near or far, for example far = ['letters']"
            )
        for name in self.near + self.far:
            if name not in DATASETS:
                raise SuiteError(unknown("data set", name, DATASETS))
        check_once("ood", "near and far", self.near + self.far)
        check_once("ood", "detectors", self.detectors)
        if not self.detectors or not set(self.detectors) <= set(DETECTORS):
            raise SuiteError(
                f"ood: found detectors {list(self.detectors)}, expected some of {', '.join(DETECTORS)}"
            )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Five measures per detector."""
        return tuple(
            Metric(
                f"{detector}_{name}",
                better,
                "fraction",
                f"{text}; score: {_SOURCES[detector]}.",
                name,
                tolerance,
            )
            for detector in self.detectors
            for name, better, tolerance, text in _MEASURES
        )

    @property
    def needs(self) -> tuple[View, ...]:
        """The clean test images and every outlier set."""
        return View(), *map(self._view, self.near + self.far)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields five scores per detector and outlier set."""
        for detector in self.detectors:
            score = DETECTORS[detector]
            inside = score(bench.outputs(View()).logits)
            for name in self.near + self.far:
                outside = score(bench.outputs(self._view(name)).logits)
                group = "ood-near" if name in self.near else "ood-far"
                for measure, *_ in _MEASURES:
                    evidence = {POPULATION: inside, self._population(name): outside}
                    yield Score(f"{detector}_{measure}", name, evidence=evidence, group=group)

    def _view(self, name: str) -> View:
        return View(data=name, first=self.images)

    def _population(self, name: str) -> str:
        """Name of the images in evidence: sets of other sizes are other populations."""
        return f"{name}[:{self.images}]" if self.images else name
