"""Class-wise calibration error against uncertainty-calibration and the binary error, and by hand."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from evalsuite import metrics
from evalsuite.errors import ContractError, DataError


def table(n: int, classes: int, seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    p = metrics.softmax(random.normal(size=(n, classes)) * 3)
    return np.column_stack([p, random.integers(0, classes, n)])


@pytest.mark.parametrize("bins", [10, 15])
def test_it_agrees_with_uncertainty_calibration(bins: int) -> None:
    given, utils = table(3000, 5), importlib.import_module("calibration.utils")
    errors = []
    for k in range(5):
        data = list(zip(given[:, k].tolist(), (given[:, -1] == k).astype(int).tolist(), strict=True))
        errors.append(utils.plugin_ce(utils.bin(data, utils.get_equal_prob_bins(given[:, k], bins)), power=1))
    assert float(metrics.ece_classwise(given, bins=bins)) == pytest.approx(np.mean(errors), abs=1e-12)


def test_it_is_the_mean_of_binary_errors() -> None:
    given = table(400, 7, seed=1)
    binary = [metrics.ece_equal_width(given[:, k], given[:, -1] == k) for k in range(7)]
    assert float(metrics.ece_classwise(given)) == pytest.approx(np.mean(binary), abs=1e-14)


def test_single_precision_is_enough() -> None:
    given = table(2000, 10, seed=2)
    single = metrics.evaluate("ece_classwise", {"clean": given.astype(np.float32)})
    assert float(single) == pytest.approx(float(metrics.ece_classwise(given)), abs=1e-7)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1.0, 0.0, 0]], 0.0),
        ([[1.0, 0.0, 1]], 1.0),
        ([[1.0, 0.0, 0], [1.0, 0.0, 1]], 0.5),
        ([[0.5, 0.5, 0], [0.5, 0.5, 1]], 0.0),
        ([[1.0, 0], [1.0, 0]], 0.0),  # one class
        ([[0.0, 1.0, 0.0, 1], [0.0, 0.04, 0.96, 1]], (0 + abs(0.96 - 0.0) / 2 + 0.96 / 2) / 3),
    ],
)
def test_worked_examples(rows: list[list[float]], expected: float) -> None:
    assert float(metrics.ece_classwise(np.array(rows))) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("rows", "error", "sentence"),
    [
        (np.zeros((0, 3)), DataError, "the table is empty"),
        (np.zeros(3), ContractError, r"shape \(3,\)"),
        (np.zeros((3, 1)), ContractError, r"shape \(3, 1\)"),
        (np.array([[1.5, -0.5, 0]]), ContractError, "from -0.5 to 1.5"),
        (np.array([[np.nan, 0.5, 0]]), ContractError, "expected probabilities"),
        (np.array([[0.5, 0.5, 2]]), ContractError, "no labels: expected integers from 0 to 1"),
        (np.array([[0.5, 0.5, 0.5]]), ContractError, "no labels"),
    ],
)
def test_other_tables_are_refused(rows: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        metrics.evaluate("ece_classwise", {"clean": rows})
