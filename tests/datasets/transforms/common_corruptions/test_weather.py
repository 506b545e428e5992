"""Spatter against slow references written from the algorithms, and against OpenCV where it is installed."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from evalsuite.datasets.transforms.common_corruptions.kinds import corrupt
from evalsuite.datasets.transforms.common_corruptions.weather import (
    distances,
    drops,
    edges,
    equalized,
    splashes,
)
from evalsuite.random_streams import BLOCK, generator

if TYPE_CHECKING:
    from evalsuite.datasets.transforms.common_corruptions.kinds import Size

Array = np.ndarray[Any, Any]

WATER, MUD = (175, 238, 238), (63, 42, 20)


def liquids(count: int, side: int = 32) -> Array:
    noise = np.random.default_rng(0).normal(0.65, 0.3, (count, side, side))
    noise[: count // 2] = ndimage.gaussian_filter(noise[: count // 2], (0, 1, 1), mode="nearest")
    noise[count // 2 :] = ndimage.gaussian_filter(noise[count // 2 :], (0, 2, 2), mode="nearest")
    noise[noise < 0.68] = 0
    return np.asarray(noise)


def canny(levels: Array) -> Array:
    """One image, pixel by pixel: Sobel, thinning in four directions, growth from strong to weak edges."""
    wide = np.pad(levels.astype(int), 1, mode="edge")
    kernel = np.outer([1, 2, 1], [-1, 0, 1])
    dx = ndimage.correlate(wide, kernel)[1:-1, 1:-1]
    dy = ndimage.correlate(wide, kernel.T)[1:-1, 1:-1]
    size = np.pad(abs(dx) + abs(dy), 1)
    thin = np.zeros(levels.shape, bool)
    for y, x in np.ndindex(levels.shape):
        here, angle = size[y + 1, x + 1], math.degrees(math.atan2(abs(dy[y, x]), abs(dx[y, x])))
        if angle < 22.5:
            before, after = size[y + 1, x], size[y + 1, x + 2] - 1
        elif angle > 67.5:
            before, after = size[y, x + 1], size[y + 2, x + 1] - 1
        else:
            s = -1 if dx[y, x] * dy[y, x] < 0 else 1
            before, after = size[y, x + 1 - s], size[y + 2, x + 1 + s]
        thin[y, x] = here > 50 and here > before and here > after
    size = size[1:-1, 1:-1]
    return ndimage.binary_propagation(thin & (size > 150), np.ones((3, 3), bool), mask=thin)


def shortest_paths(targets: Array) -> Array:
    """Dijkstra over steps to neighbours (1), diagonal ones (1.4) and knight's moves (2.1969)."""
    steps = {(y, x): math.hypot(y, x) for y in range(-2, 3) for x in range(-2, 3) if math.gcd(y, x) == 1}
    costs = {step: {1: 1.0, 2: 1.4, 5: 2.1969}[round(length**2)] for step, length in steps.items()}
    shortest = np.full(targets.shape, np.inf)
    queue = [(0.0, int(y), int(x)) for y, x in np.argwhere(targets)]
    while queue:
        length, y, x = heapq.heappop(queue)
        if length >= shortest[y, x]:
            continue
        shortest[y, x] = length
        for (down, right), cost in costs.items():
            i, j = y + down, x + right
            if 0 <= i < len(shortest) and 0 <= j < len(shortest) and length + cost < shortest[i, j]:
                heapq.heappush(queue, (length + cost, i, j))
    return shortest


def equalize(levels: Array) -> Array:
    counts = np.bincount(levels.ravel(), minlength=256)
    first = int(counts.nonzero()[0][0])
    if counts[first] == levels.size:
        return levels
    scale, total, table = np.float32(255) / np.float32(levels.size - counts[first]), 0, np.zeros(256)
    for level in range(first + 1, 256):
        total += counts[level]
        table[level] = np.rint(np.float32(total) * scale)
    return table[levels]


def light(liquid: Array) -> Array:
    """The published chain on one layer, from the parts above."""
    levels = (liquid * 255).astype(int) % 256
    near = np.minimum(shortest_paths(canny(levels)), 20)
    rim = equalize(np.floor(ndimage.uniform_filter(near, 3, mode="mirror") + 1e-6).astype(int))
    relief = ndimage.correlate(rim, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]), mode="mirror")
    smooth = np.rint(ndimage.uniform_filter(np.clip(relief, 0, 255).astype(float), 3, mode="mirror"))
    shine = levels * smooth
    return np.asarray(shine / shine.max())


def test_edges_equal_canny_pixel_by_pixel() -> None:
    levels = (liquids(12) * 255).astype(int).astype(np.uint8)
    levels[-1] = np.random.default_rng(0).integers(0, 256, (32, 32))
    expected = np.stack([canny(image) for image in levels])
    assert 0.05 < expected.mean() < 0.5
    np.testing.assert_array_equal(edges(levels), expected)


def test_edges_do_not_grow_from_one_image_into_the_next() -> None:
    weak, strong = np.zeros((2, 16, 16), np.uint8)
    weak[:, 8:], strong[:, 8:] = 25, 200
    assert edges(np.stack([weak, strong, weak])).any(axis=(1, 2)).tolist() == [False, True, False]


def test_weak_edges_stay_where_they_touch_strong_ones() -> None:
    step = np.zeros((1, 16, 16), np.uint8)
    step[0, :8, 8:], step[0, 8:, 8:] = 200, 30
    np.testing.assert_array_equal(edges(step)[0], canny(step[0]))
    assert edges(step)[0, 12:].any()


def test_distances_equal_shortest_paths() -> None:
    targets = (
        np.random.default_rng(0).random((6, 32, 32))
        < np.array([0.002, 0.005, 0.01, 0.03, 0.1, 0.4])[:, None, None]
    )
    targets[0, 31, 0] = True
    expected = np.minimum(np.stack([shortest_paths(image) for image in targets]), 20)
    np.testing.assert_allclose(np.minimum(distances(targets) / 2**16, 20), expected, atol=1e-3)


def test_distances_without_a_target_are_out_of_sight() -> None:
    assert (distances(np.zeros((1, 16, 16), bool)) >= 20 * 2**16).all()


@settings(max_examples=40)
@given(arrays.arrays(np.uint8, (3, 6, 6), elements=st.integers(0, 20) | st.integers(0, 255)))
def test_equalized_levels_equal_a_walk_through_the_histogram(levels: Array) -> None:
    np.testing.assert_array_equal(equalized(levels), np.stack([equalize(image) for image in levels]))


def test_one_level_stays_as_it_is() -> None:
    assert (equalized(np.full((2, 5, 5), 20, np.uint8)) == 20).all()


def test_drops_equal_the_chain_of_slow_parts() -> None:
    layers = liquids(8)
    expected = np.stack([light(layer) for layer in layers])
    assert (np.abs(drops(layers) - expected) > 1e-6).mean() < 0.001


def test_levels_above_255_start_anew() -> None:
    layers = liquids(2)
    layers[:, 10, 10] = 1 + 1.5 / 255
    assert (drops(layers)[:, 10, 10] == 0).all()


def test_a_layer_without_liquid_leaves_no_light() -> None:
    assert not drops(np.zeros((1, 16, 16))).any()


CASES: list[tuple[Size, int, tuple[float, ...]]] = [
    ("cifar", 1, (0.62, 0.1, 0.7, 0.7, 0.5, 0)),
    ("cifar", 2, (0.65, 0.1, 0.8, 0.7, 0.5, 0)),
    ("cifar", 3, (0.65, 0.3, 1, 0.69, 0.5, 0)),
    ("cifar", 4, (0.65, 0.1, 0.7, 0.69, 0.6, 1)),
    ("cifar", 5, (0.65, 0.1, 0.5, 0.68, 0.6, 1)),
    ("tiny-imagenet", 1, (0.62, 0.1, 0.7, 0.7, 0.6, 0)),
    ("tiny-imagenet", 3, (0.65, 0.3, 1, 0.69, 0.6, 0)),
    ("tiny-imagenet", 5, (0.65, 0.1, 0.5, 0.67, 0.6, 1)),
    ("imagenet", 1, (0.65, 0.3, 4, 0.69, 0.6, 0)),
    ("imagenet", 2, (0.65, 0.3, 3, 0.68, 0.6, 0)),
    ("imagenet", 3, (0.65, 0.3, 2, 0.68, 0.5, 0)),
    ("imagenet", 4, (0.65, 0.3, 1, 0.65, 1.5, 1)),
    ("imagenet", 5, (0.67, 0.4, 1, 0.65, 1.5, 1)),
]


@pytest.mark.parametrize(("size", "severity", "constants"), CASES)
def test_spatter_equals_a_slow_reference_with_the_same_draws(
    size: Size, severity: int, constants: tuple[float, ...]
) -> None:
    loc, scale, sigma, threshold, strength, mud = constants
    images = np.random.default_rng(1).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
    noise = generator(0, "spatter", severity, 0).standard_normal((BLOCK, 32, 32), dtype=np.float32)[:6]
    spattered = corrupt(images, "spatter", severity, seed=0, constants=size)
    for index, image in enumerate(images / 255):
        liquid = ndimage.gaussian_filter(loc + scale * noise[index].astype(float), sigma, mode="nearest")
        liquid[liquid < threshold] = 0
        if mud:
            cover = ndimage.gaussian_filter((liquid > threshold).astype(np.float32), strength, mode="nearest")
            cover[cover < 0.8] = 0
            x = image * (1 - cover) + cover * np.array(MUD)[:, None, None] / 255
        else:
            cover = light(liquid)
            x = image + strength * cover * np.array(WATER)[:, None, None] / 255
        assert cover.max() > 0.5
        difference = np.abs((np.clip(x, 0, 1) * 255 + 1e-4).astype(int) - spattered[index])
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.005


def test_mud_covers_where_four_fifths_of_the_weight_are_wet() -> None:
    half = np.zeros((1, 16, 16), bool)
    half[..., :8] = True
    for sigma, shore in ((0.6, 8), (1.5, 7)):  # 0.83 and 0.63 on the last wet pixel
        cover = splashes(half, sigma)[0, 0]
        assert (cover[:shore] > 0.8).all()
        assert not cover[shore:].any()


def test_the_steps_equal_those_of_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    layers = liquids(40, 48)
    levels = (layers * 255).astype(int).astype(np.uint8)
    light, lines = drops(layers), edges(levels)
    far = distances(lines)
    for index, layer in enumerate(levels):
        line = cv2.Canny(layer, 50, 150)
        np.testing.assert_array_equal(lines[index], line > 0)
        near = np.minimum(cv2.distanceTransform(255 - line, cv2.DIST_L2, 5), np.float32(20))
        np.testing.assert_allclose(np.minimum(far[index] / 2**16, 20), near, atol=1e-3)
        rim = cv2.equalizeHist(cv2.blur(near, (3, 3)).astype(np.uint8))
        np.testing.assert_array_equal(equalized(rim[None])[0], cv2.equalizeHist(rim))
        relief = cv2.filter2D(rim, cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]))
        shine = layer * cv2.blur(relief, (3, 3)).astype(np.float32)
        assert (np.abs(light[index] - shine / shine.max()) > 1e-6).mean() < 0.01
