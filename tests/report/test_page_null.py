"""The exact null through the text of the page: a harmless copy is hardly ever said to fail."""

from __future__ import annotations

import os
import re
from html import unescape
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evalsuite.report.data import ReportData
from evalsuite.report.page import page
from evalsuite.results.harmless_copy import COLUMNS as HARMLESS
from evalsuite.results.verdict_tables import check_table, count_table, group_table
from evalsuite.thresholds.threshold import judged_curves, threshold_rows
from evalsuite.types import Metric

TOLERANCE = 0.01
SUITE = {
    "name": "null",
    "description": "",
    "producers": [{"label": "m", "name": "m"}],
    "seeds": [0],
    "ratios": [],
    "tolerances": {},
}
slow = pytest.mark.skipif(not os.environ.get("EVALSUITE_SLOW"), reason="EVALSUITE_SLOW is not set")


def answer(simulation: Any, d: Any) -> str:
    """What the first screen of the page says of differences, as a reader sees it."""
    table = simulation.measurements(d, TOLERANCE).assign(
        evaluator="corruptions", unit="fraction", status="ok"
    )
    table = table.assign(reason="", flags="")
    judged = judged_curves(table, TOLERANCE, {})
    checks = check_table(table[table["method"] != "dense"], None, None, None)
    unknown = pd.DataFrame(columns=["method", "seed", "target_ratio", *HARMLESS])
    data = ReportData(
        table,
        threshold_rows(judged),
        pd.DataFrame(),
        {"accuracy": Metric("accuracy", True, "fraction", "")},
        {"suite": SUITE},
        verdicts=checks,
        groups=group_table(judged),
        counts=count_table(checks, unknown),
    )
    (found,) = re.findall('<div class="answer">(.*?)</div>', page(data), re.DOTALL)
    return unescape(re.sub("<[^>]+>", "", found)).replace("\u202f", " ")


def says_that_it_fails(text: str) -> bool:
    """Whether any sentence states a failure: from a ratio on, by name, or as a count."""
    counts = [int(count) for count in re.findall(r"undecided and (\d+) fails?\.", text)]
    assert len(counts) == 1, text
    return bool(re.search("[Ff]ails from|loses most", text)) or counts[0] > 0


def null(simulation: Any, draws: int, seed: int) -> list[bool]:
    """Whether the page says that harmless copies of a candidate with real drops fail: evidence exchanged by image."""
    random = np.random.default_rng(seed)
    d = simulation.differences(simulation.Setting("ties", 600, TOLERANCE, checks=15), random)
    return [says_that_it_fails(answer(simulation, simulation.exchanged(d, random))) for _ in range(draws)]


def test_the_page_says_that_a_real_loss_fails_and_a_harmless_copy_does_not(simulation: Any) -> None:
    random = np.random.default_rng(3)
    d = simulation.differences(simulation.Setting("ties", 600, TOLERANCE, checks=15), random)
    assert says_that_it_fails(answer(simulation, d))
    assert not says_that_it_fails(answer(simulation, simulation.exchanged(d, random)))


@pytest.mark.extensive
def test_of_200_harmless_copies_the_page_says_of_at_most_16_that_they_fail(simulation: Any) -> None:
    assert sum(null(simulation, 200, seed=4)) <= 16


@slow
@pytest.mark.slow
@pytest.mark.timeout(0)
def test_of_2000_harmless_copies_the_page_says_of_at_most_5_percent_that_they_fail(simulation: Any) -> None:
    failures = np.mean(null(simulation, 2000, seed=5))
    assert failures <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 2000)
