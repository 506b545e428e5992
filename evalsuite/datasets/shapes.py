"""Images of one size and channel count for a network that takes another: outlier sets that were published elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evalsuite.types import Array, ImageSet

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the grey level (ITU-R BT.601), as of Pillow's mode L."""
AT_ONCE = 1024
"""Images that are resized at once."""


def with_shape(images: ImageSet, shape: tuple[int, ...]) -> ImageSet:
    """Returns an image set with images of a shape; itself if they have it.

    RGB becomes grey by its luminance, grey is repeated; the size changes bilinearly with antialiasing, as Pillow does.

    Args:
        images: uint8, or float32 in [0, 1].
        shape: (C, H, W).
    """
    channels, height, width = shape
    pixels = images.images
    if pixels.shape[1:] == shape:
        return images
    if pixels.shape[1] != channels:
        grey = _grey(np.asarray(pixels))
        pixels = np.repeat(grey, channels, axis=1)
    if pixels.shape[2:] != (height, width):
        pixels = _resized(pixels, height, width)
    return replace(images, images=pixels)


def _grey(pixels: Array) -> Array:
    """One channel: the luminance of RGB, the mean of any other number of channels."""
    weights = np.array(LUMA if pixels.shape[1] == 3 else [1 / pixels.shape[1]] * pixels.shape[1], np.float32)
    levels = np.einsum("c,nchw->nhw", weights, pixels.astype(np.float32))[:, None]
    return _cast(levels, pixels.dtype)


def _resized(pixels: Array, height: int, width: int) -> Array:
    import torch  # takes seconds to import

    parts = []
    for start in range(0, len(pixels), AT_ONCE):
        values = torch.from_numpy(np.array(pixels[start : start + AT_ONCE], np.float32))
        resized = torch.nn.functional.interpolate(values, (height, width), mode="bilinear", antialias=True)
        parts.append(_cast(resized.numpy(), pixels.dtype))
    return np.concatenate(parts)


def _cast(values: Array, dtype: np.dtype[np.generic]) -> Array:
    if dtype != np.uint8:
        return values.astype(dtype).clip(0, 1)
    return np.rint(values).clip(0, 255).astype(np.uint8)
