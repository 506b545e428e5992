"""The random kinds: distributions where draws are single numbers, else slow references with matched draws."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from evalsuite.data import corruption_noise as noise
from evalsuite.data.corruption_blur import scattered, streaked
from evalsuite.data.corruption_digital import displaced, smooth_field, warped
from evalsuite.data.corruption_frost import frost_layers
from evalsuite.data.corruption_weather import plasma
from evalsuite.data.corruptions import corrupt
from evalsuite.randomness import BLOCK, generator

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray[Any, Any]


def scenes(count: int, side: int = 32) -> Array:
    rng = np.random.default_rng(0)
    fields = ndimage.gaussian_filter(rng.standard_normal((count, 3, side, side)), (0, 0, 2, 2))
    return np.asarray(np.clip(128 + 80 * fields / fields.std(), 0, 255), np.uint8)


def truncated(values: Array) -> Array:
    levels: Array = np.clip(values, 0, 1) * 255
    return levels.astype(np.uint8)


# --- noise: every old level has its distribution --------------------------------------------------


def gaussian(x: Array, sigma: float, rng: np.random.Generator) -> Array:
    return truncated(x + rng.normal(0, sigma, x.shape))


def shot(x: Array, rate: float, rng: np.random.Generator) -> Array:
    return truncated(rng.poisson(x * rate) / rate)


def impulse(x: Array, share: float, rng: np.random.Generator) -> Array:
    struck, salt = rng.random(x.shape) < share, rng.random(x.shape) < 0.5
    return truncated(np.where(struck, salt * 1.0, x))


NOISES = [
    ("gaussian_noise", gaussian, (0.04, 0.06, 0.08, 0.09, 0.10)),
    ("shot_noise", shot, (500, 250, 100, 75, 50)),
    ("impulse_noise", impulse, (0.01, 0.02, 0.03, 0.05, 0.07)),
]


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("level", [0, 3, 100, 201, 255])
@pytest.mark.parametrize(("kind", "reference", "constants"), NOISES, ids=[row[0] for row in NOISES])
def test_noise_has_the_distribution_of_the_published_operation(
    kind: str, reference: Callable[..., Array], constants: tuple[float, ...], level: int, severity: int
) -> None:
    even = np.full((64, 3, 32, 32), level, np.uint8)
    found = np.bincount(corrupt(even, kind, severity, seed=0).ravel(), minlength=256)
    drawn = reference(even / 255, constants[severity - 1], np.random.default_rng(1))
    table = np.stack([found, np.bincount(drawn.ravel(), minlength=256)])
    rare = table.sum(axis=0) < 20
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    table = table[:, table.sum(axis=0) > 0]
    assert table.shape[1] == 1 or stats.chi2_contingency(table).pvalue > 1e-4


@pytest.mark.parametrize("kind", [row[0] for row in NOISES])
def test_noise_is_independent_from_value_to_value(kind: str) -> None:
    values = corrupt(np.full((128, 3, 32, 32), 120, np.uint8), kind, 5, seed=3).astype(float)
    values -= values.mean()
    variance = (values**2).mean()
    for axis in range(4):  # images, channels, rows, columns
        ahead = np.take(values, range(1, values.shape[axis]), axis)
        behind = np.take(values, range(values.shape[axis] - 1), axis)
        assert abs((ahead * behind).mean()) < 5 * variance / math.sqrt(ahead.size)


@settings(max_examples=60, deadline=None)
@given(
    old=st.integers(0, 255),
    uniform=st.integers(0, 2**32 - 1) | st.integers(0, 4095).map(lambda cell: cell << 20),
    row=st.sampled_from(
        [
            (noise._gaussian, (0.08,)),
            (noise._shot, (500.0,)),
            (noise._shot, (50.0,)),
            (noise._impulse, (0.07,)),
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
        found = table.at(np.array([[old]], np.uint8), np.array([[number]], np.uint32))
        assert found.item() == (steps <= number).sum()


# --- glass ----------------------------------------------------------------------------------------


def glass_loop(image: Array, left: Array, up: Array) -> Array:
    """The published loop on one image (S, S, 3), its exchange of two views included."""
    x = image.copy()
    for h in range(len(x) - 1, 1, -1):
        for w in range(len(x) - 1, 1, -1):
            i, j = h - int(up[h - 2, w - 2]), w - int(left[h - 2, w - 2])
            x[h, w], x[i, j] = x[i, j], x[h, w]
    return x


def test_scattering_equals_the_loop_over_views() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    left, up = rng.integers(0, 2, (2, 3, 1, 30, 30), dtype=np.uint8)
    expected = [
        glass_loop(x.transpose(1, 2, 0), a[0], b[0]) for x, a, b in zip(images, left, up, strict=True)
    ]
    np.testing.assert_array_equal(
        scattered(images, left=left, up=up), np.stack(expected).transpose(0, 3, 1, 2)
    )


@pytest.mark.parametrize(
    ("severity", "sigma", "passes"), [(1, 0.05, 1), (2, 0.25, 1), (3, 0.4, 1), (4, 0.25, 2), (5, 0.4, 2)]
)
def test_glass_equals_a_slow_reference_with_the_same_draws(severity: int, sigma: float, passes: int) -> None:
    images = scenes(3)
    draws = generator(7, "glass_blur", severity, 0)
    bits = [draws.integers(0, 4, (BLOCK, 1, 30, 30), dtype=np.uint8)[:, 0] for _ in range(passes)]
    for index, image in enumerate(images.transpose(0, 2, 3, 1)):
        x = truncated(ndimage.gaussian_filter(image / 255, (sigma, sigma, 0), mode="nearest"))
        for choice in bits:
            x = glass_loop(x, choice[index] & 1, choice[index] >> 1)
        x = truncated(ndimage.gaussian_filter(x / 255, (sigma, sigma, 0), mode="nearest"))
        found = corrupt(images, "glass_blur", severity, seed=7)[index].transpose(1, 2, 0)
        difference = np.abs(found.astype(int) - x)
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
    ("severity", "radius", "sigma"), [(1, 6, 1), (2, 6, 1.5), (3, 6, 2), (4, 8, 2), (5, 9, 2.5)]
)
def test_motion_equals_a_slow_reference_with_the_same_angles(
    severity: int, radius: int, sigma: float
) -> None:
    images = scenes(5)
    turns = generator(2, "motion_blur", severity, 0).random(BLOCK, dtype=np.float32) * 90 - 45
    expected = [
        [streak(c, float(a), radius, sigma) for c in x] for x, a in zip(images, turns[:5], strict=True)
    ]
    difference = np.abs(corrupt(images, "motion_blur", severity, seed=2) - np.rint(expected))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001


@pytest.mark.parametrize(
    ("severity", "constants"),
    [
        (1, (0.1, 0.2, 1, 0.6, 8, 3, 0.95)),
        (2, (0.1, 0.2, 1, 0.5, 10, 4, 0.9)),
        (3, (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9)),
        (4, (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85)),
        (5, (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8)),
    ],
)
def test_snow_equals_a_slow_reference_with_the_same_draws(
    severity: int, constants: tuple[float, ...]
) -> None:
    loc, scale, factor, threshold, radius, sigma, mix = constants
    images = scenes(4)
    draws = generator(0, "snow", severity, 0)
    layers = loc + scale * draws.standard_normal((BLOCK, 32, 32), dtype=np.float32)
    angles = draws.random(BLOCK, dtype=np.float32) * 90 - 135
    found = corrupt(images, "snow", severity, seed=0)
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
        difference = np.abs(truncated(x + layer + np.rot90(layer, 2)).astype(int) - found[index])
        assert (difference > 1).mean() < 0.001  # a flake on the threshold may fall either way
        assert (difference > 0).mean() < 0.005


# --- frost ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("severity", "a", "b"), [(1, 1, 0.2), (2, 1, 0.3), (3, 0.9, 0.4), (4, 0.85, 0.4), (5, 0.75, 0.45)]
)
def test_frost_adds_a_crop_of_the_photograph(severity: int, a: float, b: float) -> None:
    images = scenes(4)
    photograph = np.full((300, 200, 3), (10, 90, 250), np.uint8)
    found = corrupt(images, "frost", severity, seed=0, textures=[photograph])
    expected = np.clip(a * images + b * np.array([10, 90, 250])[:, None, None], 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(found, expected)


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
    found = corrupt(np.zeros((1, 3, 32, 32), np.uint8), "frost", 1, seed=0, textures=[photograph])
    np.testing.assert_array_equal(found[0], (0.2 * small).astype(np.uint8))


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
    found = corrupt(np.zeros((2000, 3, 16, 16), np.uint8), "frost", 5, seed=0, textures=textures)[:, 0, 0, 0]
    counts = [(found == int(0.45 * level)).sum() for level in (50, 100, 150, 200)]
    assert sum(counts) == 2000
    assert stats.chisquare(counts, [400, 800, 400, 400]).pvalue > 1e-4


def test_painted_frost_belongs_to_the_seed_and_is_as_bright_as_photographs() -> None:
    layers = np.stack(frost_layers(0, 32))
    assert layers.shape == (5, 3, 128, 128)
    np.testing.assert_array_equal(layers, np.stack(frost_layers.__wrapped__(0, 32)))
    assert (layers != np.stack(frost_layers(1, 32))).mean() > 0.9
    assert 135 < layers.mean() < 160
    assert 35 < layers.std() < 60
    red, _, blue = layers.mean(axis=(0, 2, 3))
    assert red < blue
    assert (np.abs(np.diff(layers.astype(int), axis=-1)) > 30).mean() > 0.05  # needles, not clouds


# --- fog ------------------------------------------------------------------------------------------


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
    expected = [diamond_square(one, decay) for one in kicks]
    np.testing.assert_allclose(plasma(kicks, decay), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("severity", "strength", "decay"), [(1, 0.2, 3), (2, 0.5, 3), (3, 0.75, 2.5), (4, 1, 2), (5, 1.5, 1.75)]
)
def test_fog_equals_a_slow_reference_with_the_same_draws(
    severity: int, strength: float, decay: float
) -> None:
    images = scenes(4) // 2 + 20  # the maximum is not 255
    kicks = 2 * generator(0, "fog", severity, 0).random((BLOCK, 32, 32), dtype=np.float32) - 1
    found = corrupt(images, "fog", severity, seed=0)
    for index, image in enumerate(images):
        x = image / 255
        most = x.max()
        x = (x + strength * diamond_square(kicks[index], decay)) * most / (most + strength)
        difference = np.abs(truncated(x).astype(int) - found[index])
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
    for image, (dx, dy), found in zip(images, shift, displaced(images, shift), strict=True):
        expected = [
            ndimage.map_coordinates(c, [rows + dy, columns + dx], order=1, mode="reflect") for c in image
        ]
        np.testing.assert_allclose(found, expected, atol=0.01)


@pytest.mark.parametrize("sigma", [6.4, 0.96])
def test_field_equals_scipy(sigma: float) -> None:
    field = np.random.default_rng(0).uniform(-1, 1, (2, 2, 32, 32)).astype(np.float32)
    expected = ndimage.gaussian_filter(field, (0, 0, sigma, sigma), mode="reflect", truncate=3)
    np.testing.assert_allclose(smooth_field(field, sigma), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("severity", "alpha", "sigma", "affine"),
    [(2, 0.05, 0.2, 0.07), (3, 0.08, 0.06, 0.06), (4, 0.1, 0.04, 0.05), (5, 0.1, 0.03, 0.03)],
)
def test_elastic_composes_the_parts_with_its_constants(
    severity: int, alpha: float, sigma: float, affine: float
) -> None:
    images = scenes(4)
    draws = generator(0, "elastic_transform", severity, 0)
    jitter = 32 * affine * (2 * draws.random((BLOCK, 3, 2), dtype=np.float32)[:4] - 1)
    noise = 2 * draws.random((BLOCK, 2, 32, 32), dtype=np.float32)[:4] - 1
    shift = 32 * alpha * smooth_field(noise, 32 * sigma)
    expected = displaced(warped(images.astype(np.float32), jitter), shift)
    difference = np.abs(corrupt(images, "elastic_transform", severity, seed=0) - np.trunc(expected))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001


def test_elastic_is_affine_alone_at_severity_one() -> None:
    images = scenes(4)
    jitter = 2.56 * (
        2 * generator(0, "elastic_transform", 1, 0).random((BLOCK, 3, 2), dtype=np.float32)[:4] - 1
    )
    expected = np.trunc(warped(images.astype(np.float32), jitter))
    assert (np.abs(corrupt(images, "elastic_transform", 1, seed=0) - expected) > 0).mean() < 0.001
