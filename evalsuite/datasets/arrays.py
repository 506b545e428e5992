"""Data sets on disk: plain arrays, memory-mapped, or torchvision's own layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from evalsuite.datasets.base import DataSet, Place
from evalsuite.errors import DataError
from evalsuite.types import Array, ImageSet, Split

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HELD_OUT = 0.1  # share of the training images that is never trained on, as in "Lost in Pruning"
_FETCH = "allow fetching with --download"
_WRITE = "write it with numpy.save: uint8, (N, H, W, C)"


@dataclass(frozen=True)
class Arrays(DataSet):
    """A folder with {train,test}_images.npy (uint8, NHWC or NCHW) and {train,test}_labels.npy.

    Attributes:
        folder: Folder under the data root.
        classes: Number of classes.
        train_limit: Use only the first so many training images, and no more of validation; 0 for all.
        test_limit: Use only the first so many test images; 0 for all.
    """

    folder: str
    classes: int
    train_limit: int = 0
    test_limit: int = 0

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns a split; the last tenth of the training images is the validation split."""
        found = _plain(place, [self.folder], _stem(split))
        if found is None:
            raise _missing(self.folder, [f"{self.folder}/{_stem(split)}_images.npy"], place, how=_WRITE)
        return _cut(ImageSet(self.folder, *found, self.classes), split, (self.train_limit, self.test_limit))


@dataclass(frozen=True)
class Cifar10(DataSet):
    """CIFAR-10: 50,000 training and 10,000 test images of 10 classes.

    Attributes:
        train_limit: Use only the first so many training images, and no more of validation; 0 for all.
        test_limit: Use only the first so many test images; 0 for all.
    """

    train_limit: int = 0
    test_limit: int = 0

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns a split from ``cifar10/*.npy`` or torchvision's ``cifar-10-batches-py``."""
        images, labels = _either("cifar10", ["cifar10"], "CIFAR10", place=place, stem=_stem(split))
        found = ImageSet("cifar10", images, labels, 10, CIFAR10_CLASSES)
        return _cut(found, split, (self.train_limit, self.test_limit))


@dataclass(frozen=True)
class Cifar100(DataSet):
    """CIFAR-100: the near out-of-distribution set of CIFAR-10, or a data set of 100 classes.

    Attributes:
        train_limit: Use only the first so many training images, and no more of validation; 0 for all.
        test_limit: Use only the first so many test images; 0 for all.
    """

    train_limit: int = 0
    test_limit: int = 0

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns a split from ``cifar100/*.npy``, ``ood/cifar100_images.npy`` or torchvision's layout."""
        folders = ["cifar100", "ood/cifar100"]
        images, labels = _either("cifar100", folders, "CIFAR100", place=place, stem=_stem(split))
        found = ImageSet("cifar100", images, labels, 0 if labels is None else 100)
        return _cut(found, split, (self.train_limit, self.test_limit))


@dataclass(frozen=True)
class Mnist(DataSet):
    """MNIST's 10,000 test digits, padded to 32x32: far from CIFAR's photographs."""

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the test images from ``mnist/*.npy``, ``ood/mnist_images.npy`` or torchvision's layout."""
        return _grey("mnist", "MNIST", split, place)


@dataclass(frozen=True)
class FashionMnist(DataSet):
    """Fashion-MNIST's 10,000 test images, padded to 32x32: far from CIFAR's photographs."""

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the test images from ``fashionmnist/*.npy``, ``ood/fashionmnist_images.npy`` or torchvision."""
        return _grey("fashionmnist", "FashionMNIST", split, place)


@dataclass(frozen=True)
class Svhn(DataSet):
    """SVHN's 26,032 test images of house numbers: far from CIFAR-10."""

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the test images from ``svhn/*.npy``, ``ood/svhn_images.npy`` or torchvision's layout."""
        images, _ = _either("svhn", ["svhn", "ood/svhn"], "SVHN", place=place, stem=_stem(split))
        return ImageSet("svhn", images, None, 0)


def _grey(name: str, torchvision_name: str, split: Split, place: Place) -> ImageSet:
    images, _ = _either(name, [name, f"ood/{name}"], torchvision_name, place=place, stem=_stem(split))
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    return ImageSet(name, np.repeat(padded, 3, axis=1), None, 0)


def _stem(split: Split) -> str:
    return "test" if split == "test" else "train"


def _cut(images: ImageSet, split: Split, limits: tuple[int, int]) -> ImageSet:
    """The rows of `split`, at most as many as the limits say."""
    if min(limits) < 0:
        raise DataError(f"data set {images.name!r}: found the limits {limits}, expected counts, or 0 for all")
    total = len(images.images)
    border = total - round(total * HELD_OUT)
    limit = limits[1] if split == "test" else limits[0]
    if split == "train":
        rows = slice(0, min(border, limit) if limit else border)
    elif split == "validation":
        rows = slice(border, min(border + limit, total) if limit else total)
    else:
        rows = slice(0, limit or total)
    labels = None if images.labels is None else images.labels[rows]
    return replace(images, images=images.images[rows], labels=labels)


def _either(
    name: str, folders: Sequence[str], torchvision_name: str, *, place: Place, stem: str
) -> tuple[Array, Array | None]:
    found = _plain(place, folders, stem) or _torchvision(torchvision_name, place, stem)
    if found is None:
        tried = [f"{prefix}images.npy" for prefix in _prefixes(folders, stem)]
        raise _missing(name, [*tried, f"torchvision's {torchvision_name} layout"], place, how=_FETCH)
    return found


def _missing(name: str, tried: Sequence[str], place: Place, *, how: str) -> DataError:
    if place.root is None:
        return DataError(
            f"data set {name!r} needs a data folder and none was named: "
            "give it with --data (of check: --data-root), the variable EVALSUITE_DATA, or data_root in the suite"
        )
    return DataError(
        f"data set {name!r}: found none of {', '.join(tried)} under {place.root}; "
        f"put one there, name another folder with --data (of check: --data-root), or {how}"
    )


def _plain(place: Place, folders: Sequence[str], stem: str) -> tuple[Array, Array | None] | None:
    """Images NCHW (memory-mapped) and labels of the first folder that has them."""
    if place.root is None:
        return None
    for prefix in _prefixes(folders, stem):
        images = place.root / f"{prefix}images.npy"
        if images.is_file():
            return _channels_first(images, _array(images, mapped=True)), _labels(
                place.root / f"{prefix}labels.npy", images
            )
    return None


def _prefixes(folders: Sequence[str], stem: str) -> list[str]:
    """Begins of file names; ood/cifar100 is the flat layout ood/cifar100_images.npy, of test images only."""
    flat = [f"{folder}_" for folder in folders if folder.startswith("ood/") and stem == "test"]
    return [f"{folder}/{stem}_" for folder in folders if not folder.startswith("ood/")] + flat


def _labels(path: Path, images: Path) -> Array | None:
    if path.is_file():
        labels = _array(path, mapped=False)
        return (
            labels.astype(np.int64) if np.issubdtype(labels.dtype, np.integer) else labels
        )  # others: see `checked`
    if images.parent.name == "ood":
        return None  # a flat out-of-distribution set may come without
    raise DataError(f"{images} has no labels beside it: expected {path}, one integer per image")


def _array(path: Path, *, mapped: bool) -> Array:
    try:
        found: Array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(
            f"{path} is not a readable NumPy array ({error}); write it again with numpy.save"
        ) from error
    return found


def _channels_first(path: Path, images: Array) -> Array:
    """View of `images` as NCHW: grey images get a channel, NHWC is transposed without a copy."""
    if images.dtype != np.uint8:
        raise DataError(f"{path}: found dtype {images.dtype}, expected uint8 in 0..255")
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[3] in (1, 3):
        return images.transpose(0, 3, 1, 2)
    if images.ndim == 4 and images.shape[1] in (1, 3):
        return images
    raise DataError(f"{path}: found shape {images.shape}, expected (N, H, W, C), (N, C, H, W) or (N, H, W)")


def _torchvision(name: str, place: Place, stem: str) -> tuple[Array, Array] | None:
    if place.root is None:
        return None
    from torchvision import datasets

    which: dict[str, Any] = {"split": stem} if name == "SVHN" else {"train": stem == "train"}
    try:
        found = getattr(datasets, name)(str(place.root), download=place.download, **which)
    except RuntimeError:  # torchvision's "not found or corrupted"
        return None
    except OSError as error:
        raise DataError(
            f"{name} could not be fetched to {place.root} ({error}); fetch it by hand or check the network"
        ) from error
    images = np.asarray(found.data)
    labels = np.asarray(found.labels if name == "SVHN" else found.targets, dtype=np.int64)
    return (images if name == "SVHN" else _channels_first(place.root, images)), labels
