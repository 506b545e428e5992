"""Screened precision in a run: the same predictions, no likelihoods, digests of its own, and what it did in numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evalsuite import Options, api
from evalsuite.config.suite_file import load_suite
from evalsuite.datasets.transforms.corruption import Corruption
from evalsuite.datasets.views import View
from evalsuite.errors import UserError
from evalsuite.execution import planning
from evalsuite.execution.planning import prepare
from evalsuite.execution.run_bench import screened_views
from evalsuite.models.engines import Engine
from evalsuite.results.run import Run
from evalsuite.runs.store import Key, Store
from evalsuite.types import Score

SuiteFile = Callable[..., Path]
DATA = '[data]\nname = "digits"'
SCREENED = {DATA: f'[resources]\nprecision = "screened"\n{DATA}'}


@pytest.fixture(name="pays")
def _pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the probe says where the processor has units for bfloat16."""

    def with_precision(engine: Engine, *_: object) -> Engine:
        return dataclasses.replace(
            engine, precision="screened", precision_gain=2.4, precision_reason="2.40 times as fast"
        )

    monkeypatch.setattr(planning, "with_precision", with_precision)


def scores_of(store: Store, key: Key, label: str) -> tuple[Score, ...]:
    cell = store.cell(key, label)
    assert cell is not None
    return cell.scores


def kinds(views: frozenset[View]) -> set[str]:
    return {view.transform.kind for view in views if isinstance(view.transform, Corruption)}


def evidence(run: Run, label: str) -> dict[tuple[str, str, str], np.ndarray]:
    """Evidence by candidate, metric and condition."""
    store = Store(run.path)
    return {
        (str(key), score.metric, score.condition): values
        for key in run.candidates
        for score in scores_of(store, key, label)
        for values in score.evidence.values()
    }


@pytest.mark.usefixtures("pays")
@pytest.mark.extensive
def test_predictions_are_those_of_single_precision(suite_file: SuiteFile, tmp_path: Path) -> None:
    only = Options(only=("accuracy", "corruptions", "magnitude"))
    exact = api.run(suite_file(), out=tmp_path / "exact", options=only)
    run = api.run(suite_file(SCREENED), out=tmp_path / "screened", options=only)
    assert run.record["engine"]["precision"] == "screened"
    for label in ("accuracy", "corruptions"):
        ours, theirs = evidence(run, label), evidence(exact, label)
        wanted = {key for key in theirs if label == "accuracy" or key[1] not in ("nll", "ece_equal_width")}
        assert set(ours) == wanted
        assert all(np.array_equal(ours[key], theirs[key]) for key in wanted)
    scores = {
        (score.metric, score.condition): score
        for key in run.candidates
        for score in scores_of(Store(run.path), key, "corruptions")
    }
    assert "single precision" not in scores["nll", "corruptions"].reason
    for metric, condition in (
        ("nll", "corruptions"),
        ("nll", "contrast/3"),
        ("ece_equal_width", "contrast/3"),
    ):
        assert scores[metric, condition].value is None
        assert 'choose "exact" for likelihoods' in scores[metric, condition].reason
    again, changed = (scores[name, "corruptions"] for name in ("passed_again", "changed_by_bfloat16"))
    images = len(prepare(suite_file(), out=tmp_path / "other").image_source.images(View()).images)
    assert again.n == changed.n == 2 * images
    assert again.value is not None
    assert changed.value is not None
    assert 0 < again.value < 1
    assert 0 <= changed.value <= again.value


@pytest.mark.usefixtures("pays")
def test_precisions_share_no_digest_where_they_differ(suite_file: SuiteFile) -> None:
    plans = [prepare(suite_file(changes), out="nowhere").plan for changes in (None, SCREENED)]
    exact, screened = ({test.label: test.inputs for test in plan.tests} for plan in plans)
    assert {label for label in exact if exact[label] != screened[label]} == {"corruptions", "attack"}


def test_sets_that_another_test_needs_whole_are_not_screened(suite_file: SuiteFile) -> None:
    suite = load_suite(suite_file())
    assert kinds(screened_views(suite)) == {"brightness", "contrast"}
    for severity, left in ((3, set()), (5, {"brightness", "contrast"})):
        calibration = (
            f'name = "calibration"\nlabel = "corrupted"\ncorruptions = true\nseverities = [{severity}]'
        )
        changed = suite_file({'name = "accuracy"': f'name = "accuracy"\n[[evaluators]]\n{calibration}'})
        assert kinds(screened_views(load_suite(changed))) == left


def test_a_precision_without_effect_is_refused(suite_file: SuiteFile) -> None:
    suite = load_suite(suite_file(SCREENED))
    suite = dataclasses.replace(suite, evaluators=suite.evaluators[:1])
    with pytest.raises(UserError, match="every image set of these tests needs likelihoods or features"):
        prepare(suite, out="nowhere")


@pytest.mark.usefixtures("pays")
def test_an_option_chooses_it_and_the_folder_keeps_what_the_probe_said(
    suite_file: SuiteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(only=("accuracy", "magnitude"), precision="screened")
    run = api.run(suite_file(), out=tmp_path / "run", options=options)
    assert "--precision screened" in run.record["command"]
    monkeypatch.setattr(planning, "with_precision", lambda *_: pytest.fail("probed again"))
    assert prepare(suite_file(), out=tmp_path / "run", options=options).engine.precision == "screened"
    assert prepare(suite_file(), out=tmp_path / "run").engine.precision == "exact"
    with pytest.raises(UserError, match="--precision: unknown precision 'half'"):
        prepare(suite_file(), out=tmp_path / "run", options=Options(precision="half"))
