"""What stands below the answer: reliability, failures, sizes, the record, the charts."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from evalsuite.report import charts, trust
from evalsuite.report.curves import curves
from evalsuite.report.details import blocks
from evalsuite.report.findings import headline, methods
from evalsuite.report.page import page
from evalsuite.report.page import page as html
from evalsuite.report.reliability import diagrams
from evalsuite.report.wording import THIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalsuite.report.findings import Findings


def test_reliability_is_shown_where_accuracy_holds_and_at_the_end(findings: Findings) -> None:
    kept = {
        row["method"]: row["potential"]
        for row in headline(findings.thresholds)
        if (row["metric"], row["condition"]) == ("accuracy", "clean")
    }
    found = diagrams(findings)
    titles = [diagram.title.replace(THIN, "") for diagram in found]
    assert titles == [
        f"{method} at {100 * ratio:.0f}%" for method in methods(findings) for ratio in (kept[method], 0.9497)
    ]
    assert {row["model"] for row in found[0].bins} == {"parent", "candidate"}
    assert all(row["count"] > 0 for diagram in found for row in diagram.bins)


def test_the_error_beside_a_reliability_diagram_is_that_of_its_bins(findings: Findings) -> None:
    diagram = diagrams(findings)[1]
    table = findings.reliability
    mine = table[(table["method"] == "magnitude") & (table["ratio"] == table["ratio"].max())].dropna()
    error = (mine["count"] * (mine["accuracy"] - mine["confidence"]).abs()).sum() / mine["count"].sum()
    assert diagram.note.startswith(f"ECE {error:.3g},")


def test_every_threshold_has_its_place(synthesis: Callable[..., Findings]) -> None:
    found = synthesis(seeds=(0, 1))
    rows = found.thresholds[found.thresholds["seed"] == "all"]
    entries = [
        e for block in blocks(found.thresholds, methods(found)) for line in block.lines for e in line.entries
    ]
    assert len(entries) == len(rows)
    keys = ("method", "metric", "condition", "aggregate", "potential")
    shown = {tuple(entry.row[key] for key in keys) for entry in entries if entry is not None}
    assert shown == set(rows[list(keys)].itertuples(index=False, name=None))


def test_summaries_lead_their_group(findings: Findings) -> None:
    accuracy = next(b for b in blocks(findings.thresholds, methods(findings)) if b.metric == "accuracy")
    noise = [line for line in accuracy.lines if line.row["group"] == "noise"]
    assert [line.summary for line in noise] == [True, True, False, False, False, False]


def test_failures_of_one_reason_are_one_line(synthesis: Callable[..., Findings]) -> None:
    (failure,) = trust.failures(synthesis(failures=4).measurements)
    assert (failure.methods, failure.evaluator, failure.status, failure.cells) == (
        "random",
        "calibration",
        "error",
        4,
    )
    assert failure.what == "ECE equal mass, ECE equal mass scaled, brier, brier scaled"
    assert failure.where == f"95{THIN}%; seed 0"
    assert trust.failures(synthesis().measurements) == []


def test_one_reason_of_all_methods_is_one_line(findings: Findings) -> None:
    """Once each method had a line of its own: with 44 methods nobody would have read them."""
    table = findings.measurements
    hopeless = table["condition"].isin(["snow/3", "fog/3"])
    broken = table.assign(
        status=table["status"].where(~hopeless, "skipped"), reason=table["reason"].where(~hopeless, "no snow")
    )
    (failure,) = trust.failures(broken)
    assert (failure.methods, failure.what) == ("parent, magnitude, filter-l1, random", "accuracy, agreement")
    assert failure.where == f"50{THIN}%, 60{THIN}%, 70{THIN}%, 80{THIN}%, 90{THIN}%, 95{THIN}%; seed 0"
    assert failure.cells == hopeless.sum()
    many = pd.concat([broken.assign(target_ratio=ratio / 20) for ratio in range(20)])
    assert trust.failures(many)[0].where == f"5{THIN}% to 95{THIN}%; seed 0"


def test_many_methods_are_ranked_by_what_test_accuracy_allows(synthesis: Callable[..., Findings]) -> None:
    few = synthesis()
    assert methods(few) == ["magnitude", "filter-l1", "random"]
    table = few.thresholds
    many = [table[table["method"] == "magnitude"].assign(method=f"m{n}") for n in range(7)]
    for n, rows in enumerate(many):
        rows["potential"] = rows["potential"].clip(upper=0.5 + 0.05 * n)
    found = dataclasses.replace(few, thresholds=pd.concat([*many, table], ignore_index=True))
    order = methods(found)
    assert order[:2] == ["magnitude", "m6"]
    places = [order.index(f"m{n}") for n in range(7)]
    assert places == sorted(places, reverse=True)
    assert "A sentence for each of 10 methods, the best first" in page(found)
    assert "A sentence for each of" not in page(few)


def test_doubted_numbers_are_shown_once_per_check(findings: Findings) -> None:
    table = findings.measurements
    assert trust.quality_warnings(table) == []
    doubted = (table["method"] == "random") & (table["condition"] == "clean")
    flagged = table.assign(
        flags=table["flags"].where(~doubted, "The gradients of 12 % of the images are zero.")
    )
    found = trust.quality_warnings(flagged)
    assert {doubt.text for doubt in found} == {"The gradients of 12 % of the images are zero."}
    assert sum(doubt.cells for doubt in found) == doubted.sum()


def test_many_doubts_that_differ_in_their_numbers_are_one_line(findings: Findings) -> None:
    table = findings.measurements
    mine = table.index[(table["method"] == "random") & (table["evaluator"] == "calibration")]
    for count, lines in ((3, 3), (4, 1)):
        texts = {row: f"an ECE of 0.01{place} may be chance." for place, row in enumerate(mine[:count])}
        found = trust.quality_warnings(table.assign(flags=table.index.map(texts).fillna("")))
        assert len(found) == lines
        assert found[0].text.startswith("an ECE of 0.010 may be chance.")
    assert found[0].text.endswith(" And 3 more that differ in their numbers alone.")
    assert found[0].cells == 4


def test_notes_on_models_are_told_once_and_preprocessing_always(findings: Findings) -> None:
    assert trust.notes(findings) == []
    suite = {"model": {"name": "resnet20", "mean": [0.5, 0.25], "std": [0.5, 1.0]}, "candidates": []}
    noted = [{"method": "slim", "seed": seed, "note": "It takes one image at a time."} for seed in (0, 1)]
    record = {**findings.record, "suite": {**findings.record["suite"], **suite}, "notes": noted}
    known = dataclasses.replace(findings, record=record)
    assert trust.notes(known) == [trust.Note("slim", "0, 1", "It takes one image at a time.")]
    (told,) = trust.preprocessing(known)
    assert told == trust.Fact("every model", "minus 0.5, 0.25, divided by 0.5, 1 (channel by channel)")
    assert "notes" not in {fact.name for fact in trust.facts(known)}
    own: list[dict[str, Any]] = [
        {"method": "onnx", "mean": [0.0, 0.0], "std": [1.0, 1.0]},
        {"method": "slim", "mean": [], "std": []},
    ]
    mixed = dataclasses.replace(findings, record={"suite": {**suite, "candidates": own}})
    assert [fact.name for fact in trust.preprocessing(mixed)] == ["every other model", "onnx"]
    assert "the network takes images in [0, 1]" in trust.preprocessing(mixed)[1].text
    page = html(known)
    assert "It takes one image at a time." in page
    assert "Preprocessing of images in [0, 1]" in page
    assert trust.preprocessing(dataclasses.replace(findings, record={"suite": "old"})) == []


def test_failures_without_evaluator_or_ratio_are_told(findings: Findings) -> None:
    lost = pd.DataFrame(
        [{"method": "random", "seed": 1, "status": "skipped", "reason": None, "evaluator": None}]
    )
    (failure,) = trust.failures(lost.reindex(columns=findings.measurements.columns))
    assert (failure.evaluator, failure.reason, failure.where) == ("", "", "every ratio; seed 1")


def test_sizes_and_grid_are_those_of_the_measurements(synthesis: Callable[..., Findings]) -> None:
    measured = synthesis(seeds=(0, 1), ratios=(0.5, 0.9)).measurements
    measured.loc[measured["condition"] == "uniform/4:255", "n"] = 100
    measured.loc[measured["group"] == "attack", "group"] = ""
    sizes = {fact.name: fact.text for fact in trust.sizes(measured)}
    assert sizes["noise"] == "100 to 899 images"
    assert sizes["Linf PGD"] == "899 images"  # one line for all radii
    assert trust.grid(measured)[0].text.replace(THIN, " ") == "49.9\u201350.0 %, 89.9\u201390.0 %"


def test_the_record_is_told_in_full(findings: Findings) -> None:
    told = {fact.name: fact.text for fact in trust.facts(findings)}
    assert told["versions"].splitlines() == ["evalsuite: 0.1.0", "torch: 2.9.0", "numpy: 2.4.6"]
    assert told["git"] == "revision: 0123abc\ndirty: false"
    assert told["seconds"] == f"71.2{THIN}s"
    assert "producers: magnitude · filter-l1 · random" in told["suite"]
    assert "tolerances: accuracy 0.01; agreement 0.03" in told["suite"]


def test_costs_are_offered_as_axes_only_where_they_are_known(findings: Findings) -> None:
    assert set(curves(findings)["axes"]) >= {"ratio", "parameters", "macs", "bytes"}
    fewer = dataclasses.replace(
        findings, measurements=findings.measurements.assign(macs=None).drop(columns="bytes")
    )
    assert {"macs", "bytes"}.isdisjoint(curves(fewer)["axes"])


def test_limits_of_a_curve_are_those_of_its_thresholds(findings: Findings) -> None:
    curve = next(
        c for c in curves(findings)["curves"] if (c["metric"], c["condition"]) == ("accuracy", "fog/3")
    )
    table = findings.thresholds
    rows = table[(table["seed"] == "all") & (table["metric"] == "accuracy") & (table["condition"] == "fog/3")]
    assert curve["potentials"] == dict(zip(rows["method"], rows["potential"], strict=True))
    assert (curve["tolerance"], curve["reference"]) == (0.01, rows["reference"].iloc[0])


def test_charts_can_be_drawn_for_paper() -> None:
    import vl_convert

    palette = charts.Palette("#000", "#555", "#ccc", "#fff", "#eee", ("#0072b2", "#d55e00"))
    spec = charts.curve(["a", "b", "c"], palette)
    assert "var(" not in str(spec)
    point = {"method": "a", "order": 0.5, "x": 0.5, "y": 0.9, "low": 0.8, "high": 1.0}
    limit = {"reference": 0.95, "low": 0.94, "high": 0.95}
    spec["datasets"] = {
        "line": [point, point | {"x": 0.9, "y": 0.7}],
        "seed": [],
        "mark": [point],
        "limit": [limit],
    }
    spec |= {"width": 300, "autosize": "pad"}
    drawn = vl_convert.vegalite_to_svg(spec)
    assert drawn.count("#0072b2") >= 4
    assert "50%" in drawn


@pytest.mark.parametrize("count", [1, 9])
def test_every_method_has_a_colour_and_a_shape(count: int) -> None:
    names = [f"method {index}" for index in range(count)]
    spec = charts.curve(names)
    scales = [
        layer["encoding"][kind]["scale"]
        for layer in spec["layer"]
        for kind in ("color", "shape")
        if kind in layer["encoding"]
    ]
    assert len(scales) == 6
    assert all(len(scale["range"]) == len(scale["domain"]) == count for scale in scales)
