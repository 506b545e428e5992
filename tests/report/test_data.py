"""The data of a report: headline rows, missing values, and the order of methods."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from evalsuite.report.data import headline_rows
from evalsuite.report.page import page

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalsuite.report.data import ReportData


FLAGS = ("censored", "infeasible", "non_monotone", "incomplete", "underpowered")


def row(metric: str, condition: str, potential: float, **given: Any) -> dict[str, Any]:
    shared = {"method": "magnitude", "group": "", "aggregate": "single", "tolerance": 0.01, "reference": 0.9}
    shared |= {"potential_any": potential, "n": 100, "unit": "fraction", "tested": "0.5 0.8 0.9"}
    shared |= {"first_failure": 0.9 if potential else 0.5, "infeasible": not potential}
    return {
        **dict.fromkeys(FLAGS, False),
        **shared,
        "metric": metric,
        "condition": condition,
        "potential": potential,
    } | given


def test_missing_values_of_every_kind_are_none() -> None:
    frame = pd.DataFrame(
        [row("accuracy", "clean", 0.8) | {"seed": 3, "first_failure": np.nan, "underpowered": None}]
    )
    frame["n"] = pd.array([pd.NA], dtype="Int64")
    (found,) = headline_rows(frame)
    assert (found["first_failure"], found["n"], found["underpowered"]) == (None, None, None)
    assert type(found["potential"]) is float


def test_the_rows_over_all_seeds_are_the_headline(synthesis: Callable[..., ReportData]) -> None:
    table = synthesis(seeds=(0, 1)).thresholds
    assert {found["seed"] for found in headline_rows(table)} == {"all"}


def test_few_methods_stand_in_the_order_of_the_suite_behind_the_controls(
    synthesis: Callable[..., ReportData],
) -> None:
    data = synthesis()
    suite = {"producers": [{"label": "random"}, {"label": "filter-l1"}, {"label": "magnitude"}]}
    table = data.measurements.assign(
        method=data.measurements["method"].replace("filter-l1", "filter-l1 (MACs)")
    )
    thresholds = data.thresholds.assign(
        method=data.thresholds["method"].replace("filter-l1", "filter-l1 (MACs)")
    )
    found = dataclasses.replace(data, measurements=table, thresholds=thresholds, record={"suite": suite})
    assert found.methods == ["random", "filter-l1 (MACs)", "magnitude"]
    assert dataclasses.replace(found, controls=("magnitude",)).methods == [
        "magnitude",
        "random",
        "filter-l1 (MACs)",
    ]
    assert dataclasses.replace(data, record={}).methods == ["magnitude", "filter-l1", "random"]  # as measured


def test_many_methods_are_ranked_by_what_test_accuracy_allows(synthesis: Callable[..., ReportData]) -> None:
    few = synthesis()
    assert few.methods == ["magnitude", "filter-l1", "random"]
    table = few.thresholds
    many = [table[table["method"] == "magnitude"].assign(method=f"m{n}") for n in range(7)]
    for n, rows in enumerate(many):
        rows["potential"] = rows["potential"].clip(upper=0.5 + 0.05 * n)
    found = dataclasses.replace(few, thresholds=pd.concat([*many, table], ignore_index=True))
    order = found.methods
    assert order[:2] == ["magnitude", "m6"]
    places = [order.index(f"m{n}") for n in range(7)]
    assert places == sorted(places, reverse=True)
    assert "A verdict for each of 3 methods" not in page(found)
    groups = [found.groups.query("method == 'magnitude'").assign(method=name) for name in order]
    assert "A verdict for each of 10 methods, the best first" in page(
        dataclasses.replace(found, groups=pd.concat(groups, ignore_index=True))
    )
    assert "A sentence for each of" not in page(few)
