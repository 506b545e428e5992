"""Out-of-distribution sets: published ones (MNIST, SVHN, Tiny ImageNet, ...) under the data root, and generated ones.

Published pictures are those of the OpenOOD protocol where its lists are under the data root.

References:
    Yang et al. 2022, "OpenOOD: Benchmarking generalized out-of-distribution detection", arXiv 2210.07242.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from evalsuite.datasets.arrays import published_arrays
from evalsuite.datasets.base import DataSet, Place, check_test_only
from evalsuite.datasets.decoding import decode_pictures, list_folder
from evalsuite.datasets.digits import LEVELS, SIDE, enlarged
from evalsuite.datasets.folders import check_side
from evalsuite.errors import DataError
from evalsuite.preprocessing import Preprocessing
from evalsuite.random_streams import generator
from evalsuite.types import Array, ImageSet, Split

LISTS = Path("benchmark_imglist", "cifar10")
"""Folder of OpenOOD v1.5's lists of test images, under its ``data`` folder."""
PICTURES = "images_classic"
"""Folder of the pictures that these lists name, under the same folder."""
SHAPE = (3, SIDE, SIDE)
"""Shape of generated images where no suite says otherwise, (C, H, W)."""
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

    def fitted_to(self, shape: tuple[int, ...]) -> DataSet:
        """Returns the set with pictures of the height of square images."""
        return replace(self, side=shape[1]) if shape[1] == shape[2] else self

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
class _Generated(DataSet):
    """A set of images that are made here, of any size and channel count.

    Attributes:
        count: Number of images.
        shape: Of one image: channels, height, width; that of the suite's images where it serves as an outlier set.
    """

    name: ClassVar[str]
    count: int = 500
    shape: tuple[int, int, int] = SHAPE

    def __post_init__(self) -> None:
        if self.count < 1:
            raise DataError(
                f"data set {self.name!r}: found count = {self.count}, expected at least one image"
            )
        if min(self.shape) < 1:
            raise DataError(
                f"data set {self.name!r}: found shape = {list(self.shape)}, expected channels, height and width"
            )

    def fitted_to(self, shape: tuple[int, ...]) -> DataSet:
        """Returns the set with images of a shape (C, H, W)."""
        channels, height, width = shape
        return replace(self, shape=(channels, height, width))


@dataclass(frozen=True)
class Photographs(_Generated):
    """Patches of scikit-learn's two sample photographs: far from any handwritten digit."""

    name: ClassVar[str] = "photographs"

    def load(self, split: Split, place: Place) -> ImageSet:  # noqa: ARG002  # made of what scikit-learn ships
        """Returns square patches of 48 to 200 pixels, scaled to uint8 (N, *shape); grey unless there are 3 channels."""
        check_test_only("photographs", split, reason=_NO_SPLITS)
        from sklearn.datasets import load_sample_images

        pictures = load_sample_images().images
        draws = generator("photographs")
        patches = np.stack([_patch(pictures[i % 2], draws, self.shape) for i in range(self.count)])
        return ImageSet("photographs", patches, None, 0)


@dataclass(frozen=True)
class Letters(_Generated):
    """Capital letters drawn with Pillow's built-in font and scanned like the digits: near to them."""

    name: ClassVar[str] = "letters"
    count: int = 480

    def load(self, split: Split, place: Place) -> ImageSet:  # noqa: ARG002  # generated
        """Returns letters except I and O, uint8 (N, *shape), with random size, shift and slant."""
        check_test_only("letters", split, reason=_NO_SPLITS)
        draws = generator("letters")
        scans = np.stack([_letter(LETTERS[i % len(LETTERS)], draws) for i in range(self.count)])
        return ImageSet("letters", enlarged(scans, self.shape), None, 0)


@dataclass(frozen=True)
class UniformNoise(_Generated):
    """Images of independent uniform values."""

    name: ClassVar[str] = "uniform-noise"

    def load(self, split: Split, place: Place) -> ImageSet:  # noqa: ARG002  # generated
        """Returns uint8 (N, *shape), every value uniform on 0..255."""
        check_test_only("uniform-noise", split, reason=_NO_SPLITS)
        values = generator("uniform-noise").integers(0, 256, (self.count, *self.shape), dtype=np.uint8)
        return ImageSet("uniform-noise", values, None, 0)


@dataclass(frozen=True)
class GaussianNoise(_Generated):
    """Images of independent normal values around middle grey."""

    name: ClassVar[str] = "gaussian-noise"

    def load(self, split: Split, place: Place) -> ImageSet:  # noqa: ARG002  # generated
        """Returns uint8 (N, *shape): N(0.5, 0.25^2) on [0, 1], clipped."""
        check_test_only("gaussian-noise", split, reason=_NO_SPLITS)
        values = generator("gaussian-noise").normal(0.5, 0.25, (self.count, *self.shape))
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


def _patch(picture: Array, draws: np.random.Generator, shape: tuple[int, int, int]) -> Array:
    side = int(draws.integers(48, 201))
    top = int(draws.integers(0, picture.shape[0] - side + 1))
    left = int(draws.integers(0, picture.shape[1] - side + 1))
    patch = Image.fromarray(picture[top : top + side, left : left + side])
    channels, height, width = shape
    small = patch.resize((width, height), Image.Resampling.BOX)
    if channels != len(small.getbands()):
        return np.repeat(np.asarray(small.convert("L"))[None], channels, axis=0)
    return np.asarray(small).transpose(2, 0, 1)


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
