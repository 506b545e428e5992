"""A weighted sample is the sample with its images repeated: for every functional, exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalsuite import metrics
from evalsuite.errors import ContractError, DataError, EvalsuiteError, UnknownNameError
from evalsuite.metrics import weighted

if TYPE_CHECKING:
    from evalsuite.types import Array

Evidence = dict[str, "Array"]

SQUARES = ("ece_l2_squared_debiased", "ece_l2_debiased")  # take away what chance adds to so many images
SURE = ("ece_equal_width", "ece_equal_mass", *SQUARES, "ece_smooth", "mce", "signed_gap")
TABLES = ("mean_ratio", "smallest_mean")  # of whole numbers
ONE = ("mean", "median", "distinct", *SURE, "ece_classwise", *TABLES)
MEANS = ("mean_auroc", "mean_aupr_out", "mean_aupr_in", "mean_fpr95_ood_positive", "mean_fpr95_id_positive")
ROUNDED = (
    "aupr_out",
    "aupr_in",
    "ece_l2_squared_debiased",
    "mce",
    "signed_gap",
    *MEANS,
)  # sums of fractions: equal up to the order of the terms
TOLERANCE = dict.fromkeys(ROUNDED, 1e-13) | {
    "ece_l2_debiased": 1e-7,
    "ece_smooth": 1e-7,
}  # a root; a bisection


def evidence(functional: str, n: int, seed: int) -> Evidence:
    """Numbers that are multiples of 1/64, so that their sums are exact, with many ties."""
    random = np.random.default_rng(seed)
    numbers = random.integers(0, 65, (2, n)) / 64
    if functional in ("mean", "median", "distinct"):
        return {"clean": numbers[0]}
    if functional == "ece_classwise":
        return {"clean": np.stack([*numbers, random.integers(0, 2, n)], axis=1)}
    if functional in TABLES:
        return {"clean": random.integers(1, 6, (n, 6))}
    if functional in SURE:
        return {"clean": np.stack([numbers[0], random.integers(0, 2, n)], axis=1)}
    sets = {"letters": random.integers(0, 65, n + 3) / 64, "photographs": random.integers(32, 97, n + 1) / 64}
    return {"clean": numbers[0], **(sets if functional in MEANS else {"letters": sets["letters"]})}


def test_the_table_is_complete() -> None:
    assert list(metrics.FUNCTIONALS) == [
        "mean",
        "median",
        "distinct",
        "ece_equal_width",
        "ece_equal_mass",
        *("ece_l2_debiased", "ece_l2_squared_debiased", "ece_smooth", "ece_classwise", "mce", "signed_gap"),
        *(*TABLES, "mean_difference"),
        "auroc",
        "aupr_out",
        "aupr_in",
        "fpr95_ood_positive",
        "fpr95_id_positive",
        *MEANS,
    ]


@pytest.mark.parametrize("functional", metrics.FUNCTIONALS)
@settings(max_examples=40)
@given(n=st.integers(1, 50), seed=st.integers(0, 9999))
def test_a_weight_is_a_number_of_copies(functional: str, n: int, seed: int) -> None:
    sample = evidence(functional, n, seed)
    random = np.random.default_rng([seed, n])
    weights = {name: random.integers(0, 5, (6, len(x))) for name, x in sample.items()}
    for w in weights.values():
        w[:, 0] += w.sum(axis=1) == 0
    found = metrics.evaluate(functional, sample, weights=weights)
    for row in range(6):
        repeated = {name: np.repeat(x, weights[name][row], axis=0) for name, x in sample.items()}
        expected = float(metrics.evaluate(functional, repeated))
        assert abs(found[row] - expected) <= TOLERANCE.get(functional, 0.0)


@pytest.mark.parametrize("functional", metrics.FUNCTIONALS)
def test_the_number_itself_is_the_replicate_of_ones(functional: str) -> None:
    random = np.random.default_rng(5)
    n = 137
    sample: Evidence = {"clean": random.random(n), "letters": random.random(n)}
    if functional in ONE:
        sample = {"clean": sample["clean"]}
    if functional in (*SURE, "ece_classwise"):
        wrong = [1 - sample["clean"]] if functional == "ece_classwise" else []
        sample = {"clean": np.stack([sample["clean"], *wrong, random.integers(0, 2, n)], axis=1)}
    if functional in TABLES:
        sample = {"clean": random.integers(1, 6, (n, 30))}
    value = metrics.evaluate(functional, sample)
    ones = metrics.evaluate(functional, sample, weights={name: np.ones((4, n)) for name in sample})
    assert (value.shape, ones.shape) == ((), (4,))
    assert value.dtype.name == ones.dtype.name == "float64"
    # sums over bins are matrix products, whose order of terms depends on the number of rows
    np.testing.assert_allclose(ones, value, rtol=1e-12 if functional in SURE else 0)


@pytest.mark.parametrize("functional", metrics.FUNCTIONALS)
def test_replicates_do_not_depend_on_the_chunks(functional: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = evidence(functional, 40, 6)
    random = np.random.default_rng(7)
    weights = {name: random.multinomial(len(x), [1 / len(x)] * len(x), 25) for name, x in sample.items()}
    whole = metrics.evaluate(functional, sample, weights=weights)
    for chunk in (1, 100, 1000):
        monkeypatch.setattr(weighted, "CHUNK", chunk)
        np.testing.assert_array_equal(metrics.evaluate(functional, sample, weights=weights), whole)
    assert len(set(whole.tolist())) > 5


@pytest.mark.parametrize("functional", metrics.FUNCTIONALS)
def test_float32_counts_give_the_numbers_of_float64_counts(functional: str) -> None:
    sample = evidence(functional, 40, 8)
    weights = {name: np.random.default_rng(9).integers(0, 3, (5, len(x))) for name, x in sample.items()}
    single = {name: w.astype(np.float32) for name, w in weights.items()}
    np.testing.assert_array_equal(
        metrics.evaluate(functional, sample, weights=single),
        metrics.evaluate(functional, sample, weights=weights),
    )


@settings(max_examples=40)
@given(seed=st.integers(0, 999))
def test_doubling_all_weights_changes_nothing_where_only_shares_count(seed: int) -> None:
    for functional in metrics.FUNCTIONALS:
        if functional not in ("ece_equal_mass", *SQUARES):  # its groups differ by one whole image
            sample = evidence(functional, 20, seed)
            w = {name: np.full((1, len(x)), 2.0) for name, x in sample.items()}
            expected = metrics.evaluate(functional, sample)
            assert metrics.evaluate(functional, sample, weights=w)[0] == pytest.approx(
                float(expected), abs=1e-14
            )


def test_a_border_may_cut_through_an_image() -> None:
    # five places in two groups of three and two: the first image fills both but one place
    c, a = np.array([0.25, 0.5]), np.array([1, 0])
    expected = (abs(3 * 0.75) + abs(0.75 - 0.5)) / 5
    assert metrics.ece_equal_mass(c, a, weights=[np.array([[4, 1]])], bins=2).tolist() == [expected]


def test_columns_become_arguments_and_populations_keep_their_order() -> None:
    c, a = np.array([0.25, 0.75, 1.0]), np.array([True, False, True])
    both = np.stack([c, a], axis=1)
    assert metrics.evaluate("ece_equal_width", {"clean": both}) == metrics.ece_equal_width(c, a)
    inside, outside = np.array([0.0, 1.0]), np.array([2.0, 0.5, 3.0])
    assert float(metrics.evaluate("auroc", {"z": inside, "a": outside[:, None]})) == 5 / 6
    assert float(metrics.evaluate("mean", {"clean": a})) == 2 / 3
    weights = {"z": np.array([[1, 0]]), "a": np.array([[0, 1, 0]]), "other": np.ones((1, 9))}
    assert metrics.evaluate("auroc", {"z": inside, "a": outside}, weights=weights).tolist() == [1.0]


FINE = np.array([0.25, 0.5, 0.75])


@pytest.mark.parametrize(
    ("functional", "sample", "error", "sentence"),
    [
        ("auroc", {"id": FINE}, ContractError, "takes 2 populations of images, found 1: id"),
        ("mean", {"id": FINE, "ood": FINE}, ContractError, "takes 1 populations of images, found 2: id, ood"),
        ("mean", {}, ContractError, "found 0: none"),
        ("auroc", {"id": FINE, "ood": FINE[:0]}, DataError, "the evidence of population 'ood' is empty"),
        ("mean", {"id": FINE[:0]}, DataError, "population 'id' is empty"),
        ("ece_equal_width", {"id": np.zeros((0, 2))}, DataError, "population 'id' is empty"),
        ("mean", {"id": np.array([np.nan, 1.0])}, ContractError, "'id' is not finite for 1 of 2"),
        ("ece_equal_mass", {"id": FINE}, ContractError, r"'id' has shape \(3,\), expected 2 per image"),
        ("mean", {"id": np.ones((3, 2))}, ContractError, r"'id' has shape \(3, 2\), expected 1 per image"),
        ("mean", {"id": np.float64(1.0)}, ContractError, r"'id' has shape \(\), expected 1 per image"),
        ("auc", {"id": FINE, "ood": FINE}, UnknownNameError, "did you mean 'auroc'"),
    ],
)
def test_malformed_evidence_is_refused(
    functional: str, sample: Evidence, error: type[EvalsuiteError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        metrics.evaluate(functional, sample)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"ood": np.ones((2, 3))}, "no weights for population 'id'"),
        ({"id": np.ones((2, 3)), "ood": np.ones((2, 4))}, "have shapes"),
        ({"id": np.ones((2, 3)), "ood": np.ones((1, 3))}, "have shapes"),
        ({"id": np.ones(3), "ood": np.ones(3)}, "have shapes"),
        ({"id": np.ones((0, 3)), "ood": np.ones((0, 3))}, "have shapes"),
        ({"id": np.array([[0, 0, 0]]), "ood": np.ones((1, 3))}, "at least one image in each row"),
        ({"id": np.array([[2, -1, 0]]), "ood": np.ones((1, 3))}, "not negative"),
        ({"id": np.array([[np.nan, 1, 1]]), "ood": np.ones((1, 3))}, "finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: Evidence, sentence: str) -> None:
    with pytest.raises(ContractError, match=sentence):
        metrics.evaluate("auroc", {"id": FINE, "ood": FINE}, weights=weights)
