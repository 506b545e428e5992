"""Thresholds of single curves: hand-made curves, an exact oracle, the published rule, and properties."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.errors import UserError
from evalsuite.thresholds.threshold import threshold

NAN = float("nan")
RATIOS = (0.5, 0.7, 0.9)

# name: drops at RATIOS, tolerance, potential, potential_any, first_failure, flags that are set
HAND_MADE: dict[str, tuple[tuple[float, ...], float, float, float, float | None, str]] = {
    "monotone": ((0.0, 0.01, 0.05), 0.02, 0.7, 0.7, 0.9, ""),
    "dip": ((0.0, 0.03, 0.01), 0.02, 0.5, 0.9, 0.7, "non_monotone"),
    "dip at the start": ((0.03, 0.01, 0.05), 0.02, 0.0, 0.7, 0.5, "infeasible non_monotone"),
    "never fails": ((0.0, 0.01, 0.02), 0.05, 0.9, 0.9, None, "censored"),
    "improves": ((-0.3, -0.2, -0.1), 0.0, 0.9, 0.9, None, "censored"),
    "all fail": ((0.1, 0.2, 0.3), 0.05, 0.0, 0.0, 0.5, "infeasible"),
    "ties at the tolerance": ((0.02, 0.02, 0.02), 0.02, 0.9, 0.9, None, "censored"),
    "tie of rounded rates": ((0.905 - 0.9, 0.905 - 0.9, 0.905 - 0.8999), 0.005, 0.7, 0.7, 0.9, ""),
    "no tolerance": ((0.0, 1 / 10_000, 0.0), 0.0, 0.5, 0.9, 0.7, "non_monotone"),
    "plateau just above": ((0.0, 0.0201, 0.0201), 0.02, 0.5, 0.5, 0.7, ""),
    "nan at the start": ((NAN, 0.0, 0.1), 0.02, 0.0, 0.7, 0.5, "infeasible non_monotone incomplete"),
    "nan in the middle": ((0.0, NAN, 0.0), 0.02, 0.5, 0.9, 0.7, "non_monotone incomplete"),
    "nan at the end": ((0.0, 0.0, NAN), 0.02, 0.7, 0.7, 0.9, "incomplete"),
    "only nan": ((NAN, NAN, NAN), 0.02, 0.0, 0.0, 0.5, "infeasible incomplete"),
    "infinite drop": ((0.0, float("inf"), 0.1), 0.02, 0.5, 0.5, 0.7, ""),
    "single point passes": ((0.01,), 0.02, 0.5, 0.5, None, "censored"),
    "single point fails": ((0.03,), 0.02, 0.0, 0.0, 0.5, "infeasible"),
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_hand_made_curves(name: str) -> None:
    drops, tolerance, potential, potential_any, first_failure, flags = HAND_MADE[name]
    found = threshold(RATIOS[: len(drops)], drops, tolerance)
    assert (found.potential, found.potential_any, found.first_failure) == (
        potential,
        potential_any,
        first_failure,
    )
    names = ("censored", "infeasible", "non_monotone", "incomplete")
    assert {flag for flag in names if getattr(found, flag)} == set(flags.split())
    assert found.tested == RATIOS[: len(drops)]
    assert found.underpowered is None


@pytest.mark.parametrize(
    ("drops", "widths", "expected"),
    [
        ((0.0, 0.01, 0.05), (9.0, 0.01, 0.01), False),  # the first drop decides nothing
        ((0.0, 0.01, 0.05), (0.0, 0.03, 0.01), True),  # at the potential
        ((0.0, 0.01, 0.05), (0.0, 0.01, 0.03), True),  # at the first failure
        ((0.0, 0.01, 0.05), (0.0, 0.02, 0.02), False),  # as wide as the tolerance is not wider
        ((0.0, 0.01, 0.05), (0.0, 0.905 - 0.885, 0.01), False),  # the same after rounding
        ((0.0, 0.01, 0.05), (0.0, NAN, 0.01), None),
        ((0.0, 0.01, 0.05), (0.0, NAN, 0.03), True),
        ((0.0, 0.01, 0.05), (NAN, 0.01, 0.01), False),
        ((0.0, 0.01, NAN), (0.0, 0.01, NAN), False),  # the failure was not measured: the potential decides
        ((NAN, 0.0, 0.0), (NAN, 0.0, 0.0), None),  # nothing that was measured decides
        ((0.1, 0.0, 0.0), (0.03, 0.0, 0.0), True),
        ((0.0, 0.0, 0.0), (9.0, 9.0, 0.01), False),
    ],
)
def test_underpowered_looks_at_the_drops_that_decide(
    drops: tuple[float, ...], widths: tuple[float, ...], expected: bool | None
) -> None:
    assert threshold(RATIOS, drops, 0.02, widths=widths).underpowered is expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5, 0.5], [0, 0], 0.1), "must rise"),
        (([0.7, 0.5], [0, 0], 0.1), "must rise"),
        (([0.0, 0.5], [0, 0], 0.1), "between 0 and 1"),
        (([0.5, 1.0], [0, 0], 0.1), "between 0 and 1"),
        (([NAN], [0], 0.1), "between 0 and 1"),
        (([0.5, NAN], [0, 0], 0.1), "must rise"),
        (([], [], 0.1), "curve is empty"),
        (([0.5, 0.7], [0], 0.1), "2 ratios, 1 drops"),
        (([0.5], [0], -0.1), r"tolerance is -0\.1"),
        (([0.5], [0], NAN), "tolerance is nan"),
        (([0.5], [0], float("inf")), "tolerance is inf"),
    ],
)
def test_what_is_refused(arguments: tuple[Any, Any, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        threshold(*arguments)


def test_widths_of_another_length_are_refused() -> None:
    with pytest.raises(UserError, match="3 widths"):
        threshold([0.5, 0.7], [0, 0], 0.1, widths=[0, 0, 0])


@st.composite
def curves(draw: st.DrawFn) -> tuple[list[float], list[Fraction | None]]:
    """Ratios, and drops that are exact differences of correct answers among N images, or None."""
    n = draw(st.sampled_from([7, 899, 10_000, 50_000]))
    steps = sorted(draw(st.sets(st.integers(1, 999), min_size=1, max_size=12)))
    drop = (
        st.none() | st.integers(-n, n).map(lambda k: Fraction(k, n)) | st.just(Fraction(round(n * 0.02), n))
    )
    return [step / 1000 for step in steps], [draw(drop) for _ in steps]


def rounded(drop: Fraction | None, parent: Fraction = Fraction(2, 3)) -> float:
    """The drop as it comes out of floating point: a difference of two rounded rates."""
    return NAN if drop is None else float(parent) - float(parent - drop)


TOLERANCES = st.sampled_from(
    [Fraction(0), Fraction(1, 200), Fraction(1, 50), Fraction(1, 3), Fraction(18, 899)]
)


@given(curves(), TOLERANCES)
def test_agrees_with_exact_arithmetic(
    curve: tuple[list[float], list[Fraction | None]], tolerance: Fraction
) -> None:
    ratios, exact = curve
    found = threshold(ratios, [rounded(drop) for drop in exact], float(tolerance))
    passes = [drop is not None and drop <= tolerance for drop in exact]
    failures = [ratio for ratio, passed in zip(ratios, passes, strict=True) if not passed]
    first = failures[0] if failures else None
    below = [ratio for ratio in ratios if first is None or ratio < first]
    assert found.first_failure == first
    assert found.potential == max(below, default=0.0)
    assert found.censored is (not failures)
    assert found.infeasible is (not passes[0])
    assert found.non_monotone is any(passes[passes.index(False) :] if failures else [])
    assert found.incomplete is (None in exact)


def published_potential(errors: list[float], sizes: list[float], parent: float, delta: float) -> float:
    """The rule of "Lost in Pruning": the most compressed net with ``error(parent) + delta >= error``.

    It stores errors by rising size (share kept) and takes the first net from the left that is good enough.
    """
    order = np.argsort(sizes)
    good = [index for index in order if not np.isnan(errors[index]) and parent + delta >= errors[index]]
    return 1 - sizes[good[0]] if good else 0.0


@given(curves(), st.sampled_from([0, 1, 8, 16]), st.integers(0, 512))
def test_potential_any_is_the_published_rule(
    curve: tuple[list[float], list[Fraction | None]], delta: int, parent: int
) -> None:
    """In multiples of 1/1024, where the published rule is exact in floating point too."""
    ratios, exact = curve
    errors = [NAN if drop is None else parent / 1024 + round(drop * 1024) / 1024 for drop in exact]
    sizes = [1 - ratio for ratio in ratios]
    expected = published_potential(errors, sizes, parent / 1024, delta / 1024)
    drops = [error - parent / 1024 for error in errors]
    assert threshold(ratios, drops, delta / 1024).potential_any == pytest.approx(expected, abs=1e-12)


@given(curves(), TOLERANCES, TOLERANCES)
def test_a_larger_tolerance_never_lowers_a_potential(
    curve: tuple[list[float], list[Fraction | None]], one: Fraction, other: Fraction
) -> None:
    drops = [rounded(drop) for drop in curve[1]]
    strict, loose = (threshold(curve[0], drops, float(delta)) for delta in sorted((one, other)))
    assert strict.potential <= loose.potential
    assert strict.potential_any <= loose.potential_any
    assert strict.censored <= loose.censored
    assert strict.infeasible >= loose.infeasible


@given(curves(), TOLERANCES)
def test_the_fields_are_consistent(
    curve: tuple[list[float], list[Fraction | None]], tolerance: Fraction
) -> None:
    found = threshold(curve[0], [rounded(drop) for drop in curve[1]], float(tolerance))
    assert found.potential <= found.potential_any
    assert {found.potential, found.potential_any} <= {0.0, *found.tested}
    assert (found.first_failure is None) is found.censored
    assert found.first_failure is None or found.potential < found.first_failure
    assert found.infeasible is (found.first_failure == found.tested[0])
    assert found.non_monotone is (found.potential < found.potential_any)
    assert not (found.censored and (found.non_monotone or found.incomplete or found.infeasible))
    assert (found.potential == 0) is found.infeasible


@given(curves(), TOLERANCES)
def test_splitting_off_the_end_changes_nothing_below(
    curve: tuple[list[float], list[Fraction | None]], tolerance: Fraction
) -> None:
    """No extrapolation: what was not tested has no say."""
    ratios, drops = curve[0], [rounded(drop) for drop in curve[1]]
    whole = threshold(ratios, drops, float(tolerance))
    for end in range(1, len(ratios)):
        part = threshold(ratios[:end], drops[:end], float(tolerance))
        assert part.potential == max((r for r in part.tested if r <= whole.potential), default=0.0)
