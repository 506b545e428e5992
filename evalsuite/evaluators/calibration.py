"""Calibration errors and the Brier score, before and after temperature scaling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from evalsuite.datasets.transforms.archives import OfficialCorruption
from evalsuite.datasets.transforms.common_corruptions.kinds import CORRUPTIONS, undefined_because
from evalsuite.datasets.transforms.corruption import Corruption
from evalsuite.datasets.views import View
from evalsuite.errors import CellError, ContractError, SuiteError
from evalsuite.evaluation import Outputs
from evalsuite.evaluators.accuracy import ECE, NLL, POPULATION, confidence_and_correct, float32_evidence
from evalsuite.evaluators.base import Condition, DataSummary, Evaluator, check_once, declare
from evalsuite.evaluators.published_means import SEVERITIES, missing_kinds, unverified
from evalsuite.metrics.calibration import ece_by_chance
from evalsuite.metrics.functionals import evaluate
from evalsuite.metrics.logits import brier, softmax, temperature
from evalsuite.types import SYNTHETIC_FROST, Array, Floats, Metric, Score

if TYPE_CHECKING:
    from evalsuite.evaluation import Bench

SCALED = "_scaled"
PRETRAINING = "pretraining"
"""The phase in the history of a parent that was trained here, on the training split alone."""
GROUP = "calibration-shift"
MOST_CLASSES = 100
"""With more classes, the probabilities of all images are no evidence: 200 MB a candidate on ImageNet."""
_BINS = "15 bins over the confidence of the predicted class"
_WIDE = f"{_BINS}, equal width, ((m-1)/15, m/15]"


def _error(name: str, text: str, *, unit: str = "fraction") -> Metric:
    return Metric(name, higher_is_better=False, unit=unit, functional=name, text=text)


BRIER = Metric(
    "brier", higher_is_better=False, unit="squared error",
    text="Mean over images of the sum over classes of (p - 1[label])^2, from 0 to 2.",
)  # fmt: skip
_BINNED = (
    ECE,
    _error("ece_equal_mass", f"Expected calibration error, {_BINS}, equal mass (Nguyen and O'Connor 2015)."),
    _error(
        "ece_l2_squared_debiased", unit="squared fraction",
        text=f"Mean squared gap between accuracy and confidence, {_WIDE}, less what chance adds; may be negative, "
        "and is the calibration error whose drops are certified (Kumar et al. 2019, arXiv 1909.10155).",
    ),
    _error("ece_l2_debiased", "Root of ece_l2_squared_debiased, 0 where that is negative: in the unit of the ECE."),
    _error("ece_smooth", "Smooth calibration error, no bins (Blasiok and Nakkiran 2023, arXiv 2309.12236)."),
    _error("mce", f"Maximum calibration error: largest gap of the bins that have images, {_WIDE}; very noisy."),
    Metric(
        "signed_gap", higher_is_better=None, unit="fraction", functional="signed_gap",
        text="Mean confidence minus accuracy: above 0 means over-confident.",
    ),
)  # fmt: skip
_CLASSWISE = _error(
    "ece_classwise",
    "Mean over classes of the binned error of the probability of the class, 15 bins of equal width "
    "(Kull et al. 2019, arXiv 1910.12656).",
)
_CHANCE = (
    Metric(
        "ece_noise_floor", higher_is_better=None, unit="fraction",
        text="Mean ece_equal_width that a perfectly calibrated network with these confidences shows on so many images.",
    ),
    Metric(
        "ece_noise_limit", higher_is_better=None, unit="fraction",
        text="The ece_equal_width that such a network exceeds in 5 % of test sets: one below it may be chance.",
    ),
)  # fmt: skip
_ALL = (*_BINNED, _CLASSWISE, *_CHANCE, BRIER, NLL)
_SHIFTED = (ECE.name, NLL.name, BRIER.name)
"""Metrics that are reported on corruptions after scaling."""
_ON_SHIFT = (BRIER.name, *(name + SCALED for name in _SHIFTED))
"""All metrics that are reported on corruptions."""
TEMPERATURE = Metric(
    "temperature", higher_is_better=None, unit="1",
    text="Temperature that minimises the NLL on held-out images; above 1 means over-confident.",
)  # fmt: skip
Scaling = Callable[[Outputs], Outputs]


@dataclass(frozen=True)
class Calibration(Evaluator):
    """Calibration errors and the Brier score, before and after temperature scaling, clean and under corruption.

    Attributes:
        held_out: Where the temperature comes from. ``validation``: the validation split. ``cross-fit``: each
            half of the test images is scaled by the temperature of the other half, for checkpoints that may have
            been trained on every training image.
        corruptions: Whether to add the 15 common corruptions. The temperature stays that of clean
            images, as it does in use. No forward pass more where the corruption test is on: it uses the same
            images, and reports the error before scaling.
        severities: Which of 1 to 5.
        source: ``generated`` corruptions, or those of the ``official`` archive under the data root.
        per_image: Whether results of single images under each corruption are kept, in single precision: drops there
            then have intervals, and the cell has 20 bytes more per image and corrupted set.

    References:
        Ovadia et al. 2019, "Can you trust your model's uncertainty? Evaluating predictive uncertainty under
        dataset shift" (clean temperature under corruption).
    """

    uses_history: ClassVar[bool] = True
    held_out: Literal["validation", "cross-fit"] = "validation"
    corruptions: bool = False
    severities: tuple[int, ...] = SEVERITIES
    source: Literal["generated", "official"] = "generated"
    per_image: bool = False

    def __post_init__(self) -> None:
        if not self.severities or not set(self.severities) <= set(SEVERITIES):
            raise SuiteError(
                f"calibration: found severities {list(self.severities)}, expected some of 1 to 5; "
                "corruptions = false leaves corrupted images out"
            )
        check_once("calibration", "severities", self.severities)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All measures, the same after scaling, and the temperature; NLL before scaling is the accuracy test's."""
        after = (
            replace(metric, name=metric.name + SCALED, text=f"After temperature scaling: {metric.text}")
            for metric in _ALL
        )
        return *_ALL[:-1], *after, TEMPERATURE

    @property
    def needs(self) -> tuple[View, ...]:
        """The clean test images, the validation images if they are used, and the corrupted ones."""
        held_out = (View(split="validation"),) if self.held_out == "validation" else ()
        return (View(), *held_out, *self._shifts.values())

    @property
    def _shifts(self) -> dict[tuple[str, int], View]:
        kinds = CORRUPTIONS if self.corruptions else ()
        transform = Corruption if self.source == "generated" else OfficialCorruption
        return {
            (kind, level): View(transform=transform(kind, level))
            for kind in kinds
            for level in self.severities
        }

    @property
    def _group(self) -> str:
        return GROUP if self.source == "generated" else f"{GROUP} official"

    def conditions(self, data: DataSummary) -> Iterable[Condition]:
        """Yields all metrics on ``clean``, and a few on each corruption and for the mean over them."""
        yield from declare(self.metrics, "clean")
        grouped = False
        for (kind, _), view in self._shifts.items():
            condition = data.condition(view)
            group = self._group_of(condition)
            grouped = grouped or bool(group and not self._undefined(kind, data.shape))
            yield from (Condition(name, condition, group) for name in _ON_SHIFT)
        if grouped:
            yield from (Condition(name, self._group) for name in _ON_SHIFT)

    def _undefined(self, kind: str, shape: tuple[int, ...]) -> str:
        """Why a generated corruption is not defined for images of a shape; official files are what they are."""
        return undefined_because(kind, shape) if self.source == "generated" else ""

    def _group_of(self, condition: str) -> str:
        """The group of a corrupted condition: none for synthetic frost."""
        return "" if SYNTHETIC_FROST in condition else self._group

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields all metrics on ``clean``, and a few on each corruption and for the mean over them."""
        outputs = bench.outputs(View())
        yield from (score for score in _clean_scores(outputs, bench.seed) if score.metric != NLL.name)
        try:
            scaling, fitted = self._scaling(bench, outputs)
            scaled, reason = scaling(outputs), ""
        except CellError as error:  # there is no best temperature: other metrics are reported all the same
            scaling, reason = None, str(error)
            names = (TEMPERATURE.name, *(metric.name + SCALED for metric in _ALL))
            yield from (Score(name, "clean", reason=reason) for name in names)
        else:
            flags = self._held_out_flags(bench)
            for score in _clean_scores(scaled, bench.seed):
                yield replace(score, metric=score.metric + SCALED, flags=(*flags, *score.flags))
            fit = View(split="validation") if self.held_out == "validation" else View()
            count = len(bench.outputs(fit).logits)
            yield Score(TEMPERATURE.name, "clean", value=fitted, n=count, flags=flags)
        yield from self._shifted(bench, scaling, reason)

    def _held_out_flags(self, bench: Bench) -> tuple[str, ...]:
        """A flag where the parent may have been trained on the validation images, and is over-confident on them."""
        if self.held_out != "validation" or any(phase.what == PRETRAINING for phase in bench.parent.history):
            return ()
        return (
            "The parent may have been trained on the validation images, which are the last of the training images: "
            'then the temperature is too low. held_out = "cross-fit" does not use them.',
        )

    def _scaling(self, bench: Bench, outputs: Outputs) -> tuple[Scaling, float]:
        """The scaling of outputs on the test images, and the temperature (of a cross-fit the geometric mean)."""
        if self.held_out == "validation":
            held_out = bench.outputs(View(split="validation"))
            fitted = temperature(held_out.logits, held_out.true_labels)
            return _divide_by(np.full(len(outputs.logits), fitted)), fitted
        even = np.arange(len(outputs.logits)) % 2 == 0
        fits = [temperature(outputs.logits[half], outputs.true_labels[half]) for half in (even, ~even)]
        return _divide_by(np.where(even, fits[1], fits[0])), float(np.sqrt(fits[0] * fits[1]))

    def _shifted(self, bench: Bench, scaling: Scaling | None, reason: str) -> Iterator[Score]:
        """Yields Brier score, and ECE, NLL and Brier score after scaling, on each corruption and on average.

        The evidence of a mean is kept, that of each of its 75 conditions where it is asked for. Synthetic frost
        (``frost-synthetic``) stays out of the group and its mean, as it does in the corruption test.
        """
        compact = float32_evidence if self.per_image else _without_evidence
        grouped_scores: dict[str, list[Score]] = {}
        grouped: dict[tuple[str, int], View] = {}
        shape = bench.images(View()).images.shape[1:]
        for cell, view in self._shifts.items():
            condition = bench.condition(view)
            if undefined := self._undefined(cell[0], shape):
                yield from (Score(name, condition, reason=undefined) for name in _ON_SHIFT)
                continue
            outputs, group = bench.outputs(view), self._group_of(condition)
            if group:
                grouped[cell] = view
            for score in _shifted_scores(outputs, scaling, reason):
                yield replace(compact(score), condition=condition, group=group)
                if group:
                    grouped_scores.setdefault(score.metric, []).append(score)
        flags = (
            *unverified(bench, {kind: view for (kind, _), view in grouped.items()}),
            *missing_kinds(grouped, CORRUPTIONS),
        )
        for name, scores in grouped_scores.items():
            mean = Score(name, "", reason=reason) if scores[0].reason else _mean(name, scores)
            yield replace(mean, condition=self._group, flags=() if mean.reason else flags)


def _divide_by(temperatures: Floats) -> Scaling:
    """Returns the function that divides the logits of image i by temperature i.

    Raises:
        ContractError: If that changes a prediction: the accuracy after scaling is that before.
    """

    def scale(outputs: Outputs) -> Outputs:
        scaled = Outputs(outputs.logits.astype(np.float64) / temperatures[:, None], outputs.labels)
        if not np.array_equal(scaled.predictions, outputs.predictions):
            raise ContractError(
                "dividing the logits by a temperature changed a prediction: report this as a bug"
            )
        return scaled

    return scale


def _clean_scores(outputs: Outputs, seed: int) -> Iterator[Score]:
    """Yields all of `_ALL` on ``clean``."""
    predictions = confidence_and_correct(outputs)
    floor, limit = ece_by_chance(outputs.confidence, seed=seed)
    for metric in _BINNED:
        score = _score(metric.name, predictions)
        yield replace(score, flags=_noise_flags(predictions, floor, limit)) if metric is ECE else score
    table = np.column_stack([softmax(outputs.logits), outputs.true_labels]).astype(np.float32)
    if outputs.logits.shape[1] <= MOST_CLASSES:
        yield _score(_CLASSWISE.name, table)
    else:
        yield Score(
            _CLASSWISE.name, "clean", value=float(evaluate(_CLASSWISE.functional, {"": table})), n=len(table)
        )
    for metric, value in zip(_CHANCE, (floor, limit), strict=True):
        yield Score(metric.name, "clean", value=value, n=len(predictions))
    yield _score(BRIER.name, brier(outputs.logits, outputs.true_labels))
    yield _score(NLL.name, outputs.nll)


def _noise_flags(predictions: Floats, floor: float, limit: float) -> tuple[str, ...]:
    """A flag if the error may be chance, and no lack of calibration."""
    error = float(evaluate(ECE.functional, {POPULATION: predictions}))
    if error > limit:
        return ()
    return (
        f"an ECE of {error:.3f} on {len(predictions)} images may be chance: a perfectly calibrated network shows "
        f"{floor:.3f} on average, and more than {limit:.3f} in 5 % of test sets.",
    )


def _shifted_scores(outputs: Outputs, scaling: Scaling | None, reason: str) -> Iterator[Score]:
    """Yields the metrics of `_ON_SHIFT`, without their condition."""
    yield _score(BRIER.name, brier(outputs.logits, outputs.true_labels))
    if scaling is None:
        yield from (Score(name + SCALED, "", reason=reason) for name in _SHIFTED)
        return
    scaled = scaling(outputs)
    evidence = (confidence_and_correct(scaled), scaled.nll, brier(scaled.logits, scaled.true_labels))
    for name, values in zip(_SHIFTED, evidence, strict=True):
        yield _score(name + SCALED, values)


def _mean(name: str, scores: Sequence[Score]) -> Score:
    """The mean over conditions: of each image where the number is a mean over images, else of the numbers."""
    evidence = [score.evidence[POPULATION] for score in scores]
    if name == ECE.name + SCALED:
        value = np.mean([evaluate(ECE.functional, score.evidence) for score in scores])
        return Score(name, "", value=float(value), n=len(evidence[0]))  # the same images each time
    return _score(name, np.asarray(np.mean(evidence, axis=0, dtype=np.float64)))


def _without_evidence(score: Score) -> Score:
    """The score with its number in place of its evidence."""
    if score.reason:
        return score
    functional = next(
        metric.functional for metric in _ALL if metric.name == score.metric.removesuffix(SCALED)
    )
    value = float(evaluate(functional, score.evidence))
    return replace(score, value=value, n=len(score.evidence[POPULATION]), evidence={})


def _score(name: str, values: Array) -> Score:
    return Score(name, "clean", evidence={POPULATION: values})
