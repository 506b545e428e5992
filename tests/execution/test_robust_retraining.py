"""A suite with a ratio ladder, corruptions in training, distillation in retraining, and held-out conditions."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from evalsuite import Run, api
from evalsuite.config.suite import Suite
from evalsuite.config.suite_file import parse_suite
from evalsuite.datasets.base import Place
from evalsuite.datasets.source import ImageSource
from evalsuite.errors import SuiteError, UserError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.pixels import Pixels
from evalsuite.models.checkpoints.saving import load_model
from evalsuite.results.condition_splits import HELD_OUT
from evalsuite.runs.store import Key, Store

SUITE = """
name = "robust"
seeds = [0, 1]
ratios = { geometric = 0.6, steps = 5, retrain_every = 2 }
control = false
[data]
name = "digits"
[model]
name = "small-cnn"
widths = [8, 16, 16, 16]
[recipe]
epochs = 5
batch_size = 32
corruptions = ["contrast", "gaussian_blur"]
[retraining]
epochs = 1
learning_rate = 0.01
distillation = "hard"
[[producers]]
name = "sipp"
images = 16
propagate = true
[[producers]]
name = "scratch-e"
retraining = { epochs = 1 }
[[evaluators]]
name = "accuracy"
[[evaluators]]
name = "corruptions"
kinds = ["contrast", "snow", "fog"]
severities = [3]
[conditions]
train = ["clean", "contrast"]
held_out = ["snow", "fog"]
[tolerances]
accuracy = 0.05
"""


@pytest.fixture(scope="module")
def suite() -> Suite:
    return parse_suite(SUITE, source=Path("robust.toml"))


@pytest.fixture(scope="module")
def run(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return api.run(suite, out=tmp_path_factory.mktemp("robust") / "run")


@pytest.mark.extensive
def test_candidates_are_those_of_the_retrained_steps(run: Run, suite: Suite) -> None:
    assert suite.ratios == (0.64, 0.8704, 0.92224)
    assert suite.pruned_only == (0.4, 0.784)
    made = run.measurements.query(
        "method == 'sipp' and seed == 0 and condition == 'clean' and metric == 'accuracy'"
    )
    assert made["target_ratio"].tolist() == [0.64, 0.8704, 0.92224]
    assert made["ratio"].to_numpy() == pytest.approx(suite.ratios, abs=0.002)
    assert len(run.candidates[Key("sipp", 0, 0.92224)].history) == 4  # the parent, and three retrainings


@pytest.mark.extensive
def test_a_candidate_made_anew_is_the_same_and_depends_on_the_steps_between(run: Run, suite: Suite) -> None:
    key, store = Key("sipp", 0, 0.92224), Store(run.path)
    before = run.candidates[key].weights
    store.forget_candidate(key)
    assert api.run(suite, out=run.path).candidates[key].weights == before
    planned = [row for row in run.plan.candidates if row.key == key]
    assert planned[0].path == (0.4, 0.64, 0.784, 0.8704, 0.92224)
    anew = [row for row in run.plan.candidates if row.key == Key("scratch-e", 0, 0.92224)]
    assert anew[0].path == (0.64, 0.8704, 0.92224)


def test_training_and_held_out_conditions_are_kept_apart(run: Run) -> None:
    table = pd.read_csv(run.path / "splits.csv")
    assert set(table["split"]) == {"train", "held-out"}
    thresholds = run.thresholds()
    single = thresholds[(thresholds["aggregate"] == "single") & (thresholds["method"] == "sipp")]
    by_place = single.set_index(["condition", "seed"])["potential_any"]
    for seed in (0, 1):
        own = table[
            (table["seed"] == str(seed)) & (table["split"] == "held-out") & (table["method"] == "sipp")
        ]
        values = [by_place["snow/3", seed], by_place["fog/3", seed]]
        assert own.set_index("aggregate")["potential_any"].to_dict() == pytest.approx(
            {"mean": sum(values) / 2, "minimum": min(values)}
        )
    excess = run.excess[run.excess["condition"] == HELD_OUT]
    assert set(excess["method"]) == {"sipp", "scratch-e"}
    assert set(excess["points"]) == {3, 6}


def test_the_matrix_of_pixels_has_every_pair_of_networks(run: Run, suite: Suite) -> None:
    settings: dict[str, Any] = {"images": 3, "step": 512, "share": 0.3}
    matrix = api.pixel_matrix(suite, method="sipp", out=run.path, settings=settings)
    names = [f"{run.candidates[Key('sipp', 0, ratio)].ratio:.4g}" for ratio in suite.ratios]
    assert list(matrix.index) == list(matrix.columns) == ["parent", *names, "control"]
    assert matrix.to_numpy().min() >= 0
    assert matrix.to_numpy().max() <= 1
    source = ImageSource(suite.data.plugin, Place(seed=0))
    parent, candidate = (
        load_model(run.candidates[key].model, Store(run.path).weights_path(key))
        for key in (Key("dense", 0, 0.0), Key("sipp", 0, suite.ratios[-1]))
    )
    bench = Bench(candidate, source, parent=Bench(parent, source))
    by_condition = {score.condition: score.evidence for score in Pixels(**settings).evaluate(bench)}
    (values,) = by_condition["candidate on pixels of parent"].values()
    assert matrix.loc["parent", names[-1]] == pytest.approx(values.mean(), rel=1e-4)
    with pytest.raises(UserError, match="unknown method of this run 'magnitude'"):
        api.pixel_matrix(suite, method="magnitude", out=run.path)


def test_names_that_are_never_measured_are_refused_before_anything_is_trained() -> None:
    text = SUITE.replace('["snow", "fog"]\n[tolerances]', '["snow", "fog", "cifar10.1"]\n[tolerances]')
    other = parse_suite(text, source=Path("robust.toml"))
    with pytest.raises(
        SuiteError, match=r"\[conditions\]: found cifar10\.1, which no evaluator of this suite measures"
    ):
        api.run(replace(other, seeds=(0,)), out=Path(os.devnull))


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ("{ geometric = 1.2, steps = 3 }", "found geometric = 1.2 and first = 0"),
        ("{ geometric = 0.5, steps = 3, retrain_every = 4 }", "found steps = 3 and retrain_every = 4"),
        ("{ geometric = 0.5, step = 3 }", "unknown key 'step'"),
    ],
)
def test_rules_that_give_no_ratios_are_refused(ratios: str, message: str) -> None:
    text = SUITE.replace("{ geometric = 0.6, steps = 5, retrain_every = 2 }", ratios)
    with pytest.raises(SuiteError, match=message):
        parse_suite(text, source=Path("robust.toml"))
