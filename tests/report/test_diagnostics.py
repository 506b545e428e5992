"""Diagnostics: missing numbers, warnings, notes, sample sizes, the record, retraining."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from evalsuite.evaluators.screening import CHANGED, PASSED_AGAIN
from evalsuite.report import diagnostics
from evalsuite.report.data import ReportData
from evalsuite.report.diagnostics import retraining_means
from evalsuite.report.labels import THIN
from evalsuite.report.page import page
from evalsuite.results.tables import retraining_table
from evalsuite.types import Candidate, Cost, Phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalsuite.report.data import ReportData


def test_failures_of_one_reason_are_one_line(synthesis: Callable[..., ReportData]) -> None:
    (failure,) = diagnostics.failures(synthesis(failures=4).measurements)
    assert (failure.methods, failure.evaluator, failure.status, failure.count) == (
        "random",
        "calibration",
        "error",
        4,
    )
    assert failure.metrics == "ECE equal mass, ECE equal mass scaled, brier, brier scaled"
    assert failure.candidates == f"95{THIN}%; seed 0"
    assert diagnostics.failures(synthesis().measurements) == []


def test_one_reason_of_all_methods_is_one_line(findings: ReportData) -> None:
    """Once each method had a line of its own: with 44 methods these were too many to read."""
    table = findings.measurements
    hopeless = table["condition"].isin(["snow/3", "fog/3"])
    broken = table.assign(
        status=table["status"].where(~hopeless, "skipped"), reason=table["reason"].where(~hopeless, "no snow")
    )
    (failure,) = diagnostics.failures(broken)
    assert (failure.methods, failure.metrics) == (
        "parent, magnitude, filter-l1, random",
        "accuracy, agreement",
    )
    assert failure.candidates == f"50{THIN}%, 60{THIN}%, 70{THIN}%, 80{THIN}%, 90{THIN}%, 95{THIN}%; seed 0"
    assert failure.count == hopeless.sum()
    many = pd.concat([broken.assign(target_ratio=ratio / 20) for ratio in range(20)])
    assert diagnostics.failures(many)[0].candidates == f"5{THIN}% to 95{THIN}%; seed 0"


def test_a_warning_is_shown_once_per_check(findings: ReportData) -> None:
    table = findings.measurements
    assert diagnostics.quality_warnings(table) == []
    doubted = (table["method"] == "random") & (table["condition"] == "clean")
    flagged = table.assign(
        flags=table["flags"].where(~doubted, "The gradients of 12 % of the images are zero.")
    )
    found = diagnostics.quality_warnings(flagged)
    assert {warning.text for warning in found} == {"The gradients of 12 % of the images are zero."}
    assert sum(warning.count for warning in found) == doubted.sum()


def test_many_warnings_that_differ_in_their_numbers_are_one_line(findings: ReportData) -> None:
    table = findings.measurements
    mine = table.index[(table["method"] == "random") & (table["evaluator"] == "calibration")]
    for count, lines in ((3, 3), (4, 1)):
        texts = {row: f"an ECE of 0.01{place} may be chance." for place, row in enumerate(mine[:count])}
        found = diagnostics.quality_warnings(table.assign(flags=table.index.map(texts).fillna("")))
        assert len(found) == lines
        assert found[0].text.startswith("an ECE of 0.010 may be chance.")
    assert found[0].text.endswith(" And 3 more that differ in their numbers alone.")
    assert found[0].count == 4


def test_notes_on_models_are_shown_once_and_preprocessing_always(findings: ReportData) -> None:
    assert diagnostics.notes(findings) == []
    suite = {"model": {"name": "resnet20", "mean": [0.5, 0.25], "std": [0.5, 1.0]}, "candidates": []}
    noted = [{"method": "slim", "seed": seed, "note": "It takes one image at a time."} for seed in (0, 1)]
    record = {**findings.record, "suite": {**findings.record["suite"], **suite}, "notes": noted}
    known = dataclasses.replace(findings, record=record)
    assert diagnostics.notes(known) == [diagnostics.Note("slim", "0, 1", "It takes one image at a time.")]
    (told,) = diagnostics.preprocessing(known)
    assert told == diagnostics.Fact("every model", "minus 0.5, 0.25, divided by 0.5, 1 (channel by channel)")
    assert "notes" not in {fact.name for fact in diagnostics.record_facts(known)}
    own: list[dict[str, Any]] = [
        {"method": "onnx", "mean": [0.0, 0.0], "std": [1.0, 1.0]},
        {"method": "slim", "mean": [], "std": []},
    ]
    mixed = dataclasses.replace(findings, record={"suite": {**suite, "candidates": own}})
    assert [fact.name for fact in diagnostics.preprocessing(mixed)] == ["every other model", "onnx"]
    assert "the network takes images in [0, 1]" in diagnostics.preprocessing(mixed)[1].text
    text = page(known)
    assert "It takes one image at a time." in text
    assert "Preprocessing of images in [0, 1]" in text
    assert diagnostics.preprocessing(dataclasses.replace(findings, record={"suite": "old"})) == []


def test_failures_without_evaluator_or_ratio_are_shown(findings: ReportData) -> None:
    lost = pd.DataFrame(
        [{"method": "random", "seed": 1, "status": "skipped", "reason": None, "evaluator": None}]
    )
    (failure,) = diagnostics.failures(lost.reindex(columns=findings.measurements.columns))
    assert (failure.evaluator, failure.reason, failure.candidates) == ("", "", "every ratio; seed 1")


def test_sizes_and_grid_are_those_of_the_measurements(synthesis: Callable[..., ReportData]) -> None:
    measured = synthesis(seeds=(0, 1), ratios=(0.5, 0.9)).measurements
    measured.loc[measured["condition"] == "uniform/4:255", "n"] = 100
    measured.loc[measured["group"] == "attack", "group"] = ""
    sizes = {fact.name: fact.text for fact in diagnostics.sizes(measured)}
    assert sizes["noise"] == "100 to 899 images"
    assert sizes["Linf PGD"] == "899 images"  # one line for all radii
    assert diagnostics.grid(measured)[0].text.replace(THIN, " ") == "49.9\u201350.0 %, 89.9\u201390.0 %"


def test_screened_precision_says_what_it_did_in_one_sentence(findings: ReportData) -> None:
    assert diagnostics.screened_precision(findings) == ""
    template = findings.measurements[findings.measurements["status"] == "ok"].iloc[0].to_dict()
    shares = [
        (PASSED_AGAIN, 0.25, 200),
        (CHANGED, 0.01, 200),
        (PASSED_AGAIN, 0.1, 1000),
        (CHANGED, 0.003, 1000),
    ]
    rows = [template | {"metric": metric.name, "value": value, "n": n} for metric, value, n in shares]
    measured = pd.concat([findings.measurements, pd.DataFrame(rows)])
    passes = "Of 1,200 predictions from bfloat16, 150 (12.5 %) were passed again in single precision, which changed 5."
    assert diagnostics.screened_precision(
        dataclasses.replace(findings, measurements=measured)
    ) == passes.replace(" %", f"{THIN}%")
    record = {**findings.record, "engine": {"precision": "screened"}}
    assert diagnostics.screened_precision(dataclasses.replace(findings, record=record)).startswith(
        "PGD took its steps along gradients in bfloat16; each image that it broke was checked"
    )
    without = measured[~measured["condition"].astype(str).str.contains("pgd")]
    assert "PGD" not in diagnostics.screened_precision(
        dataclasses.replace(findings, record=record, measurements=without)
    )
    shown = page(dataclasses.replace(findings, measurements=measured))
    assert f"150 (12.5{THIN}%) were passed again in single precision, which changed 5." in shown


def test_the_record_is_shown_in_full(findings: ReportData) -> None:
    told = {fact.name: fact.text for fact in diagnostics.record_facts(findings)}
    assert told["versions"].splitlines() == ["evalsuite: 0.1.0", "torch: 2.9.0", "numpy: 2.4.6"]
    assert told["git"] == "revision: 0123abc\ndirty: false"
    assert told["seconds"] == f"71.2{THIN}s"
    assert "producers: magnitude · filter-l1 · random" in told["suite"]
    assert "tolerances: accuracy 0.01; agreement 0.03" in told["suite"]


def test_the_longest_computing_time_comes_first(full: ReportData) -> None:
    assert [fact.name for fact in diagnostics.time_spent(full)] == ["ood", "attack"]
    assert diagnostics.time_spent(full)[1].text == f"8.0{THIN}s, 19 times"
    assert "spent" not in {fact.name for fact in diagnostics.record_facts(full)}
    assert diagnostics.time_spent(dataclasses.replace(full, record={})) == []


PRETRAINING = Phase("pretraining", 20, 100, 2_000, "0.1 cosine to 0", "base")


RETRAINING = Phase("retraining", 5, 100, 500, "0.01 cosine to 0", "tuned")


def candidate(method: str = "magnitude", target: float = 0.5, history: tuple[Phase, ...] = ()) -> Candidate:
    cost = Cost(100, 50, 90, 45, 1_000, 500, 400)
    phases = history or (PRETRAINING, RETRAINING)
    return Candidate(method, 0, target, target, target, cost, "w", {"name": "resnet20"}, phases)


def test_before_and_after_retraining_are_means_over_the_seeds() -> None:
    """Of the last retraining: what came before it, such as another ratio's, is not what is asked about."""
    first = replace(RETRAINING, before=0.1, recalibrated=0.1, after=0.6)
    last = replace(RETRAINING, before=0.25, recalibrated=0.5, after=0.75)
    other = replace(last, before=0.5, recalibrated=0.75, after=1.0)
    pushed = replace(RETRAINING, what="pruning", before=0.9, after=0.2)
    table = retraining_table(
        [
            candidate(history=(PRETRAINING, first, pushed, last)),
            replace(candidate(history=(PRETRAINING, other)), seed=1, ratio=0.75),
            candidate("random", 0.9, (PRETRAINING, replace(last, recalibrated=None))),
            candidate("dense", 0.0),
            candidate("given"),  # not measured before
            candidate("gradual", history=(PRETRAINING, pushed)),  # never retrained
        ]
    )
    assert list(table["seed"]) == [0, 1, 0]
    half, most = retraining_means(table)
    assert half == {
        "method": "magnitude", "target_ratio": 0.5, "seeds": 2, "ratio": 0.625,
        "before": 0.375, "recalibrated": 0.625, "after": 0.875,
    }  # fmt: skip
    assert (most["method"], most["before"], most["recalibrated"], most["after"]) == (
        "random",
        0.25,
        None,
        0.75,
    )
    assert retraining_means(retraining_table([candidate()])) == []
