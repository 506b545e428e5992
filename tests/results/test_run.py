"""A run folder read back: every conclusion can be drawn again from the evidence, without torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from evalsuite import Run, api
from evalsuite.config.options import Options
from evalsuite.errors import StoreError, UserError
from evalsuite.report.run_tables import tables
from evalsuite.results.chance_level import chance_levels
from evalsuite.statistics import paired_rate_interval

if TYPE_CHECKING:
    from collections.abc import Callable

VERDICTS = ("verdict", "verdict_level", "beyond_control_verdict")
TABLES = ("measurements", "thresholds", "reliability", "excess", "exemplars", "retraining")
FILES = (*(f"{name}.csv" for name in TABLES), "index.html")


def evidence(run: Run, method: str, ratio: float, place: tuple[str, str, str]) -> list[list[Any]]:
    """Per-image outputs of one score as lists, read from the file's bytes and not through the store."""
    evaluator, metric, condition = place
    data = (run.path / "cells" / method / "seed-0" / repr(ratio) / f"{evaluator}.cell").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    cell = json.loads(header["__metadata__"]["cell"])
    (score,) = [one for one in cell["scores"] if (one["metric"], one["condition"]) == (metric, condition)]
    kinds = {"F64": "<f8", "F32": "<f4", "BOOL": "?", "I64": "<i8"}
    found = []
    for name in score["evidence"].values():
        entry = header[name]
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        found.append(np.frombuffer(data[begin:end], kinds[entry["dtype"]]).reshape(entry["shape"]).tolist())
    return found


def share(populations: list[list[Any]]) -> float:
    (right,) = populations
    return sum(1 for one in right if one) / len(right)


def pairs_won(populations: list[list[Any]]) -> float:
    inside, outside = populations
    won = 0.0
    for low in inside:
        for high in outside:
            won += 1.0 if high > low else 0.5 if high == low else 0.0
    return won / (len(inside) * len(outside))


def binned_gap(populations: list[list[Any]]) -> float:
    (rows,) = populations
    total = 0.0
    for index in range(15):
        inside = [row for row in rows if index / 15 < row[0] <= (index + 1) / 15]
        if inside:
            gap = sum(row[1] for row in inside) / len(inside) - sum(row[0] for row in inside) / len(inside)
            total += len(inside) / len(rows) * abs(gap)
    return total


@pytest.mark.parametrize(
    ("place", "value", "sign"),
    [
        (("accuracy", "accuracy", "clean"), share, 1),
        (("attack", "robust_accuracy", "linf-pgd/8:255"), share, 1),
        (("ood", "msp_auroc", "letters"), pairs_won, 1),
        (("calibration", "ece_equal_width", "clean"), binned_gap, -1),
    ],
    ids=lambda case: case[1] if isinstance(case, tuple) else "",
)
def test_potentials_can_be_found_again_from_the_evidence_with_plain_loops(
    place: tuple[str, str, str], value: Callable[[list[list[Any]]], float], sign: int, done: Run
) -> None:
    measured: Any = pd.read_csv(done.path / "measurements.csv")
    rows = measured.set_index(["evaluator", "metric", "condition"]).loc[place]
    printed: Any = pd.read_csv(done.path / "thresholds.csv")
    printed = printed[(printed["metric"] == place[1]) & (printed["condition"] == place[2])]
    tolerance = done.record["suite"]["tolerances"][place[1]]
    dense = value(evidence(done, "dense", 0.0, place))
    for method in ("magnitude", "filter-l1"):
        potential, best, safe = 0.0, 0.0, True
        for _, row in rows[rows["method"] == method].sort_values("ratio").iterrows():
            mine = value(evidence(done, method, row["target_ratio"], place))
            assert row["value"] == pytest.approx(mine, abs=1e-12)
            worse = sign * (dense - mine)
            assert row["drop"] == pytest.approx(worse, abs=1e-12)
            assert row["drop_low"] <= row["drop"] <= row["drop_high"]
            assert abs(worse - tolerance) > 1e-9, "too close to call: change the tolerance of the tiny suite"
            safe = safe and worse <= tolerance
            potential = row["ratio"] if safe else potential
            best = row["ratio"] if worse <= tolerance else best
        for seed in ("0", "all"):
            (threshold,) = printed[(printed["method"] == method) & (printed["seed"] == seed)].itertuples()
            assert (threshold.potential, threshold.potential_any) == (potential, best)
            assert threshold.reference == pytest.approx(dense, abs=1e-12)


def test_the_thresholds_of_the_tiny_suite_are_not_all_alike(done: Run) -> None:
    """Else the test above would show little."""
    single = done.thresholds().query("aggregate == 'single'")
    assert len(set(single["potential"])) >= 3
    assert single["infeasible"].any()


def test_the_excess_error_can_be_found_again_with_plain_loops(done: Run) -> None:
    """The tiny suite has one seed: the slope of the method is that of the seed, without an interval over seeds."""
    measured: Any = done.measurements.query("metric == 'accuracy'")
    printed = pd.read_csv(done.path / "excess.csv").query(
        "method == 'magnitude' and condition == 'corruptions'"
    )
    of = {
        (row.method, row.target_ratio, row.condition): (row.ratio, row.value) for row in measured.itertuples()
    }
    targets = sorted({target for method, target, _ in of if method == "magnitude"})
    top = bottom = 0.0
    for target in targets:
        ratio, shifted = of["magnitude", target, "corruptions"]
        clean, dense = of["magnitude", target, "clean"][1], ("dense", 0.0)
        added = 100 * ((clean - shifted) - (of[*dense, "clean"][1] - of[*dense, "corruptions"][1]))
        top, bottom = top + ratio * added, bottom + ratio**2
    assert list(printed["seed"]) == ["0", "all"]
    assert printed["slope"].to_numpy() == pytest.approx(top / bottom, abs=1e-9)
    assert (printed["images_low"] < printed["slope"]).all()
    assert (printed["slope"] < printed["images_high"]).all()
    assert printed["seeds_low"].isna().all()


def test_intervals_of_rates_are_paired_image_by_image(done: Run) -> None:
    rows = done.measurements.query("metric == 'accuracy' and condition == 'clean' and method != 'dense'")
    place = ("accuracy", "accuracy", "clean")
    (mine,) = evidence(done, "dense", 0.0, place)
    for _, row in rows.iterrows():
        (other,) = evidence(done, row["method"], row["target_ratio"], place)
        losses = sum(1 for a, b in zip(mine, other, strict=True) if a and not b)
        gains = sum(1 for a, b in zip(mine, other, strict=True) if b and not a)
        assert losses + gains > 0
        assert row["drop"] == pytest.approx((losses - gains) / len(mine), abs=1e-12)
        limits = paired_rate_interval(losses, gains, n=len(mine))
        assert row["mcnemar"] == pytest.approx(binomtest(losses, losses + gains).pvalue, abs=1e-12)
        assert (row["drop_low"], row["drop_high"]) == pytest.approx(limits, abs=1e-12)


def test_every_rate_has_an_interval_of_its_own_and_n(done: Run) -> None:
    """Parents too, judged or not: a share of images stands nowhere without what chance allows."""
    table = done.measurements
    shares = table["metric"].isin(["accuracy", "agreement", "robust_accuracy", "msp_auroc", "energy_auroc"])
    rates = table[shares]
    assert set(rates["metric"]) >= {"accuracy", "msp_auroc"}
    assert rates[["n", "value_low", "value_high"]].notna().all(axis=None)
    bounded = table.dropna(subset="value_low")
    assert (bounded["value_low"] <= bounded["value"]).all()
    assert (bounded["value"] <= bounded["value_high"]).all()
    for _, row in rates.query("metric == 'accuracy' and condition == 'clean'").iterrows():
        (right,) = evidence(done, row["method"], row["target_ratio"], ("accuracy", "accuracy", "clean"))
        expected = binomtest(sum(map(bool, right)), len(right)).proportion_ci(method="wilson")
        assert (row["value_low"], row["value_high"]) == pytest.approx(
            (expected.low, expected.high), abs=1e-12
        )


def test_rows_are_complete_and_in_order(done: Run) -> None:
    table = done.measurements
    assert list(table["method"].unique()) == ["dense", "magnitude", "filter-l1"]
    assert (table["status"] == "ok").all()
    assert not table.duplicated(["method", "seed", "target_ratio", "metric", "condition"]).any()
    assert len(set(table.groupby(["method", "target_ratio"]).size())) == 1
    assert (table.loc[table["method"] == "dense", "drop"].dropna() == 0).all()
    judged = table["metric"].isin(done.record["suite"]["tolerances"]) & (table["method"] != "dense")
    assert table.loc[judged, "drop_low"].notna().all()
    assert table.loc[~judged, "drop_low"].isna().all()
    assert table.loc[table["metric"] == "temperature", "drop"].isna().all()
    assert table.loc[table["method"] == "magnitude", "macs_nonzero"].lt(table["macs"].max()).all()
    assert table.loc[table["method"] == "filter-l1", "macs"].lt(table["macs"].max()).all()
    read: Any = pd.read_csv(done.path / "measurements.csv")
    numbers = list(read.select_dtypes("float"))
    written: Any = pd.read_csv(done.path / "measurements.csv", dtype=str)[numbers]
    read[numbers] = written.astype(float)  # pandas 2 reads other digits beyond the 15th
    exported = tables(done)["measurements"]  # in canonical order, whatever that of the suite
    assert sorted(map(str, exported.itertuples(index=False))) == sorted(
        map(str, table.itertuples(index=False))
    )
    pd.testing.assert_frame_equal(
        read,
        exported.replace(dict.fromkeys(("group", "reason", "flags", *VERDICTS), ""), None),
        check_dtype=False,
        check_exact=True,
    )


def test_the_reliability_table_adds_up(done: Run) -> None:
    table = done.reliability
    clean: Any = done.measurements.query("metric == 'accuracy' and condition == 'clean'").set_index(
        ["method", "ratio"]
    )
    for key, rows in table.groupby(["method", "ratio"]):
        filled = rows[rows["count"] > 0]
        assert rows["count"].sum() == 899
        total = (filled["count"] * filled["accuracy"]).sum() / 899
        assert total == pytest.approx(clean.loc[key, "value"])
    assert set(table["method"]) == {"dense", "magnitude", "filter-l1"}


def test_thresholds_at_other_tolerances(done: Run) -> None:
    own = done.thresholds()
    pd.testing.assert_frame_equal(own, done.thresholds(done.record["suite"]["tolerances"]))
    loose = done.thresholds({"accuracy": 1.0})
    assert set(loose["metric"]) == {"accuracy"}
    assert loose["censored"].all()
    assert (loose["tolerance"] == 1.0).all()
    everything = done.thresholds(1e9)
    assert (
        everything.loc[everything["metric"] == "nll", "certified"].notna().any()
    )  # the suite has no limit on it
    assert "temperature" not in set(everything["metric"])
    with pytest.raises(UserError, match="acuracy"):
        done.thresholds({"acuracy": 0.1})
    with pytest.raises(UserError, match="-1"):
        done.thresholds(-1.0)


def test_tests_of_one_kind_at_two_settings_are_told_apart(
    suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    """Both attacks report the same metric under the same conditions; each candidate meets its own parent."""
    old = '[[evaluators]]\nname = "attack"\nepsilons = [8]\nsteps = 2\nimages = 32\n'
    new = old + '[[evaluators]]\nname = "attack"\nlabel = "sixty"\nepsilons = [8]\nsteps = 2\nimages = 60\n'
    new += '[[evaluators]]\nname = "calibration"\nlabel = "halves"\nheld_out = "cross-fit"\n'
    run = api.run(suite_file({old: new}), out=tmp_path / "run")
    table = run.measurements
    assert not table.duplicated(["method", "seed", "target_ratio", "metric", "condition"]).any()
    for label, count in (("attack", 32), ("sixty", 60)):
        rows = table[(table["evaluator"] == label) & table["condition"].str.startswith("fgsm")]
        assert set(rows["n"]) == {count}
        assert set(rows["condition"]) == {f"fgsm/8:255 ({label})"}
        dense = rows.loc[rows["method"] == "dense", "value"].item()
        assert (rows["drop"] == dense - rows["value"]).all()
    assert set(table.loc[table["evaluator"] == "noise", "condition"]) == {"uniform/16:255"}
    conditions = set(run.thresholds().query("metric == 'robust_accuracy'")["condition"])
    assert {"worst/8:255 (attack)", "worst/8:255 (sixty)"} <= conditions
    bins = run.reliability.groupby(["method", "ratio"])["count"].sum()
    assert (bins == 899).all()


def test_a_suite_without_tolerances_has_measurements_and_a_page(
    small_suite: Callable[..., str], suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    text = small_suite(top="control = false", ratios=(0.5, 0.8), tolerances="")
    run = api.run(suite_file(text=text), out=tmp_path / "run")
    assert run.thresholds().empty
    assert len(run.measurements) == 3 * 3  # networks, metrics
    assert (run.path / "index.html").stat().st_size > 10_000
    assert list(pd.read_csv(run.path / "thresholds.csv").columns) == list(run.thresholds().columns)


BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "foolbox", "robustbench"):
            raise ImportError(f"{name} must not be imported here")
sys.meta_path.insert(0, Blocker())
"""


def test_other_tolerances_bring_their_own_bounds(done: Run) -> None:
    """The suite has no tolerance for the NLL, so its drops had no bounds; asked for, they get them."""
    assert "nll" not in done.tolerances
    again = Run(done.path, tolerances={"nll": "50%", "accuracy": {"clean": 0.02}})
    found = again.thresholds()
    assert set(found["metric"]) == {"nll", "accuracy"}
    assert set(found.query("metric == 'accuracy'")["condition"]) == {"clean"}
    pd.testing.assert_frame_equal(found, done.thresholds({"nll": "50%", "accuracy": {"clean": 0.02}}))
    clean = found.query("metric == 'nll' and condition == 'clean' and seed == 'all'")
    assert clean["certified"].notna().all()
    assert clean["tolerance"].to_numpy() == pytest.approx(clean["reference"] / 2)
    bounded = again.measurements.dropna(subset="drop_low")
    assert set(bounded.query("metric == 'accuracy'")["condition"]) == {
        "clean"
    }  # what is not judged costs nothing
    with pytest.raises(UserError, match="unknown metric 'nil'"):
        Run(done.path, tolerances={"nil": 1.0}).thresholds()


def test_a_part_of_a_suite_has_thresholds_of_what_is_there(
    suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    """The suite judges a condition that this part of it never measures."""
    suite = suite_file({"accuracy = 0.05": "accuracy = {clean = 0.05, corruptions = 0.1}"})
    run = api.run(suite, out=tmp_path / "run", options=Options(only=("accuracy", "magnitude")))
    assert set(run.thresholds()["condition"]) == {"clean"}


def test_the_report_is_rebuilt_without_torch_byte_for_byte(
    done: Run, tmp_path: Path, python: Callable[..., Any]
) -> None:
    path = tmp_path / "moved"
    shutil.copytree(done.path, path)
    shutil.rmtree(path / "candidates")
    shutil.copytree(
        done.path / "candidates", path / "candidates", ignore=shutil.ignore_patterns("*.safetensors")
    )
    for name in FILES:
        (path / name).unlink()
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    blocked = f"{tmp_path}:{Path(__file__).parents[2]}"
    assert python("-c", "import torch", PYTHONPATH=blocked).code == 1
    other = {
        "PYTHONPATH": blocked,
        "OMP_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "2",
    }  # sums depend on threads
    ended = python("-m", "evalsuite", "report", "moved", cwd=tmp_path, **other)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"Report: {path / 'index.html'}\n"
    for name in FILES:
        assert (path / name).read_bytes() == (done.path / name).read_bytes(), name


@pytest.mark.parametrize(
    ("lost", "left"),
    [
        pytest.param(["magnitude", "filter-l1"], {"dense"}, id="the parent only"),
        pytest.param(["filter-l1"], {"dense", "magnitude"}, id="one method"),
    ],
)
def test_an_unfinished_run_says_what_is_missing(
    lost: list[str], left: set[str], done: Run, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    shutil.copytree(done.path, path)
    for method in lost:
        shutil.rmtree(path / "candidates" / method)
        shutil.rmtree(path / "cells" / method)
    api.publish(path)
    run = Run(path)
    table = run.measurements
    assert set(table[table["status"] == "ok"]["method"]) == left
    missing = table[table["method"].isin(lost)]
    assert set(missing["status"]) == {"skipped"}
    assert set(missing["reason"]) == {"not computed yet: start the same run again"}
    assert len(table) == len(done.measurements)  # each missing number has its row
    assert missing["metric"].ne("").all()
    rows = run.thresholds()
    assert rows[rows["method"].isin(lost)]["incomplete"].all()
    assert "not computed yet" in (path / "index.html").read_text("utf-8")
    same = table[~table["method"].isin(lost)]
    pd.testing.assert_frame_equal(
        same, done.measurements[done.measurements["method"].isin(left)], check_exact=True
    )


def test_a_run_without_a_finished_cell_has_no_report(done: Run, tmp_path: Path) -> None:
    shutil.copy(done.path / "run.json", tmp_path)
    assert set(Run(tmp_path).measurements["status"]) == {"skipped"}
    with pytest.raises(StoreError, match="holds no finished cell yet; run the suite first"):
        api.publish(tmp_path)


@pytest.mark.parametrize("text", [None, "{}", '{"format": 1}', "no json"])
def test_a_folder_that_is_no_run_is_said(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(StoreError, match="run"):
        Run(tmp_path)


def test_a_guess_is_worth_what_the_number_of_classes_says() -> None:
    """Ten classes: a constant answer is right in a tenth, before and after an attack, and log 10 nats off."""
    names = pd.Series(
        ["accuracy", "accuracy_top5", "robust_accuracy", "energy_auroc", "nll", "brier", "negative_flip_rate"]
    )
    found = chance_levels(names, {"model": {"classes": 10}})
    assert found[:-1].tolist() == pytest.approx([0.1, 0.5, 0.1, 0.5, 2.302585, 0.9])
    assert np.isnan(found.iloc[-1])
    assert chance_levels(names, {}).isna().all()


def test_a_run_says_where_a_guess_would_pass(done: Run) -> None:
    loose = done.thresholds({"accuracy": 1.0, "robust_accuracy": 0.0})
    assert loose.query("metric == 'accuracy'")["at_chance"].all()
    robust = loose.query("metric == 'robust_accuracy' and aggregate == 'single'")
    assert robust["at_chance"].tolist() == (robust["reference"] <= 0.1).tolist()
