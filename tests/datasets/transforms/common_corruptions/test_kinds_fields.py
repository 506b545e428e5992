"""Fog and elastic_transform: slow references of the random fields, with matched draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import ndimage

from evalsuite.datasets.transforms.common_corruptions.digital import displaced, smooth_field, warped
from evalsuite.datasets.transforms.common_corruptions.kinds import corrupt
from evalsuite.datasets.transforms.common_corruptions.weather import plasma
from evalsuite.random_streams import BLOCK, generator

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


def diamond_square(kicks: Array, decay: float) -> Array:
    """Pixel by pixel on a torus: each new point is the mean of its four neighbours plus a kick."""
    size = len(kicks)
    field = np.zeros((size, size))
    step, wibble = size, 100.0
    while step >= 2:
        half = step // 2
        squares = [(y, x) for y in range(half, size, step) for x in range(half, size, step)]
        diamonds = [
            (y, x) for y in range(0, size, half) for x in range(0, size, half) if (y // half + x // half) % 2
        ]
        for points, reach in (
            (squares, ((1, 1), (1, -1), (-1, 1), (-1, -1))),
            (diamonds, ((0, 1), (1, 0), (0, -1), (-1, 0))),
        ):
            for y, x in points:
                around = [field[(y + half * dy) % size, (x + half * dx) % size] for dy, dx in reach]
                field[y, x] = sum(around) / 4 + wibble**2 * kicks[y, x]
        step, wibble = half, wibble / decay
    field -= field.min()
    return np.asarray(field / field.max())


@pytest.mark.parametrize("decay", [3, 1.75])
def test_plasma_equals_diamond_square_pixel_by_pixel(decay: float) -> None:
    kicks = np.random.default_rng(0).uniform(-1, 1, (3, 32, 32)).astype(np.float32)
    expected = [diamond_square(noise, decay) for noise in kicks]
    np.testing.assert_allclose(plasma(kicks, decay), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("size", "rows"),
    [
        ("cifar", [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)]),
        ("tiny-imagenet", [(0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)]),
        ("imagenet", [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)]),
    ],
)
@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_fog_equals_a_slow_reference_with_the_same_draws(
    size: Size, rows: list[tuple[float, float]], severity: int
) -> None:
    strength, decay = rows[severity - 1]
    images = scenes(4) // 2 + 20  # the maximum is not 255
    kicks = 2 * generator(0, "fog", severity, 0).random((BLOCK, 32, 32), dtype=np.float32) - 1
    foggy = corrupt(images, "fog", severity, seed=0, constants=size)
    for index, image in enumerate(images):
        x = image / 255
        most = x.max()
        x = (x + strength * diamond_square(kicks[index], decay)) * most / (most + strength)
        difference = np.abs(truncated(x).astype(int) - foggy[index])
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.005


def test_fog_is_cut_from_the_next_power_of_two() -> None:
    images = scenes(2, 33)
    kicks = 2 * generator(0, "fog", 3, 0).random((BLOCK, 64, 64), dtype=np.float32) - 1
    clouds = np.stack([diamond_square(noise, 2.5)[:33, :33] for noise in kicks[:2]])[:, None]
    most = images.max(axis=(1, 2, 3), keepdims=True) / 255
    expected = truncated((images / 255 + 0.75 * clouds) * most / (most + 0.75))
    difference = np.abs(expected.astype(int) - corrupt(images, "fog", 3, seed=0))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.005


def test_fog_on_black_stays_black() -> None:
    assert not corrupt(np.zeros((2, 3, 32, 32), np.uint8), "fog", 5, seed=0).any()


# --- elastic --------------------------------------------------------------------------------------


def test_warp_equals_spline_sampling_of_the_affine_map() -> None:
    images = scenes(4).astype(np.float32)
    jitter = np.random.default_rng(0).uniform(-2.56, 2.56, (4, 3, 2))
    anchors = np.array([[26, 26], [26, 6], [6, 6]])
    for index in range(4):
        source = np.column_stack([anchors + jitter[index], np.ones(3)])
        forward = np.linalg.lstsq(np.column_stack([anchors, np.ones(3)]), source[:, :2], rcond=None)[0]
        turn, shift = forward[:2].T[::-1, ::-1], forward[2, ::-1]  # rows before columns
        back = np.linalg.inv(turn)
        expected = [
            ndimage.affine_transform(c, back, -back @ shift, order=1, mode="mirror") for c in images[index]
        ]
        np.testing.assert_allclose(warped(images, jitter)[index], expected, atol=0.01)


def test_displacement_equals_spline_sampling() -> None:
    images = scenes(3).astype(np.float32)
    shift = 6 * np.random.default_rng(0).uniform(-1, 1, (3, 2, 32, 32))
    rows, columns = np.mgrid[:32, :32]
    for image, (dx, dy), warped_image in zip(images, shift, displaced(images, shift), strict=True):
        expected = [
            ndimage.map_coordinates(c, [rows + dy, columns + dx], order=1, mode="reflect") for c in image
        ]
        np.testing.assert_allclose(warped_image, expected, atol=0.01)


@pytest.mark.parametrize("sigma", [6.4, 0.96, 170.8])
def test_field_equals_scipy(sigma: float) -> None:
    field = np.random.default_rng(0).uniform(-1, 1, (2, 2, 32, 32)).astype(np.float32)
    expected = ndimage.gaussian_filter(field, (0, 0, sigma, sigma), mode="reflect", truncate=3)
    np.testing.assert_allclose(smooth_field(field, sigma), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "severity", "unit", "alpha", "sigma", "affine"),
    [
        ("cifar", 2, 32, 0.05, 0.2, 0.07),
        ("cifar", 3, 32, 0.08, 0.06, 0.06),
        ("cifar", 4, 32, 0.1, 0.04, 0.05),
        ("cifar", 5, 32, 0.1, 0.03, 0.03),
        ("tiny-imagenet", 2, 64, 0.05, 0.3, 0.06),
        ("tiny-imagenet", 3, 64, 0.1, 0.08, 0.06),
        ("tiny-imagenet", 4, 64, 0.1, 0.03, 0.03),
        ("tiny-imagenet", 5, 64, 0.16, 0.03, 0.02),
        ("imagenet", 1, 244, 2, 0.7, 0.1),
        ("imagenet", 2, 244, 2, 0.08, 0.2),
        ("imagenet", 3, 244, 0.05, 0.01, 0.02),
        ("imagenet", 4, 244, 0.07, 0.01, 0.02),
        ("imagenet", 5, 244, 0.12, 0.01, 0.02),
    ],
)
def test_elastic_composes_the_parts_with_its_constants(
    size: Size, severity: int, unit: int, alpha: float, sigma: float, affine: float
) -> None:
    images = scenes(4)
    draws = generator(0, "elastic_transform", severity, 0)
    jitter = unit * affine * (2 * draws.random((BLOCK, 3, 2), dtype=np.float32)[:4] - 1)
    noise = 2 * draws.random((BLOCK, 2, 32, 32), dtype=np.float32)[:4] - 1
    shift = unit * alpha * smooth_field(noise, unit * sigma)
    expected = displaced(warped(images.astype(np.float32), jitter), shift)
    difference = np.abs(
        corrupt(images, "elastic_transform", severity, seed=0, constants=size) - np.trunc(expected)
    )
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001


def test_elastic_is_affine_alone_at_severity_one() -> None:
    images = scenes(4)
    jitter = 2.56 * (
        2 * generator(0, "elastic_transform", 1, 0).random((BLOCK, 3, 2), dtype=np.float32)[:4] - 1
    )
    expected = np.trunc(warped(images.astype(np.float32), jitter))
    assert (np.abs(corrupt(images, "elastic_transform", 1, seed=0) - expected) > 0).mean() < 0.001
