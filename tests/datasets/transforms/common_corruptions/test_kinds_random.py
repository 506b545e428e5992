"""Motion, snow and frost: slow references with matched draws, and the distribution of the crops."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import ndimage, stats

from evalsuite.datasets.transforms.common_corruptions.blur import streaked
from evalsuite.datasets.transforms.common_corruptions.frost import frost_layers, photographs
from evalsuite.datasets.transforms.common_corruptions.kinds import corrupt
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


# --- motion, snow ---------------------------------------------------------------------------------


def streak(layer: Array, angle: float, radius: int, sigma: float) -> Array:
    """One layer (S, S), tap by tap and pixel by pixel."""
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
    turn, last = math.radians(angle), len(layer) - 1
    rows, columns = np.mgrid[: len(layer), : len(layer)]
    total = np.zeros(layer.shape)
    for i, weight in enumerate(weights):
        y = np.clip(rows + math.ceil(i * math.sin(turn) - 0.5), 0, last)
        x = np.clip(columns + math.ceil(i * math.cos(turn) - 0.5), 0, last)
        total += weight / sum(weights) * layer[y, x]
    return total


@pytest.mark.parametrize(("radius", "sigma"), [(6, 1.0), (9, 2.5), (14, 12.0)])
def test_streaks_equal_a_sum_over_taps(radius: int, sigma: float) -> None:
    layers = scenes(9).astype(np.float32)
    angles = np.array([30, -45, 0, 44.9, 0.3, -90, -133, -61.7, -47], np.float32)
    expected = [[streak(c, float(a), radius, sigma) for c in x] for x, a in zip(layers, angles, strict=True)]
    np.testing.assert_allclose(streaked(layers, angles, radius, sigma), expected, atol=1e-3)


def test_a_streak_leaves_a_point_on_one_side_only() -> None:
    point = np.zeros((1, 1, 32, 32), np.float32)
    point[0, 0, 16, 16] = 1
    row = streaked(point, np.zeros(1, np.float32), 6, 2)[0, 0, 16]
    assert (np.diff(row[16 - 8 : 17]) > 0).all()  # read from the right: the trail lies to the left and fades
    assert not row[17:].any()
    assert row.sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("size", "severity", "radius", "sigma"),
    [
        ("cifar", 1, 6, 1),
        ("cifar", 2, 6, 1.5),
        ("cifar", 3, 6, 2),
        ("cifar", 4, 8, 2),
        ("cifar", 5, 9, 2.5),
        ("tiny-imagenet", 4, 10, 2.5),
        ("tiny-imagenet", 5, 12, 3),
        ("imagenet", 1, 10, 3),
        ("imagenet", 2, 15, 5),
        ("imagenet", 3, 15, 8),
        ("imagenet", 4, 15, 12),
        ("imagenet", 5, 20, 15),
    ],
)
def test_motion_equals_a_slow_reference_with_the_same_angles(
    size: Size, severity: int, radius: int, sigma: float
) -> None:
    images = scenes(5)
    turns = generator(2, "motion_blur", severity, 0).random(BLOCK, dtype=np.float32) * 90 - 45
    expected = [
        [streak(c, float(a), radius, sigma) for c in x] for x, a in zip(images, turns[:5], strict=True)
    ]
    difference = np.abs(corrupt(images, "motion_blur", severity, seed=2, constants=size) - np.rint(expected))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001


@pytest.mark.parametrize(
    ("size", "severity", "constants"),
    [
        ("cifar", 1, (0.1, 0.2, 1, 0.6, 8, 3, 0.95)),
        ("cifar", 2, (0.1, 0.2, 1, 0.5, 10, 4, 0.9)),
        ("cifar", 3, (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9)),
        ("cifar", 4, (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85)),
        ("cifar", 5, (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8)),
        ("tiny-imagenet", 3, (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7)),
        ("imagenet", 1, (0.1, 0.3, 3, 0.5, 10, 4, 0.8)),
        ("imagenet", 2, (0.2, 0.3, 2, 0.5, 12, 4, 0.7)),
        ("imagenet", 3, (0.55, 0.3, 4, 0.9, 12, 8, 0.7)),
        ("imagenet", 4, (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65)),
        ("imagenet", 5, (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55)),
    ],
)
def test_snow_equals_a_slow_reference_with_the_same_draws(
    size: Size, severity: int, constants: tuple[float, ...]
) -> None:
    loc, scale, factor, threshold, radius, sigma, mix = constants
    images = scenes(4)
    draws = generator(0, "snow", severity, 0)
    layers = loc + scale * draws.standard_normal((BLOCK, 32, 32), dtype=np.float32)
    angles = draws.random(BLOCK, dtype=np.float32) * 90 - 135
    snowy = corrupt(images, "snow", severity, seed=0, constants=size)
    for index, image in enumerate(images):
        crop = math.ceil(32 / factor)
        top = (32 - crop) // 2
        layer = ndimage.zoom(layers[index, top : top + crop, top : top + crop], factor, order=1)
        trim = (len(layer) - 32) // 2
        layer = layer[trim : trim + 32, trim : trim + 32]
        layer = truncated(np.where(layer < threshold, 0, layer))
        layer = np.rint(streak(layer, float(angles[index]), int(radius), sigma)) / 255
        x = image / 255
        gray = np.tensordot([0.299, 0.587, 0.114], x, 1)
        x = mix * x + (1 - mix) * np.maximum(x, 1.5 * gray + 0.5)
        difference = np.abs(truncated(x + layer + np.rot90(layer, 2)).astype(int) - snowy[index])
        assert (difference > 1).mean() < 0.001  # a flake on the threshold may fall either way
        assert (difference > 0).mean() < 0.005


# --- frost ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "rows"),
    [
        ("cifar", [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)]),
        ("tiny-imagenet", [(1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)]),
        ("imagenet", [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)]),
    ],
)
@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_frost_adds_a_crop_of_the_photograph(
    size: Size, rows: list[tuple[float, float]], severity: int
) -> None:
    a, b = rows[severity - 1]
    images = scenes(4)
    photograph = np.full((300, 200, 3), (10, 90, 250), np.uint8)
    frosted = corrupt(images, "frost", severity, seed=0, textures=[photograph], constants=size)
    expected = np.clip(a * images + b * np.array([10, 90, 250])[:, None, None], 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(frosted, expected)


def test_frost_crops_the_photograph_resized_by_a_fifth_anywhere() -> None:
    ramp = np.zeros((303, 203, 3), np.uint8)  # 61 x 41 px after resizing
    ramp[..., 0] = np.arange(303)[:, None] // 5 * 4
    ramp[..., 1] = np.arange(203) // 5 * 6
    dark = corrupt(np.zeros((3000, 3, 32, 32), np.uint8), "frost", 5, seed=0, textures=[ramp])
    rows = np.searchsorted(np.floor(0.45 * 4 * np.arange(61)), dark[:, 0, 0, 0])
    columns = np.searchsorted(np.floor(0.45 * 6 * np.arange(41)), dark[:, 1, 0, 0])
    for places, count in ((rows, 29), (columns, 9)):  # the draw excludes the last place that fits
        counts = np.bincount(places)
        assert len(counts) == count
        assert stats.chisquare(counts).pvalue > 1e-4
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.08


def test_frost_resizes_as_bilinear_sampling_does() -> None:
    photograph = np.random.default_rng(0).integers(
        0, 256, (166, 166, 3), dtype=np.uint8
    )  # 33 px: one crop only
    centres = (np.arange(32) + 0.5) * 5 - 0.5
    grid = np.meshgrid(centres, centres, indexing="ij")
    small = np.stack([ndimage.map_coordinates(photograph[..., c] / 1.0, grid, order=1) for c in range(3)])
    frosted = corrupt(np.zeros((1, 3, 32, 32), np.uint8), "frost", 1, seed=0, textures=[photograph])
    np.testing.assert_array_equal(frosted[0], (0.2 * small).astype(np.uint8))


def test_frost_of_full_size_is_cropped_anywhere() -> None:
    ramp = np.zeros((50, 41, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = 4 * np.arange(50)[:, None], 4 * np.arange(41)
    black = np.zeros((2000, 3, 32, 32), np.uint8)
    frosted = corrupt(black, "frost", 3, seed=0, textures=[ramp], constants="imagenet")
    rows = np.searchsorted(np.floor(0.7 * 4 * np.arange(50)), frosted[:, 0, 0, 0])
    columns = np.searchsorted(np.floor(0.7 * 4 * np.arange(41)), frosted[:, 1, 0, 0])
    for places, count in ((rows, 18), (columns, 9)):
        counts = np.bincount(places)
        assert len(counts) == count
        assert stats.chisquare(counts).pvalue > 1e-4
    crops = 0.7 * ramp[rows[:, None, None] + np.arange(32)[:, None], columns[:, None, None] + np.arange(32)]
    np.testing.assert_array_equal(frosted, crops.astype(np.uint8).transpose(0, 3, 1, 2))


@pytest.mark.parametrize("height", [125, 126, 127, 128])
def test_frost_of_tiny_imagenet_is_resized_bilinearly_by_three_tenths(height: int) -> None:
    photograph = np.random.default_rng(0).integers(0, 256, (height, 150, 3), dtype=np.uint8)
    centres = [np.clip((np.arange(round(0.3 * n)) + 0.5) / 0.3 - 0.5, 0, n - 1) for n in (height, 150)]
    grid = np.meshgrid(*centres, indexing="ij")
    small = [ndimage.map_coordinates(photograph[..., c] / 1.0, grid, order=1) for c in range(3)]
    (resized,) = photographs([photograph], 32, factor=0.3)
    difference = np.abs(resized - np.rint(np.stack(small)))
    assert resized.shape[1:] == (round(0.3 * height), 45)
    assert (difference > 0).mean() < 0.06  # halves
    assert difference.max() <= 1


def test_frost_draws_evenly_from_the_first_five_photographs() -> None:
    levels = (
        50,
        100,
        100,
        150,
        200,
        250,
    )  # the published second and third are the same picture; the sixth is unused
    textures = [np.full((200, 200, 3), level, np.uint8) for level in levels]
    corners = corrupt(np.zeros((2000, 3, 16, 16), np.uint8), "frost", 5, seed=0, textures=textures)[
        :, 0, 0, 0
    ]
    counts = [(corners == int(0.45 * level)).sum() for level in (50, 100, 150, 200)]
    assert sum(counts) == 2000
    assert stats.chisquare(counts, [400, 800, 400, 400]).pvalue > 1e-4


def test_synthetic_frost_depends_on_the_seed_and_is_as_bright_as_photographs() -> None:
    layers = np.stack(frost_layers(0, 32))
    assert layers.shape == (5, 3, 128, 128)
    np.testing.assert_array_equal(layers, np.stack(frost_layers.__wrapped__(0, 32)))
    assert (layers != np.stack(frost_layers(1, 32))).mean() > 0.9
    assert 135 < layers.mean() < 160
    assert 35 < layers.std() < 60
    red, _, blue = layers.mean(axis=(0, 2, 3))
    assert red < blue
    assert (np.abs(np.diff(layers.astype(int), axis=-1)) > 30).mean() > 0.05  # needles, not clouds
