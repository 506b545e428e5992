"""Tests in stages: more and more images, until the verdict of every check is decided.

A test that is evaluated image by image sees the test images in a seeded order, in stages of doubling size. After each
stage a check is settled if it is shown to hold, shown to fail, or can hardly be decided any more; its number is that of
the images so far. A condition that has no open check is passed no further. Because p-values have the looks in them
(`evalsuite.statistics.group_sequential`), verdicts keep their levels whatever the rule by which a check stops.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from evalsuite.datasets.stages import is_staged_view, stratified_order
from evalsuite.datasets.views import View
from evalsuite.errors import ContractError, UserError
from evalsuite.execution.measuring import scored
from evalsuite.execution.suite_checks import declared_conditions
from evalsuite.metrics.functionals import evaluate
from evalsuite.results.comparison import REPLICATES
from evalsuite.statistics.bounds import PairedDrops, inside_unit
from evalsuite.statistics.group_sequential import SMALLEST_STAGE, SequentialDesign, stage_sizes
from evalsuite.statistics.repeated_bounds import FUTILE, is_bounded, remaining_power, repeated_bounds
from evalsuite.statistics.resampling import bootstrap_weights
from evalsuite.thresholds.verdicts import ERROR
from evalsuite.tolerances import Limit, limit_for, parse_limits
from evalsuite.types import Array, Metric, Score

if TYPE_CHECKING:
    from evalsuite.config.suite import Suite
    from evalsuite.datasets.source import ImageSource
    from evalsuite.evaluation import Bench
    from evalsuite.evaluators.base import Condition, Evaluator

Place = tuple[str, str]
"""Metric and condition, as the test names them."""
IN_STAGES = "in stages"
"""In the names of populations: the images in the seeded order of the stages."""


@dataclass(frozen=True)
class StagedTest:
    """The checks of one test that is measured in stages.

    Attributes:
        checks: Tolerances of the checks that stages may decide, by metric and condition.
        whole: Conditions that have a check without a bound and are measured on all images.
    """

    checks: Mapping[Place, Limit]
    whole: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Stages:
    """What a sequential check measures in stages.

    Attributes:
        sizes: Test images that have been seen after each stage.
        tests: By label, the tests that are measured in stages.
        others: By label, why a test is measured on all images.
        family: Number of checks that share the error of *inferior*, for a candidate.
    """

    sizes: tuple[int, ...]
    tests: Mapping[str, StagedTest]
    others: Mapping[str, str] = field(default_factory=dict)
    family: int = 1

    @cached_property
    def design(self) -> SequentialDesign:
        """The looks."""
        return SequentialDesign(self.sizes)

    @property
    def text(self) -> str:
        """Which tests are measured in stages and which are not, in words."""
        sizes = ", ".join(f"{size:,}" for size in self.sizes[:-1])
        text = (
            f"Sequential: {', '.join(self.tests)} in stages of {sizes} and {self.sizes[-1]:,} images, each check until "
            "its verdict is decided; the levels of the verdicts allow for the looks; a number that stopped early is "
            "biased, as a rule away from its tolerance"
        )
        whole = sorted({name for test in self.tests.values() for name in test.whole})
        text += f"; {', '.join(whole)} on all images, for checks that have no bound" if whole else ""
        others = "; ".join(f"{label} on all images: {reason}" for label, reason in self.others.items())
        return f"{text}. {others[:1].upper()}{others[1:]}." if others else f"{text}."

    def rows(self, image_source: ImageSource, stage: int) -> Array:
        """Returns the rows of the test images that a stage adds, in their order."""
        labels = image_source.images(View()).labels
        order = stratified_order(labels, self.sizes[-1], image_source.place.seed, "stages")
        return order[(0, *self.sizes)[stage] : self.sizes[stage]]

    def inputs(self, label: str) -> dict[str, Any]:
        """Returns what a cell of a test depends on beside its images and settings: when it stops."""
        if label not in self.tests:
            return {}
        test = self.tests[label]
        checks = {"@".join(place): [limit.amount, limit.relative] for place, limit in test.checks.items()}
        return {
            "stages": {
                "sizes": list(self.sizes),
                "power": self.design.power,
                "checks": checks,
                "whole": sorted(test.whole),
                "family": self.family,
            }
        }


def planned_stages(suite: Suite, image_source: ImageSource) -> Stages:
    """Returns what a sequential check of a suite measures in stages.

    Raises:
        UserError: If there are too few images, or no check that may stop early.
    """
    total = len(image_source.images(View()).images)
    sizes = stage_sizes(total)
    if len(sizes) < 2:
        raise UserError(
            f"--sequential: found {total} test images, expected at least {2 * SMALLEST_STAGE - 1}: fewer have no "
            "stages; leave it out"
        )
    declared = declared_conditions(suite, image_source)
    rules = {metric: parse_limits(tolerance) for metric, tolerance in suite.tolerances.items()}
    tests: dict[str, StagedTest] = {}
    others: dict[str, str] = {}
    checks = 0
    for config in suite.evaluators:
        limits = _limits(config.plugin, declared[config.label], rules, image_source)
        checks += len(limits)
        test = _staged_test(config.plugin, limits)
        if isinstance(test, StagedTest):
            tests[config.label] = test
        else:
            others[config.label] = test
    if not tests:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in others.items())
        raise UserError(
            f"--sequential: found no check that may stop before the last image ({reasons}); expected a tolerance of a "
            "share of images, such as accuracy=0.01, in a test of the whole test set; add one, or leave it out"
        )
    places = [(model.method, model.seed) for model in suite.candidates]
    candidates = max(map(places.count, places), default=1)
    return Stages(sizes, tests, others, max(1, checks * candidates))


def _limits(
    evaluator: Evaluator,
    declared: Iterable[Condition] | None,
    rules: Mapping[str, Mapping[str, Limit]],
    image_source: ImageSource,
) -> dict[Place, Limit]:
    """The tolerances of a test by metric and condition, as the test itself names them."""
    from evalsuite.evaluators.base import DataSummary

    own = evaluator.conditions(DataSummary.of(image_source.images(View()), image_source.condition))
    limits = {}
    for named, shown in zip(own or (), declared or (), strict=False):
        limit = limit_for(rules.get(shown.metric, {}), shown.condition, shown.group)
        if limit is not None:
            limits[named.metric, named.condition] = limit
    return limits


def _staged_test(evaluator: Evaluator, limits: Mapping[Place, Limit]) -> StagedTest | str:
    """The checks of a test that stages may decide, or why there are none."""
    if not limits:
        return "none of its checks has a tolerance"
    if not evaluator.image_by_image or not all(map(is_staged_view, evaluator.needs)):
        return "it is not measured image by image on the whole test set"
    metrics = {metric.name: metric for metric in evaluator.metrics}
    if others := sorted({name for name, _ in limits if metrics[name].functional != "mean"}):
        return f"{', '.join(others)} is no mean over images"
    bounded = {place: limit for place, limit in limits.items() if is_bounded(metrics[place[0]])}
    whole = frozenset(condition for name, condition in limits if not is_bounded(metrics[name]))
    if {condition for _, condition in bounded} <= whole:
        return f"{', '.join(sorted({name for name, _ in limits} - {n for n, _ in bounded}))} has no bound"
    return StagedTest({place: limit for place, limit in bounded.items() if place[1] not in whole}, whole)


@dataclass(frozen=True, slots=True)
class StagedScores:
    """The scores of one test of one candidate, and those of its parent on the same images.

    Attributes:
        candidate: Scores of the candidate.
        parent: Scores of the parent; empty for the parent itself.
    """

    candidate: tuple[Score, ...]
    parent: tuple[Score, ...] = ()


def scores_in_stages(
    evaluator: Evaluator,
    label: str,
    stages: Stages,
    benches: Callable[[int], Bench],
    *,
    seed: int,
) -> StagedScores:
    """Returns the scores of a test, each of as many images as its check needs.

    The parent itself is measured on the first stage: its numbers on more images stand beside those of the candidates
    that need them.

    Args:
        evaluator: The test; it is `image_by_image`.
        label: Its label.
        stages: Of the run.
        benches: Returns the bench of the candidate on the images of a stage, whose parent is on the same images.
        seed: Address of the resampling.

    Raises:
        ContractError: If a score has no evidence, or that of a share of images is outside [0, 1].
        InvalidModelError: If the model breaks its contract.
    """
    parts = _Parts(evaluator, stages.tests[label], stages, seed)
    wanted: set[str] | None = None
    for look in range(len(stages.sizes)):
        bench = benches(look)
        part = evaluator if wanted is None else evaluator.for_conditions(sorted(wanted), bench.condition)
        parts.add(scored(part, bench), None if bench.parent is bench else scored(part, bench.parent), wanted)
        if bench.parent is bench:
            break
        wanted = parts.open_conditions(look)
        if not wanted:
            break
    return parts.scores()


class _Parts:
    """The scores of a test so far, stage by stage."""

    def __init__(self, evaluator: Evaluator, test: StagedTest, stages: Stages, seed: int) -> None:
        self._metrics: dict[str, Metric] = {metric.name: metric for metric in evaluator.metrics}
        self._test, self._stages, self._seed = test, stages, seed
        self._candidate: dict[Place, list[Score]] = defaultdict(list)
        self._parent: dict[Place, list[Score]] = defaultdict(list)
        self._settled: set[Place] = set()

    def add(
        self, candidate: Iterable[Score], parent: Iterable[Score] | None, wanted: set[str] | None
    ) -> None:
        """Adds the scores of a stage: those of wanted conditions whose check is not settled yet."""
        for parts, scores in ((self._candidate, candidate), (self._parent, parent or ())):
            for score in scores:
                place = (score.metric, score.condition)
                if (wanted is None or score.condition in wanted) and place not in self._settled:
                    parts[place].append(score)

    def open_conditions(self, look: int) -> set[str]:
        """Returns the conditions that more images are needed for."""
        for place, limit in self._test.checks.items():
            if place not in self._settled and self._is_settled(place, limit, look):
                self._settled.add(place)
        undecided = {place[1] for place in self._test.checks if place not in self._settled}
        return undecided | (set(self._test.whole) if look + 1 < len(self._stages.sizes) else set())

    def _is_settled(self, place: Place, limit: Limit, look: int) -> bool:
        """Whether a check is decided, cannot be measured, or will hardly be decided any more."""
        if place not in self._candidate or place not in self._parent:
            return True
        candidate, parent = (self._merged(parts[place]) for parts in (self._candidate, self._parent))
        if candidate.reason or parent.reason:
            return True
        if not (inside_unit(candidate.evidence) and inside_unit(parent.evidence)):
            raise ContractError(
                f"the score {place[0]} on {place[1]} is a share of images, but its evidence is outside [0, 1]"
            )
        drops = PairedDrops(self._metrics[place[0]], [parent.evidence], [[candidate.evidence]], limit)
        errors = (ERROR, ERROR / self._stages.family)
        sizes = {name: len(values) for name, values in candidate.evidence.items()}
        bounds = repeated_bounds(
            drops,
            design=self._stages.design,
            look=look,
            weights=lambda: bootstrap_weights(sizes, replicates=REPLICATES, seed=self._seed),
        )
        if bounds.noninferiority_p[0] <= errors[0] or bounds.inferiority_p[0] <= errors[1]:
            return True
        power = remaining_power(drops, design=self._stages.design, look=look, errors=errors)
        return power < FUTILE

    def _merged(self, parts: list[Score]) -> Score:
        """One score of the images of several stages."""
        last = parts[-1]
        if any(part.reason for part in parts):
            return replace(
                last,
                reason=next(part.reason for part in parts if part.reason),
                evidence={},
                value=None,
                n=None,
            )
        if not all(part.evidence for part in parts):
            raise ContractError(f"the score {last.metric} on {last.condition} has no evidence for each image")
        joined = {name: np.concatenate([part.evidence[name] for part in parts]) for name in last.evidence}
        evidence = {f"{name} {IN_STAGES}[:{len(values)}]": values for name, values in joined.items()}
        flags = tuple(dict.fromkeys(flag for part in parts for flag in part.flags))
        value = float(evaluate(self._metrics[last.metric].functional, evidence))
        return replace(last, evidence=evidence, value=value, n=sum(map(len, evidence.values())), flags=flags)

    def scores(self) -> StagedScores:
        """Returns all scores, each of all the images that it was measured on."""
        candidate, parent = (
            tuple(map(self._merged, parts.values())) for parts in (self._candidate, self._parent)
        )
        return StagedScores(tuple(map(self._marked, candidate)) if parent else candidate, parent)

    def _marked(self, score: Score) -> Score:
        """A score with a warning if it is of a part of the images: what stops early is biased."""
        total = self._stages.sizes[-1]
        if score.n is None or score.n == total:
            return score
        text = (
            f"Measured on {score.n:,} of {total:,} images, where its check stopped early: the number is biased, as a "
            "rule away from its tolerance."
        )
        return replace(score, flags=(*score.flags, text))
