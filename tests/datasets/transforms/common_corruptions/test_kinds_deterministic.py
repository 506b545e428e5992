"""The deterministic kinds against slow references, one image at a time: scipy, Pillow, colorsys."""

from __future__ import annotations

import colorsys
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage import color, filters

from evalsuite.datasets.transforms.common_corruptions import blur, digital
from evalsuite.datasets.transforms.common_corruptions.batch import truncated as truncated_levels
from evalsuite.datasets.transforms.common_corruptions.kinds import corrupt

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalsuite.datasets.transforms.common_corruptions.kinds import Size

Array = np.ndarray[Any, Any]


def scenes(count: int, side: int = 32) -> Array:
    """Soft shapes, hard edges, a white sky, black ground, greys: NHWC."""
    rng = np.random.default_rng(0)
    fields = ndimage.gaussian_filter(rng.standard_normal((count, side, side, 3)), (0, 2, 2, 0))
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


def saturate(image: Array, factor: float, offset: float) -> Array:
    hsv = color.rgb2hsv(image / 255)
    hsv[..., 1] = np.clip(hsv[..., 1] * factor + offset, 0, 1)
    return truncated(color.hsv2rgb(hsv))


def defocus(image: Array, radius: float, sigma: float, sign: int) -> Array:
    """The float32 kernel of the published operation sums to a little more or less than one: `sign`."""
    reach, width = (8, 1) if radius <= 8 else (int(radius), 2)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (x**2 + y**2 <= radius**2) * 1.0
    tap = np.exp(-(np.arange(-width, width + 1) ** 2) / (2 * sigma**2))
    kernel = ndimage.convolve(disk / disk.sum(), np.outer(tap, tap) / tap.sum() ** 2, mode="mirror")
    blurred = [ndimage.correlate(image[..., c] / 255, kernel, mode="mirror") for c in range(3)]
    return truncated(np.stack(blurred, axis=-1) * (1 + sign * 1e-9))


def gaussian(image: Array, sigma: float) -> Array:
    blurred: Array = filters.gaussian(image / 255, sigma=sigma, channel_axis=-1)  # type: ignore[no-untyped-call]  # theirs
    return truncated(blurred)


def zoom(image: Array, end: float, step: float, count: int) -> Array:
    factors = np.arange(1, end, step)
    assert len(factors) == count
    side = len(image)
    x = (image / 255).astype(np.float32)
    total = x.copy()
    for factor in factors:
        crop = int(np.ceil(side / factor))
        top = (side - crop) // 2
        large = ndimage.zoom(x[top : top + crop, top : top + crop], (factor, factor, 1), order=1)
        trim = (len(large) - side) // 2
        total += large[trim : trim + side, trim : trim + side]
    return truncated(total / (count + 1))


def pixelate(image: Array, factor: float) -> Array:
    box, small = Image.Resampling.BOX, int(len(image) * factor)
    return np.asarray(Image.fromarray(image).resize((small, small), box).resize((len(image),) * 2, box))


def jpeg(image: Array, quality: int) -> Array:
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


Rows = list[tuple[float, ...]]
ZOOMS: Rows = [(1.06, 0.01, 7), (1.11, 0.01, 12), (1.16, 0.01, 16), (1.21, 0.01, 21), (1.26, 0.01, 26)]
# kind, reference, the largest share of values that may differ by one level, arguments by size and severity
CASES: list[tuple[str, Callable[..., Array], float, dict[Size, Rows]]] = [
    (
        "contrast",
        contrast,
        0.001,
        {
            "cifar": [(0.75,), (0.5,), (0.4,), (0.3,), (0.15,)],
            "tiny-imagenet": [(0.4,), (0.3,), (0.2,), (0.1,), (0.05,)],
            "imagenet": [(0.4,), (0.3,), (0.2,), (0.1,), (0.05,)],
        },
    ),
    (
        "brightness",
        brightness,
        0.03,
        {
            "cifar": [(0.05,), (0.1,), (0.15,), (0.2,), (0.3,)],
            "tiny-imagenet": [(0.1,), (0.2,), (0.3,), (0.4,), (0.5,)],
            "imagenet": [(0.1,), (0.2,), (0.3,), (0.4,), (0.5,)],
        },
    ),
    (
        "defocus_blur",
        defocus,
        0.005,
        {
            "cifar": [(0.3, 0.4, 1), (0.4, 0.5, 1), (0.5, 0.6, 1), (1, 0.2, 1), (1.5, 0.1, 1)],
            "tiny-imagenet": [(0.5, 0.6, 1), (1, 0.1, 1), (1.5, 0.1, 1), (2.5, 0.01, 1), (3, 0.1, -1)],
            "imagenet": [(3, 0.1, -1), (4, 0.5, -1), (6, 0.5, -1), (8, 0.5, 1), (10, 0.5, 1)],
        },
    ),
    (
        "zoom_blur",
        zoom,
        0.02,
        {
            "cifar": ZOOMS,
            "tiny-imagenet": ZOOMS,
            "imagenet": [
                (1.11, 0.01, 12),
                (1.16, 0.01, 16),
                (1.21, 0.02, 11),
                (1.26, 0.02, 13),
                (1.31, 0.03, 11),
            ],
        },
    ),
    (
        "pixelate",
        pixelate,
        0,
        {
            "cifar": [(0.95,), (0.9,), (0.85,), (0.75,), (0.65,)],
            "tiny-imagenet": [(0.9,), (0.8,), (0.7,), (0.6,), (0.5,)],
            "imagenet": [(0.6,), (0.5,), (0.4,), (0.3,), (0.25,)],
        },
    ),
    (
        "jpeg_compression",
        jpeg,
        0,
        {
            "cifar": [(80,), (65,), (58,), (50,), (40,)],
            "tiny-imagenet": [(65,), (58,), (50,), (40,), (25,)],
            "imagenet": [(25,), (18,), (15,), (10,), (7,)],
        },
    ),
    (
        "gaussian_blur",
        gaussian,
        0,
        {
            "cifar": [(0.4,), (0.6,), (0.7,), (0.8,), (1,)],
            "tiny-imagenet": [(0.5,), (0.75,), (1,), (1.25,), (1.5,)],
            "imagenet": [(1,), (2,), (3,), (4,), (6,)],
        },
    ),
    (
        "saturate",
        saturate,
        0,
        {
            "cifar": [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)],
            "tiny-imagenet": [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)],
            "imagenet": [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)],
        },
    ),
]
ROWS = [
    pytest.param(kind, reference, share, size, severity, rows[severity - 1], id=f"{kind}-{size}-{severity}")
    for kind, reference, share, sizes in CASES
    for size, rows in sizes.items()
    for severity in (1, 2, 3, 4, 5)
]


@pytest.mark.parametrize(("kind", "reference", "share", "size", "severity", "arguments"), ROWS)
def test_kind_agrees_with_a_slow_reference(
    kind: str,
    reference: Callable[..., Array],
    share: float,
    size: Size,
    severity: int,
    arguments: tuple[float, ...],
) -> None:
    images = scenes(12)
    expected = np.stack([reference(image, *arguments) for image in images]).astype(np.int16)
    corrupted = corrupt(images.transpose(0, 3, 1, 2), kind, severity, seed=0, constants=size)
    difference = np.abs(corrupted.transpose(0, 2, 3, 1) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= share


@pytest.mark.parametrize("side", [96, 224])
@pytest.mark.parametrize(("kind", "reference", "share", "sizes"), CASES, ids=[case[0] for case in CASES])
def test_kind_agrees_with_a_slow_reference_at_larger_sides(
    kind: str, reference: Callable[..., Array], share: float, sizes: dict[Size, Rows], side: int
) -> None:
    images = scenes(1, side)
    severity = 5 if side == 96 else 2
    expected = np.stack([reference(image, *sizes["imagenet"][severity - 1]) for image in images])
    corrupted = corrupt(images.transpose(0, 3, 1, 2), kind, severity, seed=0, constants="imagenet")
    difference = np.abs(corrupted.transpose(0, 2, 3, 1) - expected.astype(np.int16))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= share


@pytest.mark.parametrize(
    "kind",
    ["contrast", "defocus_blur", "zoom_blur", "pixelate", "motion_blur", "glass_blur", "gaussian_blur"],
)
@pytest.mark.parametrize("level", [0, 1, 127, 255])
def test_an_even_image_stays_within_a_level(kind: str, level: int) -> None:
    even = np.full((2, 3, 32, 32), level, np.uint8)
    for severity in (1, 5):
        corrupted = corrupt(even, kind, severity, seed=0).astype(int)
        assert np.isin(corrupted, (level - 1, level)).all()  # the cast rounds down


@pytest.mark.parametrize(("severity", "offset"), [(1, 0), (4, 0.1), (5, 0.2)])
def test_greys_turn_red_where_saturation_is_added(severity: int, offset: float) -> None:
    greys = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16), (1, 3, 16, 16))
    red, green, blue = corrupt(greys, "saturate", severity, seed=0)[0].astype(int)
    np.testing.assert_array_equal(red, greys[0, 0])
    np.testing.assert_array_equal(green, blue)
    assert np.abs(green - np.floor(greys[0, 0] * (1 - offset))).max() <= (1 if offset else 0)


def test_saturation_keeps_the_largest_channel_and_the_order() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
    for severity in (1, 2, 3, 4, 5):
        corrupted = corrupt(colours, "saturate", severity, seed=0)
        np.testing.assert_array_equal(corrupted.max(axis=1), colours.max(axis=1))
        ordered = np.take_along_axis(corrupted, colours.argsort(axis=1, kind="stable"), axis=1).astype(int)
        assert (np.diff(ordered, axis=1) >= 0).mean() > 0.99  # greys have no order


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


@pytest.mark.parametrize("sigma", [0.4, 0.6, 1.0, 2.0, 3.0, 6.0])
def test_gaussian_blur_by_products_has_the_levels_of_ordered_sums(sigma: float) -> None:
    """Also where all sums are whole numbers up to rounding, so that their order decides the level."""
    images = np.ascontiguousarray(scenes(12).transpose(0, 3, 1, 2))
    images[:4], images[4:8] = images[:4] // 64 * 85, 255
    images[6, :, :, 20:] = 0
    images[8] = 0
    expected = truncated_levels(blur.blurred(images / 255, sigma) * 255)
    np.testing.assert_array_equal(blur.smoothed(images, sigma), expected)


def test_an_order_of_sums_decides_a_level() -> None:
    """What the test above must hold on to: products alone give other levels in even areas."""
    images = np.full((1, 3, 32, 32), 255, np.uint8)
    matrix = blur._gaussian(32, 2.0)
    products = truncated_levels(matrix @ images.astype(np.float64) @ matrix.T)
    assert not np.array_equal(products, blur.smoothed(images, 2.0))


def test_large_images_are_blurred_tap_by_tap(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.ascontiguousarray(scenes(2).transpose(0, 3, 1, 2))
    expected = blur.smoothed(images, 1.5)
    monkeypatch.setattr(blur, "_LARGEST_PRODUCT", 31)
    monkeypatch.setattr(blur, "_gaussian", lambda *_: pytest.fail("a matrix for a large image"))
    np.testing.assert_array_equal(blur.smoothed(images, 1.5), expected)


@pytest.mark.parametrize("quality", [7, 15, 25, 58, 80])
@pytest.mark.parametrize("shape", [(32, 32), (17, 23), (1, 5)])
def test_the_fast_codec_has_the_levels_of_pillow(quality: int, shape: tuple[int, int]) -> None:
    images = np.random.default_rng(quality).integers(0, 256, (3, 3, *shape), dtype=np.uint8)
    codec = digital._fast_codec()
    assert codec is not None
    np.testing.assert_array_equal(codec(images, quality), digital._pillow(images, quality))


def test_pillow_compresses_where_torchvision_has_no_codec_or_another(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    expected = corrupt(images, "jpeg_compression", 3, seed=0)

    def missing(*_: Any) -> Any:
        raise RuntimeError("no such operator")

    for broken in (lambda *_: images, missing):
        monkeypatch.setattr(digital, "_torchvision", broken)
        digital._fast_codec.cache_clear()
        try:
            assert digital._fast_codec() is None
            np.testing.assert_array_equal(corrupt(images, "jpeg_compression", 3, seed=0), expected)
        finally:
            digital._fast_codec.cache_clear()
