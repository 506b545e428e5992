"""Conclusions over any cost of a model: the same candidates, measured once, at other ratios."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from evalsuite import Run, api
from evalsuite.cli import main as cli
from evalsuite.cli.threshold_tables import print_summary, print_thresholds
from evalsuite.cost_axes import AXES, check_axis, ratio_on_axis, share_phrase
from evalsuite.errors import StoreError, UnknownNameError, UserError
from evalsuite.report.build import combined_report_data, report_data
from evalsuite.report.chart_data import curves
from evalsuite.runs.serialization import to_json, with_checksum
from evalsuite.runs.store import Store
from evalsuite.types import Cost

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalsuite.runs.store import Key

COST = Cost(
    parameters=100, nonzero=80, prunable=90, prunable_nonzero=72, macs=1000, macs_nonzero=800, bytes=400,
    packed=300,
)  # fmt: skip


def test_what_is_saved_is_a_share_of_the_parents_cost() -> None:
    child = replace(COST, nonzero=20, macs=250, packed=None, bytes=500)
    assert ratio_on_axis(child, COST, "nonzero") == 0.75
    assert ratio_on_axis(child, COST, "macs") == 0.75
    assert ratio_on_axis(child, COST, "parameters") == 0
    assert ratio_on_axis(child, COST, "bytes") == -0.25
    assert ratio_on_axis(child, COST, "packed") is None
    assert ratio_on_axis(COST, replace(COST, packed=None), "packed") is None
    assert (
        ratio_on_axis(replace(COST, parameters=0, nonzero=0), COST, "nonzero") is None
    )  # a program that shows nothing
    assert ratio_on_axis(replace(COST, prunable_nonzero=0), COST, "prunable_nonzero") == 1


def test_every_axis_is_a_cost() -> None:
    assert all(getattr(COST, name) == getattr(COST, axis.name) for name, axis in AXES.items())
    assert share_phrase("macs") == " of the multiply-accumulates gone"
    with pytest.raises(UnknownNameError, match="unknown axis 'mac': did you mean 'macs'"):
        check_axis("mac")


@pytest.mark.parametrize("axis", ["macs", "parameters", "bytes", "packed", "macs_nonzero"])
def test_ratios_are_those_of_the_costs(done: Run, axis: str) -> None:
    table = Run(done.path, axis=axis).measurements
    parent = table[table["method"] == "dense"].iloc[0]
    rows = table[table["method"] == "filter-l1"]
    assert set(table["axis"]) == {axis}
    assert rows["ratio"].to_numpy() == pytest.approx(1 - (rows[axis] / parent[axis]).to_numpy(dtype=float))
    plain = done.measurements
    assert table["value"].equals(plain["value"])
    assert table["drop_upper_95"].equals(plain["drop_upper_95"])
    assert set(plain["axis"]) == {"nonzero"}


def test_thresholds_are_drawn_over_the_axis(done: Run) -> None:
    """Against a plain loop over the rows of the table."""
    found = Run(done.path, axis="packed").thresholds()
    assert set(found["axis"]) == {"packed"}
    table = done.measurements
    dense = float(table[table["method"] == "dense"]["packed"].iloc[0])
    for _, row in found.query("seed == 'all' and aggregate == 'single'").iterrows():
        mine = table[(table["method"] == row["method"]) & (table["metric"] == row["metric"])]
        mine = mine[mine["condition"] == row["condition"]]
        points = sorted(
            (1 - packed / dense, drop) for packed, drop in zip(mine["packed"], mine["drop"], strict=True)
        )
        potential = 0.0
        for ratio, drop in points:
            if drop > row["tolerance"] + 1e-12:
                break
            potential = ratio
        assert row["potential"] == pytest.approx(potential)
        tested = [float(ratio) for ratio in row["tested"].split()]
        assert tested == pytest.approx([ratio for ratio, _ in points], abs=1e-6)


def test_who_saves_nothing_lies_on_no_curve_and_the_report_says_so(done: Run) -> None:
    run = Run(done.path, axis="macs")
    assert set(run.thresholds()["method"]) == {"filter-l1"}
    assert set(run.excess["method"]) == {"filter-l1"}
    page = api.publish(run)
    assert page == done.path / "by-macs" / "index.html"
    text = page.read_text("utf-8")
    assert "Lies on no curve at 50 %, 80 %: it saves no multiply-accumulates." in text
    assert " of the multiply-accumulates gone" in text
    assert "Ratios are shares of the parent's multiply-accumulates that are gone." in text.replace(
        "&#39;", "'"
    )
    assert pd.read_csv(page.parent / "thresholds.csv")["axis"].eq("macs").all()
    assert "multiply-accumulates gone" not in (done.path / "index.html").read_text("utf-8")
    shutil.rmtree(page.parent)


def other_notes(run: Run) -> list[dict[str, Any]]:
    """The notes of a run but those on its control, which these suites leave out, and on its few images."""
    usual = ("leaves out the control", "the images are too few")
    return [note for note in run.notes if not any(text in note["note"] for text in usual)]


def test_the_usual_report_says_nothing_of_axes(done: Run) -> None:
    assert curves(report_data(done))["axes"]["ratio"] == "Prune ratio, all parameters"
    assert other_notes(done) == list(done.record.get("notes") or ())


def test_the_usual_axis_by_name_is_the_usual(done: Run) -> None:
    pd.testing.assert_frame_equal(Run(done.path, axis="nonzero").thresholds(), done.thresholds())


def test_an_axis_on_which_nothing_is_saved_is_refused(done: Run, tmp_path: Path) -> None:
    path = without(done, tmp_path, "filter-l1")
    with pytest.raises(
        UserError, match=r"no candidate in .* saves bytes on disk.*choose another one of nonzero"
    ):
        Run(path, axis="bytes").thresholds()
    with pytest.raises(UnknownNameError, match="unknown axis 'byte'"):
        Run(path, axis="byte")


def without(done: Run, folder: Path, method: str) -> Path:
    path = folder / "run"
    shutil.copytree(done.path, path)
    shutil.rmtree(path / "candidates" / method)
    return path


def test_what_was_not_made_has_no_place_on_another_axis(done: Run, tmp_path: Path) -> None:
    run = Run(without(done, tmp_path, "filter-l1"), axis="packed")
    assert set(run.thresholds()["method"]) == {"magnitude"}
    assert run.measurements.query("method == 'filter-l1'")["ratio"].isna().all()
    (note,) = other_notes(run)
    assert note["method"] == "filter-l1"
    assert note["note"] == (
        "Lies on no curve at 50 %, 80 %: it was not made, or its packed bytes cannot be counted."
    )
    whole = Run(run.path).thresholds()
    assert set(whole["method"]) == {"magnitude"}  # on its own axis it is not computed yet


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the record of a candidate, as another version would have written it."""
    content = {key: value for key, value in json.loads(path.read_text()).items() if key != "checksum"}
    change(content["candidate"])
    path.write_bytes(to_json(with_checksum(content)))


def record_of(done: Run, path: Path, method: str, place: int) -> Path:
    keys: list[Key] = [key for key in done.candidates if key.method == method]
    return Store(path).candidate_path(keys[place])


def test_a_run_of_an_older_version_says_what_it_did_not_count(done: Run, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(done.path, path)

    def older(one: dict[str, Any]) -> None:
        del one["cost"]["packed"], one["axis"]

    for key in done.candidates:
        rewritten(Store(path).candidate_path(key), older)
    old = Run(path)
    assert old.measurements["packed"].isna().all()
    pd.testing.assert_frame_equal(old.thresholds(), done.thresholds())
    assert "packed" not in curves(report_data(old))["axes"]
    assert set(Run(path, axis="macs").thresholds()["method"]) == {"filter-l1"}
    with pytest.raises(
        StoreError,
        match=r"has no packed bytes in its record, which an earlier version of evalsuite wrote; run the",
    ):
        Run(path, axis="packed").thresholds()


def test_a_candidate_without_counts_is_left_out_with_the_reason(done: Run, tmp_path: Path) -> None:
    """As whole programs are, whose multiplications are unknown."""
    path = tmp_path / "run"
    shutil.copytree(done.path, path)
    rewritten(record_of(done, path, "filter-l1", 1), lambda one: one["cost"].update(macs=None))
    run = Run(path, axis="macs")
    rows = run.measurements.query("method == 'filter-l1' and target_ratio == 0.8")
    assert set(rows["status"]) == {"skipped"}
    assert set(rows["reason"]) == {"not tested on this axis: its multiply-accumulates cannot be counted"}
    assert {len(tested.split()) for tested in run.thresholds()["tested"]} == {1}
    page = api.publish(run).read_text("utf-8")
    assert "its multiply-accumulates cannot be counted" in page
    assert "A number that could not be measured counts as failed" not in page


@pytest.fixture(name="unified", scope="module")
def _unified(suite_file: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a method whose ratios are shares of packed bytes."""
    unify = '[[producers]]\nname = "unify"\nlabel = "shared"\n'
    path = suite_file(
        {'[[producers]]\nname = "filter-l1"\n': unify, "epochs = 2": "epochs = 1", "0.8]": "0.7]"}
    )
    text = path.read_text()
    start, end = text.index('[[evaluators]]\nname = "ood"'), text.index("[tolerances]")
    path.write_text(text[:start] + text[end:].partition("robust_accuracy")[0])
    return api.run(path, out=tmp_path_factory.mktemp("runs") / "unified")


def test_a_method_has_the_ratios_that_it_is_about(unified: Run) -> None:
    table = unified.measurements
    dense = table[table["method"] == "dense"].iloc[0]
    mine = table[table["method"] == "shared"].drop_duplicates("target_ratio")
    assert set(mine["axis"]) == {"packed"}
    assert mine["ratio"].to_numpy() == pytest.approx([0.5, 0.7], abs=0.01)
    assert mine["ratio"].to_numpy() == pytest.approx(
        1 - mine["packed"].to_numpy(dtype=float) / dense["packed"]
    )
    assert mine["nonzero"].tolist() == [dense["nonzero"]] * 2  # no weight is zero
    found = unified.thresholds().set_index("method")["axis"]
    assert (set(found["shared"]), set(found["magnitude"])) == ({"packed"}, {"nonzero"})


def test_what_its_ratios_are_of_is_known_without_the_producer(unified: Run) -> None:
    choices = {choice["label"]: choice.get("axis") for choice in unified.record["suite"]["producers"]}
    assert choices == {"magnitude": None, "shared": "packed"}
    assert {one.axis for key, one in unified.candidates.items() if key.method == "shared"} == {"packed"}


def test_methods_on_other_axes_have_their_cost_in_the_label(
    unified: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    data = report_data(unified)
    shown = "shared (packed bytes)"
    for table in (data.measurements, data.thresholds):
        assert "shared" not in set(table["method"])
        assert shown in set(table["method"])
    assert set(data.comparability[["first", "second"]].to_numpy().ravel()) == {"magnitude", shown}
    why = data.comparability["why"].iloc[0]
    assert re.fullmatch(
        r"at 50 %: ratios 50 % of the non-zero parameters and 50(\.\d)? % of the packed bytes", why
    )
    assert curves(data)["axes"]["ratio"] == "Prune ratio, non-zero parameters or packed bytes"
    page = (unified.path / "index.html").read_text("utf-8").replace("&#39;", "'")
    assert "that are gone; of packed bytes where the name of a method has them in brackets." in page
    assert " of the packed bytes gone" in page
    print_thresholds(unified.thresholds())
    print_summary(unified)
    rows, summary = capsys.readouterr().out.split("Prune potential", 1)
    for printed in (rows, summary):
        assert "magnitude" in printed
        assert shown in " ".join(printed.split())
    assert set(pd.read_csv(unified.path / "thresholds.csv")["method"]) == {"magnitude", "shared"}


def test_it_is_ranked_with_others_where_all_save_the_same(unified: Run) -> None:
    run = Run(unified.path, axis="packed")
    assert set(run.thresholds()["method"]) == {"magnitude", "shared"}
    assert "shared" in set(report_data(run).thresholds["method"])  # one axis for all is said once
    usual = Run(unified.path, axis="nonzero")
    assert set(usual.thresholds()["method"]) == {"magnitude"}
    (note,) = other_notes(usual)
    assert note["note"] == "Lies on no curve at 50 %, 70 %: it saves no non-zero parameters."


def test_a_summary_says_what_is_counted(unified: Run, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(unified)
    assert "shared (packed bytes)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.extensive
def test_the_commands_take_an_axis(done: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    shutil.copytree(done.path, path)

    def call(*words: str) -> str:
        cli.app([*words], standalone_mode=False)
        return " ".join(capsys.readouterr().out.split())

    told = call("threshold", str(path), "--axis", "packed", "--metric", "accuracy@clean")
    assert told.startswith("Ratios are shares of the parent's packed bytes that are gone. method")
    assert "(packed bytes)" not in told  # what all have in common is said once
    rows = json.loads(call("threshold", str(path), "--axis", "macs", "--json"))
    assert {(row["method"], row["axis"]) for row in rows} == {("filter-l1", "macs")}
    assert call("report", str(path), "--axis", "packed") == f"Report: {path / 'by-packed' / 'index.html'}"
    call("export", str(path), "--axis", "packed", "--out", str(tmp_path / "export"))
    assert set(pd.read_csv(tmp_path / "export" / "thresholds.csv")["axis"]) == {"packed"}
    call("compare", str(path), str(done.path), "--axis", "macs", "--out", str(tmp_path / "compared"))
    assert (
        "shares of the parent&#39;s multiply-accumulates"
        in (tmp_path / "compared" / "index.html").read_text()
    )


def test_runs_are_compared_over_one_axis(done: Run) -> None:
    found = combined_report_data([Run(done.path, axis="packed"), Run(done.path, axis="packed")])
    assert set(found.thresholds["axis"]) == {"packed"}
