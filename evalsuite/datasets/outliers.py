"""Out-of-distribution sets: published ones (MNIST, SVHN, Tiny ImageNet, ...) under the data root, and generated ones.

Published pictures are those of the OpenOOD protocol where its lists are under the data root.

References:
    Yang et al. 2022, "OpenOOD: Benchmarking generalized out-of-distribution detection", arXiv 2210.07242.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from evalsuite.datasets.arrays import published_arrays
from evalsuite.datasets.base import DataSet, Place, check_test_only
from evalsuite.datasets.decoding import decode_pictures, list_folder
from evalsuite.datasets.digits import LEVELS, SIDE, rgb
from evalsuite.datasets.folders import check_side
from evalsuite.errors import DataError
from evalsuite.preprocessing import Preprocessing
from evalsuite.random_streams import generator
from evalsuite.types import Array, ImageSet, Split

LISTS = Path("benchmark_imglist", "cifar10")
"""Folder of OpenOOD v1.5's lists of test images, under its ``data`` folder."""
PICTURES = "images_classic"
"""Folder of the pictures that these lists name, under the same folder."""
LETTERS = "".join(sorted(set(string.ascii_uppercase) - set("IO")))
"""Letters that are drawn: all but I and O, which look like the digits 1 and 0."""
CANVAS = 64
"""Side in pixels on which letters are drawn, before they are scanned down to 8x8 as the digits were."""


@dataclass(frozen=True)
class Mnist(DataSet):
    """MNIST's 10,000 test digits, padded to 32x32: far from CIFAR's photographs."""

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the test images from ``mnist/*.npy``, ``ood/mnist_images.npy`` or torchvision's layout."""
        return _grey_images("mnist", "MNIST", split, place)


@dataclass(frozen=True)
class FashionMnist(DataSet):
    """Fashion-MNIST's 10,000 test images, padded to 32x32: far from CIFAR's photographs."""

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the test images from ``fashionmnist/*.npy``, ``ood/fashionmnist_images.npy`` or torchvision."""
        return _grey_images("fashionmnist", "FashionMNIST", split, place)


@dataclass(frozen=True)
class Svhn(DataSet):
    """SVHN's 26,032 test images of house numbers: far from CIFAR-10."""

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the test images from ``svhn/*.npy``, ``ood/svhn_images.npy`` or torchvision's layout."""
        images, _ = published_arrays("SVHN", ["svhn", "ood/svhn"], split, place)
        return ImageSet("svhn", images, None, 0)


@dataclass(frozen=True)
class _OpenOodPictures(DataSet):
    """An outlier set of the OpenOOD protocol: the pictures of its fixed list, or without that all of a folder.

    Attributes:
        name: Name of the image set.
        list_name: Name of the set in OpenOOD's lists and folders.
        folders: Folders under the data root that may hold all pictures.
        side: Height and width in pixels.
    """

    reads_pictures: ClassVar[bool] = True
    name: ClassVar[str]
    list_name: ClassVar[str]
    folders: ClassVar[tuple[str, ...]]
    side: int = 32

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the pictures as uint8 (N, 3, side, side)."""
        check_test_only(self.name, split, reason=_NO_SPLITS)
        check_side(self.name, self.side, minimum=1)
        root = place.require_root(f"data set {self.name!r}")
        file = root / LISTS / f"test_{self.list_name}.txt"
        paths = read_picture_list(file, root) if file.is_file() else self._all_pictures(root)
        geometry = Preprocessing(crop=(self.side, self.side), resize=(self.side,))
        decoded = decode_pictures(paths, geometry, place, name=self.name)
        return ImageSet(self.name, decoded.images, None, 0, notes=decoded.notes)

    def _all_pictures(self, root: Path) -> list[Path]:
        folders = [f"{PICTURES}/{self.list_name}", *self.folders]
        for folder in folders:
            if paths := list_folder(root / folder).paths:
                return list(paths)
        raise DataError(
            f"data set {self.name!r}: found neither the list {LISTS / f'test_{self.list_name}.txt'} nor pictures in "
            f"{', '.join(folders)} under {root}; unpack the set there, or name another folder with --data-root"
        )


@dataclass(frozen=True)
class TinyImageNet(_OpenOodPictures):
    """Tiny ImageNet, near to CIFAR: OpenOOD's list of it, or every picture of its validation folder."""

    name: ClassVar[str] = "tin"
    list_name: ClassVar[str] = "tin"
    folders: ClassVar[tuple[str, ...]] = ("tin", "tiny-imagenet-200/val")


@dataclass(frozen=True)
class Textures(_OpenOodPictures):
    """The Describable Textures Dataset, far from CIFAR: OpenOOD's list of it, or every picture."""

    name: ClassVar[str] = "textures"
    list_name: ClassVar[str] = "texture"
    folders: ClassVar[tuple[str, ...]] = ("textures", "dtd/images")


@dataclass(frozen=True)
class Places365(_OpenOodPictures):
    """Places365, far from CIFAR: OpenOOD's list of it, or every picture of its validation folder."""

    name: ClassVar[str] = "places365"
    list_name: ClassVar[str] = "places365"
    folders: ClassVar[tuple[str, ...]] = ("places365", "val_256")


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

    def load(self, split: Split, place: Place) -> ImageSet:  # noqa: ARG002  # generated
        """Returns letters except I and O, uint8 (N, 3, 32, 32), with random size, shift and slant."""
        _check("letters", split, self.count)
        draws = generator("letters")
        scans = np.stack([_letter(LETTERS[i % len(LETTERS)], draws) for i in range(self.count)])
        return ImageSet("letters", rgb(scans), None, 0)


@dataclass(frozen=True)
class UniformNoise(DataSet):
    """Images of independent uniform values."""

    count: int = 500

    def load(self, split: Split, place: Place) -> ImageSet:  # noqa: ARG002  # generated
        """Returns uint8 (N, 3, 32, 32), every value uniform on 0..255."""
        _check("uniform-noise", split, self.count)
        values = generator("uniform-noise").integers(0, 256, (self.count, 3, SIDE, SIDE), dtype=np.uint8)
        return ImageSet("uniform-noise", values, None, 0)


@dataclass(frozen=True)
class GaussianNoise(DataSet):
    """Images of independent normal values around middle grey."""

    count: int = 500

    def load(self, split: Split, place: Place) -> ImageSet:  # noqa: ARG002  # generated
        """Returns uint8 (N, 3, 32, 32): N(0.5, 0.25^2) on [0, 1], clipped."""
        _check("gaussian-noise", split, self.count)
        values = generator("gaussian-noise").normal(0.5, 0.25, (self.count, 3, SIDE, SIDE))
        return ImageSet("gaussian-noise", np.rint(values.clip(0, 1) * 255).astype(np.uint8), None, 0)


def read_picture_list(file: Path, root: Path) -> list[Path]:
    """Returns the pictures of an OpenOOD list: one path and a label in a line, under ``images_classic`` or `root`.

    Raises:
        DataError: If the list is empty, or names a missing picture.
    """
    names = [line.rsplit(maxsplit=1)[0] for line in file.read_text("utf-8").splitlines() if line.strip()]
    if not names:
        raise DataError(f"{file}: found no line, expected a path and a label in each")
    folder = root / PICTURES if (root / PICTURES).is_dir() else root
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{file} names {len(missing)} of {len(names)} pictures that are not under {folder}, first {missing[0]!r}; "
            "unpack them there, or remove the list to use all pictures of a folder"
        )
    return [folder / name for name in names]


_NO_SPLITS = "it is out of distribution"


def _grey_images(name: str, torchvision_name: str, split: Split, place: Place) -> ImageSet:
    images, _ = published_arrays(torchvision_name, [name, f"ood/{name}"], split, place)
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    return ImageSet(name, np.repeat(padded, 3, axis=1), None, 0)


def _check(name: str, split: Split, count: int) -> None:
    check_test_only(name, split, reason=_NO_SPLITS)
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
