"""Noise on single values: every old level has the distribution of the published operation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evalsuite.datasets.transforms.common_corruptions import noise
from evalsuite.datasets.transforms.common_corruptions.kinds import corrupt

if TYPE_CHECKING:
    from evalsuite.datasets.transforms.common_corruptions.kinds import Size

Array = np.ndarray[Any, Any]


def truncated(values: Array) -> Array:
    levels: Array = np.clip(values, 0, 1) * 255
    return levels.astype(np.uint8)


def gaussian(x: Array, sigma: float, rng: np.random.Generator) -> Array:
    return truncated(x + rng.normal(0, sigma, x.shape))


def shot(x: Array, rate: float, rng: np.random.Generator) -> Array:
    return truncated(rng.poisson(x * rate) / rate)


def impulse(x: Array, share: float, rng: np.random.Generator) -> Array:
    struck, salt = rng.random(x.shape) < share, rng.random(x.shape) < 0.5
    return truncated(np.where(struck, salt * 1.0, x))


def speckle(x: Array, sigma: float, rng: np.random.Generator) -> Array:
    return truncated(x + x * rng.normal(0, sigma, x.shape))


NOISES: list[tuple[str, Size, Callable[..., Array], tuple[float, ...]]] = [
    ("gaussian_noise", "cifar", gaussian, (0.04, 0.06, 0.08, 0.09, 0.10)),
    ("shot_noise", "cifar", shot, (500, 250, 100, 75, 50)),
    ("impulse_noise", "cifar", impulse, (0.01, 0.02, 0.03, 0.05, 0.07)),
    ("speckle_noise", "cifar", speckle, (0.06, 0.1, 0.12, 0.16, 0.2)),
    ("gaussian_noise", "tiny-imagenet", gaussian, (0.04, 0.08, 0.12, 0.15, 0.18)),
    ("shot_noise", "tiny-imagenet", shot, (250, 100, 50, 30, 15)),
    ("impulse_noise", "tiny-imagenet", impulse, (0.01, 0.02, 0.05, 0.08, 0.14)),
    ("speckle_noise", "tiny-imagenet", speckle, (0.15, 0.2, 0.25, 0.3, 0.35)),
    ("gaussian_noise", "imagenet", gaussian, (0.08, 0.12, 0.18, 0.26, 0.38)),
    ("shot_noise", "imagenet", shot, (60, 25, 12, 5, 3)),
    ("impulse_noise", "imagenet", impulse, (0.03, 0.06, 0.09, 0.17, 0.27)),
    ("speckle_noise", "imagenet", speckle, (0.15, 0.2, 0.35, 0.45, 0.6)),
]


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("level", [0, 3, 100, 201, 255])
@pytest.mark.parametrize(
    ("kind", "size", "reference", "constants"), NOISES, ids=[f"{row[0]}-{row[1]}" for row in NOISES]
)
def test_noise_has_the_distribution_of_the_published_operation(
    kind: str,
    size: Size,
    reference: Callable[..., Array],
    constants: tuple[float, ...],
    level: int,
    severity: int,
) -> None:
    even = np.full((64, 3, 32, 32), level, np.uint8)
    levels = np.bincount(corrupt(even, kind, severity, seed=0, constants=size).ravel(), minlength=256)
    drawn = reference(even / 255, constants[severity - 1], np.random.default_rng(1))
    table = np.stack([levels, np.bincount(drawn.ravel(), minlength=256)])
    rare = table.sum(axis=0) < 20
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    table = table[:, table.sum(axis=0) > 0]
    assert table.shape[1] == 1 or stats.chi2_contingency(table).pvalue > 1e-4


@pytest.mark.parametrize("kind", [row[0] for row in NOISES[:4]])
def test_noise_is_independent_from_value_to_value(kind: str) -> None:
    values = corrupt(np.full((128, 3, 32, 32), 120, np.uint8), kind, 5, seed=3).astype(float)
    values -= values.mean()
    variance = (values**2).mean()
    for axis in range(4):  # images, channels, rows, columns
        ahead = np.take(values, range(1, values.shape[axis]), axis)
        behind = np.take(values, range(values.shape[axis] - 1), axis)
        assert abs((ahead * behind).mean()) < 5 * variance / math.sqrt(ahead.size)


@settings(max_examples=60)
@given(
    old=st.integers(0, 255),
    uniform=st.integers(0, 2**32 - 1) | st.integers(0, 4095).map(lambda cell: cell << 20),
    row=st.sampled_from(
        [
            (noise._gaussian, (0.08,)),
            (noise._shot, (500.0,)),
            (noise._shot, (3.0,)),
            (noise._impulse, (0.07,)),
            (noise._speckle, (0.6,)),
        ]
    ),
)
def test_the_guide_finds_what_a_full_search_finds(
    old: int, uniform: int, row: tuple[Any, tuple[float, ...]]
) -> None:
    distribution, constants = row
    steps = np.rint(distribution(*constants)[old] * 2.0**32)
    table = noise._table(distribution, constants)
    near = np.clip([uniform - 1, uniform, uniform + 1, steps[old % 255], steps[old % 255] - 1], 0, 2**32 - 1)
    for number in near.astype(np.uint32):
        level = table.at(np.array([[old]], np.uint8), np.array([[number]], np.uint32))
        assert level.item() == (steps <= number).sum()
