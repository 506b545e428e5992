"""The geometry of a network's preprocessing: how a picture of any size becomes the pixels that the network sees.

Mean and standard deviation are no part of it: the network applies them itself, after corruptions, noise and attacks,
which act on the pixels that are made here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
from PIL import Image

from evalsuite.errors import SuiteError
from evalsuite.types import Array

INTERPOLATIONS = MappingProxyType({kind.name.lower(): kind for kind in Image.Resampling})
"""Filters of a resize by name: ``nearest``, ``bilinear``, ``bicubic``, ``lanczos``, ``box``, ``hamming``."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """A resize, then a centre crop, as torchvision's, timm's and transformers' evaluation transforms do them.

    Attributes:
        crop: Height and width in pixels of what the network sees; smaller pictures are padded.
        resize: Before the crop: one number is the length of one edge (the aspect ratio stays), two are the
            exact height and width (it does not); empty for no resize.
        interpolation: Filter of the resize, one of `INTERPOLATIONS`.
        engine: ``pil`` as torchvision's and timm's transforms do it on PIL pictures; ``torch`` as the processors of
            transformers 5 do it, on uint8 tensors: another rounding of the filter, and of odd margins.
        edge: Which edge one number of `resize` is the length of; with ``longer``, both sides are rounded, as
            timm does it for ``crop_mode = "border"``.
        fill: Red, green and blue of the padding, 0 to 255.
    """

    crop: tuple[int, int]
    resize: tuple[int, ...] = ()
    interpolation: str = "bilinear"
    engine: Literal["pil", "torch"] = "pil"
    edge: Literal["shorter", "longer"] = "shorter"
    fill: tuple[int, int, int] = (0, 0, 0)

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

    def pixels(self, picture: Image.Image, *, grey: bool = False) -> Array:
        """Returns a picture as the network sees it: uint8 (3, H, W), RGB; or grey, (1, H, W), by Pillow's luminance.

        References:
            torchvision, ``transforms.functional.resize`` and ``center_crop`` on PIL images, whose rounding this
            follows; transformers 5, ``TorchvisionBackend.resize`` and ``center_crop`` for the engine ``torch``.
        """
        picture = picture.convert("L" if grey else "RGB")
        size = self._resized(picture.size) if self.resize else picture.size
        if self.engine == "torch":
            resized = _resized_by_torch(_channels_last(picture), size[::-1], self.interpolation)
        else:
            resized = _channels_last(picture.resize(size, INTERPOLATIONS[self.interpolation]))
        top, left = self._corner(resized.shape)
        padded = _padded(resized, self.crop, _luminance(self.fill) if grey else self.fill)
        return padded[top : top + self.crop[0], left : left + self.crop[1]].transpose(2, 0, 1)

    def scaled_to(self, size: tuple[int, int]) -> Preprocessing:
        """Returns the same for a network of another input size: the share of the picture that it sees stays.

        Args:
            size: Height and width in pixels of what the network sees.
        """
        if size == self.crop:
            return self
        scales = [wanted / there for wanted, there in zip(size, self.crop, strict=True)]
        edges = [math.floor(edge * scale + 1e-9) for edge, scale in zip(self.resize, scales, strict=False)]
        return replace(self, crop=size, resize=tuple(edges))

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height after the resize."""
        if len(self.resize) == 2:
            return self.resize[1], self.resize[0]
        length, (width, height) = self.resize[0], size
        if self.edge == "longer":
            ratio = max(height / length, width / length)
            return round(width / ratio), round(height / ratio)
        if width <= height:
            return length, int(length * height / width)
        return int(length * width / height), length

    def _corner(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Top and left of the crop in a picture of (H, W, C) that is padded where it is smaller than the crop."""
        margins = [max(0, there - wanted) / 2 for there, wanted in zip(shape, self.crop, strict=False)]
        top, left = (int(margin) if self.engine == "torch" else round(margin) for margin in margins)
        return top, left


def _channels_last(picture: Image.Image) -> Array:
    """The pixels of a picture, (H, W, C), also where it has one channel."""
    pixels = np.array(picture)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _luminance(colour: tuple[int, int, int]) -> int:
    return int(np.asarray(Image.new("RGB", (1, 1), colour).convert("L"))[0, 0])


def _padded(pixels: Array, crop: tuple[int, int], fill: tuple[int, int, int] | int) -> Array:
    """(H, W, C) pixels, padded on both sides where they are smaller than the crop."""
    missing = [max(0, wanted - there) for wanted, there in zip(crop, pixels.shape, strict=False)]
    if not any(missing):
        return pixels
    (top, bottom), (left, right) = ((gap // 2, gap - gap // 2) for gap in missing)
    height, width, channels = pixels.shape
    padded = np.empty((height + top + bottom, width + left + right, channels), pixels.dtype)
    padded[:] = fill
    padded[top : top + height, left : left + width] = pixels
    return padded


def _resized_by_torch(pixels: Array, size: tuple[int, int], interpolation: str) -> Array:
    """(H, W, C) pixels at another height and width, resized as a uint8 tensor with antialiasing."""
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    mode = InterpolationMode("nearest-exact" if interpolation == "nearest" else interpolation)
    tensor = (
        torch.from_numpy(pixels).permute(2, 0, 1).contiguous()[None]
    )  # in a batch, as transformers does it
    resized: Array = functional.resize(tensor, list(size), interpolation=mode, antialias=True)[0].numpy()
    return resized.transpose(1, 2, 0)
