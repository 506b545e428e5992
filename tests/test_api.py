"""What the commands do, from Python: names at the top, one model in memory, somebody else's numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

import evalsuite
from evalsuite.datasets.base import Place
from evalsuite.datasets.digits import Digits
from evalsuite.errors import DataError, InvalidModelError, SuiteError, UserError
from evalsuite.evaluators.accuracy import Accuracy
from evalsuite.evaluators.base import Evaluator
from evalsuite.evaluators.noise import Noise
from evalsuite.models.checkpoints.saving import load_model
from evalsuite.random_streams import address
from evalsuite.runs.store import Key, Store
from evalsuite.types import ImageSet, Metric, Score

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from evalsuite.evaluation import Bench

COLUMNS = ["evaluator", "metric", "condition", "group", "value", "n", "unit", "higher_is_better"]


@pytest.fixture(name="networks")
def _networks(done: evalsuite.Run) -> dict[float, nn.Module]:
    """Parent and magnitude-pruned candidates of the tiny run, by target ratio."""
    found = {}
    for ratio in (0.0, 0.5, 0.8):
        key = Key("magnitude" if ratio else "dense", 0, ratio)
        store = Store(done.path)
        candidate = store.candidate(key)
        assert candidate is not None
        found[ratio] = load_model(candidate.model, store.weights_path(key))
    return found


def test_importing_the_package_imports_nothing_heavy(python: Callable[..., Any]) -> None:
    ended = python(
        "-c", "import sys, evalsuite; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    assert {"torch", "numpy", "pandas", "pydantic", "typer"} & set(ended.out.split()) == set()
    assert "evalsuite" in ended.out.split()


def test_one_model_gets_the_numbers_that_the_run_gave_it(
    done: evalsuite.Run, networks: dict[float, nn.Module]
) -> None:
    tables = [
        {key: value for key, value in table.items() if key != "label"}
        for table in done.record["suite"]["evaluators"]
    ]
    found = evalsuite.evaluate(networks[0.8], data="digits", evaluators=tables, parent=networks[0.0])
    assert list(found.columns) == COLUMNS
    expected = done.measurements.query("method == 'magnitude' and target_ratio == 0.8")
    pd.testing.assert_frame_equal(
        found, expected[COLUMNS].reset_index(drop=True), check_dtype=False, check_exact=True
    )


@pytest.mark.parametrize(
    ("data", "evaluators"),
    [
        ("digits", ["accuracy", "noise"]),
        ({"name": "digits"}, ["accuracy", {"name": "noise"}]),
        (Digits(), [Accuracy(), Noise()]),
        (Digits().load("test", Place()), ("accuracy", Noise(epsilons=(8.0, 16.0, 32.0)))),
    ],
    ids=["names", "tables", "instances", "images"],
)
def test_plug_ins_can_be_named_described_or_given(
    data: Any, evaluators: Any, networks: dict[float, nn.Module]
) -> None:
    table = evalsuite.evaluate(networks[0.5], data=data, evaluators=evaluators)
    reference = evalsuite.evaluate(networks[0.5], evaluators=["accuracy", "noise"])
    pd.testing.assert_frame_equal(table, reference, check_exact=True)
    assert len(table) == 3 + 3 * 4


@pytest.mark.parametrize(
    "one", ["accuracy", {"name": "accuracy"}, Accuracy()], ids=["name", "table", "instance"]
)
def test_one_evaluator_needs_no_list(one: Any, networks: dict[float, nn.Module]) -> None:
    table = evalsuite.evaluate(networks[0.0], evaluators=one)
    assert list(table["metric"]) == ["accuracy", "nll", "agreement"]


def test_no_evaluator_is_an_empty_table(networks: dict[float, nn.Module]) -> None:
    table = evalsuite.evaluate(networks[0.0], evaluators=[])
    assert table.empty
    assert list(table.columns) == COLUMNS


def test_agreement_is_with_the_parent_that_is_given(networks: dict[float, nn.Module]) -> None:
    alone, beside = (
        evalsuite.evaluate(networks[0.8], parent=parent).set_index("metric")["value"]
        for parent in (None, networks[0.0])
    )
    assert alone["agreement"] == 1.0
    assert beside["agreement"] < 1.0
    assert alone["accuracy"] == beside["accuracy"]


def test_the_seed_addresses_the_noise(networks: dict[float, nn.Module]) -> None:
    noise = [{"name": "noise", "epsilons": [64]}]
    first, again, other = (
        evalsuite.evaluate(networks[0.5], evaluators=noise, options=evalsuite.Options(seed=seed))
        for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    assert first["value"].tolist() != other["value"].tolist()


@dataclass(frozen=True)
class Seen(Evaluator):
    """Tells which seed it was given."""

    metrics = (Metric("seed", None, "1", "The seed of an evaluator's own draws."),)
    needs = ()

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        yield Score("seed", "clean", value=float(bench.seed), n=1)


def test_attacks_draw_as_they_do_in_a_run(networks: dict[float, nn.Module]) -> None:
    table = evalsuite.evaluate(networks[0.5], evaluators=Seen(), options=evalsuite.Options(seed=4))
    assert table["value"].item() == float(address(4, "bench"))


def test_a_model_in_training_is_given_back_in_training(networks: dict[float, nn.Module]) -> None:
    model = networks[0.5]
    model.train()
    frozen = next(module for module in model.modules() if type(module).__name__ == "BatchNorm2d")
    frozen.eval()
    evalsuite.evaluate(model)
    assert model.training
    assert not frozen.training


def images(**changes: Any) -> ImageSet:
    whole = Digits().load("test", Place())
    settings = {"name": "mine", "images": whole.images[:64], "labels": whole.labels, "classes": 10}
    settings["labels"] = whole.labels[:64] if whole.labels is not None else None
    return ImageSet(**{**settings, **changes})


BRIGHT = images(images=np.full((64, 3, 32, 32), 2.0, np.float32))


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (
            {"data": "digit"},
            SuiteError,
            r"data: there is no folder digit, and unknown .*: did you mean 'digits'",
        ),
        ({"evaluators": ["acuracy"]}, SuiteError, r"unknown evaluator 'acuracy': did you mean 'accuracy'"),
        ({"evaluators": {"name": "noise", "eps": [1]}}, SuiteError, r"evaluators, noise: unknown key 'eps'"),
        ({"data": images(labels=None)}, DataError, r"'mine' has no labels"),
        ({"data": images(), "evaluators": "calibration"}, DataError, r"no split 'validation'"),
        ({"data": images(classes=12)}, InvalidModelError, r"10 logits .* 12 classes"),
        ({"data": BRIGHT}, DataError, r"from 2 to 2, expected \[0, 1\]"),
        ({"options": evalsuite.Options(data_root=Path("gone"))}, UserError, "gone, which does not exist"),
    ],
    ids=["data", "evaluator", "key", "no labels", "no such split", "classes", "range", "data folder"],
)
def test_what_cannot_be_evaluated_is_said(
    arguments: dict[str, Any], error: type[Exception], sentence: str, networks: dict[float, nn.Module]
) -> None:
    with pytest.raises(error, match=sentence):
        evalsuite.evaluate(networks[0.0], **arguments)


def test_somebody_elses_numbers_get_their_thresholds() -> None:
    rows = [("dense", 0.0, 0.90), ("theirs", 0.5, 0.91), ("theirs", 0.7, 0.896), ("theirs", 0.9, 0.80)]
    frame = pd.DataFrame(rows, columns=["method", "ratio", "value"]).assign(
        metric="accuracy", condition="clean"
    )
    found = evalsuite.thresholds(frame, tolerance={"accuracy": 0.005}, higher_is_better={"accuracy": True})
    headline = found.set_index("seed").loc["all"]
    assert (headline["potential"], headline["first_failure"]) == (0.7, 0.9)
    assert evalsuite.threshold([0.5, 0.7], [0.0, 0.1], 0.05).potential == 0.5


def test_a_suite_object_runs_like_its_file(
    done: evalsuite.Run, tiny: Path, tmp_path: Path, counted: dict[str, int]
) -> None:
    from evalsuite.config.suite_file import load_suite as load_suite

    again = evalsuite.run(load_suite(tiny), out=done.path)
    assert counted == {"trainings": 0, "passes": 0}
    pd.testing.assert_frame_equal(again.measurements, done.measurements)
    with pytest.raises(SuiteError, match="no such file"):
        evalsuite.run(tmp_path / "gone.toml")


def test_the_run_folder_is_reports_and_the_name_of_the_suite(
    small_suite: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("suite.toml").write_text(small_suite(top="control = false", tolerances=""))
    run = evalsuite.run("suite.toml")
    assert run.path == Path("reports", "small").resolve()
    assert evalsuite.publish("reports/small").resolve() == run.path / "index.html"
    assert evalsuite.publish(run).is_file()
