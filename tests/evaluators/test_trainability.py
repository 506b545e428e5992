"""Trainability accuracy: the mean of the validation curve before the learning rate drops, from the history alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalsuite.evaluation import Bench
from evalsuite.evaluators.trainability import Trainability, trainability_accuracy
from evalsuite.execution import scheduler as runner
from evalsuite.execution.dry_run import dry_run
from evalsuite.execution.measuring import scored
from evalsuite.results.run import Run
from evalsuite.runs.digests import cell_digest
from evalsuite.runs.status import status
from evalsuite.types import Phase, Score

PRETRAINING = Phase("pretraining", 4, 100, 1, "0.1", "a", (0.1, 0.1, 0.1, 0.1), stage=4)
TRACKED = Phase("retraining", 4, 100, 1, "0.1, x0.1 at 3", "b", (0.5, 0.6, 0.7, 0.9), stage=3)
UNTRACKED = replace(TRACKED, curve=())


@pytest.fixture
def found(planting: Any) -> Callable[..., Score]:
    """Returns a function: a history to the score of a model that has it, and eight validation images."""
    sets = {
        name: planting.numbered([0, 1] * half, classes=2) for name, half in (("test", 3), ("validation", 4))
    }
    image_source = planting.data(**sets)

    def score(*history: Phase) -> Score:
        bench = Bench(planting.lookup(np.eye(6, 2)), image_source, history=history)
        (only,) = scored(Trainability(), bench)
        assert not bench.passes
        return only

    return score


def test_it_is_the_mean_before_the_drop_of_the_last_retraining(found: Callable[..., Score]) -> None:
    score = found(PRETRAINING, replace(TRACKED, curve=(0.0,) * 4), TRACKED)
    assert (score.metric, score.condition, score.n, score.reason) == (
        "trainability_accuracy",
        "retraining",
        8,
        "",
    )
    assert score.value == pytest.approx(0.6)
    assert found(replace(TRACKED, stage=4)).value == pytest.approx(0.675)


def test_a_single_epoch_counts() -> None:
    assert trainability_accuracy(replace(TRACKED, stage=1)) == 0.5


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        ((), "its training is unknown"),
        ((PRETRAINING,), "its last training was pretraining, and trainability is that of a retraining"),
        ((TRACKED, replace(TRACKED, what="pruning")), "its last training was pruning"),
        ((TRACKED, UNTRACKED), "its retraining was not tracked: set track = true"),
        ((replace(TRACKED, stage=0),), "its retraining was not tracked"),
    ],
)
def test_a_model_without_one_has_a_reason(
    found: Callable[..., Score], history: tuple[Phase, ...], reason: str
) -> None:
    score = found(*history)
    assert score.reason.startswith(reason)
    assert score.value is None


SUITE = """
name = "tracked"
control = false
ratios = [0.5, 0.8]
data = { name = "digits" }
model = { name = "small-cnn", widths = [4, 4, 8, 8] }
producers = [{ name = "magnitude" }]
evaluators = [{ name = "accuracy" }, { name = "trainability" }]
[recipe]
epochs = 1
learning_rate = 0.1
[retraining]
epochs = 3
schedule = "step"
milestones = [2]
track = true
"""


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("tracked")
    (folder / "tracked.toml").write_text(SUITE)
    return runner.run(folder / "tracked.toml", out=folder / "run")


def test_it_reaches_the_measurements_of_a_run(tracked: Run) -> None:
    table = tracked.measurements[tracked.measurements["metric"] == "trainability_accuracy"]
    rows = table.set_index("target_ratio")
    assert list(rows["status"]) == ["skipped", "ok", "ok"]
    assert rows["reason"][0.0] == (
        "its last training was pretraining, and trainability is that of a retraining"
    )
    for key, candidate in tracked.candidates.items():
        if key.target_ratio:
            curve = candidate.history[-1].curve
            assert (len(curve), candidate.history[-1].stage) == (3, 2)
            assert rows["value"][key.target_ratio] == pytest.approx((curve[0] + curve[1]) / 2)
    assert "trainability_accuracy" not in set(tracked.thresholds()["metric"])


def test_a_second_run_finds_everything(tracked: Run) -> None:
    source = tracked.path.parent / "tracked.toml"
    assert all(line.left == 0 for line in dry_run(source, out=tracked.path))
    assert all(count.left == 0 for count in status(tracked.path).counts.values())
    runner.run(source, out=tracked.path)
    assert json.loads((tracked.path / "run.json").read_text())["computed"] == 0


def test_only_cells_of_this_test_depend_on_the_history(tracked: Run, tmp_path: Path) -> None:
    """Retraining without tracking makes the same weights: their accuracy stays, the curve is gone."""
    (tmp_path / "tracked.toml").write_text(SUITE.replace("track = true", "track = false"))
    before = {key: candidate.weights for key, candidate in tracked.candidates.items()}
    again = runner.run(tmp_path / "tracked.toml", out=tracked.path)
    assert {key: candidate.weights for key, candidate in again.candidates.items()} == before
    table = again.measurements[again.measurements["metric"] == "trainability_accuracy"]
    assert list(table["status"]) == ["skipped"] * 3
    made_anew = 2
    assert json.loads((again.path / "run.json").read_text())["computed"] == made_anew + 2


def test_the_digest_follows_the_history_where_it_is_asked_for(tracked: Run) -> None:
    parent, candidate = (
        next(c for k, c in tracked.candidates.items() if k.target_ratio == r) for r in (0.0, 0.5)
    )
    other = replace(candidate, history=(*candidate.history, TRACKED))
    assert cell_digest(candidate, parent, "x") == cell_digest(other, parent, "x")
    known = cell_digest(candidate, parent, "x", historical=True)
    assert known != cell_digest(other, parent, "x", historical=True)
    assert known == cell_digest(replace(candidate, method="m"), parent, "x", historical=True)
