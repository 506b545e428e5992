"""The geometry of a network's preprocessing: how a picture of any size becomes the pixels that the network sees.

Mean and standard deviation are no part of it: the network applies them itself, after corruptions, noise and attacks,
which act on the pixels that are made here.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from PIL import Image

from evalsuite.errors import SuiteError
from evalsuite.types import Array

INTERPOLATIONS = MappingProxyType({filter.name.lower(): filter for filter in Image.Resampling})
"""Filters of a resize by name: ``nearest``, ``bilinear``, ``bicubic``, ``lanczos``, ``box``, ``hamming``."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """A resize, then a centre crop, as torchvision's, timm's and transformers' evaluation transforms do them.

    Attributes:
        crop: Height and width in pixels of what the network sees; smaller pictures are padded with black.
        resize: Before the crop: one number is the length of the shorter edge (the aspect ratio stays), two are the
            exact height and width (it does not); empty for no resize.
        interpolation: Filter of the resize, one of `INTERPOLATIONS`.
    """

    crop: tuple[int, int]
    resize: tuple[int, ...] = ()
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if len(self.crop) != 2 or min(self.crop) < 1:
            raise SuiteError(f"found crop = {self.crop}, expected height and width of at least 1 pixel")
        if len(self.resize) > 2 or (self.resize and min(self.resize) < 1):
            raise SuiteError(
                f"found resize = {self.resize}, expected one number (the shorter edge), or height and width"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise SuiteError(
                f"found interpolation = {self.interpolation!r}, expected one of {', '.join(INTERPOLATIONS)}"
            )

    def pixels(self, picture: Image.Image) -> Array:
        """Returns a picture as the network sees it: uint8 (3, H, W), RGB.

        References:
            torchvision, ``transforms.functional.resize`` and ``center_crop`` on PIL images, whose rounding this follows.
        """
        picture = picture.convert("RGB")
        if self.resize:
            picture = picture.resize(self._resized(picture.size), INTERPOLATIONS[self.interpolation])
        return _centre(np.asarray(picture), self.crop).transpose(2, 0, 1)

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height after the resize."""
        if len(self.resize) == 2:
            return self.resize[1], self.resize[0]
        short, (width, height) = self.resize[0], size
        if width <= height:
            return short, int(short * height / width)
        return int(short * width / height), short


def _centre(pixels: Array, crop: tuple[int, int]) -> Array:
    """The middle of (H, W, C) pixels, padded with black where they are smaller."""
    missing = [max(0, wanted - there) for wanted, there in zip(crop, pixels.shape, strict=False)]
    if any(missing):
        sides = [(gap // 2, gap - gap // 2) for gap in missing]
        pixels = np.pad(pixels, (*sides, (0, 0)))
    top, left = (round((there - wanted) / 2) for there, wanted in zip(pixels.shape, crop, strict=False))
    return pixels[top : top + crop[0], left : left + crop[1]]
