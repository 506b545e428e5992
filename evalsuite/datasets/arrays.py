"""Arrays on disk, memory-mapped: the user's own, and published sets, also as torchvision stores them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from evalsuite.datasets.base import DataSet, Place, read_array
from evalsuite.datasets.reported_names import reported_name
from evalsuite.errors import DataError, first_few
from evalsuite.types import Array, ImageSet, Split

VALIDATION_SHARE = 0.1
"""Share of the training images that is never trained on, as in Liebenwein et al. 2021, "Lost in Pruning"."""
_REWRITE = "write it again with numpy.save"


@dataclass(frozen=True)
class Arrays(DataSet):
    """A folder with {train,test}_images.npy (uint8, NHWC or NCHW) and {train,test}_labels.npy.

    Attributes:
        folder: Folder: absolute, under the data root, or under the working directory.
        classes: Number of classes; 0 for the network's, else the largest label and one.
        train_limit: Use only the first so many training images, and no more of validation; 0 for all.
        test_limit: Use only the first so many test images; 0 for all.
        labelled: Whether labels are read; without, the images are out of distribution, whatever lies beside them.
    """

    folder: str
    classes: int = 0
    train_limit: int = 0
    test_limit: int = 0
    labelled: bool = True

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns a split; the last tenth of the training images is the validation split."""
        prefix = self._prefix(place, _stem(split))
        path = Path(f"{prefix}images.npy")
        images = _channels_first(path, read_array(path, remedy=_REWRITE))
        labels = _read_labels(Path(f"{prefix}labels.npy"), path) if self.labelled else None
        classes = self._class_count(labels, place)
        return take_split(
            ImageSet(reported_name(self.folder), images, labels, classes),
            split,
            self.train_limit,
            self.test_limit,
        )

    def _prefix(self, place: Place, stem: str) -> str:
        """Begin of the paths of its files: under the data root, else under the working directory, or absolute."""
        named = Path(self.folder).expanduser()
        roots = [Path(named.anchor)] if named.is_absolute() else [place.root, Path.cwd()]
        for root in roots:
            for prefix in _prefixes([str(named)], stem):
                if root is not None and (root / f"{prefix}images.npy").is_file():
                    return str(root / prefix)
        root = named if named.is_absolute() else place.require_root(f"data set {self.folder!r}")
        file = f"{stem}_images.npy" if named.is_absolute() else f"{self.folder}/{stem}_images.npy"
        there = first_few(sorted(path.name for path in (root / named).glob("*.npy")))
        remedy = "write it with numpy.save: uint8, (N, H, W, C)" + (f"; there are {there}" if there else "")
        raise _missing(reported_name(self.folder), [file], root, remedy=remedy)

    def _class_count(self, labels: Array | None, place: Place) -> int:
        if labels is None:
            return 0
        largest = int(labels.max()) if len(labels) and np.issubdtype(labels.dtype, np.integer) else 0
        return self.classes or place.classes or largest + 1


def published_arrays(
    torchvision_name: str, folders: Sequence[str], split: Split, place: Place
) -> tuple[Array, Array | None]:
    """Returns images and labels of a published set, as plain arrays or in torchvision's layout.

    Args:
        torchvision_name: Class of ``torchvision.datasets`` that reads or downloads it.
        folders: Folders under the data root that may hold it as arrays, the first one called as the data set;
            ``ood/mnist`` stands for the file ``ood/mnist_images.npy``, of test images, perhaps without labels.
        split: The files of ``train`` and ``validation`` are the same, see `take_split`.
        place: Place of the data.

    Returns:
        Images, uint8 (N, C, H, W), and labels, integers (N,), or ``None`` where a flat file has none.

    Raises:
        DataError: If the set is missing or malformed.
    """
    name, stem = folders[0], _stem(split)
    root = place.require_root(f"data set {name!r}")
    arrays = _find_arrays(root, folders, stem) or _torchvision_arrays(
        torchvision_name, root, stem, download=place.download
    )
    if arrays is None:
        files = [f"{prefix}images.npy" for prefix in _prefixes(folders, stem)]
        tried = [*files, f"torchvision's {torchvision_name} layout"]
        raise _missing(name, tried, root, remedy="allow downloads with --download")
    return arrays


def take_split(images: ImageSet, split: Split, train_limit: int, test_limit: int) -> ImageSet:
    """Returns the rows of a split: of the training file the last `VALIDATION_SHARE` is ``validation``.

    Args:
        images: All images of the file that holds the split.
        split: The split.
        train_limit: Most images of ``train`` and of ``validation``; 0 for all.
        test_limit: Most images of ``test``; 0 for all.

    Raises:
        DataError: If a limit is negative.
    """
    if min(train_limit, test_limit) < 0:
        raise DataError(
            f"data set {images.name!r}: found the limits {(train_limit, test_limit)}, expected counts, or 0 for all"
        )
    total = len(images.images)
    border = total - round(total * VALIDATION_SHARE)
    first, last = {"train": (0, border), "validation": (border, total), "test": (0, total)}[split]
    if limit := test_limit if split == "test" else train_limit:
        last = min(first + limit, last)
    labels = None if images.labels is None else images.labels[first:last]
    return replace(images, images=images.images[first:last], labels=labels)


def _stem(split: Split) -> str:
    return "test" if split == "test" else "train"


def _missing(name: str, tried: Sequence[str], root: Path, *, remedy: str) -> DataError:
    return DataError(
        f"data set {name!r}: found none of {', '.join(tried)} under {root}; "
        f"put one there, name another folder with --data-root, or {remedy}"
    )


def _find_arrays(root: Path, folders: Sequence[str], stem: str) -> tuple[Array, Array | None] | None:
    """Images NCHW (memory-mapped) and labels of the first folder that has them."""
    for prefix in _prefixes(folders, stem):
        path = root / f"{prefix}images.npy"
        if path.is_file():
            images = _channels_first(path, read_array(path, remedy=_REWRITE))
            return images, _read_labels(root / f"{prefix}labels.npy", path)
    return None


def _prefixes(folders: Sequence[str], stem: str) -> list[str]:
    """Begins of file names; ood/cifar100 is the flat layout ood/cifar100_images.npy, of test images only."""
    flat = [f"{folder}_" for folder in folders if folder.startswith("ood/") and stem == "test"]
    return [f"{folder}/{stem}_" for folder in folders if not folder.startswith("ood/")] + flat


def _read_labels(path: Path, images: Path) -> Array | None:
    if path.is_file():
        labels = read_array(path, remedy=_REWRITE, mapped=False)
        # other types are refused by `check_image_set`
        return labels.astype(np.int64) if np.issubdtype(labels.dtype, np.integer) else labels
    if images.parent.name == "ood":
        return None  # a flat out-of-distribution set may come without labels
    raise DataError(f"{images} has no labels beside it: expected {path}, one integer per image")


def _channels_first(path: Path, images: Array) -> Array:
    """View of `images` as NCHW: grey images get a channel, NHWC is transposed without a copy.

    The channels are 1 or 3, else the axis that is shorter than height and width.
    """
    if images.dtype != np.uint8:
        raise DataError(f"{path}: found dtype {images.dtype}, expected uint8 in 0..255")
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[3] in (1, 3):
        return images.transpose(0, 3, 1, 2)
    if images.ndim == 4 and images.shape[1] in (1, 3):
        return images
    if images.ndim == 4 and images.shape[3] < min(images.shape[1:3]):
        return images.transpose(0, 3, 1, 2)
    if images.ndim == 4 and images.shape[1] < min(images.shape[2:]):
        return images
    raise DataError(f"{path}: found shape {images.shape}, expected (N, H, W, C), (N, C, H, W) or (N, H, W)")


def _torchvision_arrays(name: str, root: Path, stem: str, *, download: bool) -> tuple[Array, Array] | None:
    from torchvision import datasets

    which: dict[str, Any] = {"split": stem} if name == "SVHN" else {"train": stem == "train"}
    try:
        dataset = getattr(datasets, name)(str(root), download=download, **which)
    except RuntimeError:  # torchvision's "not found or corrupted"
        return None
    except OSError as error:
        raise DataError(
            f"{name} could not be downloaded to {root} ({error}); download it by hand or check the network"
        ) from error
    images = np.asarray(dataset.data)
    labels = np.asarray(dataset.labels if name == "SVHN" else dataset.targets, dtype=np.int64)
    return (images if name == "SVHN" else _channels_first(root, images)), labels
