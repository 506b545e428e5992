"""The data of a report from the evidence of a run, and from several runs."""

from __future__ import annotations

import json
from types import SimpleNamespace
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
from evalsuite.types import Candidate, Cost, Metric, Score

if TYPE_CHECKING:
    from pathlib import Path

    from evalsuite.results.run import Run


DENSE = Key("dense", 0, 0.0)
HALF, MOST = Key("magnitude", 0, 0.5), Key("magnitude", 0, 0.9)
RANDOM = Key("random", 0, 0.5)
KEYS = (DENSE, HALF, MOST, RANDOM)
RIGHT = {
    DENSE: [1, 1, 1, 1, 0, 1],
    HALF: [1, 1, 0, 1, 1, 1],
    MOST: [1, 0, 0, 1, 0, 1],
    RANDOM: [1, 1, 0, 1, 0, 0],
}


def candidate(key: Key) -> Candidate:
    cost = Cost(100, 50, 90, 45, 1_000, 500, 400)
    ratio = key.target_ratio
    return Candidate(
        key.method, key.seed, ratio, ratio, ratio, cost, f"w{key.method}{ratio}", {"name": "net"}
    )


def score(metric: str, condition: str, group: str = "", **evidence: Any) -> Score:
    arrays = {name: np.asarray(values) for name, values in evidence.items()}
    (first, *_) = arrays.values()
    return Score(metric, condition, float(first.mean()), len(first), arrays, group)


def run(tmp_path: Path, scores: dict[Key, list[Score]], **record: Any) -> Run:
    """What the exhibits look at of a run."""
    known = {(key, one.metric, one.condition): one for key, some in scores.items() for one in some}
    suite = {
        "seeds": [0],
        "producers": [{"label": "magnitude"}],
        "evaluators": [],
        "data": {"name": "digits"},
    }
    made = SimpleNamespace(
        path=tmp_path,
        record={"suite": suite, "inputs": {"a": 1}, **record},
        comparison=SimpleNamespace(scores=known, on_all_images=known),
        candidates={key: candidate(key) for key in KEYS},
        axis="",
        controls=(),
        notes=list(record.get("notes") or ()),
        plan=SimpleNamespace(tests=[SimpleNamespace(inputs="a")]),
    )
    return cast("Run", made)


def measured(tmp_path: Path) -> Run:
    clean = {key: [score("accuracy", "clean", test=np.array(RIGHT[key], bool))] for key in KEYS}
    return run(tmp_path, clean)


def test_radius_zero_is_the_accuracy_of_the_attacked_images(tmp_path: Path) -> None:
    right = np.array([1, 0, 1, 1, 1, 1], bool)
    found = robust_accuracy(
        run(
            tmp_path,
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
    rows = found[["norm", "attack", "epsilon", "n"]].to_numpy().tolist()
    assert rows == [
        ["Linf", "fgsm", 2.0, 3],
        ["Linf", "fgsm", 0.0, 3],
        ["L2", "worst", 0.5, 3],
        ["L2", "worst", 0.0, 3],
    ]
    assert found["value"].tolist() == pytest.approx([1 / 3, 2 / 3, 1 / 3, 2 / 3])
    assert set(found["ratio"]) == {0.5}


def test_histograms_share_their_bins_and_lose_no_image(tmp_path: Path) -> None:
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
    found = score_histograms(run(tmp_path, scores))
    assert found.groupby(["method", "sample"])["count"].sum().to_dict() == {
        ("dense", "test"): 50, ("dense", "letters"): 70, ("magnitude", "test"): 50, ("magnitude", "letters"): 70,
    }  # fmt: skip
    assert found["low"].nunique() == BINS
    assert score_histograms(run(tmp_path, {})).empty


def test_comparability_knows_which_candidates_the_run_produced(tmp_path: Path) -> None:
    (row,) = comparability_table(measured(tmp_path)).to_dict("records")
    assert (row["first"], row["second"], row["pairs"], row["setup"], row["fair"]) == (
        "magnitude",
        "random",
        1,
        "S1",
        False,
    )
    assert "made elsewhere" in row["why"]


def test_two_runs_become_one_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        found = measured(tmp_path / name)
        found.record["suite"]["name"] = name
        found.record["suite"]["producers"] = [{"label": m} for m in methods]
        known = [DENSE, *(Key(m, 0, 0.5) for m in methods)]
        plain = cast("Any", found)
        plain.metrics, plain.candidates = {"accuracy": metric}, {key: candidate(key) for key in known}
        plain.tables = {
            "measurements": table,
            "thresholds": pd.DataFrame(rows),
            "reliability": pd.DataFrame(),
        }
        plain.__dict__.update(other)
        return found

    monkeypatch.setattr(build, "tables", lambda one: cast("Any", one).tables)
    first = named("first", ["magnitude", "random"], 0.9)
    second = named("second", ["magnitude", "filter-l1"], 0.8)
    found = combined_report_data([first, second])
    names = {"magnitude (first)", "random", "magnitude (second)", "filter-l1"}
    assert set(found.thresholds["method"]) == names
    assert set(found.measurements["seed"]) == {"0 in first", "0 in second"}
    parents = found.measurements[found.measurements["method"] == "dense"]
    assert parents["value"].tolist() == [0.9, 0.8]
    meeting = found.comparability.set_index(["first", "second"])
    assert meeting.loc[("magnitude (first)", "magnitude (second)"), "pairs"] == 1
    text = page(found)
    assert all(name in text for name in names)
    data = json.loads(text.partition('id="curve-data">')[2].partition("</script>")[0])
    assert data["curves"][0]["reference"] is None
    assert data["curves"][0]["tolerance"] == 0.1
    assert set(found.data_sets) == names
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
