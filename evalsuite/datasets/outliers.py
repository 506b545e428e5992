"""Out-of-distribution sets that are made on the spot: photographs, letters, noise."""

from __future__ import annotations

import string
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from evalsuite.datasets.base import DataSet, Place
from evalsuite.datasets.digits import LEVELS, SIDE, rgb
from evalsuite.errors import DataError
from evalsuite.random_streams import generator
from evalsuite.types import Array, ImageSet, Split

LETTERS = "".join(
    sorted(set(string.ascii_uppercase) - set("IO"))
)  # I and O are drawn like the digits 1 and 0
CANVAS = 64  # pixels: letters are drawn large and scanned down to 8x8, as the digits were


@dataclass(frozen=True)
class Photographs(DataSet):
    """Patches of scikit-learn's two sample photographs: far from any handwritten digit."""

    count: int = 500

    def load(self, split: Split, place: Place) -> ImageSet:  # noqa: ARG002  # made of what scikit-learn ships
        """Returns square patches of 48 to 200 pixels, scaled to uint8 (N, 3, 32, 32)."""
        _check("photographs", split, self.count)
        from sklearn.datasets import load_sample_images

        pictures = load_sample_images().images
        draws = generator("photographs")
        patches = np.stack([_patch(pictures[i % 2], draws) for i in range(self.count)])
        return ImageSet("photographs", patches, None, 0)


@dataclass(frozen=True)
class Letters(DataSet):
    """Capital letters drawn with Pillow's built-in font and scanned like the digits: near to them."""

    count: int = 480

    def load(self, split: Split, place: Place) -> ImageSet:  # noqa: ARG002  # drawn on the spot
        """Returns letters but I and O, uint8 (N, 3, 32, 32), with random size, shift and slant."""
        _check("letters", split, self.count)
        draws = generator("letters")
        scans = np.stack([_letter(LETTERS[i % len(LETTERS)], draws) for i in range(self.count)])
        return ImageSet("letters", rgb(scans), None, 0)


@dataclass(frozen=True)
class UniformNoise(DataSet):
    """Images of independent uniform values."""

    count: int = 500

    def load(self, split: Split, place: Place) -> ImageSet:  # noqa: ARG002  # drawn on the spot
        """Returns uint8 (N, 3, 32, 32), every value uniform on 0..255."""
        _check("uniform-noise", split, self.count)
        values = generator("uniform-noise").integers(0, 256, (self.count, 3, SIDE, SIDE), dtype=np.uint8)
        return ImageSet("uniform-noise", values, None, 0)


@dataclass(frozen=True)
class GaussianNoise(DataSet):
    """Images of independent normal values around middle grey."""

    count: int = 500

    def load(self, split: Split, place: Place) -> ImageSet:  # noqa: ARG002  # drawn on the spot
        """Returns uint8 (N, 3, 32, 32): N(0.5, 0.25^2) on [0, 1], clipped."""
        _check("gaussian-noise", split, self.count)
        values = generator("gaussian-noise").normal(0.5, 0.25, (self.count, 3, SIDE, SIDE))
        return ImageSet("gaussian-noise", np.rint(values.clip(0, 1) * 255).astype(np.uint8), None, 0)


def _check(name: str, split: Split, count: int) -> None:
    if split != "test":
        raise DataError(
            f"data set {name!r} has no split {split!r}: it is out of distribution, only 'test' exists"
        )
    if count < 1:
        raise DataError(f"data set {name!r}: found count = {count}, expected at least one image")


def _patch(picture: Array, draws: np.random.Generator) -> Array:
    side = int(draws.integers(48, 201))
    top = int(draws.integers(0, picture.shape[0] - side + 1))
    left = int(draws.integers(0, picture.shape[1] - side + 1))
    patch = Image.fromarray(picture[top : top + side, left : left + side])
    return np.asarray(patch.resize((SIDE, SIDE), Image.Resampling.BOX)).transpose(2, 0, 1)


def _letter(letter: str, draws: np.random.Generator) -> Array:
    """Scan of one letter, levels 0..16, shape (8, 8)."""
    font = ImageFont.load_default(size=float(draws.integers(52, 69)))
    canvas = Image.new("L", (CANVAS, CANVAS))
    shift = draws.integers(-3, 4, size=2)
    middle = (CANVAS / 2 + float(shift[0]), CANVAS / 2 + float(shift[1]))
    ImageDraw.Draw(canvas).text(
        middle, letter, fill=255, font=font, anchor="mm", stroke_width=int(draws.integers(0, 3))
    )
    slant = float(draws.uniform(-0.25, 0.25))
    sheared = canvas.transform(
        canvas.size,
        Image.Transform.AFFINE,
        (1, slant, -slant * CANVAS / 2, 0, 1, 0),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(sheared.resize((8, 8), Image.Resampling.BOX)) * (LEVELS / 255)
