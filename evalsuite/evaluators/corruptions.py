"""The common corruptions of CIFAR-10-C and ImageNet-C, generated or read from the official archives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from evalsuite.datasets.transforms.archives import OfficialCorruption
from evalsuite.datasets.transforms.common_corruptions.kinds import CORRUPTIONS, EXTRA, FAMILIES
from evalsuite.datasets.transforms.corruption import Corruption
from evalsuite.datasets.views import View
from evalsuite.errors import SuiteError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.accuracy import (
    ACCURACY,
    AGREEMENT,
    ECE,
    NLL,
    POPULATION,
    calibration_score,
    labelled_scores,
    single,
)
from evalsuite.evaluators.base import Evaluator, check_once
from evalsuite.evaluators.published_means import SEVERITIES, missing_kinds, unverified
from evalsuite.models.checkpoints.names import some
from evalsuite.registry import unknown
from evalsuite.types import Array, Metric, Score

GROUP = "corruptions"
EXTRA_GROUP = "corruptions-extra"
FEW = 20
"""Images that the parent must have wrong under a kind: below, a resample may have none, and no ratio exists."""
CLEAR = 5.0
"""Standard errors that the parent's own gap to clean must be above 0, for a ratio to that gap to mean anything."""

WORST = Metric(
    "accuracy_worst_corruption", higher_is_better=True, unit="fraction", functional="smallest_mean",
    text="The lowest of the accuracies under each corruption and severity.",
)  # fmt: skip
ALL = Metric(
    "accuracy_all_corruptions", higher_is_better=True, unit="fraction",
    text="Share of images that are classified correctly under every one of the corruptions at a severity.",
)  # fmt: skip
MCE = Metric(
    "mce_parent", higher_is_better=False, unit="1", functional="mean_ratio",
    text="Mean corruption error relative to the parent: the mean over corruptions of the error summed over severities, "
    "divided by the parent's (Hendrycks and Dietterich 2019, arXiv 1903.12261, with the parent for AlexNet); "
    f"needs {FEW} images that the parent has wrong under each.",
)  # fmt: skip
RELATIVE_MCE = Metric(
    "relative_mce_parent", higher_is_better=False, unit="1", functional="mean_ratio",
    text="The same with the clean error taken off each error: how much faster the candidate degrades than its parent; "
    f"needs a parent whose error under each corruption is {CLEAR:g} standard errors above its clean one.",
)  # fmt: skip

_Cell = tuple[str, int]
_Cells = Mapping[_Cell, Array]


@dataclass(frozen=True)
class Corruptions(Evaluator):
    """Accuracy, likelihood and calibration under common corruptions, their means, the worst case, and the mCE.

    Generated corruptions are conditions like ``fog/3`` in the group ``corruptions``, official ones ``fog
    official/3`` in ``corruptions official``; the extra ones are in ``corruptions-extra``. What is said over all
    of a group has its name as the condition; the families are ``noise corruptions`` and so on.

    Attributes:
        severities: 1 to 5.
        kinds: Which of the 15; all by default.
        extra: Whether to add the 4 corruptions meant for validation, as a group of their own outside every mean.
        source: ``generated`` here, seeded, or read from the ``official`` archive under the data root. The two
            never share a condition.
        folder: Folder of the official archive; empty for the one of the data set, for example ``CIFAR-10-C``.
        verify: Refuse official files whose MD5 sum is not the published one.

    References:
        Hendrycks and Dietterich 2019, arXiv 1903.12261.
    """

    severities: tuple[int, ...] = SEVERITIES
    kinds: tuple[str, ...] = CORRUPTIONS
    extra: bool = False
    source: Literal["generated", "official"] = "generated"
    folder: str = ""
    verify: bool = True

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in CORRUPTIONS:
                hint = "; extra = true adds it, outside the mean" if kind in EXTRA else ""
                raise SuiteError(unknown("corruption", kind, CORRUPTIONS) + hint)
        if not self.severities or not set(self.severities) <= set(SEVERITIES):
            raise SuiteError(
                f"corruptions: found severities {list(self.severities)}, expected some of 1 to 5"
            )
        if not self.kinds:
            raise SuiteError("corruptions: found no kinds, expected at least one")
        if self.folder and self.source == "generated":
            raise SuiteError(f"corruptions: found folder = {self.folder!r}, which needs source = 'official'")
        check_once("corruptions", "kinds", self.kinds)
        check_once("corruptions", "severities", self.severities)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy, NLL, agreement, ECE; worst cases; corruption errors relative to the parent."""
        return ACCURACY, NLL, AGREEMENT, ECE, WORST, ALL, MCE, RELATIVE_MCE

    @property
    def needs(self) -> tuple[View, ...]:
        """The clean test images, and those under each corruption and severity."""
        return View(), *self._views().values()

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields four scores per corruption and severity, and those for all of them.

        Means are over images and conditions at once, so that they have evidence of their own: one number per
        image. A painted frost (``frost*``) is reported but stays out of the group and everything about it, as
        do the extra kinds.
        """
        counted: dict[_Cell, View] = {}
        kept: dict[str, dict[_Cell, Array]] = defaultdict(dict)
        for cell, view in self._views().items():
            group = self._group(cell, bench.condition(view))
            for score in map(single, labelled_scores(bench, view, group=group)):
                yield score
                if group == self._named(GROUP):
                    counted[cell] = view
                    kept[score.metric][cell] = score.evidence[POPULATION]
            yield single(calibration_score(bench, view, group=group))
        if counted:
            unsure = unverified(bench, {kind: view for (kind, _), view in counted.items()})
            for metric, cells in kept.items():
                yield from self._means(metric, cells, unsure)
            yield from self._worst(kept[ACCURACY.name], unsure)
            for score in self._relative(bench, counted):
                yield score if score.reason else replace(score, flags=(*unsure, *missing_kinds(counted)))

    def _views(self) -> dict[_Cell, View]:
        kinds = (*self.kinds, *(EXTRA if self.extra else ()))
        return {(kind, level): self._view(kind, level) for kind in kinds for level in self.severities}

    def _view(self, kind: str, level: int) -> View:
        if self.source == "generated":
            return View(transform=Corruption(kind, level))
        return View(transform=OfficialCorruption(kind, level, self.folder, self.verify))

    def _group(self, cell: _Cell, condition: str) -> str:
        if cell[0] in EXTRA:
            return self._named(EXTRA_GROUP)
        return "" if "*" in condition else self._named(GROUP)

    def _named(self, name: str) -> str:
        """What generated and official corruptions may not share."""
        return name if self.source == "generated" else f"{name} official"

    def _means(self, metric: str, cells: _Cells, unsure: tuple[str, ...]) -> Iterator[Score]:
        """The mean over all kinds, and over those of each family."""
        families = {f"{family} corruptions": kinds for family, kinds in FAMILIES.items()}
        for name, kinds in {GROUP: CORRUPTIONS, **families}.items():
            chosen = [values for (kind, _), values in cells.items() if kind in kinds]
            if chosen:
                mean = np.asarray(np.mean(np.stack(chosen), axis=0, dtype=np.float64))
                flags = (
                    *(unsure if name == GROUP else ()),
                    *missing_kinds(cells, kinds=kinds),
                )  # the files once
                yield Score(metric, self._named(name), evidence={POPULATION: mean}, flags=flags)

    def _worst(self, correct: _Cells, unsure: tuple[str, ...]) -> Iterator[Score]:
        """The worst condition of all, and at each severity the worst that each image meets."""
        everything = np.stack(list(correct.values()), axis=1)
        flags = (*unsure, *missing_kinds(correct))
        yield Score(WORST.name, self._named(GROUP), evidence={POPULATION: everything}, flags=flags)
        for level in self.severities:
            here = {cell: values for cell, values in correct.items() if cell[1] == level}
            right = np.all(list(here.values()), axis=0)
            flags = missing_kinds(here, severities=(level,))
            yield Score(ALL.name, f"{self._named(GROUP)}/{level}", evidence={POPULATION: right}, flags=flags)

    def _relative(self, bench: Bench, views: Mapping[_Cell, View]) -> Iterator[Score]:
        """Corruption errors relative to the parent; a reason where the parent is no measure of them."""
        condition, kinds = self._named(GROUP), list(dict.fromkeys(kind for kind, _ in views))
        mine, parents = (_wrong(one, views) for one in (bench, bench.parent))
        few = [kind for kind, column in zip(kinds, parents.T, strict=True) if (column > 0).sum() < FEW]
        yield _ratio(
            MCE, condition, mine, parents, few and f"fewer than {FEW} images wrong under {some(few)}"
        )
        gaps = mine - _clean(bench, views), parents - _clean(bench.parent, views)
        unclear = [kind for kind, column in zip(kinds, gaps[1].T, strict=True) if not _clear(column)]
        why = unclear and f"an error that is not clearly above its clean one under {some(unclear)}"
        yield _ratio(RELATIVE_MCE, condition, *gaps, why)


def _ratio(metric: Metric, condition: str, mine: Array, parents: Array, why: str | list[str]) -> Score:
    if why:
        return Score(metric.name, condition, reason=f"the parent has {why}: a ratio to it means nothing")
    return Score(metric.name, condition, evidence={POPULATION: np.column_stack([mine, parents])})


def _wrong(bench: Bench, views: Mapping[_Cell, View]) -> Array:
    """At how many severities each image is misclassified under each kind, int8 (N, kinds)."""
    totals: dict[str, Array] = {}
    for (kind, _), view in views.items():
        wrong = (~bench.outputs(view).correct).astype(np.int8)
        totals[kind] = totals[kind] + wrong if kind in totals else wrong
    return np.stack(list(totals.values()), axis=1)


def _clean(bench: Bench, views: Mapping[_Cell, View]) -> Array:
    """How often an image would be misclassified at as many severities if they did nothing, int8 (N, 1)."""
    severities = len({severity for _, severity in views})
    return (severities * ~bench.outputs(View()).correct).astype(np.int8)[:, None]


def _clear(gaps: Array) -> bool:
    """Whether the mean of one number per image is clearly above 0."""
    error = gaps.std(ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else np.inf
    return bool(gaps.mean() > CLEAR * error)
