"""The deterministic kinds against slow references, one image at a time: scipy, Pillow, colorsys."""

from __future__ import annotations

import colorsys
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from evalsuite.data.corruptions import corrupt

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray[Any, Any]


def scenes(count: int) -> Array:
    """Soft shapes, hard edges, a white sky, black ground, greys: NHWC."""
    rng = np.random.default_rng(0)
    fields = ndimage.gaussian_filter(rng.standard_normal((count, 32, 32, 3)), (0, 2, 2, 0))
    fields = 128 + 90 * fields / fields.std() + 6 * rng.standard_normal(fields.shape)
    fields[:, :8, 10:] = 255
    fields[:, 24:, :12] = 0
    fields[:, 20:24, 20:] = rng.integers(0, 256, (count, 1, 1, 1))
    return np.asarray(np.clip(fields, 0, 255), np.uint8)


def truncated(image: Array) -> Array:
    levels: Array = np.clip(image, 0, 1) * 255
    return levels.astype(np.uint8)


def contrast(image: Array, factor: float) -> Array:
    x = image / 255
    mean = x.mean(axis=(0, 1))
    return truncated((x - mean) * factor + mean)


def brightness(image: Array, shift: float) -> Array:
    def pixel(rgb: Array) -> tuple[float, float, float]:
        hue, saturation, value = colorsys.rgb_to_hsv(*(rgb / 255))
        return colorsys.hsv_to_rgb(hue, saturation, min(value + shift, 1))

    return truncated(np.apply_along_axis(pixel, 2, image))


def defocus(image: Array, radius: float, sigma: float) -> Array:
    y, x = np.mgrid[-8:9, -8:9]
    disk = (x**2 + y**2 <= radius**2) * 1.0
    tap = np.exp(-(np.arange(-1, 2) ** 2) / (2 * sigma**2))
    kernel = ndimage.convolve(disk / disk.sum(), np.outer(tap, tap) / tap.sum() ** 2, mode="constant")
    blurred = [ndimage.correlate(image[..., c] / 255, kernel, mode="mirror") for c in range(3)]
    return truncated(np.stack(blurred, axis=-1) * (1 + 1e-9))  # the float32 kernel sums to 1 + 1e-9 … 5e-8


def zoom(image: Array, end: float, count: int) -> Array:
    factors = np.arange(1, end, 0.01)
    assert len(factors) == count
    x = (image / 255).astype(np.float32)
    total = x.copy()
    for factor in factors:
        crop = int(np.ceil(32 / factor))
        top = (32 - crop) // 2
        large = ndimage.zoom(x[top : top + crop, top : top + crop], (factor, factor, 1), order=1)
        trim = (len(large) - 32) // 2
        total += large[trim : trim + 32, trim : trim + 32]
    return truncated(total / (count + 1))


def pixelate(image: Array, small: int) -> Array:
    box = Image.Resampling.BOX
    return np.asarray(Image.fromarray(image).resize((small, small), box).resize((32, 32), box))


def jpeg(image: Array, quality: int) -> Array:
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


# kind, reference, its arguments at severities 1 to 5, the largest share of values that may differ, by 1
CASES: list[tuple[str, Callable[..., Array], list[tuple[float, ...]], float]] = [
    ("contrast", contrast, [(0.75,), (0.5,), (0.4,), (0.3,), (0.15,)], 0.001),
    ("brightness", brightness, [(0.05,), (0.1,), (0.15,), (0.2,), (0.3,)], 0.03),
    ("defocus_blur", defocus, [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)], 0.005),
    ("zoom_blur", zoom, [(1.06, 7), (1.11, 12), (1.16, 16), (1.21, 21), (1.26, 26)], 0.02),
    ("pixelate", pixelate, [(30,), (28,), (27,), (24,), (20,)], 0),
    ("jpeg_compression", jpeg, [(80,), (65,), (58,), (50,), (40,)], 0),
]


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("kind", "reference", "arguments", "share"), CASES, ids=[case[0] for case in CASES])
def test_kind_agrees_with_a_slow_reference(
    kind: str,
    reference: Callable[..., Array],
    arguments: list[tuple[float, ...]],
    share: float,
    severity: int,
) -> None:
    given = scenes(12)
    expected = np.stack([reference(image, *arguments[severity - 1]) for image in given]).astype(np.int16)
    found = corrupt(given.transpose(0, 3, 1, 2), kind, severity, seed=0).transpose(0, 2, 3, 1)
    difference = np.abs(found - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= share


@pytest.mark.parametrize(
    "kind", ["contrast", "defocus_blur", "zoom_blur", "pixelate", "motion_blur", "glass_blur"]
)
@pytest.mark.parametrize("level", [0, 1, 127, 255])
def test_an_even_image_stays_within_a_level(kind: str, level: int) -> None:
    even = np.full((2, 3, 32, 32), level, np.uint8)
    for severity in (1, 5):
        found = corrupt(even, kind, severity, seed=0).astype(int)
        assert np.isin(found, (level - 1, level)).all()  # the cast rounds down


def test_black_becomes_grey_under_brightness() -> None:
    black = np.zeros((1, 3, 32, 32), np.uint8)
    assert (corrupt(black, "brightness", 2, seed=0) == 25).all()  # 25.5 truncated


def test_brightness_keeps_the_hue() -> None:
    orange = np.zeros((1, 3, 32, 32), np.uint8)
    orange[:, 0], orange[:, 1] = 200, 100
    assert corrupt(orange, "brightness", 1, seed=0)[0, :, 0, 0].tolist() == [
        212,
        106,
        0,
    ]  # times 212.75 / 200
