"""The contract of a data set, and the checks that every image set must pass."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from evalsuite.datasets.picture_cache import CachedArray
from evalsuite.errors import DataError
from evalsuite.preprocessing import Preprocessing
from evalsuite.types import Array, ImageSet, Split

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Suffixes of picture files, in lower case: those that torchvision's ``ImageFolder`` reads."""

CHUNK = 16 << 20
"""Bytes of images that are read at once to be digested."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place where a run finds its data, and the seed of what it draws there.

    Attributes:
        root: Folder with the user's data; ``None`` if the user named none.
        download: Whether missing sets may be downloaded.
        seed: First part of the address of every draw that changes images.
        preprocessing: Resize and crop of the network, for pictures that have no size of their own yet.
        classes: Number of logits of the network; 0 if it is not known. Labels that are indices are below it.
        channels: Number of channels of the network's images: pictures become grey for one, RGB for three.
        skip_unreadable: Whether pictures that cannot be read are left out and counted.
        verify: Whether pictures are read again that an earlier run has decoded.
    """

    root: Path | None = None
    download: bool = False
    seed: int = 0
    preprocessing: Preprocessing | None = None
    classes: int = 0
    channels: int = 3
    skip_unreadable: bool = False
    verify: bool = False

    def locate(self, name: str) -> Path:
        """Returns a file or folder of the user's: absolute, under the data root, or under the working directory.

        Raises:
            DataError: If it is in none of these places.
        """
        found = self.find(name)
        if found is None:
            raise DataError(
                f"{name}: no such file or folder, looked for {' and '.join(map(str, self._tried(name)))}; correct the "
                "path, or name the folder that it starts at with --data-root"
            )
        return found

    def find(self, name: str) -> Path | None:
        """Returns a file or folder as `locate` does, ``None`` if there is none."""
        return next((path for path in self._tried(name) if path.exists()), None)

    def _tried(self, name: str) -> list[Path]:
        named = Path(name).expanduser()
        places = [folder for folder in (self.root, Path.cwd()) if folder is not None]
        return [named] if named.is_absolute() else [folder / named for folder in places]

    def require_root(self, wanted: str) -> Path:
        """Returns the data root.

        Args:
            wanted: Name of what is read from there, for the error message.

        Raises:
            DataError: If the user named no data root.
        """
        if self.root is None:
            raise DataError(
                f"{wanted} needs a data folder and none was named: "
                "give it with --data-root, the variable EVALSUITE_DATA, or data_root in the suite"
            )
        return self.root


class DataSet(ABC):
    """A source of images; derive a frozen dataclass whose fields are the keys of the suite's table.

    Attributes:
        reads_pictures: Whether it decodes picture files.
        filtered: Whether its images were chosen because networks fail on them: a parent may then be at chance.
    """

    reads_pictures: ClassVar[bool] = False
    filtered: ClassVar[bool] = False

    def fitted_to(self, shape: tuple[int, ...]) -> DataSet:  # noqa: ARG002  # published images are what they are
        """Returns the data set whose images have a shape (C, H, W), if it can choose; else itself.

        Sets that are generated or decoded from pictures can; they then serve as outliers for networks of other sizes
        and channel counts.
        """
        return self

    @abstractmethod
    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the images of one split; sets that only serve as outliers have ``test`` alone.

        Raises:
            DataError: If the files are missing; the message names them and tells how to get them.
        """


def load_checked(dataset: DataSet, split: Split, place: Place) -> ImageSet:
    """Returns a split after checking it.

    Raises:
        DataError: If the set is missing or breaks a rule of `check_image_set`.
    """
    return check_image_set(dataset.load(split, place))


def check_image_set(images: ImageSet) -> ImageSet:
    """Returns `images` unchanged if they are as `evalsuite.types.ImageSet` defines them.

    Raises:
        DataError: Otherwise, in one sentence.
    """
    _check_images(images.name, images.images)
    if images.labels is not None:
        _check_labels(images.name, images.labels, len(images.images), images.classes)
    if images.names and len(images.names) != images.classes:
        raise DataError(
            f"image set {images.name!r}: found {len(images.names)} names of {images.classes} classes, expected one each"
        )
    return images


def check_test_only(name: str, split: Split, *, reason: str) -> None:
    """Checks that a set with test images only is not asked for another split.

    Args:
        name: Name of the data set.
        split: Requested split.
        reason: Why there is no other split, for the error message.

    Raises:
        DataError: If `split` is not ``test``.
    """
    if split != "test":
        raise DataError(f"data set {name!r} has no split {split!r}: {reason}, only 'test' exists")


def read_array(path: Path, *, remedy: str = "download the file again", mapped: bool = True) -> Array:
    """Returns the array of an existing ``.npy`` file; pickled objects are refused.

    Args:
        path: The file.
        remedy: What to do if the file is damaged, for the error message.
        mapped: Whether to map the file into memory, read-only, instead of reading it.

    Raises:
        DataError: If the file is not a complete NumPy array.
    """
    try:
        array: Array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(
            f"{path}: found {path.stat().st_size} bytes that are no complete NumPy array ({error}); {remedy}"
        ) from error
    return array


def _check_images(name: str, images: Array) -> None:
    if images.ndim != 4:
        raise DataError(f"image set {name!r}: found shape {images.shape}, expected (N, C, H, W)")
    if len(images) == 0:
        raise DataError(f"image set {name!r} is empty: expected at least one image")
    if images.dtype == np.uint8:
        return
    if images.dtype != np.float32:
        raise DataError(
            f"image set {name!r}: found dtype {images.dtype}, expected uint8 in 0..255 or float32 in [0, 1]"
        )
    low, high = float(images.min()), float(images.max())
    if not (low >= 0.0 and high <= 1.0):
        raise DataError(
            f"image set {name!r}: found float values from {low:g} to {high:g}, expected [0, 1]; "
            "the model does its own normalisation, so give pixels that are not normalised"
        )


def _check_labels(name: str, labels: Array, count: int, classes: int) -> None:
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"image set {name!r}: found labels of shape {labels.shape} and dtype {labels.dtype}, "
            f"expected {count} integers, one per image"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"image set {name!r}: found labels from {low} to {high}, expected 0 to {classes - 1} for {classes} classes"
        )
    if low == high:
        raise DataError(
            f"image set {name!r}: every label is {low}; expected at least two classes, "
            "or labels=None for an out-of-distribution set"
        )


def digest(images: ImageSet) -> str:
    """Returns a hexadecimal SHA-256 digest of the pixels and labels, and of the rule by which they are scored."""
    head = f"{images.images.dtype} {images.images.shape} {images.classes}"
    tail = b"" if images.labels is None else images.labels.astype(np.int64).tobytes()
    if images.rule is not None:
        tail += f"{images.rule.kind} {images.rule.outputs} {images.rule.indices}".encode()

    def content() -> str:
        total = hashlib.sha256(head.encode())
        count = max(1, CHUNK // max(1, images.images[:1].nbytes))
        for start in range(0, len(images.images), count):
            total.update(images.images[start : start + count].tobytes())
        total.update(tail)
        return total.hexdigest()

    if isinstance(images.images, CachedArray):
        return images.images.remember(f"{head} {hashlib.sha256(tail).hexdigest()}", content)
    return content()
