"""Planned numbers of images and seeds have the power that was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm, ttest_1samp

from evalsuite import statistics
from evalsuite.errors import UserError

Z = float(norm.ppf(0.95))


@pytest.mark.parametrize(
    ("tolerance", "discordance", "drop", "power"),
    [
        (0.005, 0.06, 0.0, 0.8),
        (0.005, 0.01, 0.0, 0.8),
        (0.02, 0.06, 0.0, 0.9),
        (0.02, 0.07, 0.01, 0.8),
        (0.02, 0.06, -0.01, 0.6),
        (0.05, 0.30, 0.0, 0.8),
    ],
)
def test_planned_images_have_the_power(
    tolerance: float, discordance: float, drop: float, power: float
) -> None:
    n = statistics.required_images(tolerance, discordance, drop=drop, power=power)
    rates = [(discordance + drop) / 2, (discordance - drop) / 2, 1 - discordance]
    losses, gains, _ = np.random.default_rng(1).multinomial(n, rates, 10_000).T
    certified = statistics.score_limit(losses, gains, n=n, z=Z, corrected=True) <= tolerance
    assert certified.mean() == pytest.approx(power, abs=0.04)


def test_the_table_of_the_documentation_is_right() -> None:
    text = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text()
    table = text.split("## Sample size")[1]
    rows = [
        row.replace(",", "").strip("|").split("|") for row in table.splitlines() if row.startswith("| 0.")
    ]
    assert len(rows) == 5
    for first, *cells in rows:
        tolerance = float(first)
        expected = [statistics.required_images(tolerance, share) for share in (0.01, 0.03, 0.06, 0.1, 0.2)]
        assert [int(cell) for cell in cells] == [
            *expected,
            statistics.required_images(tolerance, 0.06, drop=tolerance / 2),
        ]


def test_networks_that_never_differ_need_the_rule_of_three() -> None:
    n = statistics.required_images(0.01, 0.0)
    assert n == pytest.approx(300, rel=0.08)
    assert statistics.score_limit([0], [0], n=n, z=Z, corrected=True)[0] <= 0.01


def test_more_is_needed_for_more() -> None:
    n = statistics.required_images(0.01, 0.05)
    assert statistics.required_images(0.005, 0.05) > 3 * n
    assert statistics.required_images(0.01, 0.10) > 1.5 * n
    assert statistics.required_images(0.01, 0.05, power=0.95) > 1.3 * n
    assert statistics.required_images(0.01, 0.05, drop=0.005) > 3 * n
    assert statistics.required_images(0.01, 0.05, drop=-0.005) < n


@pytest.mark.parametrize(("spread", "power"), [(0.01, 0.8), (0.004, 0.9), (0.02, 0.5)])
def test_planned_seeds_have_the_power_and_one_less_has_not(spread: float, power: float) -> None:
    seeds = statistics.required_seeds(0.01, spread, power=power)
    reached = [
        np.mean(
            ttest_1samp(
                np.random.default_rng(2).normal(0, spread, (20_000, count)), 0.01, axis=1, alternative="less"
            ).pvalue
            <= 0.05
        )
        for count in (seeds - 1, seeds)
    ]
    assert reached[1] > power - 0.01
    assert seeds == 3 or reached[0] < power + 0.01


def test_fewer_than_three_seeds_are_never_enough() -> None:
    assert statistics.required_seeds(0.01, 0.0) == 3
    assert statistics.required_seeds(0.01, 1e-6) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 0.1, 0.0, 0.8), "tolerance must be above 0"),
        ((0.01, 0.1, 0.01, 0.8), "above 0 and the drop"),
        ((1.0, 0.1, 0.0, 0.8), "both are fractions"),
        ((0.01, 1.1, 0.0, 0.8), "discordance is 1.1"),
        ((0.01, 0.004, 0.005, 0.8), "at least the drop 0.005"),
        ((0.01, 0.1, 0.0, 1.0), "power is 1.0"),
        ((float("nan"), 0.1, 0.0, 0.8), "tolerance is nan"),
    ],
)
def test_contradictions_are_refused(arguments: tuple[float, float, float, float], message: str) -> None:
    tolerance, discordance, drop, power = arguments
    with pytest.raises(UserError, match=message):
        statistics.required_images(tolerance, discordance, drop=drop, power=power)


def test_contradictions_about_seeds_are_refused() -> None:
    for arguments in ((0.01, -0.1, 0.0), (0.01, 0.1, 0.01), (float("inf"), 0.1, 0.0)):
        with pytest.raises(UserError, match="above the drop and the spread at least 0"):
            statistics.required_seeds(arguments[0], arguments[1], drop=arguments[2])
    with pytest.raises(UserError, match="power is 0"):
        statistics.required_seeds(0.01, 0.1, power=0)
