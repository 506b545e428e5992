"""Test sets of CIFAR-10 that were collected anew, in their authors' files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from evalsuite.datasets.base import DataSet, Place
from evalsuite.errors import DataError
from evalsuite.types import Array, ImageSet, Split

CLASSES = 10


@dataclass(frozen=True)
class Cifar101(DataSet):
    """CIFAR-10.1 v6: 2,000 new test images of CIFAR-10, the same number of each class.

    References:
        Recht et al. 2018, arXiv 1806.00451 (modestyachts/CIFAR-10.1).
    """

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the images of ``cifar10.1_v6_data.npy`` in the data root, or in ``CIFAR-10.1``."""
        return _cifar101("cifar10.1", "v6", split, place)


@dataclass(frozen=True)
class Cifar101V4(DataSet):
    """CIFAR-10.1 v4: 2,021 new test images of CIFAR-10; its authors recommend v6."""

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the images of ``cifar10.1_v4_data.npy`` in the data root, or in ``CIFAR-10.1``."""
        return _cifar101("cifar10.1-v4", "v4", split, place)


@dataclass(frozen=True)
class Cifar102(DataSet):
    """CIFAR-10.2: 2,000 more new test images of CIFAR-10.

    References:
        Lu et al. 2020, "Harder or different? A closer look at distribution shift in dataset reproduction"
        (modestyachts/cifar-10.2).
    """

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the images of ``cifar102_test.npz`` in the data root, or in ``cifar-10.2``."""
        _check_split("cifar10.2", split)
        path = _found(place, ("cifar-10.2", "CIFAR-10.2", "cifar10.2"), "cifar102_test.npz")
        try:
            with np.load(path, allow_pickle=False) as members:
                images, labels = members["images"], members["labels"]
        except (ValueError, EOFError, OSError, KeyError, BadZipFile) as error:
            raise DataError(
                f"{path}: found no arrays 'images' and 'labels' ({error}), expected the published file"
            ) from error
        return _image_set("cifar10.2", (path, images), (path, labels))


def _cifar101(name: str, version: str, split: Split, place: Place) -> ImageSet:
    _check_split(name, split)
    folders = ("CIFAR-10.1", "CIFAR-10.1/datasets", "cifar10.1")
    images = _found(place, folders, f"cifar10.1_{version}_data.npy")
    labels = images.with_name(f"cifar10.1_{version}_labels.npy")
    if not labels.is_file():
        raise DataError(f"{labels}: no such file, expected the labels of {images.name} beside it")
    return _image_set(name, (images, _opened(images)), (labels, _opened(labels)))


def _check_split(name: str, split: Split) -> None:
    if split != "test":
        raise DataError(
            f"data set {name!r} has no split {split!r}: nothing is trained on it, only 'test' exists"
        )


def _found(place: Place, folders: Sequence[str], file: str) -> Path:
    if place.root is None:
        raise DataError(
            f"{file} needs a data folder and none was named: "
            "give it with --data (of check: --data-root), the variable EVALSUITE_DATA, or data_root in the suite"
        )
    tried = [place.root / folder / file for folder in ("", *folders)]
    for path in tried:
        if path.is_file():
            return path
    raise DataError(
        f"{tried[0]}: no such file, nor in {', '.join(folders)} beside it; put the published file into one of them"
    )


def _opened(path: Path) -> Array:
    try:
        found: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path}: not a whole NumPy array ({error}); fetch it again") from error
    return found


def _image_set(name: str, images: tuple[Path, Array], labels: tuple[Path, Array]) -> ImageSet:
    (path, pixels), (place, known) = images, labels
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (32, 32, 3):
        raise DataError(
            f"{path}: found {pixels.dtype} of shape {pixels.shape}, expected uint8 of shape (N, 32, 32, 3)"
        )
    if not np.issubdtype(known.dtype, np.integer) or known.shape != (len(pixels),):
        raise DataError(
            f"{place}: found labels {known.dtype} of shape {known.shape}, expected {len(pixels)} integers"
        )
    return ImageSet(name, pixels.transpose(0, 3, 1, 2), np.asarray(known, np.int64), CLASSES)
