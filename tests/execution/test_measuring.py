from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from evalsuite.datasets.transforms.noise import RandomNoise
from evalsuite.datasets.views import View
from evalsuite.errors import ContractError, InvalidModelError, UnknownNameError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.base import Evaluator
from evalsuite.execution.measuring import measured, scored
from evalsuite.types import Metric, Score

MEAN = Metric("mean", higher_is_better=True, unit="fraction", text="Mean of something.")
AREA = Metric("area", higher_is_better=True, unit="fraction", text="An area.", functional="auroc")
ODD = Metric("odd", higher_is_better=True, unit="fraction", text="Of no known kind.", functional="medain")
VALUES = np.array([True, False, True, True])
Give = Callable[[Bench], Iterator[Score]]

NOISE = RandomNoise("uniform", 1)


@dataclass(frozen=True)
class Giving(Evaluator):
    """Yields what a test says."""

    give: Give
    metrics = (MEAN, AREA, ODD)
    needs = (View(),)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        yield from self.give(bench)


def giving(*scores: Score) -> Giving:
    return Giving(lambda _: iter(scores))


def evidence(metric: str = "mean", condition: str = "clean", **populations: Any) -> Score:
    return Score(metric, condition, evidence=populations or {"test": VALUES})


@pytest.fixture
def bench(planting: Any) -> Bench:
    found: Bench = planting.bench([0, 1, 2, 0], np.eye(3)[[0, 1, 2, 1]] * 4)
    return found


def test_values_and_counts_come_from_the_evidence(bench: Bench) -> None:
    scores = scored(
        giving(
            evidence(),
            Score("mean", "told", value=0.5, n=8),
            Score("mean", "both", value=0.1, n=1, evidence={"test": VALUES}),
            evidence("area", negative=np.array([0.0, 1.0]), positive=np.array([1.0, 2.0, 3.0])),
        ),
        bench,
    )
    assert [(one.condition, one.value, one.n) for one in scores] == [
        ("clean", 0.75, 4),
        ("told", 0.5, 8),
        ("both", 0.75, 4),  # what is claimed beside evidence does not count
        ("clean", (3 + 2.5) / 6, 5),
    ]
    assert all(type(one.value) is float for one in scores)


@pytest.mark.parametrize(
    ("evaluator", "error", "sentence"),
    [
        (giving(), ContractError, "the evaluator yielded no score, expected at least one"),
        (giving(evidence("mena")), ContractError, "a score names the metric 'mena', declared are area, mean, odd"),
        (giving(Score("mean", "clean", value=0.5)), ContractError, "so it needs value and n: there is no n$"),
        (giving(Score("mean", "clean", value=float("nan"))), ContractError, "mean on clean is nan, expected a finite"),
        (giving(Score("mean", "clean", n=4)), ContractError, "mean on clean has no evidence, .*: there is no value$"),
        (giving(Score("mean", "clean", value=np.nan, n=4)), ContractError, "mean on clean is nan, expected a finite"),
        (giving(Score("mean", "clean", value=np.inf, n=4)), ContractError, "mean on clean is inf, expected a finite"),
        (giving(evidence(test=np.array([1.0, np.nan]))), ContractError, "population 'test'.*finite"),
        (giving(evidence(), evidence()), ContractError, "the score mean on clean is there twice"),
        (giving(evidence("area")), ContractError, "auroc takes 2 populations of images, found 1: test"),
        (giving(evidence("odd")), UnknownNameError, "unknown functional 'medain'"),
        (Giving(lambda b: iter([evidence(test=b.outputs(View(transform=NOISE)).correct)])), ContractError,
         "an evaluator asked for View.* which its needs do not name"),
    ],
    ids=["nothing", "unknown metric", "no count", "NaN without a count", "no value", "NaN", "infinite",
         "NaN in evidence", "twice", "populations", "functional", "undeclared view"],
)  # fmt: skip
class TestWrongScores:
    def test_are_refused_in_one_sentence(
        self, bench: Bench, evaluator: Evaluator, error: type[Exception], sentence: str
    ) -> None:
        with pytest.raises(error, match=sentence):
            scored(evaluator, bench)

    def test_make_a_cell_without_numbers(
        self, bench: Bench, evaluator: Evaluator, error: type[Exception], sentence: str
    ) -> None:
        cell = measured(evaluator, bench, digest="abc")
        assert (cell.digest, cell.status, cell.scores, cell.metrics) == ("abc", "error", (), ())
        assert re.match(f"{error.__name__}: .*{sentence}", cell.reason)


def test_after_a_failure_the_bench_is_open_again(bench: Bench) -> None:
    with pytest.raises(ContractError):
        scored(giving(), bench)
    bench.outputs(View(transform=NOISE))


def test_a_good_cell_has_scores_and_metrics(bench: Bench) -> None:
    cell = measured(giving(evidence()), bench, digest="abc")
    assert (cell.digest, cell.status, cell.reason, cell.metrics) == ("abc", "ok", "", (MEAN, AREA, ODD))
    assert [score.value for score in cell.scores] == [0.75]


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (InvalidModelError("the model returns NaN"), "invalid", "the model returns NaN"),
        (ContractError("no score"), "error", "ContractError: no score"),
        (ZeroDivisionError("division by zero"), "error", "ZeroDivisionError: division by zero"),
    ],
    ids=["model", "plug-in", "bug"],
)
def test_what_goes_wrong_is_written_down(
    bench: Bench, error: Exception, status: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Bench) -> Iterator[Score]:
        yield evidence()
        raise error

    caplog.set_level(logging.INFO)
    cell = measured(Giving(fail), bench)
    assert (cell.status, cell.reason, cell.scores) == (status, reason, ())


def test_an_interruption_is_no_result(bench: Bench) -> None:
    def stop(_: Bench) -> Iterator[Score]:
        yield evidence()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(Giving(stop), bench)
