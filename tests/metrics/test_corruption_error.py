from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalsuite import metrics
from evalsuite.errors import ContractError, DataError
from evalsuite.metrics import mean_difference, mean_ratio, smallest_mean


def test_a_corruption_error_by_hand() -> None:
    # two kinds; severities at which the network is wrong about each of three images, and the reference is
    mine, reference = np.array([[2, 5], [1, 1], [0, 2]]), np.array([[1, 2], [1, 3], [0, 5]])
    # errors summed: 3 and 8 against 2 and 10
    assert float(mean_ratio(np.hstack([mine, reference]))) == (3 / 2 + 8 / 10) / 2
    # the first image twice, the second not at all, the third once: 4 and 12 against 2 and 9
    weights = [np.array([[2, 0, 1]])]
    assert mean_ratio(np.hstack([mine, reference]), weights=weights).tolist() == [(4 / 2 + 12 / 9) / 2]


def test_the_worst_mean_by_hand_is_another_column_in_another_sample() -> None:
    table = np.array([[1, 0], [1, 1], [0, 1], [0, 1]])
    assert float(smallest_mean(table)) == 0.5
    weights = [np.array([[1, 0, 1, 1], [2, 0, 0, 1]])]
    assert smallest_mean(table, weights=weights).tolist() == [1 / 3, 1 / 3]


def test_a_gap_by_hand() -> None:
    clean, shifted = np.array([True, True, True, False]), np.array([True, False])
    assert float(mean_difference(clean, shifted)) == 0.25
    weights = [np.array([[0, 0, 1, 3]]), np.array([[3, 1]])]
    assert mean_difference(clean, shifted, weights=weights).tolist() == [0.25 - 0.75]


@settings(max_examples=50)
@given(n=st.integers(2, 40), kinds=st.integers(1, 15), seed=st.integers(0, 9999))
def test_a_weight_is_a_number_of_copies(n: int, kinds: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    table = random.integers(0, 6, (n, 2 * kinds))
    table[:, kinds:] += 1
    other = random.integers(0, 65, n + 3) / 64
    weights = random.integers(0, 4, (5, n)) + (np.arange(n) == 0)
    moved = random.integers(0, 4, (5, n + 3)) + (np.arange(n + 3) == 0)
    cases: dict[str, tuple[Any, ...]] = {
        "mean_ratio": ({"test": table},),
        "smallest_mean": ({"test": table},),
        "mean_difference": ({"test": table[:, 0], "other": other},),
    }
    for functional, (sample,) in cases.items():
        found = metrics.evaluate(functional, sample, weights={"test": weights, "other": moved})
        for row in range(5):
            counts = {"test": weights[row], "other": moved[row]}
            repeated = {name: np.repeat(x, counts[name], axis=0) for name, x in sample.items()}
            assert found[row] == float(metrics.evaluate(functional, repeated))


@settings(max_examples=50)
@given(seed=st.integers(0, 9999))
def test_a_reference_to_itself_is_one_and_more_errors_are_more(seed: int) -> None:
    errors = np.random.default_rng(seed).integers(1, 6, (20, 15))
    assert float(mean_ratio(np.hstack([errors, errors]))) == 1
    assert float(mean_ratio(np.hstack([2 * errors, errors]))) == 2
    assert float(mean_ratio(np.hstack([errors + 1, errors]))) > 1


@pytest.mark.parametrize("functional", [mean_ratio, smallest_mean], ids=lambda one: one.__name__)
@pytest.mark.parametrize(
    ("table", "error", "sentence"),
    [
        (np.ones(4), ContractError, r"the table has shape \(4,\), expected \(images, columns\)"),
        (np.ones((4, 0)), ContractError, r"the table has shape \(4, 0\)"),
        (np.ones((0, 2)), DataError, "column 0 of the table is empty"),
        (np.array([[1, np.nan]]), ContractError, "column 1 of the table is not finite for 1 of 1 images"),
    ],
    ids=["one column", "no column", "no image", "nan"],
)
def test_malformed_tables_are_refused(
    functional: Any, table: Any, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        functional(table)


def test_a_ratio_to_nothing_does_not_exist() -> None:
    table = np.array([[1, 1, 1, 0], [1, 1, 1, 1]])
    with pytest.raises(ContractError, match="found 3 columns, expected numerators and as many denominators"):
        mean_ratio(table[:, :3])
    with pytest.raises(ContractError, match="a sum of denominators is 0"):
        mean_ratio(table[:1])
    with pytest.raises(ContractError, match="a sum of denominators is 0"):
        mean_ratio(table, weights=[np.array([[1, 1], [1, 0]])])
