"""The data of a report from the evidence of a run, and from several runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import pytest

from evalsuite.errors import UserError
from evalsuite.report import build
from evalsuite.report.build import (
    BINS,
    combined_report_data,
    comparability_table,
    robust_accuracy,
    score_histograms,
)
from evalsuite.report.page import page
from evalsuite.runs.store import Key
from evalsuite.types import Candidate, Metric, Score

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from evalsuite.results.run import Run


DENSE, HALF = Key("dense", 0, 0.0), Key("magnitude", 0, 0.5)


def test_radius_zero_is_the_accuracy_of_the_attacked_images(
    score: Callable[..., Score], run_with: Callable[..., Run]
) -> None:
    right = np.array([1, 0, 1, 1, 1, 1], bool)
    table = robust_accuracy(
        run_with(
            {
                HALF: [
                    score("accuracy", "clean", test=right),
                    score("robust_accuracy", "fgsm/2:255", "attack", **{"test[:3]": right[:3] & [1, 1, 0]}),
                    score("robust_accuracy", "worst l2/0.5", "", **{"test[:3]": right[:3] & [0, 0, 1]}),
                    score("accuracy", "fog/3", test=right),
                ]
            },
        )
    )
    rows = table[["norm", "attack", "epsilon", "n"]].to_numpy().tolist()
    assert rows == [
        ["Linf", "fgsm", 2.0, 3],
        ["Linf", "fgsm", 0.0, 3],
        ["L2", "worst", 0.5, 3],
        ["L2", "worst", 0.0, 3],
    ]
    assert table["value"].tolist() == pytest.approx([1 / 3, 2 / 3, 1 / 3, 2 / 3])
    assert set(table["ratio"]) == {0.5}


def test_histograms_share_their_bins_and_lose_no_image(
    score: Callable[..., Score], run_with: Callable[..., Run]
) -> None:
    draws = np.random.default_rng(0)
    scores = {
        key: [
            score(
                "msp_auroc",
                "letters",
                group="ood-near",
                test=draws.normal(size=50),
                letters=draws.normal(2, 1, 70),
            ),
            score("msp_auroc", "ood-far", test=draws.normal(size=50), letters=draws.normal(2, 1, 70)),
        ]
        for key in (DENSE, HALF)
    }
    histograms = score_histograms(run_with(scores))
    assert histograms.groupby(["method", "sample"])["count"].sum().to_dict() == {
        ("dense", "test"): 50, ("dense", "letters"): 70, ("magnitude", "test"): 50, ("magnitude", "letters"): 70,
    }  # fmt: skip
    assert histograms["low"].nunique() == BINS
    assert score_histograms(run_with({})).empty


def test_comparability_knows_which_candidates_the_run_produced(
    measured: Callable[[Path], Run], tmp_path: Path
) -> None:
    (row,) = comparability_table(measured(tmp_path)).to_dict("records")
    assert (row["first"], row["second"], row["pairs"], row["setup"], row["fair"]) == (
        "magnitude",
        "random",
        1,
        "S1",
        False,
    )
    assert "made elsewhere" in row["why"]


def test_two_runs_become_one_matrix(
    measured: Callable[[Path], Run],
    candidate: Callable[[Key], Candidate],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metric = Metric("accuracy", True, "fraction", "Share.")

    def named(name: str, methods: list[str], reference: float, **other: Any) -> Run:
        table = pd.DataFrame(
            [
                {
                    "method": m,
                    "seed": 0,
                    "target_ratio": t,
                    "ratio": t,
                    "prunable_ratio": t,
                    "evaluator": "accuracy",
                }
                | {
                    "metric": "accuracy",
                    "condition": "clean",
                    "group": "",
                    "value": reference - t / 10,
                    "n": 9,
                }
                | {
                    "drop": t / 10,
                    "drop_low": None,
                    "drop_high": None,
                    "status": "ok",
                    "reason": "",
                    "flags": "",
                }
                for m, t in [("dense", 0.0), *((m, 0.5) for m in methods)]
            ]
        )
        flags = dict.fromkeys(("censored", "infeasible", "non_monotone", "incomplete", "underpowered"), False)
        rows = [
            flags
            | {
                "method": m,
                "seed": s,
                "metric": "accuracy",
                "condition": "clean",
                "group": "",
                "aggregate": "single",
            }
            | {"unit": "fraction", "higher_is_better": True, "tolerance": 0.1, "reference": reference, "n": 9}
            | {"potential": 0.5, "potential_any": 0.5, "potential_any_mean": None, "potential_any_std": None}
            | {"first_failure": None, "tested": "0.5"}
            for m in methods
            for s in (0, "all")
        ]
        run: Any = measured(tmp_path / name)
        run.record["suite"]["name"] = name
        run.record["suite"]["producers"] = [{"label": m} for m in methods]
        keys = [DENSE, *(Key(m, 0, 0.5) for m in methods)]
        run.metrics, run.candidates = {"accuracy": metric}, {key: candidate(key) for key in keys}
        run.tables = {
            "measurements": table,
            "thresholds": pd.DataFrame(rows),
            "reliability": pd.DataFrame(),
        }
        run.__dict__.update(other)
        return cast("Run", run)

    monkeypatch.setattr(build, "tables", lambda run: cast("Any", run).tables)
    first = named("first", ["magnitude", "random"], 0.9)
    second = named("second", ["magnitude", "filter-l1"], 0.8)
    combined = combined_report_data([first, second])
    names = {"magnitude (first)", "random", "magnitude (second)", "filter-l1"}
    assert set(combined.thresholds["method"]) == names
    assert set(combined.measurements["seed"]) == {"0 in first", "0 in second"}
    parents = combined.measurements[combined.measurements["method"] == "dense"]
    assert parents["value"].tolist() == [0.9, 0.8]
    meeting = combined.comparability.set_index(["first", "second"])
    assert meeting.loc[("magnitude (first)", "magnitude (second)"), "pairs"] == 1
    text = page(combined)
    assert all(name in text for name in names)
    data = json.loads(text.partition('id="curve-data">')[2].partition("</script>")[0])
    assert data["curves"][0]["reference"] is None
    assert data["curves"][0]["tolerance"] == 0.1
    assert set(combined.data_sets) == names
    assert text.count('aria-label="Threshold matrix"') == 1
    cast("Any", second).record["suite"]["data"] = {"name": "cifar10"}
    apart = page(combined_report_data([first, second]))
    tables = [part.partition("</table>")[0] for part in apart.split('aria-label="Threshold matrix of ')[1:]]
    assert [table.partition('"')[0] for table in tables] == ["digits", "cifar10"]
    assert "magnitude (first)" in tables[0]
    assert "magnitude (second)" not in tables[0]
    assert "magnitude (second)" in tables[1]
    other = named(
        "third", ["magnitude"], 0.8, metrics={"accuracy": Metric("accuracy", False, "fraction", "x")}
    )
    with pytest.raises(UserError, match="have different definitions of the metric 'accuracy'"):
        combined_report_data([first, other])
    with pytest.raises(UserError, match="found 1 run to compare"):
        combined_report_data([first])
