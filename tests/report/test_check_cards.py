"""The page of a check: each finished model with its outcome, and its checks from the smallest margin on."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from evalsuite.report.check_cards import SHOWN, check_answer
from evalsuite.report.page import page

if TYPE_CHECKING:
    from evalsuite.report.data import ReportData


def test_the_answer_is_that_of_the_verdicts(checked: ReportData) -> None:
    answer = check_answer(checked)
    assert answer is not None
    assert (answer.outcome, answer.exit_code) == ("DO NOT SHIP", 1)
    assert answer.reason == "<b>heavy DO NOT SHIP"
    assert answer.controls.startswith("1 dense control beside the candidates")
    assert [card.verdict.outcome for card in answer.cards] == ["SHIP", "DO NOT SHIP"]
    for card in answer.cards:
        margins = [line.margin for line in card.lines]
        count = card.verdict.inferior
        assert margins == sorted(margins[:count]) + sorted(margins[count:])
        assert len(margins) == 20
    assert answer.cards[1].lines[0].margin == pytest.approx((0.05 - 0.076) / 0.05)


def test_what_is_shown_to_fail_stands_before_larger_drops_that_are_not(checked: ReportData) -> None:
    """The reason of DO NOT SHIP is the first line, whatever else is measured."""
    rows = checked.checked.copy()
    heavy = rows.index[rows["candidate"].str.contains("heavy")]
    rows.loc[heavy, "verdict"] = "undecided"
    small = rows.loc[heavy, "drop"].idxmin()
    rows.loc[small, "verdict"] = "inferior"
    answer = check_answer(dataclasses.replace(checked, checked=rows))
    assert answer is not None
    first, second = answer.cards[1].lines[:2]
    assert (first.row["metric"], first.row["condition"]) == (rows["metric"][small], rows["condition"][small])
    assert first.margin > second.margin


def test_without_a_control_the_page_says_what_it_cannot_tell(
    checked: ReportData, findings: ReportData
) -> None:
    suite = {**checked.record["suite"], "check": {"undecided": "measured", "controls": []}}
    answer = check_answer(dataclasses.replace(checked, record={**checked.record, "suite": suite}))
    assert answer is not None
    assert answer.controls.startswith("No dense control was given")
    assert check_answer(findings) is None


def test_the_page_of_a_check_has_no_curves_and_no_comparison_of_methods(checked: ReportData) -> None:
    text = page(checked)
    assert "May it ship?" in text
    assert 'class="outcome do-not-ship">DO NOT SHIP<' in text
    assert "Exit code 1: &lt;b&gt;heavy DO NOT SHIP." in text
    assert "<b>heavy" not in text
    assert f"{20 - SHOWN} more checks, none of them shown to fail" in text
    assert "1 of 2 controls too" in text
    for absent in (
        "Curves over the prune ratio",
        ">Breakdown<",
        "How far can it be pruned?",
        "smallest ratio tested",
    ):
        assert absent not in text


def test_a_sequential_check_has_the_images_of_each_verdict(checked: ReportData) -> None:
    rows = checked.checked.assign(
        images=[225, *[899] * 39], stopping=["decided early", *[""] * 39], images_available=899
    )
    text = page(dataclasses.replace(checked, checked=rows))
    assert text.count("decided early, after 225 of 899 images") == 1
    assert "(225 to 899 of them behind each check)" in text
    assert "decided early" not in page(checked)


def test_a_measured_time_stands_beside_the_costs(checked: ReportData) -> None:
    row = checked.measurements.iloc[0].to_dict() | {"metric": "latency", "condition": "batch 1"}
    times = [
        row | {"method": method, "target_ratio": target, "value": value}
        for method, target, value in (("dense", 0.0, 2.0), ("light", 0.5, 1.25))
    ]
    measured = pd.concat([checked.measurements, pd.DataFrame(times)], ignore_index=True)
    data = dataclasses.replace(checked, measurements=measured)
    answer = check_answer(data)
    assert answer is not None
    assert [card.latency for card in answer.cards] == ["1.25 ms per image (batch 1; the parent 2)", ""]
    assert "MACs, 1.25 ms per image" in page(data)


def test_an_option_is_not_broken_at_its_hyphens(checked: ReportData) -> None:
    suite = {**checked.record["suite"], "check": {"undecided": "measured", "controls": []}}
    text = page(dataclasses.replace(checked, record={**checked.record, "suite": suite}))
    assert '(check <span class="option">--control</span> FILE)' in text
