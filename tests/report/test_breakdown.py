"""The breakdown of drops by corruption, class and attack, and detector scores."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from evalsuite.report.breakdown import Breakdown, breakdown
from evalsuite.report.data import ReportData

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_table_has_the_mean_drop_of_every_corruption(full: ReportData) -> None:
    tables = breakdown(full)
    sheet = next(one for one in tables.tables if one.title == "random: generated corruptions")
    assert sheet.rows[:2] == ("Gaussian noise", "shot noise")
    assert sheet.columns == ("1", "3")
    table = full.measurements
    for target in (0.5, 0.9):
        at = dataclasses.replace(tables, chosen=target)
        rows = table[(table["method"] == "random") & (table["target_ratio"] == target)]
        for line in sheet.cells:
            for cell in line:
                assert cell is not None
                mine = rows[(rows["metric"] == "accuracy") & (rows["condition"] == cell[1])]
                assert at.drop(cell) == pytest.approx(mine["drop"].mean(), abs=1e-5)


def test_the_ratio_shown_first_is_the_last_that_test_accuracy_allows(full: ReportData) -> None:
    kept = [
        row["potential"]
        for row in full.headline
        if (row["metric"], row["condition"]) == ("accuracy", "clean")
    ]
    tables = breakdown(full)
    assert tables.chosen is not None
    assert abs(tables.chosen - max(kept)) < 0.01
    assert tables.targets == (0.5, 0.8, 0.9)


def test_drops_read_as_points_with_a_true_minus() -> None:
    assert [Breakdown.text(drop) for drop in (0.1234, -0.05, -0.0001, None)] == [
        "12.3",
        "\u22125.0",
        "0.0",
        "\u2013",
    ]


def test_official_and_generated_corruptions_have_separate_tables(
    synthesis: Callable[..., ReportData],
) -> None:
    data = synthesis(methods=("magnitude",))
    official = data.measurements.copy()
    inside = official["group"] == "corruptions"
    official.loc[inside, "condition"] = official.loc[inside, "condition"].str.replace("/", " official/")
    official.loc[inside, "group"] = "corruptions official"
    both = pd.concat([data.measurements, official[inside]], ignore_index=True)
    titles = [sheet.title for sheet in breakdown(dataclasses.replace(data, measurements=both)).tables]
    assert titles == ["magnitude: generated corruptions", "magnitude: official corruptions"]


def test_classes_are_a_table_with_a_column_per_method(synthesis: Callable[..., ReportData]) -> None:
    data = synthesis(methods=("magnitude", "random"), ratios=(0.5,))
    table = data.measurements
    mine = table[(table["metric"] == "accuracy") & (table["condition"] == "clean")]
    classes = mine.assign(metric="class_accuracy", condition="class/7", group="classes")
    (sheet,) = (
        one
        for one in breakdown(
            dataclasses.replace(data, measurements=pd.concat([table, classes], ignore_index=True))
        ).tables
        if one.method is None
    )
    assert (sheet.title, sheet.rows, sheet.columns) == ("Classes", ("class 7",), ("magnitude", "random"))
    assert sheet.cells == (((0, "class/7"), (1, "class/7")),)


def test_attacks_are_means_over_seeds_and_the_worst_comes_first(full: ReportData) -> None:
    robust = breakdown(full).data["robust"]
    assert list(robust) == ["worst attack, Linf", "FGSM, Linf"]
    assert robust["FGSM, Linf"][:2] == [["dense", 0.0, 0.0, 0.89], ["dense", 0.0, 1.0, 0.79]]
    assert ["magnitude", 0.8, 2.0, pytest.approx(0.53)] in robust["FGSM, Linf"]


def test_histograms_keep_their_bins_in_order(full: ReportData) -> None:
    scores = breakdown(full).data["scores"]["msp"]
    assert scores["edges"] == [-1.0, -0.5, 0.0]
    assert scores["sets"] == ["letters"]
    assert scores["counts"]["magnitude@0.8@letters"] == [1, 11]


def test_losses_and_gains_are_apart_on_one_scale_for_a_block_and_the_largest_losses_lead(
    full: ReportData,
) -> None:
    """A gain had the colour of nothing, and the rows stood in the order of the suite."""
    tables = breakdown(full)
    sheets = [sheet for sheet in tables.tables if sheet.block == "generated corruptions"]
    assert len(sheets) == len(tables.data["methods"]) == 3
    drops = [tables.drop(cell) or 0.0 for sheet in sheets for line in sheet.cells for cell in line]
    assert tables.scales["generated corruptions"] == max(map(abs, drops))
    for sheet in sheets:
        means = [np.mean([tables.drop(cell) or 0.0 for cell in sheet.cells[i]]) for i in tables.order(sheet)]
        assert means == sorted(means, reverse=True)
        for cell in sheet.cells[0]:
            kind, share = tables.shade(cell, sheet.block)
            drop = tables.drop(cell) or 0.0
            assert kind == ("gain" if drop < 0 else "loss")
            assert share == pytest.approx(abs(drop) / tables.scales[sheet.block])
    assert tables.shade(None, sheets[0].block) == ("loss", 0.0)


def test_what_is_shown_to_fail_is_that_of_the_verdicts(full: ReportData) -> None:
    tables = breakdown(full)
    rows = full.verdicts[(full.verdicts["verdict"] == "inferior") & (full.verdicts["metric"] == "accuracy")]
    failing = {(condition, place) for condition, places in tables.data["failing"].items() for place in places}
    methods = tables.data["methods"]
    assert failing == {
        (condition, f"{methods.index(method)}@{target}")
        for condition, method, target in zip(
            rows["condition"], rows["method"], rows["target_ratio"], strict=True
        )
        if condition.endswith(("/1", "/3"))
    }
    assert failing
