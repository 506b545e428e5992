"""What images cannot decide is said before a run, from an assumed discordance, and after it, from its intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from evalsuite.results.power import ASSUMED_DISCORDANCE, PlannedRate, measured_power, planned_power
from evalsuite.results.verdict_tables import MEAN, NETWORK
from evalsuite.statistics.limits import Z_LIMIT
from evalsuite.statistics.rates import score_quantile

FEW = PlannedRate("accuracy", "clean", 899, 0.01)
MANY = PlannedRate("accuracy", "fog/3", 10_000, 0.01)


def test_a_plan_names_what_its_images_cannot_decide() -> None:
    said = planned_power([FEW, MANY])
    assert "cannot decide 1 of 2 checks of a rate: at an assumed discordance of 6 %" in said
    assert "accuracy on clean (tolerance 0.01) needs 4,875 images and has 899." in said
    assert planned_power([MANY]) == planned_power([]) == ""
    assert planned_power([FEW], 0.005) == ""  # networks that hardly differ are compared with fewer images
    assert "at the measured discordance of 4.5 %" in planned_power([FEW], 0.045)


@pytest.mark.parametrize("tolerance", [0.01, 0.03])
def test_so_many_images_show_a_harmless_candidate_in_four_of_five_samples(tolerance: float) -> None:
    n = PlannedRate("accuracy", "clean", 1, tolerance).needed(ASSUMED_DISCORDANCE)
    random = np.random.default_rng(0)
    lost, gained = random.multinomial(n, [0.03, 0.03, 0.94], size=4000).T[:2]
    shown = score_quantile(lost, gained, n=n, limit=tolerance) >= Z_LIMIT
    assert shown.mean() == pytest.approx(0.8, abs=0.03)


def rows(**columns: Any) -> pd.DataFrame:
    common = {"method": "m", "scope": NETWORK, "seed": 0, "aggregate": "single", "metric": "accuracy"}
    return pd.DataFrame(common | {"verdict": "undecided", "n": 100} | columns)


def test_a_run_says_for_how_many_checks_its_images_are_too_few() -> None:
    table = rows(
        condition=["clean", "fog/1", "fog/2", "fog/3", "fog/3"],
        target_ratio=[0.5, 0.5, 0.5, 0.5, 0.9],
        images_needed=[np.nan, 150, 400, 60, 9000],
        verdict=["non-inferior", *["undecided"] * 4],
    )
    said = measured_power(table)
    assert "At the smallest ratio the images are too few for 2 of 4 checks" in said
    assert (
        "up to 2.8 times as many images, all of them 4.0 times: accuracy on fog/2, for example, 400" in said
    )
    assert measured_power(table, ["m"]) == ""
    assert measured_power(table.assign(images_needed=np.nan)) == ""
    assert measured_power(table[table["target_ratio"] == 0.5]).startswith("The images are too few for 2 of 4")


def test_the_mean_over_the_seeds_is_looked_at_where_there_is_one() -> None:
    one = rows(condition=["clean"], target_ratio=0.5, images_needed=500)
    mean = one.assign(scope=MEAN, seed="all", images_needed=50)
    assert "1 of 1" in measured_power(one)
    assert measured_power(pd.concat([one, mean])) == ""
