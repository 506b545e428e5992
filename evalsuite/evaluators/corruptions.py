"""The common corruptions of CIFAR-10-C and ImageNet-C, generated or read from the official archives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from evalsuite.datasets.transforms.archives import CORRUPTIONS_3D, OfficialCorruption
from evalsuite.datasets.transforms.common_corruptions.kinds import (
    CORRUPTIONS,
    EXTRA,
    FAMILIES,
    undefined_because,
)
from evalsuite.datasets.transforms.corruption import Corruption
from evalsuite.datasets.views import View
from evalsuite.errors import SuiteError, first_few
from evalsuite.evaluation import WITHOUT_LIKELIHOODS
from evalsuite.evaluators.accuracy import (
    ACCURACY,
    AGREEMENT,
    ECE,
    LABELLED,
    NLL,
    POPULATION,
    calibration_score,
    float32_evidence,
    labelled_scores,
)
from evalsuite.evaluators.base import Condition, DataSummary, Evaluator, check_once, declare
from evalsuite.evaluators.published_means import SEVERITIES, missing_kinds, unverified
from evalsuite.evaluators.screening import CHANGED, PASSED_AGAIN, screening_scores
from evalsuite.registry import unknown_name
from evalsuite.types import SYNTHETIC_FROST, Array, Metric, Score

if TYPE_CHECKING:
    from evalsuite.evaluation import Bench

GROUP = "corruptions"
EXTRA_GROUP = "corruptions-extra"
GROUP_3D = "corruptions-3d"
MEANS = {GROUP: CORRUPTIONS, **{f"{family} corruptions": kinds for family, kinds in FAMILIES.items()}}
"""Conditions of the means to the kinds that they are over."""
LEAST_ERRORS = 20
"""Errors that the parent must make under a kind: with fewer, a resample may have none, and no ratio exists."""
CLEAR_GAP = 5.0
"""Standard errors by which the parent's own gap to clean must be above 0, for a ratio to that gap."""

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
    f"needs {LEAST_ERRORS} images that the parent misclassifies under each.",
)  # fmt: skip
RELATIVE_MCE = Metric(
    "relative_mce_parent", higher_is_better=False, unit="1", functional="mean_ratio",
    text="The same with the clean error taken off each error: how much faster the candidate degrades than its parent; "
    f"needs a parent whose error under each corruption is {CLEAR_GAP:g} standard errors above its clean one.",
)  # fmt: skip

_Cell = tuple[str, int]
_Cells = Mapping[_Cell, Array]


@dataclass(frozen=True)
class Corruptions(Evaluator):
    """Accuracy, likelihood and calibration under common corruptions, their means, the worst case, and the mCE.

    Generated corruptions are conditions like ``fog/3`` in the group ``corruptions``, official ones ``fog
    official/3`` in ``corruptions official``; the extra ones are in ``corruptions-extra``. Means and worst cases over
    a group have its name as the condition; the families are ``noise corruptions`` and so on.

    The twelve kinds of ImageNet-3DCC are read from its archive, whose layout is that of ImageNet-C, in the group
    ``corruptions-3d official``: a test of its own, with ``folder = "ImageNet-3DCC"``.

    Attributes:
        severities: 1 to 5.
        kinds: Which of the 15; all by default. Or some of those of ImageNet-3DCC, from their own archive.
        extra: Whether to add the 4 corruptions meant for validation, as a separate group outside every mean.
        source: ``generated`` here, seeded, or read from the ``official`` archive under the data root. The two
            never share a condition.
        folder: Folder of the official archive; empty for the one of the data set, for example ``CIFAR-10-C``.
        verify: Refuse official files whose MD5 sum is not the published one.

    References:
        Hendrycks and Dietterich 2019, arXiv 1903.12261; Kar et al. 2022, arXiv 2203.01441.
    """

    image_by_image: ClassVar[bool] = True
    severities: tuple[int, ...] = SEVERITIES
    kinds: tuple[str, ...] = CORRUPTIONS
    extra: bool = False
    source: Literal["generated", "official"] = "generated"
    folder: str = ""
    verify: bool = True

    def __post_init__(self) -> None:
        self._check_kinds()
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

    def _check_kinds(self) -> None:
        for kind in self.kinds:
            if kind not in self._published:
                hint = "; extra = true adds it, outside the mean" if kind in EXTRA else ""
                raise SuiteError(unknown_name("corruption", kind, self._published) + hint)
        if self._is_3d and (self.extra or not self.folder):
            raise SuiteError(
                "corruptions: found kinds of ImageNet-3DCC, which are read from their archive alone; set "
                "source = 'official' and folder = 'ImageNet-3DCC', and leave extra out"
            )

    @property
    def _is_3d(self) -> bool:
        """Whether the kinds are those of ImageNet-3DCC: of one archive, so of no other together with these."""
        return bool({*self.kinds} & {*CORRUPTIONS_3D})

    @property
    def _published(self) -> tuple[str, ...]:
        """The kinds of the published mean."""
        return CORRUPTIONS_3D if self._is_3d else CORRUPTIONS

    @property
    def _kinds_of_means(self) -> Mapping[str, tuple[str, ...]]:
        """Conditions of the means to the kinds that they are over."""
        return {GROUP: CORRUPTIONS_3D} if self._is_3d else MEANS

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy, NLL, agreement, ECE; worst cases; errors relative to the parent; what screened precision did."""
        return ACCURACY, NLL, AGREEMENT, ECE, WORST, ALL, MCE, RELATIVE_MCE, PASSED_AGAIN, CHANGED

    @property
    def needs(self) -> tuple[View, ...]:
        """The clean test images, and those under each corruption and severity."""
        return View(), *self._views().values()

    @property
    def predictions(self) -> tuple[View, ...]:
        """The corrupted images: without likelihoods the NLL and the ECE under corruptions have no numbers."""
        return tuple(self._views().values())

    def conditions(self, data: DataSummary) -> Iterable[Condition]:
        """Yields four metrics per corruption and severity, and those for all of them."""
        grouped_kinds = set()
        for cell, view in self._views().items():
            condition = data.condition(view)
            group = self._group(cell, condition)
            yield from declare((*LABELLED, ECE), condition, group)
            if group == self._named(GROUP) and not self._undefined(cell, data.shape):
                grouped_kinds.add(cell[0])
        if not grouped_kinds:
            return
        for name, kinds in self._kinds_of_means.items():
            if grouped_kinds & {*kinds}:
                yield from declare(LABELLED, self._named(name))
        yield from declare((WORST, MCE, RELATIVE_MCE), self._named(GROUP))
        for level in self.severities:
            yield Condition(ALL.name, f"{self._named(GROUP)}/{level}")

    def for_conditions(self, conditions: Collection[str], name_of: Callable[[View], str]) -> Corruptions:
        """Returns the same test with the corruptions alone that the conditions are of; a mean needs all of them."""
        cells = {name_of(view): cell for cell, view in self._views().items()}
        if not {*conditions} <= {*cells}:
            return self
        kept = [cells[condition] for condition in conditions]
        kinds, severities = {kind for kind, _ in kept}, {severity for _, severity in kept}
        return SingleCorruptions(
            **{field.name: getattr(self, field.name) for field in fields(self)}
            | {
                "kinds": tuple(kind for kind in self.kinds if kind in kinds) or self.kinds[:1],
                "severities": tuple(level for level in self.severities if level in severities),
                "extra": bool(kinds & {*EXTRA}),
            }
        )

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields four scores per corruption and severity, and those for all of them.

        Means are over images and conditions at once, so that they have evidence of their own: one number per
        image. Synthetic frost (``frost-synthetic``) is reported but stays out of the group and everything about it, as
        do the extra kinds. A kind that is not defined for such images has its reason instead of numbers.
        """
        evidence: dict[str, dict[_Cell, Array]] = defaultdict(dict)
        for cell, score in self._single_scores(bench):
            yield score
            if score.evidence and score.group == self._named(GROUP) and score.metric != ECE.name:
                evidence[score.metric][cell] = score.evidence[POPULATION]
        passed = [
            view for view in self._views().values() if bench.is_screened(view) and bench.has_outputs(view)
        ]
        grouped = {cell: view for cell, view in self._views().items() if cell in evidence[ACCURACY.name]}
        if grouped:
            file_flags = unverified(bench, {kind: view for (kind, _), view in grouped.items()})
            for metric in LABELLED:
                yield from self._means(metric.name, evidence[metric.name], file_flags, kinds_there=grouped)
            yield from self._worst(evidence[ACCURACY.name], file_flags)
            for score in self._relative(bench, grouped):
                yield (
                    score
                    if score.reason
                    else replace(score, flags=(*file_flags, *missing_kinds(grouped, self._published)))
                )
        yield from screening_scores(bench, passed, self._named(GROUP))

    def _single_scores(self, bench: Bench) -> Iterator[tuple[_Cell, Score]]:
        """Yields the scores of each corruption and severity by themselves."""
        shape = bench.images(View()).images.shape[1:]
        for cell, view in self._views().items():
            if reason := self._undefined(cell, shape):
                yield from ((cell, score) for score in _skipped(bench.condition(view), reason))
                continue
            group = self._group(cell, bench.condition(view))
            for score in labelled_scores(bench, view, group=group):
                yield cell, float32_evidence(score)
            yield cell, float32_evidence(calibration_score(bench, view, group=group))

    def _views(self) -> dict[_Cell, View]:
        kinds = (*self.kinds, *(EXTRA if self.extra else ()))
        return {(kind, level): self._view(kind, level) for kind in kinds for level in self.severities}

    def _view(self, kind: str, level: int) -> View:
        if self.source == "generated":
            return View(transform=Corruption(kind, level))
        return View(transform=OfficialCorruption(kind, level, self.folder, self.verify))

    def _undefined(self, cell: _Cell, shape: tuple[int, ...]) -> str:
        """Why a generated corruption is not defined for images of a shape; official files are what they are."""
        return undefined_because(cell[0], shape) if self.source == "generated" else ""

    def _group(self, cell: _Cell, condition: str) -> str:
        if cell[0] in EXTRA:
            return self._named(EXTRA_GROUP)
        return "" if SYNTHETIC_FROST in condition else self._named(GROUP)

    def _named(self, name: str) -> str:
        """The name of a group or condition, which generated and official corruptions do not share."""
        name = GROUP_3D if self._is_3d and name == GROUP else name
        return name if self.source == "generated" else f"{name} official"

    def _means(
        self, metric: str, cells: _Cells, file_flags: tuple[str, ...], *, kinds_there: Collection[_Cell]
    ) -> Iterator[Score]:
        """The mean over all kinds, and over those of each family; a reason where the sets were screened."""
        for name, kinds in self._kinds_of_means.items():
            chosen = [values for (kind, _), values in cells.items() if kind in kinds]
            if chosen:
                mean = np.asarray(np.mean(np.stack(chosen), axis=0, dtype=np.float64))
                flags = missing_kinds(cells, kinds)
                if name == GROUP:  # and not in each family again
                    flags = (*file_flags, *flags)
                yield Score(metric, self._named(name), evidence={POPULATION: mean}, flags=flags)
            elif any(kind in kinds for kind, _ in kinds_there):
                yield Score(metric, self._named(name), reason=WITHOUT_LIKELIHOODS)

    def _worst(self, correct: _Cells, file_flags: tuple[str, ...]) -> Iterator[Score]:
        """The worst condition, and at each severity the worst case of each image."""
        columns = np.stack(list(correct.values()), axis=1)
        flags = (*file_flags, *missing_kinds(correct, self._published))
        yield Score(WORST.name, self._named(GROUP), evidence={POPULATION: columns}, flags=flags)
        for level in self.severities:
            cells = {cell: values for cell, values in correct.items() if cell[1] == level}
            under_all = np.all(list(cells.values()), axis=0)
            flags = missing_kinds(cells, self._published, severities=(level,))
            yield Score(
                ALL.name, f"{self._named(GROUP)}/{level}", evidence={POPULATION: under_all}, flags=flags
            )

    def _relative(self, bench: Bench, views: Mapping[_Cell, View]) -> Iterator[Score]:
        """Corruption errors relative to the parent; a reason where the parent makes too few errors."""
        condition, kinds = self._named(GROUP), list(dict.fromkeys(kind for kind, _ in views))
        errors, parent = _errors(bench, views), _errors(bench.parent, views)
        few = [
            kind for kind, column in zip(kinds, parent.T, strict=True) if (column > 0).sum() < LEAST_ERRORS
        ]
        reason = f"fewer than {LEAST_ERRORS} images wrong under {first_few(few)}" if few else ""
        yield _ratio(MCE, condition, errors, parent, reason)
        gaps, parent_gaps = errors - _clean_errors(bench, views), parent - _clean_errors(bench.parent, views)
        unclear = [kind for kind, column in zip(kinds, parent_gaps.T, strict=True) if not _is_clear(column)]
        reason = (
            f"an error that is not clearly above its clean one under {first_few(unclear)}" if unclear else ""
        )
        yield _ratio(RELATIVE_MCE, condition, gaps, parent_gaps, reason)


class SingleCorruptions(Corruptions):
    """Corruptions by themselves: no mean or worst case over them, for which all of them would be needed."""

    @property
    def needs(self) -> tuple[View, ...]:
        """The test images under each corruption and severity."""
        return tuple(self._views().values())

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields four scores per corruption and severity."""
        yield from (score for _, score in self._single_scores(bench))


def _skipped(condition: str, reason: str) -> Iterator[Score]:
    for metric in (*LABELLED, ECE):
        yield Score(metric.name, condition, reason=reason)


def _ratio(metric: Metric, condition: str, errors: Array, parent: Array, reason: str) -> Score:
    if reason:
        return Score(metric.name, condition, reason=f"the parent has {reason}: a ratio to it means nothing")
    return Score(metric.name, condition, evidence={POPULATION: np.column_stack([errors, parent])})


def _errors(bench: Bench, views: Mapping[_Cell, View]) -> Array:
    """At how many severities each image is misclassified under each kind, int8 (N, kinds)."""
    totals: dict[str, Array] = {}
    for (kind, _), view in views.items():
        wrong = (~bench.outputs(view).correct).astype(np.int8)
        totals[kind] = totals[kind] + wrong if kind in totals else wrong
    return np.stack(list(totals.values()), axis=1)


def _clean_errors(bench: Bench, views: Mapping[_Cell, View]) -> Array:
    """How often each image is misclassified at as many severities without any corruption, int8 (N, 1)."""
    severities = len({severity for _, severity in views})
    return (severities * ~bench.outputs(View()).correct).astype(np.int8)[:, None]


def _is_clear(gaps: Array) -> bool:
    """Whether the mean of one number per image is clearly above 0."""
    error = gaps.std(ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else np.inf
    return bool(gaps.mean() > CLEAR_GAP * error)
