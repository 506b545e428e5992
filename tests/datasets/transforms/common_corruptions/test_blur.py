"""Glass blur against the published loop, its exchange of two views included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import ndimage, stats

from evalsuite.datasets.transforms.common_corruptions.blur import beside, scattered
from evalsuite.datasets.transforms.common_corruptions.kinds import corrupt
from evalsuite.random_streams import generator

if TYPE_CHECKING:
    from evalsuite.datasets.transforms.common_corruptions.kinds import Size

Array = np.ndarray[Any, Any]


def scenes(count: int, side: int = 32) -> Array:
    rng = np.random.default_rng(0)
    fields = ndimage.gaussian_filter(rng.standard_normal((count, 3, side, side)), (0, 0, 2, 2))
    return np.asarray(np.clip(128 + 80 * fields / fields.std(), 0, 255), np.uint8)


def truncated(values: Array) -> Array:
    levels: Array = np.clip(values, 0, 1) * 255
    return levels.astype(np.uint8)


def published_loop(image: Array, down: Array, right: Array, reach: int) -> Array:
    """The published loop on one image (S, S, 3); offsets for rows and columns from reach + 1 on."""
    x = image.copy()
    first, last = reach + 1, len(x) - reach
    for h in range(last, reach, -1):
        for w in range(last, reach, -1):
            i, j = h + int(down[h - first, w - first]), w + int(right[h - first, w - first])
            x[h, w], x[i, j] = x[i, j], x[h, w]
    return x


@pytest.mark.parametrize("reach", [1, 2, 3, 4])
def test_scattering_equals_the_loop_over_views(reach: int) -> None:
    rng = np.random.default_rng(reach)
    images = rng.integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    choice = rng.integers(0, 4 * reach**2, (3, 32 - 2 * reach, 32 - 2 * reach), dtype=np.uint8)
    down, right = (reach - 1 - part.astype(int) for part in divmod(choice, 2 * reach))
    expected = np.stack(
        [
            published_loop(x.transpose(1, 2, 0), a, b, reach)
            for x, a, b in zip(images, down, right, strict=True)
        ]
    ).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(scattered(images, choice, reach), expected)
    if reach == 1:
        up, left = divmod(choice[:, None], np.uint8(2))
        np.testing.assert_array_equal(beside(images, left=left, up=up), expected)


def test_a_chain_of_pixels_that_each_read_the_next_ends_where_it_starts() -> None:
    images = np.arange(3 * 32 * 32).reshape(1, 3, 32, 32).astype(np.uint8)
    always_right = np.full((1, 28, 28), 4, np.uint8)  # of reach 2: no row, one column to the right
    moved = scattered(images, always_right, 2)
    np.testing.assert_array_equal(
        moved[..., 3:31, 3:31], np.broadcast_to(images[..., 3:31, 31:], (1, 3, 28, 28))
    )


CASES: list[tuple[Size, int, float, int, int]] = [
    ("cifar", 1, 0.05, 1, 1),
    ("cifar", 2, 0.25, 1, 1),
    ("cifar", 3, 0.4, 1, 1),
    ("cifar", 4, 0.25, 1, 2),
    ("cifar", 5, 0.4, 1, 2),
    ("tiny-imagenet", 1, 0.1, 1, 1),
    ("tiny-imagenet", 2, 0.5, 1, 1),
    ("tiny-imagenet", 3, 0.6, 1, 2),
    ("tiny-imagenet", 4, 0.7, 2, 1),
    ("tiny-imagenet", 5, 0.9, 2, 2),
    ("imagenet", 1, 0.7, 1, 2),
    ("imagenet", 2, 0.9, 2, 1),
    ("imagenet", 3, 1, 2, 3),
    ("imagenet", 4, 1.1, 3, 2),
    ("imagenet", 5, 1.5, 4, 2),
]


@pytest.mark.parametrize(("size", "severity", "sigma", "reach", "passes"), CASES)
def test_glass_equals_a_slow_reference_with_the_same_draws(
    size: Size, severity: int, sigma: float, reach: int, passes: int
) -> None:
    images = scenes(3)
    inner = 32 - 2 * reach
    draws = generator(7, "glass_blur", severity, 0)
    drawn = [
        draws.integers(0, 4 * reach**2, (64, 1, inner, inner), dtype=np.uint8)[:, 0] for _ in range(passes)
    ]
    blurred = corrupt(images, "glass_blur", severity, seed=7, constants=size).transpose(0, 2, 3, 1)
    for index, image in enumerate(images.transpose(0, 2, 3, 1)):
        x = truncated(ndimage.gaussian_filter(image / 255, (sigma, sigma, 0), mode="nearest"))
        for choice in drawn:
            down, right = (reach - 1 - part.astype(int) for part in divmod(choice[index], 2 * reach))
            x = published_loop(x, down, right, reach)
        x = truncated(ndimage.gaussian_filter(x / 255, (sigma, sigma, 0), mode="nearest"))
        difference = np.abs(blurred[index].astype(int) - x)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.002


def test_glass_reads_up_and_left_with_even_odds() -> None:
    places = np.broadcast_to(np.stack([*np.mgrid[:32, :32], np.zeros((32, 32))]), (64, 3, 32, 32)).astype(
        np.uint8
    )
    moved = places.astype(int) - corrupt(places, "glass_blur", 1, seed=0)
    assert not moved[:, :, :2].any()
    assert not moved[:, :, :, :2].any()
    up, left = moved[:, 0, 2:, 2:], moved[:, 1, 2:, 2:]
    counts = np.bincount((2 * up + left).ravel(), minlength=4)
    assert counts.sum() == 64 * 900
    assert stats.chisquare(counts).pvalue > 1e-4


def test_every_neighbour_within_reach_is_drawn_evenly() -> None:
    choice = generator(0, "even").integers(0, 16, (512, 28, 28), dtype=np.uint8)
    places = np.stack([*np.mgrid[:32, :32], np.zeros((32, 32))]).astype(np.uint8)
    moved = scattered(np.repeat(places[None], 512, axis=0), choice, 2)
    rows, columns = moved[:, :2, 30, 30].T.astype(
        int
    )  # what the loop writes first: nothing was written before
    counts = np.bincount(4 * (rows - 28) + columns - 28, minlength=16)
    assert len(counts) == 16
    assert stats.chisquare(counts).pvalue > 1e-4
