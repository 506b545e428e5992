"""Simulated tests with a known truth: claims err as rarely as they say.

`tests/benchmarks/simulate_thresholds.py` is the model; run it for the tables of `docs/statistics.md`.
"""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "simulate_thresholds.py"
CLOSE = 1e-9


@pytest.fixture(name="model", scope="module")
def _model() -> Any:
    spec = spec_from_file_location("simulate_thresholds", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look it up
    spec.loader.exec_module(module)
    return module


def allowed(simulations: int) -> float:
    """Errors that a share of 5 % exceeds in less than one of 2,000 cases."""
    return float(binom.ppf(0.9995, simulations, 0.05))


def check(model: Any, setting: Any, simulations: int) -> list[Any]:
    found = list(model.simulated(setting, simulations, naive=setting.metric == "accuracy"))
    truth = setting.truth
    assert sum(f.certified > truth + CLOSE for f in found) <= allowed(simulations)
    missed = sum(f.low > truth + CLOSE or f.high < truth - CLOSE for f in found)
    assert missed <= allowed(simulations)
    assert all(f.low <= f.certified <= f.potential <= f.high for f in found)
    return found


@pytest.mark.extensive
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("shape", ["steep", "plateau below", "ties", "fails at once"])
def test_a_thousand_images(model: Any, shape: str, seeds: int) -> None:
    found = check(model, model.Setting(shape, 1000, seeds, 0.02), 150)
    if shape == "steep":
        assert sum(f.certified > 0 for f in found) > 100  # caution alone would never err
        assert sum(f.high < 0.9 for f in found) > 100


@pytest.mark.extensive
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("shape", ["steep", "plateau below", "ties", "fails at once"])
def test_ten_thousand_images(model: Any, shape: str, seeds: int) -> None:
    check(model, model.Setting(shape, 10_000, seeds, 0.005), 25)


@pytest.mark.extensive
def test_skewed_losses(model: Any) -> None:
    for shape in ("ties", "fails at once"):
        check(model, model.Setting(shape, 1000, 1, 0.02, "nll"), 100)


def test_the_naive_interval_misses_ties(model: Any) -> None:
    """The model can tell: what this package does not use fails in it."""
    setting = model.Setting("ties", 1000, 1, 0.02)
    found = list(model.simulated(setting, 100, naive=True))
    assert sum(f.naive_high < setting.truth - CLOSE for f in found) > allowed(100)


def test_the_model_has_the_drops_that_it_says(model: Any) -> None:
    n = 40_000
    for metric, error in (("accuracy", 0.002), ("nll", 0.002), ("auroc", 0.003), ("fpr95", 0.008)):
        setting = model.Setting("fails at once", n, 3, 0.02, metric)
        parents, candidates = model.evidence(np.random.default_rng(0), setting)
        weights = {name: np.ones((2, n)) for name in ("x", "inside", "outside")}
        found = model.mean_bounds(model.METRICS[metric], parents, candidates, weights=weights)
        expected = 0.02 * np.array(model.SHAPES["fails at once"])
        assert found.drop[:6] == pytest.approx(expected[:6], abs=error)
