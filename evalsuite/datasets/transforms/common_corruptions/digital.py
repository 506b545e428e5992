"""Digital corruptions: contrast, elastic transform, pixelate, JPEG compression, saturate."""

from __future__ import annotations

from functools import cache, lru_cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from evalsuite.datasets.transforms.common_corruptions.batch import truncated

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from evalsuite.datasets.transforms.common_corruptions.batch import (
        Constants,
        CorruptionBatch,
        Floats,
        Pixels,
    )


_BITS = 22  # of the fixed point in which Pillow resizes
_ONE = 1 << _BITS
_RGB = 3  # torchvision's mode of decoding
_LIBRARY = (".so", ".pyd", ".dylib")
_TRUNCATE = 3.0  # where the Gaussian of the elastic field is cut, in sigma


def contrast(batch: CorruptionBatch, constants: Constants) -> Pixels:
    """Returns the deviation from each channel's mean times (factor,) = `constants`."""
    (factor,) = constants
    values = batch.images / 255
    means = values.mean(axis=(2, 3), keepdims=True)
    values -= means
    values *= factor
    values += means
    values *= 255
    return truncated(values)


def elastic_transform(batch: CorruptionBatch, constants: Constants) -> Pixels:
    """Returns the image after a random affine warp and a smooth displacement: (alpha, sigma, affine) px."""
    alpha, sigma, affine = constants
    images = batch.images.astype(np.float32)
    images = warped(images, affine * (2 * batch.uniform(3, 2) - 1))
    if alpha > 0:
        noise = 2 * batch.uniform(2, batch.height, batch.width) - 1
        images = displaced(images, smooth_field(noise, sigma) * np.float32(alpha))
    return truncated(images)


def pixelate(batch: CorruptionBatch, constants: Constants) -> Pixels:
    """Returns the image box-filtered to (factor,) = `constants` of its height and width and back."""
    (factor,) = constants
    height, width = int(batch.height * factor), int(batch.width * factor)
    rows = _averages(batch.images, _boxes(batch.width, width))  # columns first: each pass rounds
    little = _averages(rows.swapaxes(2, 3), _boxes(batch.height, height)).swapaxes(2, 3)
    enlarged = little[:, :, _nearest(batch.height, height)][..., _nearest(batch.width, width)]
    return np.ascontiguousarray(enlarged)


def _nearest(side: int, small: int) -> NDArray[np.intp]:
    """The pixel of a small row that is nearest to each pixel of a row."""
    return np.asarray(np.floor((np.arange(side) + 0.5) * (small / side)), np.intp)


def jpeg_compression(batch: CorruptionBatch, constants: Constants) -> Pixels:
    """Returns the image encoded as JPEG of (quality,) = `constants`, chroma halved, and decoded; grey stays grey."""
    (quality,) = constants
    codec = _fast_codec()
    if codec is not None and not batch.grey:
        return codec(batch.images, int(quality))
    return _pillow(batch.images, int(quality))


def _pillow(images: Pixels, quality: int) -> Pixels:
    """Each image encoded and decoded by Pillow."""
    grey = images.shape[1] == 1
    pictures = images[:, 0] if grey else images.transpose(0, 2, 3, 1)
    result = np.empty_like(images)
    for picture, target in zip(np.ascontiguousarray(pictures), result, strict=True):
        file = BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        decoded = np.asarray(Image.open(file, formats=("JPEG",)))
        target[:] = decoded if grey else decoded.transpose(2, 0, 1)
    return result


def _torchvision(images: Pixels, quality: int) -> Pixels:
    """Each image encoded and decoded by torchvision's operators, which spend less time around the same library."""
    operators = _jpeg_operators()
    files = [operators.encode_jpeg(image, quality) for image in torch.from_numpy(images).unbind()]
    pictures: Pixels = torch.stack([operators.decode_jpeg(file, _RGB, False) for file in files]).numpy()
    return pictures


def _jpeg_operators() -> Any:
    """The operators of torchvision's library for files; importing torchvision, all of it, would take seconds."""
    if not hasattr(torch.ops.image, "encode_jpeg"):
        package = find_spec("torchvision")
        folders = [] if package is None else package.submodule_search_locations or []
        libraries = [
            path for folder in folders for path in Path(folder).glob("image*") if path.suffix in _LIBRARY
        ]
        torch.ops.load_library(str(libraries[0]))  # type: ignore[no-untyped-call]
    return torch.ops.image


@cache
def _fast_codec() -> Callable[[Pixels, int], Pixels] | None:
    """The codec of torchvision if its levels are Pillow's, as they are where both are built with the same library.

    Compared once in a process, on noise and on even areas, at a low and at a high quality.
    """
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (4, 3, 5, 6), dtype=np.uint8).repeat(8, axis=2).repeat(8, axis=3)
    sample = np.concatenate([coarse, rng.integers(0, 256, coarse.shape, dtype=np.uint8)])[..., :37, :45]
    sample = np.ascontiguousarray(sample)
    try:
        same = all(np.array_equal(_torchvision(sample, q), _pillow(sample, q)) for q in (7, 25, 80))
    except (
        ImportError,
        IndexError,
        RuntimeError,
        OSError,
        AttributeError,
        TypeError,
    ):  # not there, or another
        return None
    return _torchvision if same else None


def warped(images: NDArray[np.float32], jitter: Floats) -> NDArray[np.float32]:
    """Returns images under the affine maps that move three anchor points by `jitter`.

    Bilinear; the border is mirrored without repeating its pixels. The anchors are a third of the shorter side away
    from the centre.

    Args:
        images: Shape (N, C, H, W).
        jitter: px, shape (N, 3, 2), x before y; anchors at the lower right, the upper right, the upper left.
    """
    height, width = images.shape[-2:]
    third = min(height, width) // 3
    centre = np.array([width // 2, height // 2], np.float64)
    anchors = centre + third * np.array([[1, 1], [1, -1], [-1, -1]], np.float64)
    moved = np.concatenate([anchors + jitter, np.ones((len(images), 3, 1))], axis=-1)
    back = np.linalg.solve(moved, np.broadcast_to(anchors, (len(images), 3, 2)))  # (x', y', 1) back = (x, y)
    y, x = np.divmod(np.arange(height * width), width)
    pixels = np.stack([x, y, np.ones_like(x)], axis=-1)
    points = (pixels @ back).reshape(-1, height, width, 2)
    return _sampled(images, points * (2 / np.array([width - 1, height - 1])) - 1, repeat_border=False)


def displaced(images: NDArray[np.float32], shift: Floats) -> NDArray[np.float32]:
    """Returns images sampled at each pixel's position plus `shift`.

    Bilinear; the border is mirrored with its pixels repeated.

    Args:
        images: Shape (N, C, H, W).
        shift: px, shape (N, 2, H, W), x before y.
    """
    height, width = images.shape[-2:]
    y, x = np.divmod(np.arange(height * width), width)
    points = np.moveaxis(shift + np.stack([x, y]).reshape(2, height, width), 1, -1)
    return _sampled(images, (2 * points + 1) / np.array([width, height]) - 1, repeat_border=True)


def smooth_field(noise: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Returns fields smoothed by a Gaussian on both axes, border mirrored with its pixels repeated."""
    down, across = (_gaussian_matrix(side, sigma) for side in noise.shape[-2:])
    return np.asarray(down @ noise @ across.T)


def _sampled(images: NDArray[np.float32], points: Floats, *, repeat_border: bool) -> NDArray[np.float32]:
    grid = torch.from_numpy(points.astype(np.float32))
    result: torch.Tensor = torch.nn.functional.grid_sample(
        torch.from_numpy(images),
        grid,
        mode="bilinear",
        padding_mode="reflection",
        align_corners=not repeat_border,
    )
    return result.numpy()


@lru_cache(maxsize=8)
def _gaussian_matrix(side: int, sigma: float) -> NDArray[np.float32]:
    smooth = ndimage.gaussian_filter1d(np.eye(side), sigma, axis=0, mode="reflect", truncate=_TRUNCATE)
    return np.asarray(smooth, np.float32)


@lru_cache(maxsize=8)
def _boxes(side: int, small: int) -> tuple[NDArray[np.intp], NDArray[np.uint32]]:
    """The pixels that each pixel of the small row averages.

    Returns:
        The first of them, shape (small,), and the weight of each, in units of 2**-22, shape (most, small); a
        weight of zero stands where a box has fewer pixels than the largest. Boxes near the end are listed
        from further left, so that all stay inside.
    """
    scale = side / small
    centre = (np.arange(small) + 0.5) * scale
    first = np.floor(centre - scale / 2 + 0.5).astype(np.intp)  # a centre on the left edge of a box is inside
    last = np.ceil(centre + scale / 2 - 0.5).astype(np.intp) - 1
    most = int((last - first).max()) + 1
    start = np.minimum(first, side - most)
    index = start + np.arange(most)[:, None]
    share = np.floor(_ONE / (last - first + 1) + 0.5)
    return start, np.where((first <= index) & (index <= last), share, 0).astype(np.uint32)


def _averages(images: Pixels, boxes: tuple[NDArray[np.intp], NDArray[np.uint32]]) -> Pixels:
    """Averages over boxes of columns, in Pillow's fixed point."""
    start, shares = boxes
    total = np.full((*images.shape[:-1], len(start)), _ONE // 2, np.uint32)
    for tap, share in enumerate(shares):
        total += images.take(start + tap, axis=-1) * share
    return (total >> _BITS).astype(np.uint8)


def saturate(batch: CorruptionBatch, constants: Constants) -> Pixels:
    """Returns the image with its saturation in HSV times a, plus b, clipped: (a, b) = `constants`.

    The largest channel stays, the least is a table of two levels, and only the middle one needs the hue. Grey
    has the hue of red: with b > 0 it turns red. All sums run in the order of the published conversion to HSV,
    since with a = 2 the exact level is an integer, where the last bit decides between it and the one below.
    """
    saturations, lows = _tables(*constants)
    most, least = batch.images.max(axis=1), batch.images.min(axis=1)
    pair = (most.astype(np.uint16) << 8) | least
    share = _middle_share(batch.images / 255, batch.images == most[:, None])
    middle = truncated(most / 255 * (1 - share * saturations.take(pair)) * 255)
    low = lows.take(pair)[:, None]
    result = np.where(batch.images == least[:, None], low, middle[:, None])
    is_most = batch.images == most[:, None]
    is_most[:, 1:] &= (most > least)[:, None]
    return np.where(is_most, most[:, None], result)


def _middle_share(values: Floats, is_most: NDArray[np.bool_]) -> Floats:
    """(most - middle) / (most - least), rounded as by the conversion to hue, shape (N, S, S)."""
    red, green, blue = values.swapaxes(0, 1)
    _, green_most, blue_most = is_most.swapaxes(0, 1)
    spread = np.maximum(
        values.max(axis=1) - values.min(axis=1), 1e-9
    )  # in greys no channel is the middle one
    hue = np.select(
        [blue_most, green_most],
        [4 + (red - green) / spread, 2 + (blue - red) / spread],
        (green - blue) / spread,
    )
    hue = (hue / 6) % 1 * 6
    sector = np.floor(hue)
    hue -= sector
    share: Floats = np.where(sector % 2 == 1, hue, 1 - hue)
    return share


@lru_cache(maxsize=8)
def _tables(factor: float, offset: float) -> tuple[Floats, Pixels]:
    """Tabulates the saturation and the level of the least channel, for each largest and least level."""
    most, least = np.arange(256)[:, None] / 255, np.arange(256) / 255
    plain = np.where(most > 0, (most - least) / np.maximum(most, 1 / 255), 0)
    saturation = np.clip(plain * factor + offset, 0, 1)
    return saturation, truncated(most * (1 - saturation) * 255)
