"""A test in stages: when a check stops, what is passed until then, and what is kept, on planted networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from evalsuite.datasets.stages import StageSource
from evalsuite.datasets.views import View
from evalsuite.errors import ContractError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.accuracy import Accuracy
from evalsuite.evaluators.base import Evaluator
from evalsuite.execution.run_bench import StageBench
from evalsuite.execution.stages import StagedScores, StagedTest, Stages, scores_in_stages
from evalsuite.tolerances import Limit
from evalsuite.types import Array, Metric, Score

N = 240
SIZES = (60, 120, 240)
LABELS = np.arange(N) % 2


def table(wrong: Array) -> Array:
    """Logits that are right but on the images that are named."""
    logits = 4 * np.eye(2)[LABELS]
    logits[wrong] = logits[wrong, ::-1]
    return logits


class Measured:
    """A candidate beside its parent in stages, and which benches were asked for."""

    def __init__(self, planting: Any, parent: Array, candidate: Array, stages: Stages) -> None:
        self.whole = planting.bench(LABELS, table(candidate), parent=table(parent))
        self.stages = stages
        self.benches: dict[int, Bench] = {}
        self.order = np.concatenate([stages.rows(self.whole.image_source, k) for k in range(len(SIZES))])

    def bench(self, stage: int) -> Bench:
        source = StageSource(self.whole.image_source, self.stages.rows(self.whole.image_source, stage), stage)
        parent = StageBench(self.whole.parent, source)
        self.benches[stage] = StageBench(self.whole, source, parent=parent)
        return self.benches[stage]

    def scores(self, evaluator: Evaluator | None = None) -> StagedScores:
        return scores_in_stages(evaluator or Accuracy(), "test", self.stages, self.bench, seed=0)


def stages(*, checks: Mapping[tuple[str, str], Limit], whole: frozenset[str] = frozenset()) -> Stages:
    return Stages(SIZES, {"test": StagedTest(checks, whole)}, family=10)


ACCURACY = {("accuracy", "clean"): Limit(0.1)}
NOTHING = np.zeros(0, dtype=int)


@pytest.mark.parametrize(("share", "n"), [(0.5, 60), (0.0, 60), (0.1, 120)])
def test_a_check_stops_when_it_is_decided_or_cannot_be(planting: Any, share: float, n: int) -> None:
    """Half the images lost is clear at once, and so is none; a loss that equals the tolerance is hopeless."""
    plan = stages(checks=ACCURACY)
    order = Measured(planting, NOTHING, NOTHING, plan).order
    wrong = order[:: round(1 / share)] if share else NOTHING
    measured = Measured(planting, NOTHING, wrong, plan)
    found = measured.scores()
    by_metric = {score.metric: score for score in found.candidate}
    assert {score.n for score in (*found.candidate, *found.parent)} == {n}
    assert list(measured.benches) == list(range(SIZES.index(n) + 1))
    (correct,) = by_metric["accuracy"].evidence.values()
    np.testing.assert_array_equal(correct, ~np.isin(measured.order[:n], wrong))
    assert list(by_metric["accuracy"].evidence) == [f"test in stages[:{n}]"]
    assert f"Measured on {n} of 240 images" in by_metric["accuracy"].flags[0]
    assert all(
        score.evidence[f"test in stages[:{n}]"].all() for score in found.parent if score.metric == "accuracy"
    )


def test_an_open_check_sees_all_images_and_has_no_warning(planting: Any) -> None:
    plan = stages(checks={("accuracy", "clean"): Limit(0.045)})
    order = Measured(planting, NOTHING, NOTHING, plan).order
    measured = Measured(planting, order[5::60], order[::40], plan)
    found = measured.scores()
    assert {score.n for score in found.candidate} == {240}
    assert not any(score.flags for score in found.candidate)
    (values,) = next(s for s in found.candidate if s.metric == "accuracy").evidence.values()
    np.testing.assert_array_equal(values, ~np.isin(order, order[::40]))


def test_a_decided_check_keeps_its_images_where_its_condition_goes_on(planting: Any) -> None:
    plan = stages(checks=ACCURACY, whole=frozenset({"clean"}))
    order = Measured(planting, NOTHING, NOTHING, plan).order
    found = Measured(planting, NOTHING, order[::2], plan).scores()
    n = {score.metric: score.n for score in found.candidate}
    assert n == {"accuracy": 60, "nll": 240, "agreement": 240}
    assert {score.metric: score.n for score in found.parent} == n


def test_the_parent_itself_is_measured_on_the_first_stage(planting: Any) -> None:
    measured = Measured(planting, NOTHING, NOTHING, stages(checks=ACCURACY))

    def parent(stage: int) -> Bench:
        return measured.bench(stage).parent

    found = scores_in_stages(Accuracy(), "test", measured.stages, parent, seed=0)
    assert {score.n for score in found.candidate} == {60}
    assert found.parent == ()
    assert not any(score.flags for score in found.candidate)


@dataclass(frozen=True)
class Planted(Evaluator):
    """Scores that a test chose."""

    image_by_image: ClassVar[bool] = True
    reason: str = ""
    factor: float = 1.0
    evidence: bool = True

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (Metric("share", higher_is_better=True, unit="fraction", text=""),)

    @property
    def needs(self) -> tuple[View, ...]:
        return (View(),)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        if self.reason:
            yield Score("share", "clean", reason=self.reason)
        elif self.evidence:
            yield Score("share", "clean", evidence={"test": self.factor * bench.outputs(View()).correct})
        else:
            yield Score("share", "clean", value=0.5, n=10)


SHARE = {("share", "clean"): Limit(0.1)}


def test_what_does_not_apply_is_asked_once(planting: Any) -> None:
    measured = Measured(planting, NOTHING, NOTHING, stages(checks=SHARE))
    (score,) = measured.scores(Planted(reason="no such colours")).candidate
    assert (score.reason, score.value) == ("no such colours", None)
    assert list(measured.benches) == [0]


@pytest.mark.parametrize(
    ("test", "said"), [(Planted(factor=2.0), "outside"), (Planted(evidence=False), "no evidence")]
)
def test_a_plug_in_that_breaks_its_promise_is_told(planting: Any, test: Planted, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        Measured(planting, NOTHING, NOTHING, stages(checks=SHARE)).scores(test)
