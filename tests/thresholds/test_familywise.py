"""Familywise error: Holm's procedure over fixed sequences, by hand, by a slow graph, and by simulation."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import ndtr
from scipy.stats import binom

from evalsuite.thresholds.familywise import holm_fixed_sequences
from evalsuite.thresholds.threshold import thresholds

NAN = float("nan")
RATIOS = [0.5, 0.7, 0.9]


def certified_ratios(p_values: Any) -> list[float]:
    p = np.array(p_values, dtype=float)
    return [float(x) for x in holm_fixed_sequences(np.broadcast_to(RATIOS[: p.shape[1]], p.shape), p)]


def test_a_single_sequence_is_a_fixed_sequence_test() -> None:
    assert certified_ratios([[0.05, 0.04, 0.06]]) == [0.7]
    assert certified_ratios([[0.06, 0.0, 0.0]]) == [0.0]


def test_one_ratio_each_is_the_procedure_of_holm() -> None:
    """0.05 / 3 is passed by the first, 0.05 / 2 by the second and then 0.05 by the third."""
    assert certified_ratios([[0.016], [0.024], [0.049]]) == [0.5, 0.5, 0.5]
    assert certified_ratios([[0.017], [0.024], [0.049]]) == [0.0, 0.0, 0.0]
    assert certified_ratios([[0.016], [0.026], [0.049]]) == [0.5, 0.0, 0.0]


def test_a_sequence_passes_its_share_on_when_its_last_ratio_has_passed() -> None:
    assert certified_ratios([[0.02, 0.02, 0.03], [0.02, 0.04, 0.04]]) == [0.7, 0.5]
    assert certified_ratios([[0.02, 0.02, 0.02], [0.02, 0.04, 0.04]]) == [0.9, 0.9]


def test_a_sequence_without_p_values_is_not_in_the_family() -> None:
    found = certified_ratios([[NAN, NAN], [0.04, 0.04]])
    assert np.isnan(found[0])
    assert found[1] == 0.7


def test_a_ratio_that_was_not_measured_does_not_pass() -> None:
    assert certified_ratios([[0.01, NAN, 0.01], [0.01, 0.03, 0.01]]) == [0.5, 0.5]


def test_ratios_need_no_order_and_may_be_missing() -> None:
    ratios = np.array([[0.9, 0.5, NAN], [0.5, 0.7, 0.9]])
    chances = np.array([[0.2, 0.01, NAN], [0.01, 0.01, 0.01]])
    assert holm_fixed_sequences(ratios, chances).tolist() == [0.5, 0.9]


def graph(p_values: Any) -> list[float]:
    """Bretz et al. 2009, one rejection at a time: a hypothesis passes its level on along weighted edges."""
    sequences, length = p_values.shape
    names = [(i, t) for i in range(sequences) for t in range(length)]
    level = {name: 0.05 / sequences if name[1] == 0 else 0.0 for name in names}
    edges = {a: dict.fromkeys(names, 0.0) for a in names}
    for i, t in names:
        if t + 1 < length:
            edges[i, t][i, t + 1] = 1.0
        else:
            for j in range(sequences):
                if j != i:
                    edges[i, t][j, 0] = 1 / (sequences - 1)
    left, gone = set(names), set()
    while ready := [name for name in sorted(left) if p_values[name] <= level[name] + 1e-15]:
        out = ready[0]
        left.remove(out)
        gone.add(out)
        for a in left:
            level[a] += level[out] * edges[out][a]
        fresh = {a: dict.fromkeys(names, 0.0) for a in names}
        for a in left:
            for b in left - {a}:
                loop = edges[a][out] * edges[out][a]
                if loop < 1:
                    fresh[a][b] = (edges[a][b] + edges[a][out] * edges[out][b]) / (1 - loop)
        edges = fresh
    return [max([RATIOS[t] for t in range(length) if (i, t) in gone], default=0.0) for i in range(sequences)]


@given(
    hnp.arrays(
        float,
        st.tuples(st.integers(1, 4), st.integers(1, 3)),
        elements=st.sampled_from([0.001, 0.012, 0.0166, 0.024, 0.03, 0.049, 0.06]),
    )
)
def test_agrees_with_the_graph_of_bretz(p_values: Any) -> None:
    assert certified_ratios(p_values) == graph(p_values)


def frame(p: Any, *, tolerance: float = 0.02, groups: Any = ("", "", "")) -> pd.DataFrame:
    """One method with three conditions and the p-values of each, rows of `p`."""
    rows = [
        {"method": "parent" if ratio == 0 else "m", "ratio": ratio, "metric": "accuracy", "condition": f"c{k}",
         "value": 0.9, "group": groups[k], "noninferiority_p": p_value, "drop_tolerance": tolerance,
         "higher_is_better": True}
        for k, column in enumerate(p)
        for ratio, p_value in zip([0.0, *RATIOS], [NAN, *column], strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def jointly(table: pd.DataFrame, tolerance: Any = 0.02) -> dict[tuple[str, str], float]:
    found = thresholds(table, tolerance={"accuracy": tolerance})
    found = found[found["seed"] == "all"]
    return dict(
        zip(zip(found["condition"], found["aggregate"], strict=True), found["certified_jointly"], strict=True)
    )


def test_a_table_has_a_column_of_them() -> None:
    found = jointly(frame([[0.01, 0.01, 0.01], [0.01, 0.01, 0.03], [0.01, 0.3, 0.01]]))
    assert found == {("c0", "single"): 0.9, ("c1", "single"): 0.7, ("c2", "single"): 0.5}


def test_a_group_is_one_member_and_passes_when_all_of_it_does() -> None:
    """Of three members 0.017 is too much for the first; of two it is not, and then 0.05 is left for the second."""
    p = [[0.02, 0.01, 0.01], [0.01, 0.02, 0.02], [0.04, 0.04, 0.06]]
    assert jointly(frame(p))["c0", "single"] == 0.0
    found = jointly(frame(p, groups=("g", "g", "")))
    assert found["g", "minimum"] == found["c0", "single"] == found["c1", "single"] == 0.9
    assert found["c2", "single"] == 0.7
    assert np.isnan([found["g", "mean"], found["g", "of-mean"]]).all()


def test_p_values_of_another_tolerance_are_ignored() -> None:
    found = jointly(frame(np.full((3, 3), 0.001)), tolerance=0.03)
    assert np.isnan(list(found.values())).all()


@pytest.mark.parametrize("name", ["frost-synthetic", "frost*"])
def test_synthetic_frost_is_in_no_family(name: str) -> None:
    table = frame([[0.04, 0.04, 0.04], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]])
    table["condition"] = table["condition"].replace({"c1": f"{name}/1", "c2": f"{name}/2"})
    found = jointly(table)
    assert found["c0", "single"] == 0.9
    assert np.isnan(found[f"{name}/1", "single"])


@pytest.mark.parametrize("alike", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("failing", [1, 4, 8])
def test_any_statement_goes_too_far_in_five_percent_of_families(failing: int, alike: float) -> None:
    """Eight metrics, the first of them truly fail by a hair from the second ratio on, the others never."""
    random, simulations = np.random.default_rng(failing), 2000
    drop = np.full((8, 3), -4.0)
    drop[:failing, 1:] = 0.0
    wrong = plain = 0
    for _ in range(simulations):
        shared = random.normal(size=(1, 1))
        noise = np.sqrt(alike) * shared + np.sqrt(1 - alike) * random.normal(size=(8, 3))
        chances = ndtr(noise + drop)
        wrong += any(ratio > 0.5 for ratio in certified_ratios(chances)[:failing])
        plain += any(certified_ratios([row])[0] > 0.5 for row in chances[:failing])
    assert wrong <= binom.ppf(0.9995, simulations, 0.05)
    if failing == 8 and alike < 0.9:
        assert plain > 0.1 * simulations  # what reading each for itself would do


@pytest.mark.extensive
def test_p_values_of_evidence_keep_the_promise() -> None:
    """Rates, losses and areas of one sample of images; the model of `tests/benchmarks/simulate_familywise.py`."""
    script = Path(__file__).parents[1] / "benchmarks" / "simulate_familywise.py"
    spec = spec_from_file_location("simulate_familywise", script)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    alone, together, complete = module.simulated(1000, 8, 40)
    assert together <= binom.ppf(0.9995, 40, 0.05) < alone
    assert complete == 40  # nothing else is there to find
    assert module.simulated(1000, 1, 20)[2] > 15  # caution alone would never err
