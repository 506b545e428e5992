"""The 2x2 cross of two methods and two recipes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pandas as pd
import pytest

from evalsuite import Run, api
from evalsuite.cli.commands.threshold import factorial_command
from evalsuite.errors import UserError
from evalsuite.results.comparison import Comparison
from evalsuite.results.factorial_comparison import factorial_comparison
from evalsuite.runs.store import Key
from evalsuite.statistics import paired_rate_interval

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHORT = "retraining = {epochs = 1, learning_rate = 0.001}"


@pytest.fixture(name="crossed", scope="module")
def _crossed(
    small_suite: Callable[..., str],
    suite_file: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    text = small_suite(
        top="control = false",
        ratios=(0.5, 0.8),
        recipe="epochs = 2\nlearning_rate = 0.1",
        producers=(
            'name = "magnitude"',
            'name = "random"',
            f'name = "magnitude"\nlabel = "magnitude, short"\n{SHORT}',
            f'name = "random"\nlabel = "random, short"\n{SHORT}',
        ),
    )
    return api.run(suite_file(text=text), out=tmp_path_factory.mktemp("cross") / "run")


def test_the_winner_under_each_recipe_is_told(crossed: Run) -> None:
    comparison: Any = factorial_comparison(crossed)
    assert list(comparison["target_ratio"]) == [0.5, 0.8]
    table: Any = crossed.measurements.query("metric == 'accuracy'").set_index(["method", "target_ratio"])[
        "value"
    ]
    for row in comparison.itertuples():
        assert (row.method, row.other_method) == ("magnitude", "random")
        long = [table["magnitude", row.target_ratio], table["random", row.target_ratio]]
        short = [table["magnitude, short", row.target_ratio], table["random, short", row.target_ratio]]
        assert [row.value, row.other_value] == long
        assert [row.value_other_recipe, row.other_value_other_recipe] == short
        if long[0] > long[1] and short[0] > short[1]:
            assert row.winner == "magnitude"
            apart = row.low > 0 and row.low_other_recipe > 0
            assert row.verdict == ("the methods differ" if apart else "the same winner, perhaps by chance")
    assert "magnitude" in set(comparison["winner"]), "random pruning without training should lose"
    first = comparison.iloc[0]
    better, worse = (
        crossed.comparison.scores[Key(method, 0, first["target_ratio"]), "accuracy", "clean"].evidence["test"]
        for method in ("magnitude", "random")
    )
    counts = int((better & ~worse).sum()), int((worse & ~better).sum())
    assert (first["low"], first["high"]) == pytest.approx(paired_rate_interval(*counts, n=better.size))


def test_lower_is_better_is_turned_round(crossed: Run) -> None:
    by_loss: Any = factorial_comparison(crossed, metric="nll")
    assert (by_loss["value"] > 0).all()
    for row in by_loss.itertuples():
        if row.value < row.other_value and row.value_other_recipe < row.other_value_other_recipe:
            assert row.winner == "magnitude"


def test_the_recipes_are_those_of_the_producers(crossed: Run) -> None:
    histories = {key.method: one.history for key, one in crossed.candidates.items()}
    epochs = {method: history[-1].epochs for method, history in histories.items() if method != "dense"}
    assert epochs == {"magnitude": 2, "random": 2, "magnitude, short": 1, "random, short": 1}


def test_candidates_know_how_good_they_were_before_and_after_retraining(crossed: Run) -> None:
    found: Any = crossed.retraining.set_index(["method", "target_ratio"])
    assert len(found) == 8
    assert (found["after"] > found["before"]).loc["random"].all(), (
        "two epochs repair what random pruning broke"
    )
    assert (found.loc["random"]["before"] < found.loc["magnitude"]["before"]).any()
    validation = 180
    assert all(abs(value * validation - round(value * validation)) < 1e-6 for value in found["after"])


CORNERS = ("a", "b", "a, short", "b, short")


def cross_of(values: tuple[float, ...], *, higher: bool | None = True) -> SimpleNamespace:
    """What the cross looks at of a run: two methods, each under two labels, at one ratio."""
    rows = [(one, 0.5, "m", "clean", "ok", higher, value) for one, value in zip(CORNERS, values, strict=True)]
    columns = ["method", "target_ratio", "metric", "condition", "status", "higher_is_better", "value"]
    suite = {
        "retraining": {"epochs": 9},
        "retrainings": {label: {"epochs": 1} for label in CORNERS[2:]},
        "producers": [{"name": one[0], "label": one} for one in CORNERS],
    }
    return SimpleNamespace(
        measurements=pd.DataFrame(rows, columns=columns),
        record={"suite": suite},
        path="run",
        comparison=Comparison({}, {}, {}, seed=0),  # numbers without evidence: nothing is more than chance
    )


@pytest.mark.parametrize(
    ("values", "higher", "winner", "verdict"),
    [
        ((0.9, 0.8, 0.7, 0.6), True, "a", "the same winner, perhaps by chance"),
        ((0.9, 0.8, 0.7, 0.6), False, "b", "the same winner, perhaps by chance"),
        (
            (-0.5, 0.25, -0.5, 0.25),
            True,
            "b",
            "the same winner, perhaps by chance",
        ),  # numbers below zero keep their sign
        ((0.9, 0.8, 0.6, 0.7), True, "", "mixed: report all four, of which a under recipe 1 is best"),
        ((0.9, 0.8, 0.6, 0.7), False, "", "mixed: report all four, of which a under recipe 2 is best"),
        ((0.8, 0.8, 0.6, 0.9), True, "", "mixed: report all four, of which b under recipe 2 is best"),
        ((0.8, 0.8, 0.6, 0.6), True, "", "no difference"),
    ],
)
def test_verdicts_by_hand(values: tuple[float, ...], higher: bool, winner: str, verdict: str) -> None:
    (row,) = factorial_comparison(cast("Any", cross_of(values, higher=higher)), metric="m").to_dict("records")
    names = ("value", "other_value", "value_other_recipe", "other_value_other_recipe")
    assert tuple(row[name] for name in names) == values
    assert (row["winner"], row["verdict"]) == (winner, verdict)


def test_a_metric_without_a_direction_has_no_winner() -> None:
    with pytest.raises(
        UserError, match=r"^metric m has no direction, so that no value is better; compare another metric"
    ):
        factorial_comparison(cast("Any", cross_of((1.0, 2.0, 3.0, 4.0), higher=None)), metric="m")


def test_a_run_without_a_cross_is_refused(done: Run) -> None:
    with pytest.raises(UserError, match="no two methods under the same two recipes"):
        factorial_comparison(done)


def test_the_command_prints_a_line_per_ratio(crossed: Run, capsys: pytest.CaptureFixture[str]) -> None:
    factorial_command(crossed.path)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].split()[:3] == ["50.0%", "magnitude", "random"]
