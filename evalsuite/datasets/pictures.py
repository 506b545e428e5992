"""Small pictures of images, for reports."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from evalsuite.types import Array

THUMBNAIL = 48
"""Pixels of the longer side of a picture in a report, at most."""


def encode_png(image: Array) -> bytes:
    """Returns an image (C, H, W), uint8 or float in [0, 1], as a PNG file of at most `THUMBNAIL` pixels a side.

    One channel is shown as grey, two as red and green, of more than three the first three as red, green and blue.
    """
    pixels = image if image.dtype == np.uint8 else (np.asarray(image) * 255).round().astype(np.uint8)
    if len(pixels) == 2:
        pixels = np.concatenate([pixels, np.zeros_like(pixels[:1])])
    channels_last = np.moveaxis(pixels[:3], 0, -1)
    grey = channels_last.shape[-1] == 1
    picture = Image.fromarray(np.ascontiguousarray(channels_last[..., 0] if grey else channels_last))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()
