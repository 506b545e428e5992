"""Reliability diagrams: which are shown, intervals, and bins that are merged."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from evalsuite.report.labels import THIN
from evalsuite.report.reliability import FEWEST, calibration_error, merged_bins, reliability_diagrams
from evalsuite.statistics.rates import wilson

if TYPE_CHECKING:
    from evalsuite.report.data import ReportData


def test_reliability_is_shown_where_accuracy_holds_and_at_the_end(findings: ReportData) -> None:
    kept = {
        row["method"]: row["potential"]
        for row in findings.headline
        if (row["metric"], row["condition"]) == ("accuracy", "clean")
    }
    titles = [diagram.title.replace(THIN, "") for diagram in reliability_diagrams(findings)]
    assert titles == [
        f"{method} at {100 * ratio:.0f}%" for method in findings.methods for ratio in (kept[method], 0.9497)
    ]


def test_the_error_beside_a_diagram_is_that_of_the_bins_before_they_are_merged(findings: ReportData) -> None:
    diagram = reliability_diagrams(findings)[1]
    table = findings.reliability
    mine = table[(table["method"] == "magnitude") & (table["ratio"] == table["ratio"].max())].dropna()
    error = (mine["count"] * (mine["accuracy"] - mine["confidence"]).abs()).sum() / mine["count"].sum()
    assert diagram.note.startswith(f"ECE {error:.3f},")  # of 899 images
    assert len(diagram.candidate) < len(mine)


def test_the_control_has_one_curve_though_its_networks_share_a_ratio(findings: ReportData) -> None:
    """Its bins of all ratios were drawn as one line, and its ECE was that of all of them together."""
    table = findings.reliability
    mine = table["method"] == "random"
    same = table.assign(ratio=table["ratio"].where(~mine, 0.0))
    found = dataclasses.replace(findings, reliability=same, controls=("random",))
    (diagram,) = [each for each in reliability_diagrams(found) if each.title == "random (control)"]
    confidences = [part.confidence for part in diagram.candidate]
    assert confidences == sorted(set(confidences))
    assert (
        sum(part.count for part in diagram.candidate) == table[mine].groupby("ratio")["count"].sum().iloc[-1]
    )


def bins(*counts: int) -> list[dict[str, float]]:
    return [
        {"lower": i / 10, "upper": (i + 1) / 10, "count": n, "confidence": i / 10 + 0.05, "accuracy": i / 10}
        for i, n in enumerate(counts)
    ]


def test_sparse_bins_join_their_neighbours_and_no_image_is_lost() -> None:
    merged = merged_bins(bins(3, 0, 4, 30, 9, 50))
    assert [(part.lower, part.upper, part.count) for part in merged] == [(0.0, 0.5, 46), (0.5, 0.6, 50)]
    assert all(part.count >= FEWEST for part in merged)
    (one,) = merged_bins(bins(2, 5))
    assert one.count == 7
    assert one.confidence == pytest.approx((2 * 0.05 + 5 * 0.15) / 7)
    assert merged_bins([]) == merged_bins(bins(0, 0)) == ()
    assert calibration_error([]) == 0.0


def test_the_interval_of_a_bin_is_that_of_its_count() -> None:
    (part,) = merged_bins([{"lower": 0.9, "upper": 1.0, "count": 40, "confidence": 0.95, "accuracy": 0.9}])
    assert (part.low, part.high) == pytest.approx(wilson(36, 40))
    assert part.low < part.accuracy < part.high
    assert part.tip.replace(THIN, "").startswith("confidence 0.90 to 1.00: 40 images, 90% right (76.9% to 96")
