from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from evalsuite.datasets.base import Place
from evalsuite.datasets.transforms.noise import RandomNoise, packed
from evalsuite.random_streams import BLOCK

GREY = np.full((BLOCK + 9, 3, 8, 8), 128, np.uint8)
BASE = np.float32(128 / 255)


def offsets(noise: RandomNoise, images: Any = GREY, seed: int = 0) -> Any:
    return (noise.apply(images, Place(seed=seed)) - images / np.float32(255)) * 255


def test_gaussian_noise_is_gaussian() -> None:
    noise_values = offsets(RandomNoise("gaussian", 8)).ravel()
    assert stats.kstest(noise_values / 8, "norm").pvalue > 0.001
    assert offsets(RandomNoise("gaussian", 8)).dtype == np.float32


def test_the_first_uniform_draw_is_the_one_that_was_published() -> None:
    for images in (GREY, (GREY / np.float32(255)).astype(np.float32)):
        expected = RandomNoise("uniform", 8.0).apply(images, Place(seed=4))
        np.testing.assert_array_equal(RandomNoise("uniform", 8).apply(images, Place(seed=4)), expected)
    noise_values = offsets(RandomNoise("uniform", 8, 1)).ravel()
    assert stats.kstest(noise_values / 8, "uniform", args=(-1, 2)).pvalue > 0.001


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
def test_draws_are_addressed(kind: Any) -> None:
    base = offsets(RandomNoise(kind, 8))
    np.testing.assert_array_equal(offsets(RandomNoise(kind, 8), GREY[:5]), base[:5])
    others = [
        offsets(RandomNoise(kind, 8, 1)),
        offsets(RandomNoise(kind, 8, 2)),
        offsets(RandomNoise(kind, 8), seed=1),
        offsets(RandomNoise(kind, 16)) / 2,
        np.roll(base, 1, axis=0),
        np.roll(base, BLOCK, axis=0),
    ]
    for other in others:
        assert abs(np.corrcoef(base.ravel(), other.ravel())[0, 1]) < 0.05


def test_pixels_stay_in_range() -> None:
    ends = np.where(np.arange(64).reshape(8, 8) % 2, np.uint8(255), np.uint8(0)) * np.ones(
        (3, 3, 1, 1), np.uint8
    )
    noisy = RandomNoise("gaussian", 64).apply(ends, Place())
    assert (noisy.min(), noisy.max()) == (0, 1)
    assert 0.3 < np.mean((noisy == 0) | (noisy == 1)) < 0.7


@pytest.mark.parametrize(
    ("noise", "name"),
    [
        (RandomNoise("uniform", 8.0), "uniform/8:255"),
        (RandomNoise("gaussian", 0.5, 2), "gaussian/0.5:255 draw 3"),
    ],
)
def test_names(noise: RandomNoise, name: str) -> None:
    assert noise.name(Place()) == name


def test_packed_images_carry_their_draws() -> None:
    images = np.arange(20 * BLOCK + 3, dtype=np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, 2, 3, 3), np.uint8)
    parts = list(packed(images, 7, "here"))
    assert [rows for rows, _ in parts] == [slice(0, 16 * BLOCK), slice(16 * BLOCK, len(images))]
    complete = np.concatenate([part for _, part in parts])
    np.testing.assert_array_equal(complete[:, :2], images / np.float32(255))
    uniform = complete[:, 2:]
    assert stats.kstest(uniform.ravel(), "uniform").pvalue > 0.001
    ((_, few),) = packed(images[:70], 7, "here")
    np.testing.assert_array_equal(few, complete[:70])
    ((_, other),) = packed(images[:70], 8, "here")
    assert not np.array_equal(other, few)
