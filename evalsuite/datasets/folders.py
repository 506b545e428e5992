"""Pictures in a folder: PNG and JPEG files, decoded at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from evalsuite.datasets.base import PICTURE_SUFFIXES, DataSet, Place, check_test_only
from evalsuite.errors import DataError
from evalsuite.types import Array, ImageSet, Split


@dataclass(frozen=True)
class Folder(DataSet):
    """PNG and JPEG pictures in a folder under the data root, at any depth.

    Every picture becomes RGB, its shorter side is resized to `side` (bilinear), and the middle is cut out, as
    OpenOOD does it. All are decoded at once and kept in memory: ``3 * side * side`` bytes each.

    Attributes:
        path: Folder under the data root.
        side: Height and width in pixels.
        labelled: Whether the folders in it are classes, in sorted order; without, the pictures are out of
            distribution.
        limit: Use only the first so many pictures, in sorted order of their paths; 0 for all.
    """

    path: str
    side: int = 32
    labelled: bool = False
    limit: int = 0

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the pictures as uint8 (N, 3, side, side)."""
        check_test_only(self.path, split, reason="a folder of pictures is not split")
        check_side(self.path, self.side, self.limit)
        folder = place.require_root(f"data set {self.path!r}") / self.path
        paths = find_pictures(folder)[: self.limit or None]
        if not paths:
            suffixes = ", ".join(sorted(PICTURE_SUFFIXES))
            raise DataError(f"{folder}: found no picture, expected {suffixes} files in it or deeper")
        labels, names = _labels(folder, paths) if self.labelled else (None, ())
        return ImageSet(self.path, decode_pictures(paths, self.side), labels, len(names), names)


def check_side(name: str, side: int, limit: int = 0) -> None:
    """Checks the settings of a data set of pictures.

    Args:
        name: Name of the data set, for the error message.
        side: Height and width in pixels.
        limit: Number of pictures; 0 for all.

    Raises:
        DataError: If the side is below 1 or the limit negative.
    """
    if side < 1 or limit < 0:
        raise DataError(
            f"data set {name!r}: found side = {side} and limit = {limit}, expected a side of at least 1 pixel and a "
            "count, or 0 for all"
        )


def find_pictures(folder: Path) -> list[Path]:
    """Returns the pictures in a folder at any depth, sorted by path; none if there is no such folder."""
    return sorted(path for path in _picture_files(folder) if path.is_file())


def holds_pictures(folder: Path) -> bool:
    """Returns whether a folder holds pictures, and not arrays."""
    return folder.is_dir() and not any(folder.glob("*.npy")) and any(_picture_files(folder))


def decode_pictures(paths: Sequence[Path], side: int) -> Array:
    """Returns pictures as uint8 (N, 3, side, side): shorter side resized bilinearly, centre cut out.

    Raises:
        DataError: If one cannot be read.
    """
    images = np.empty((len(paths), 3, side, side), np.uint8)
    for image, path in zip(images, paths, strict=True):
        image[:] = _decode(path, side)
    return images


def _decode(path: Path, side: int) -> Array:
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except OSError as error:
        raise DataError(f"{path}: not a readable picture ({error}); download it again") from error
    width, height = (int(side * length / min(picture.size)) for length in picture.size)
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    top, left = round((height - side) / 2), round((width - side) / 2)
    return pixels[top : top + side, left : left + side].transpose(2, 0, 1)


def _labels(folder: Path, paths: Sequence[Path]) -> tuple[Array, tuple[str, ...]]:
    """Class of each picture, the index of its first folder among those in `folder`, and the names of all classes."""
    outside = [path for path in paths if path.parent == folder]
    if outside:
        raise DataError(
            f"{outside[0]} is in no folder of a class: expected {folder}/<class>/{outside[0].name}"
        )
    names = tuple(sorted(child.name for child in folder.iterdir() if child.is_dir()))
    labels = [names.index(path.relative_to(folder).parts[0]) for path in paths]
    return np.array(labels, dtype=np.int64), names


def _picture_files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
