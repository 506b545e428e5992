"""Small pictures of images, for reports."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from evalsuite.types import Array

THUMBNAIL = 48
"""Pixels of the longer side of a picture in a report, at most."""


def encode_png(image: Array) -> bytes:
    """Returns an image (C, H, W), uint8 or float in [0, 1], as a PNG file of at most `THUMBNAIL` pixels a side."""
    pixels = image if image.dtype == np.uint8 else (np.asarray(image) * 255).round().astype(np.uint8)
    channels_last = np.moveaxis(pixels, 0, -1)
    grey = channels_last.shape[-1] == 1
    picture = Image.fromarray(np.ascontiguousarray(channels_last[..., 0] if grey else channels_last[..., :3]))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()
