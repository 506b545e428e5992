"""The golden result: a small run, against numbers that were looked at and committed.

After a change that is meant to change numbers, write the new ones and look at the difference::

    EVALSUITE_GOLDEN=write python -m pytest tests/running/test_golden.py

The parent is given and candidates only adapt their batch norms (`tests/golden/digits.toml` says why), so another
processor finds the same numbers but for an image or two: with and without AVX-512, with AVX2 and SSE4.1 alone, no
number differed by more than 2e-6.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import evalsuite

if TYPE_CHECKING:
    from collections.abc import Iterator

GOLDEN = Path(__file__).parents[1] / "golden" / "digits.json"
BOUNDS = {
    "parameters": 1e-9,
    "ratio": 1e-5,
    "accuracy": 0.0025,  # two of 899 images
    "robust_accuracy": 0.011,  # two of 200
    "auroc": 0.003,
    "ece_equal_width": 0.005,  # an image may fall into another bin
    "temperature": 0.01,
    "brier": 0.003,
    "nll": 0.005,
}
CLEAR = 0.012
"""A potential must be the same if no drop of its curve is nearer to the tolerance than this."""


def headline(run: evalsuite.Run) -> Iterator[tuple[str, float]]:
    """Numbers by name: sizes of each candidate, and the metrics in `BOUNDS` on every condition."""
    table: Any = run.measurements
    for (method, target), rows in table.groupby(["method", "target_ratio"], sort=False):
        name = f"{method} {target:g}"
        yield f"{name} parameters", float(rows["parameters"].iloc[0])
        yield f"{name} ratio", float(rows["ratio"].iloc[0])
        for row in rows.itertuples():
            if bound(str(row.metric)) is not None:
                yield f"{name} {row.condition} {row.metric}", float(row.value)


def bound(metric: str) -> float | None:
    return BOUNDS.get(metric.removeprefix("msp_").removeprefix("energy_"))


def potentials(run: evalsuite.Run) -> dict[str, float]:
    """Potentials of the curves that are far from their tolerance at every ratio, as target ratios."""
    table: Any = run.measurements.query("method != 'dense'")
    named = table.groupby(["method", "metric", "condition"])
    found = {}
    rows: Any = run.thresholds().query("seed == 0 and aggregate == 'single'")
    for row in rows.itertuples():
        curve = named.get_group((row.method, row.metric, row.condition))
        if (curve["drop"] - row.tolerance).abs().min() > CLEAR:
            reached = curve.loc[curve["ratio"] == row.potential, "target_ratio"]
            found[f"{row.method} {row.metric} {row.condition}"] = (
                float(reached.max()) if len(reached) else 0.0
            )
    return found


@pytest.fixture(name="golden", scope="module")
def _golden(golden_run: evalsuite.Run) -> dict[str, Any]:
    if os.environ.get("EVALSUITE_GOLDEN") == "write":
        numbers = {name: float(f"{value:.5g}") for name, value in headline(golden_run)}
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(
            json.dumps({"numbers": numbers, "potentials": potentials(golden_run)}, indent=1) + "\n"
        )
    found: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))
    return found


@pytest.mark.extensive
def test_numbers_are_those_that_were_looked_at(golden_run: evalsuite.Run, golden: dict[str, Any]) -> None:
    found = dict(headline(golden_run))
    assert list(found) == list(golden["numbers"])
    far = {
        name: (value, golden["numbers"][name])
        for name, value in found.items()
        if abs(value - golden["numbers"][name]) > (bound(name.rpartition(" ")[2]) or 0.0)
    }
    assert not far


def test_potentials_that_are_not_close_calls_are_the_same(
    golden_run: evalsuite.Run, golden: dict[str, Any]
) -> None:
    found = potentials(golden_run)
    shared = {name: value for name, value in found.items() if name in golden["potentials"]}
    assert len(shared) > 0.8 * len(golden["potentials"]) > 10
    assert shared == {name: golden["potentials"][name] for name in shared}


def test_the_golden_result_is_worth_comparing_with(golden: dict[str, Any]) -> None:
    """What anybody who knows the field would expect of these methods on these images."""
    value = golden["numbers"]
    assert value["dense 0 clean accuracy"] > 0.95
    for method in ("filter-l1", "random"):
        assert value["magnitude 0.5 clean accuracy"] > value[f"{method} 0.5 clean accuracy"] + 0.2
    assert value["dense 0 fog/3 accuracy"] < value["dense 0 clean accuracy"]
    assert value["dense 0 linf-pgd/2:255 robust_accuracy"] <= value["dense 0 fgsm/2:255 robust_accuracy"]
    assert value["dense 0 letters msp_auroc"] > 0.9
    assert value["filter-l1 0.8 parameters"] < 0.25 * value["dense 0 parameters"]
    assert value["magnitude 0.8 parameters"] == value["dense 0 parameters"]
    assert value["magnitude 0.8 ratio"] == pytest.approx(0.8, abs=1e-3)
    assert set(golden["potentials"].values()) >= {0.0, 0.1, 0.3, 0.5}
