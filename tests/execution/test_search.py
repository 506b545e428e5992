"""A search tests fewer ratios, finds the boundary of a monotone curve, and says what it left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from evalsuite import Run, api
from evalsuite.config.options import Options
from evalsuite.errors import UserError
from evalsuite.execution.planning import prepare
from evalsuite.execution.search import next_steps, search
from evalsuite.runs.status import status

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def searched(curve: list[bool]) -> dict[int, bool]:
    known: dict[int, bool] = {}
    while wanted := next_steps(len(curve), known):
        assert not wanted & set(known), "nothing is tested twice"
        known |= {place: curve[place] for place in wanted}
    return known


def reached(known: dict[int, bool]) -> int:
    """Number of places up to the first failure."""
    return min((place for place, passed in known.items() if not passed), default=max(known) + 1)


@given(st.integers(1, 40), st.data())
def test_on_a_monotone_curve_the_boundary_is_exact(count: int, data: st.DataObject) -> None:
    truth = data.draw(st.integers(0, count))
    known = searched([place < truth for place in range(count)])
    assert reached(known) == truth
    assert len(known) <= count.bit_length() + 4


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_on_any_curve_the_neighbours_of_the_boundary_are_tested(curve: list[bool]) -> None:
    known = searched(curve)
    first = reached(known)
    near = {first - 3, first - 2, first - 1, first, first + 1} & set(range(len(curve)))
    assert near <= set(known)
    assert all(known[place] for place in known if place < first)


def test_a_failure_just_below_the_boundary_is_found() -> None:
    curve = [True, True, True, False, True, True, False, False, False]
    assert reached(searched(curve)) == 3


def test_what_a_search_certifies_errs_in_at_most_one_in_twenty() -> None:
    """Measured drops decide which ratios are tested, and so which is the first that truly fails among them.

    True drops are 0.001 standard errors above the tolerance at all nine ratios; estimates of neighbouring ratios are
    correlated at 0.5. At the 95 % that does for a given grid, 8 % are certified too far.
    """
    random, simulations, wrong = np.random.default_rng(0), 3000, {1.645: 0, 1.960: 0}
    for _ in range(simulations):
        noise = random.normal(size=9)
        for place in range(1, 9):
            noise[place] = 0.5 * noise[place - 1] + np.sqrt(0.75) * noise[place]
        drops = 0.001 + noise
        first = min(searched([bool(drop <= 0) for drop in drops]))
        for z in wrong:
            wrong[z] += bool(
                drops[first] + z <= 0
            )  # every tested ratio fails: to certify the first is too far
    assert wrong[1.960] <= binom.ppf(0.9995, simulations, 0.05)
    assert wrong[1.645] > binom.ppf(0.9995, simulations, 0.05)


GRID = {"ratios = [0.5, 0.8]": "ratios = [0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98]"}
LESS = {
    '[[evaluators]]\nname = "attack"\nepsilons = [8]\nsteps = 2\nimages = 32\n': "",
    "robust_accuracy = 0.1\n": "",
}


@pytest.mark.extensive
def test_a_search_finds_what_the_whole_grid_finds(suite_file: Callable[..., Path], tmp_path: Path) -> None:
    suite = suite_file(GRID | LESS)
    found = search(prepare(suite, out=tmp_path / "searched", options=Options(search="accuracy")))
    whole = api.run(suite, out=tmp_path / "whole")
    tested = {method: found.tested(method) for method in ("magnitude", "filter-l1")}
    assert all(3 <= len(ratios) < 9 for ratios in tested.values())
    place = "metric == 'accuracy' and condition == 'clean' and seed == 'all'"
    short: Any
    full: Any
    short, full = (run.thresholds().query(place).set_index("method") for run in (found, whole))
    curve = whole.measurements.query("metric == 'accuracy' and condition == 'clean'")
    for method, ratios in tested.items():
        drops = curve[(curve["method"] == method) & curve["target_ratio"].isin(ratios)].set_index("ratio")[
            "drop"
        ]
        assert short.loc[method, "tested"] == " ".join(f"{ratio:.6g}" for ratio in drops.index)
        if not full.loc[method, "non_monotone"]:
            assert short.loc[method, "potential"] == full.loc[method, "potential"]
    pd.testing.assert_series_equal(short["certified"], short["potential_low"], check_names=False)
    left = found.measurements.query("status == 'skipped'")
    assert set(left["reason"]) == {"not tested: the search did not need it"}
    page = api.publish(found).read_text("utf-8")
    assert found.record["command"].endswith("--search accuracy")
    listed = page.partition("<h3>Tested ratios</h3>")[2].partition("</dl>")[0]
    assert listed.count("%") == sum(map(len, tested.values()))
    counts = status(found.path).counts.values()
    assert all(one.done for one in counts)
    assert not any(one.missing for one in counts)


def test_a_search_for_a_metric_without_tolerance_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--search nll: unknown metric with a tolerance 'nll'"):
        search(prepare(tiny, out=tmp_path / "run", options=Options(search="nll")))
    assert not (tmp_path / "run").exists()


def test_a_whole_run_tested_everything(done: Run) -> None:
    assert done.tested("magnitude") == (0.5, 0.8)
