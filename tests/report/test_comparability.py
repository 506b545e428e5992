"""Comparison setups that hold between two methods, from the histories of their candidates."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.report.comparability import (
    FAIR_FROM,
    SETUPS,
    TOTALS,
    Comparability,
    comparability,
)
from evalsuite.types import Candidate, Cost, Phase

PRETRAINING = Phase("pretraining", 20, 100, 2_000, "0.1 cosine to 0", "base")


RETRAINING = Phase("retraining", 5, 100, 500, "0.01 cosine to 0", "tuned")


MADE = ("magnitude", "random", "slim")


def candidate(method: str = "magnitude", target: float = 0.5, history: tuple[Phase, ...] = ()) -> Candidate:
    cost = Cost(100, 50, 90, 45, 1_000, 500, 400)
    phases = history or (PRETRAINING, RETRAINING)
    return Candidate(method, 0, target, target, target, cost, "w", {"name": "resnet20"}, phases)


def compared(a: Candidate, b: Candidate, made: tuple[str, ...] = MADE) -> Comparability:
    (found,) = comparability([a, b], produced=made)
    return found


ALIKE = candidate("random")


def test_methods_with_one_history_meet_every_setup() -> None:
    found = compared(candidate(), ALIKE)
    assert (found.first, found.second, found.pairs) == ("magnitude", "random", 1)
    assert (found.setup, found.fair, found.why) == ("S4.2", True, "")
    assert found.holds == dict.fromkeys([*SETUPS, *TOTALS], True)


@pytest.mark.parametrize(
    ("other", "setup", "fair", "why"),
    [
        (replace(ALIKE, model={"name": "vgg16"}), "", False, "networks resnet20 and vgg16"),
        (
            replace(ALIKE, ratio=0.6, cost=replace(ALIKE.cost, macs_nonzero=400)),
            "",
            False,
            "ratios 50 % and 60 %",
        ),
        (
            replace(ALIKE, history=(RETRAINING,)),
            "S1",
            False,
            "base models after 20 and 0 epochs of pretraining",
        ),
        (
            replace(ALIKE, history=(PRETRAINING, replace(RETRAINING, epochs=7))),
            "S2",
            False,
            "5 and 7 epochs of retraining",
        ),
        (
            replace(ALIKE, history=(PRETRAINING, replace(RETRAINING, schedule="other", rates="0.1 flat"))),
            "S3.1",
            False,
            "learning rates in retraining: 0.01 cosine to 0, against 0.1 flat",
        ),
        (
            replace(ALIKE, history=(PRETRAINING, replace(RETRAINING, images=90))),
            "S3.1",
            False,
            "other training images in retraining",
        ),
        (
            replace(ALIKE, history=(PRETRAINING, replace(RETRAINING, rest="adam"))),
            "S3.1",
            False,
            "the learning rates of retraining are the same, but not the rest of the recipe "
            "(batch, optimiser, weight decay, augmentation or average)",
        ),
        (
            replace(ALIKE, history=(PRETRAINING, replace(RETRAINING, what="pruning"), RETRAINING)),
            "S3.2",
            True,
            "0 and 5 epochs of pruning",
        ),
    ],
)
def test_the_first_demand_that_is_not_met_is_named(
    other: Candidate, setup: str, fair: bool, why: str
) -> None:
    found = compared(candidate(), other)
    assert (found.setup, found.fair) == (setup, fair)
    assert found.why == f"at 50 %: {why}"


def test_the_same_speed_up_serves_for_the_same_compression() -> None:
    assert compared(candidate(), replace(ALIKE, ratio=0.6)).holds["S1"]


def test_zeros_that_no_kernel_skips_are_no_speed_up_of_a_denser_network() -> None:
    """Both have as many multiplications where zeros count: one is dense, and was only retrained."""
    dense = replace(ALIKE, ratio=0.0, cost=replace(ALIKE.cost, nonzero=100, macs_nonzero=1_000))
    assert candidate().cost.macs == dense.cost.macs
    assert not compared(candidate(), dense).holds["S1"]


@pytest.mark.parametrize(
    ("ratio", "other", "same"),
    [(0.5, 0.519, True), (0.5, 0.521, False), (0.98, 0.9785, True), (0.98, 0.965, False)],
)
def test_the_same_compression_leaves_the_same_share(ratio: float, other: float, same: bool) -> None:
    faster = replace(ALIKE.cost, macs_nonzero=100)
    found = compared(replace(candidate(), ratio=ratio), replace(ALIKE, ratio=other, cost=faster))
    assert found.holds["S1"] is same


def test_unknown_costs_are_not_the_same() -> None:
    unknown = replace(ALIKE.cost, macs=None, macs_nonzero=None)
    pair = (replace(candidate(), cost=unknown), replace(ALIKE, ratio=0.6, cost=unknown))
    assert not compared(*pair).holds["S1"]


def test_epochs_of_rewound_trainings_add_up() -> None:
    parts = (replace(RETRAINING, epochs=0.1), replace(RETRAINING, epochs=0.2))
    whole = (replace(RETRAINING, epochs=0.3),)
    found = compared(candidate(history=(PRETRAINING, *parts)), replace(ALIKE, history=(PRETRAINING, *whole)))
    assert (found.holds["S3.1"], found.holds["S3.2"]) == (True, False)


def test_pruning_with_other_rates_is_the_strictest_difference() -> None:
    pushed = Phase("pruning", 5, 100, 500, "0.1 flat", "push")
    mine, other = (
        candidate(name, history=(PRETRAINING, one, RETRAINING))
        for name, one in (("magnitude", pushed), ("slim", replace(pushed, schedule="x", rates="0.2 flat")))
    )
    assert compared(mine, other).setup == "S4.1"


def test_totals_stand_beside_the_setups() -> None:
    longer = (replace(PRETRAINING, epochs=15, macs=1_500), replace(RETRAINING, epochs=10, macs=1_000))
    found = compared(candidate(), replace(ALIKE, history=longer))
    assert (found.setup, found.holds["SX-A"], found.holds["SX-B"]) == ("S2", True, True)
    cheaper = (PRETRAINING, replace(RETRAINING, macs=200))
    found = compared(candidate(), replace(ALIKE, history=cheaper))
    assert (found.setup, found.holds["SX-A"], found.holds["SX-B"]) == ("S4.2", True, False)


def test_the_history_of_external_candidates_is_unknown() -> None:
    found = compared(candidate(), candidate("given"))
    assert found.setup == "S1"
    assert not found.fair
    assert found.holds["S2"] is None
    assert "made elsewhere" in found.why


def test_one_pair_that_differs_decides() -> None:
    ladder = [candidate(target=ratio) for ratio in (0.5, 0.9)]
    other = [ALIKE, candidate("random", 0.9, (PRETRAINING, replace(RETRAINING, epochs=9)))]
    (found,) = comparability([*ladder, *other], produced=MADE)
    assert (found.pairs, found.setup) == (2, "S2")
    assert found.why.startswith("at 90 %")


def test_methods_that_never_meet_are_not_compared() -> None:
    found = compared(candidate(target=0.5), candidate("random", 0.9))
    assert (found.pairs, found.setup, found.fair) == (0, "", False)
    assert found.why == "no ratio and seed was measured with both"


def test_parents_are_no_method() -> None:
    assert comparability([candidate("dense", 0.0), candidate()], produced=MADE) == []


@given(st.lists(st.sampled_from([RETRAINING, PRETRAINING]), max_size=4), st.integers(0, 3))
def test_the_order_of_methods_does_not_matter(history: list[Phase], extra: int) -> None:
    mine = candidate("magnitude", history=(PRETRAINING, *history))
    other = candidate("random", history=(PRETRAINING, *history, *[RETRAINING] * extra))
    one, two = compared(mine, other), compared(other, mine)
    assert (one.setup, one.fair, one.holds) == (two.setup, two.fair, two.holds)
    assert one.fair == (extra == 0)
    assert FAIR_FROM in SETUPS


def candidate_on_axis(method: str, axis: str, *, packed: int | None) -> Candidate:
    cost = Cost(100, 50, 90, 45, 1_000, 500, 400, packed)
    history = (Phase("pretraining", 1, 10, 30, "constant", "s"),)
    return Candidate(method, 0, 0.5, 0.5, 0.5, cost, "w", {"name": "net"}, history, axis)


@pytest.mark.parametrize(("packed", "same"), [(200, True), (203, True), (150, False), (None, False)])
def test_ratios_on_different_cost_axes_are_compared_by_packed_bytes(packed: int | None, same: bool) -> None:
    """Both say 50 %, one of the parameters, the other of the bytes: that is no comparison."""
    zeros = candidate_on_axis("magnitude", "nonzero", packed=200)
    zeros = replace(zeros, cost=replace(zeros.cost, macs_nonzero=100))
    (found,) = comparability(
        [zeros, candidate_on_axis("unify", "packed", packed=packed)], produced=("magnitude", "unify")
    )
    assert found.holds["S1"] is same
    if not same:
        assert found.why == "at 50 %: ratios 50 % of the non-zero parameters and 50 % of the packed bytes"
