"""A method that prunes nothing is measured like all others, and lies on no curve of pruning."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from evalsuite import api
from evalsuite.cli.dry_run import print_plan
from evalsuite.config.suite_file import load_suite
from evalsuite.execution.dry_run import describe_run
from evalsuite.execution.planning import prepare
from evalsuite.execution.production import checked
from evalsuite.models.cost import cost, weights_digest
from evalsuite.producers.base import Context, Producer
from evalsuite.results.verdict_tables import MEAN, NETWORK
from evalsuite.training.recipe import Recipe
from evalsuite.types import Candidate, ImageSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from evalsuite import Run


def test_a_retrained_dense_parent_is_measured_but_has_no_threshold(
    suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    controls = '[[producers]]\nname = "dense-retrained"\n'
    old = '[[producers]]\nname = "filter-l1"\n'
    path = suite_file(
        {old: controls, "seeds = [0]": "seeds = [0, 1]", "epochs = 2": "epochs = 1", "control = false\n": ""}
    )
    text = path.read_text()
    start, end = text.index('[[evaluators]]\nname = "ood"'), text.index("[tolerances]")
    path.write_text(text[:start] + text[end:].partition("robust_accuracy")[0])
    run = api.run(path, out=tmp_path / "run")
    rows = run.measurements.query(
        "method == 'dense-retrained' and metric == 'accuracy' and condition == 'clean'"
    )
    assert rows["target_ratio"].tolist() == [0.5, 0.8, 0.5, 0.8]
    assert (rows["ratio"] == 0).all()
    assert rows["drop"].notna().all()
    assert set(run.thresholds()["method"]) == {"magnitude"}
    assert set(run.excess["method"]) == {"magnitude"}
    assert "dense-retrained" in (run.path / "index.html").read_text()
    check_differences_from_the_control(run)
    assert [choice.get("dense") for choice in run.record["suite"]["producers"]] == [None, True]


def check_differences_from_the_control(run: Run) -> None:
    """Every drop with a tolerance has its difference from the control of its seed, and a verdict."""
    table = run.measurements.query("metric == 'accuracy'")
    clean = table[table["condition"] == "clean"].set_index(["method", "seed", "target_ratio"])
    pruned, control = clean.loc["magnitude"], clean.loc["dense-retrained"]
    pd.testing.assert_series_equal(
        pruned["beyond_control"], pruned["drop"] - control["drop"], check_names=False, atol=1e-12
    )
    assert (pruned["beyond_control_low"] < pruned["beyond_control_high"]).all()
    assert set(pruned["beyond_control_verdict"]) <= {"non-inferior", "inferior", "undecided"}
    assert control["beyond_control"].isna().all()
    assert (control["verdict"] != "").all()  # the control has verdicts of its own
    scopes = run.verdicts.query("condition == 'clean' and metric == 'accuracy'").groupby("scope").size()
    assert scopes.to_dict() == {NETWORK: 8, MEAN: 4}  # two methods, seeds and ratios; two seeds are no method
    thresholds = run.thresholds()
    assert thresholds["beyond_control_noninferior_up_to"].notna().any()
    assert (run.counts["measured_failures"] <= run.counts["checks"]).all()
    assert run.counts["harmless_upper_95"].notna().all()
    assert {"verdicts.csv", "groups.csv", "counts.csv"} <= {path.name for path in run.path.iterdir()}


def test_a_control_that_is_added_makes_no_other_cell_stale_and_its_cost_is_told(
    suite_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without, beside = suite_file({}), suite_file({"control = false\n": ""})
    plans = [prepare(load_suite(path), out=tmp_path / "none").plan for path in (without, beside)]
    assert plans[0].by_label == plans[1].by_label
    shared = {key: plans[1].by_key[key] for key in plans[0].by_key}
    assert shared == plans[0].by_key
    assert {key.method for key in plans[1].by_key if key not in shared} == {"dense-retrained"}
    planned = describe_run(prepare(load_suite(beside), out=tmp_path / "none"))
    assert all(line.of_controls == 2 for line in planned.lines)
    print_plan(planned)
    said = capsys.readouterr().out
    assert "are of the control" in said
    assert "for one worker without attacks, which take many passes for each image" in said
    print_plan(describe_run(prepare(load_suite(without), out=tmp_path / "none")))
    assert "control" not in capsys.readouterr().out


@dataclass(frozen=True)
class Filling(Producer):
    """Moves weights of the parent that are exactly zero, as retraining does."""

    dense: ClassVar[bool] = True

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        del context
        for _ in ratios:
            network = copy.deepcopy(parent)
            for weight in network.parameters():
                weight.data[weight == 0] = 0.1
            yield network


def test_a_control_may_have_more_weights_than_a_parent_with_zeros() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(12, 3)
    layer.weight.data[0] = 0
    parent = nn.Sequential(nn.Flatten(), layer).eval()
    spent = cost(parent, (3, 2, 2))
    record = Candidate("dense", 0, 0.0, 0.0, 0.0, spent, weights_digest(parent), {"name": "x"})
    images = ImageSet("few", np.zeros((4, 3, 2, 2), np.uint8), np.arange(4) % 3, 3)
    context = Context(images, Recipe(epochs=1), seed=0)
    made = list(checked(Filling(), record, parent, (0.5, 0.8), context))
    assert [1 - sum(int((p != 0).sum()) for p in one.parameters()) / spent.nonzero for one in made] == 2 * [
        pytest.approx(-12 / 27)
    ]
