"""CIFAR-10, CIFAR-100, and the test sets of CIFAR-10 that were collected anew: CIFAR-10.1 and CIFAR-10.2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from evalsuite.datasets.arrays import published_arrays, take_split
from evalsuite.datasets.base import DataSet, Place, check_test_only, read_array
from evalsuite.errors import DataError
from evalsuite.types import Array, ImageSet, Split

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class _Cifar(DataSet):
    """A CIFAR set with training images.

    Attributes:
        train_limit: Use only the first so many training images, and no more of validation; 0 for all.
        test_limit: Use only the first so many test images; 0 for all.
    """

    train_limit: int = 0
    test_limit: int = 0


@dataclass(frozen=True)
class Cifar10(_Cifar):
    """CIFAR-10: 50,000 training and 10,000 test images of 10 classes."""

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns a split from ``cifar10/*.npy`` or torchvision's ``cifar-10-batches-py``."""
        images, labels = published_arrays("CIFAR10", ["cifar10"], split, place)
        image_set = ImageSet("cifar10", images, labels, 10, CIFAR10_CLASSES)
        return take_split(image_set, split, self.train_limit, self.test_limit)


@dataclass(frozen=True)
class Cifar100(_Cifar):
    """CIFAR-100: the near out-of-distribution set of CIFAR-10, or a data set of 100 classes."""

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns a split from ``cifar100/*.npy``, ``ood/cifar100_images.npy`` or torchvision's layout."""
        images, labels = published_arrays("CIFAR100", ["cifar100", "ood/cifar100"], split, place)
        image_set = ImageSet("cifar100", images, labels, 0 if labels is None else 100)
        return take_split(image_set, split, self.train_limit, self.test_limit)


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
        check_test_only("cifar10.2", split, reason=_TEST_SET)
        path = _find_file(place, ("cifar-10.2", "CIFAR-10.2", "cifar10.2"), "cifar102_test.npz")
        try:
            with np.load(path, allow_pickle=False) as members:
                images, labels = members["images"], members["labels"]
        except (ValueError, EOFError, OSError, KeyError, BadZipFile) as error:
            raise DataError(
                f"{path}: found no arrays 'images' and 'labels' ({error}), expected the published file"
            ) from error
        return _image_set("cifar10.2", (path, images), (path, labels))


_TEST_SET = "it was published to test on"


def _cifar101(name: str, version: str, split: Split, place: Place) -> ImageSet:
    check_test_only(name, split, reason=_TEST_SET)
    folders = ("CIFAR-10.1", "CIFAR-10.1/datasets", "cifar10.1")
    images = _find_file(place, folders, f"cifar10.1_{version}_data.npy")
    labels = images.with_name(f"cifar10.1_{version}_labels.npy")
    if not labels.is_file():
        raise DataError(f"{labels}: no such file, expected the labels of {images.name} beside it")
    return _image_set(name, (images, read_array(images)), (labels, read_array(labels)))


def _find_file(place: Place, folders: Sequence[str], file: str) -> Path:
    root = place.require_root(file)
    paths = [root / folder / file for folder in ("", *folders)]
    for path in paths:
        if path.is_file():
            return path
    raise DataError(
        f"{paths[0]}: no such file, nor in {', '.join(folders)} beside it; put the published file into one of them"
    )


def _image_set(name: str, images: tuple[Path, Array], labels: tuple[Path, Array]) -> ImageSet:
    """An image set of arrays and the files that they were read from."""
    (image_path, pixels), (label_path, classes) = images, labels
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (32, 32, 3):
        raise DataError(
            f"{image_path}: found {pixels.dtype} of shape {pixels.shape}, expected uint8 of shape (N, 32, 32, 3)"
        )
    if not np.issubdtype(classes.dtype, np.integer) or classes.shape != (len(pixels),):
        raise DataError(
            f"{label_path}: found labels {classes.dtype} of shape {classes.shape}, expected {len(pixels)} integers"
        )
    return ImageSet(name, pixels.transpose(0, 3, 1, 2), np.asarray(classes, np.int64), len(CIFAR10_CLASSES))
