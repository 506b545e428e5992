"""Classes hit harder than the others: by hand, against a permutation test, and how often chance is called so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from evalsuite.errors import DataError
from evalsuite.statistics.class_effects import harder_hit, holm


def test_a_worked_example() -> None:
    """Class 0 loses 30 of 100 and gains none; the 900 others lose 27 and gain 9: a drop of 0.02."""
    chances = harder_hit([30, 27], [0, 9], n=[100, 900])
    assert chances[0] < 1e-6
    assert chances[1] == pytest.approx(1, abs=1e-6)


def test_without_skewness_it_is_the_score_test() -> None:
    """Where losses and gains are equal in number and nothing falls, Tango's variance is (b + c) / n^2."""
    chances = harder_hit([50, 40], [30, 60], n=[1000, 1000])
    d = -20 / 1000
    others = (100 / 1000 - d**2) / 1000
    b = (2000 - 20) * d - 80
    root = np.sqrt(b * b - 4 * 2000 * (-30 * d * (1 - d)))
    gain = (root - b) / 4000
    z = ((20 - 0.5) / 1000 - d) / np.sqrt((2 * gain + d * (1 - d)) / 1000 + others)
    assert chances[0] == pytest.approx(norm.sf(z), rel=0.02)  # the skewness of so many is small


@pytest.mark.parametrize("losses", [14, 20, 26])
def test_it_agrees_with_permuted_classes_where_classes_change_alike(losses: int) -> None:
    """Of 1,000 images 200 are of the class; the others lose 80 and gain 40."""
    random = np.random.default_rng(losses)
    changes = np.repeat([1, -1, 0], [80 + losses, 50, 1000 - 130 - losses])
    observed = losses - 10
    sums = np.array([random.permutation(changes)[:200].sum() for _ in range(8_000)])
    exact = (sums >= observed).mean()
    found = harder_hit([losses, 80], [10, 40], n=[200, 800])[0]
    assert found == pytest.approx(exact, abs=0.015, rel=0.05)


@pytest.mark.parametrize(
    ("classes", "images", "discordant", "drop"), [(10, 200, 0.06, 0.02), (2, 500, 0.03, 0.02)]
)
@pytest.mark.parametrize("busy", [1, 3])
def test_equal_drops_are_rarely_called_unequal(
    classes: int, images: int, discordant: float, drop: float, busy: int
) -> None:
    """A class that changes three times as often in both directions, with the drop of all, is not hit harder."""
    random = np.random.default_rng(0)
    lost, gained = (discordant + drop) / 2, (discordant - drop) / 2
    rates = np.tile([lost, gained, 1 - lost - gained], (classes, 1))
    extra = discordant * (busy - 1) / 2
    rates[0] += [extra, extra, -2 * extra]
    counts = np.stack([random.multinomial(images, p, 1500) for p in rates], axis=1)
    sizes = np.full(classes, images)
    chances = np.array([harder_hit(one[:, 0], one[:, 1], n=sizes) for one in counts])
    assert 0.02 < (chances[:, 0] <= 0.05).mean() < 0.068
    assert np.mean([holm(one).min() <= 0.05 for one in chances]) < 0.068


@pytest.mark.parametrize("lost", [10, 14, 18, 22, 26])
def test_without_gains_it_is_nearly_the_binomial_test(lost: int) -> None:
    """The others are so many that their drop of 0.02 is known; 10 losses are expected, and many are skewed."""
    found = harder_hit([lost, 20_000_000], [0, 0], n=[500, 1_000_000_000])[0]
    exact = binom.sf(lost - 1, 500, 0.02)
    if lost <= 18:
        assert found == pytest.approx(exact, rel=0.25)
    else:  # where nothing is left to doubt it is the more careful one
        assert exact < found < 0.01


def test_it_finds_a_class_that_is_hit_harder() -> None:
    random = np.random.default_rng(1)
    counts = random.multinomial(1000, [0.04, 0.02, 0.94], (200, 10))
    counts[:, 3] = random.multinomial(1000, [0.09, 0.02, 0.89], 200)
    chances = np.array([holm(harder_hit(one[:, 0], one[:, 1], n=np.full(10, 1000))) for one in counts])
    assert (chances[:, 3] <= 0.05).mean() > 0.9
    assert (chances.argmin(axis=1) == 3).mean() > 0.95


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=6))
def test_there_is_always_a_p_value(classes: list[tuple[int, int, int]]) -> None:
    lost, gained, steady = (np.array(x) for x in zip(*classes, strict=True))
    n = lost + gained + steady
    chances = harder_hit(lost, gained, n=n)
    assert ((chances >= 0) & (chances <= 1)).all()
    more = harder_hit(lost + np.eye(len(n), dtype=int)[0], gained, n=n)  # one image of class 0 more is lost
    assert more[0] <= chances[0] + 1e-12


@pytest.mark.parametrize(
    ("losses", "gains", "n"),
    [
        ([0, 0], [0, 0], [5, 5]),
        ([5, 5], [0, 0], [5, 5]),
        ([0, 0], [5, 5], [5, 5]),
        ([3], [0], [5]),
        ([0], [0], [1]),
    ],
)
def test_where_all_classes_do_the_same_none_is_hit_harder(losses: Any, gains: Any, n: Any) -> None:
    assert (harder_hit(losses, gains, n=n) > 0.5).all()


@pytest.mark.parametrize(
    ("losses", "gains", "n"), [([-1, 0], [0, 0], [5, 5]), ([3, 0], [3, 0], [5, 5]), ([0, 0], [0, 0], [5, 0])]
)
def test_impossible_counts_are_refused(losses: Any, gains: Any, n: Any) -> None:
    with pytest.raises(DataError, match="count each image once"):
        harder_hit(losses, gains, n=n)


@settings(max_examples=100)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_its_definition(chances: list[float]) -> None:
    ranked = sorted(chances)
    for p, adjusted in zip(chances, holm(chances), strict=True):
        place = ranked.index(p)  # the first of equal ones has the largest factor, and later ones take it over
        expected = max((len(ranked) - i) * ranked[i] for i in range(place + 1))
        assert adjusted == pytest.approx(min(1, expected))
