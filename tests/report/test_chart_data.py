"""The numbers of the charts: curves and slopes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from evalsuite.report.chart_data import curves, slopes
from evalsuite.report.data import ReportData

if TYPE_CHECKING:
    from evalsuite.report.data import ReportData


def test_costs_are_offered_as_axes_only_where_they_are_known(findings: ReportData) -> None:
    assert set(curves(findings)["axes"]) >= {"ratio", "parameters", "macs", "bytes"}
    fewer = dataclasses.replace(
        findings, measurements=findings.measurements.assign(macs=None).drop(columns="bytes")
    )
    assert {"macs", "bytes"}.isdisjoint(curves(fewer)["axes"])


def test_limits_of_a_curve_are_those_of_its_thresholds(findings: ReportData) -> None:
    curve = next(
        c for c in curves(findings)["curves"] if (c["metric"], c["condition"]) == ("accuracy", "fog/3")
    )
    table = findings.thresholds
    rows = table[(table["seed"] == "all") & (table["metric"] == "accuracy") & (table["condition"] == "fog/3")]
    assert curve["potentials"] == dict(zip(rows["method"], rows["potential"], strict=True))
    assert (curve["tolerance"], curve["reference"]) == (0.01, rows["reference"].iloc[0])


def test_slopes_have_intervals_of_networks_and_of_the_method(full: ReportData) -> None:
    (row,) = slopes(full)
    assert (row["low"], row["high"], row["wide_low"], row["wide_high"]) == (3.0, 6.0, 3.0, 6.0)
    assert (row["value"], row["images"], row["seeds"]) == ("4.5 points", "3.0 to 6.0", "")
    assert row["condition"] == "all generated corruptions"
