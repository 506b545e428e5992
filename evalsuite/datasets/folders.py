"""Pictures in folders: a user's own, and those of the OpenOOD protocol under the data root; nothing is fetched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from evalsuite.datasets.base import DataSet, Place
from evalsuite.datasets.pictures import SUFFIXES
from evalsuite.errors import DataError
from evalsuite.types import Array, ImageSet, Split

LISTS = Path("benchmark_imglist", "cifar10")
PICTURES = "images_classic"
"""Where OpenOOD v1.5 keeps its lists of test images and the pictures that they name, under its ``data`` folder."""


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
        _check(self.path, split, self.side, self.limit)
        home = _root(self.path, place) / self.path
        paths = pictures_under(home)[: self.limit or None]
        if not paths:
            raise DataError(f"{home}: found no picture, expected {_kinds()} files in it or deeper")
        labels, names = _labels(home, paths) if self.labelled else (None, ())
        return ImageSet(self.path, decoded(paths, self.side), labels, len(names), names)


@dataclass(frozen=True)
class _Published(DataSet):
    """Is an outlier set of the OpenOOD protocol: its fixed list where that is there, else the whole folder."""

    name: ClassVar[str]
    listed: ClassVar[str]
    homes: ClassVar[tuple[str, ...]]
    side: int = 32

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the pictures as uint8 (N, 3, side, side)."""
        _check(self.name, split, self.side)
        root = _root(self.name, place)
        chosen = root / LISTS / f"test_{self.listed}.txt"
        paths = listed(chosen, root) if chosen.is_file() else self._all(root)
        return ImageSet(self.name, decoded(paths, self.side), None, 0)

    def _all(self, root: Path) -> list[Path]:
        homes = [f"{PICTURES}/{self.listed}", *self.homes]
        for home in homes:
            if found := pictures_under(root / home):
                return found
        raise DataError(
            f"data set {self.name!r}: found neither the list {LISTS / f'test_{self.listed}.txt'} nor pictures in "
            f"{', '.join(homes)} under {root}; unpack the set there, or name another folder with "
            "--data (of check: --data-root)"
        )


@dataclass(frozen=True)
class TinyImageNet(_Published):
    """Tiny ImageNet, near to CIFAR: OpenOOD's list of it, or every picture of its validation folder."""

    name: ClassVar[str] = "tin"
    listed: ClassVar[str] = "tin"
    homes: ClassVar[tuple[str, ...]] = ("tin", "tiny-imagenet-200/val")


@dataclass(frozen=True)
class Textures(_Published):
    """The Describable Textures Dataset, far from CIFAR: OpenOOD's list of it, or every picture."""

    name: ClassVar[str] = "textures"
    listed: ClassVar[str] = "texture"
    homes: ClassVar[tuple[str, ...]] = ("textures", "dtd/images")


@dataclass(frozen=True)
class Places365(_Published):
    """Places365, far from CIFAR: OpenOOD's list of it, or every picture of its validation folder."""

    name: ClassVar[str] = "places365"
    listed: ClassVar[str] = "places365"
    homes: ClassVar[tuple[str, ...]] = ("places365", "val_256")


def pictures_under(home: Path) -> list[Path]:
    """Returns the pictures in a folder and in those in it, sorted by path; none where there is no such folder."""
    return sorted(path for path in home.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def listed(file: Path, root: Path) -> list[Path]:
    """Returns the pictures that a list names: one path and a label in a line, under ``images_classic`` or `root`.

    Raises:
        DataError: If it names none, or one that is not there.
    """
    names = [line.rsplit(maxsplit=1)[0] for line in file.read_text("utf-8").splitlines() if line.strip()]
    if not names:
        raise DataError(f"{file}: found no line, expected a path and a label in each")
    home = root / PICTURES if (root / PICTURES).is_dir() else root
    missing = [name for name in names if not (home / name).is_file()]
    if missing:
        raise DataError(
            f"{file} names {len(missing)} of {len(names)} pictures that are not under {home}, first {missing[0]!r}; "
            "unpack them there, or remove the list to use a whole folder"
        )
    return [home / name for name in names]


def decoded(paths: Sequence[Path], side: int) -> Array:
    """Returns pictures as uint8 (N, 3, side, side): shorter side resized bilinearly, centre cut out.

    Raises:
        DataError: If one cannot be read.
    """
    found = np.empty((len(paths), 3, side, side), np.uint8)
    for row, path in zip(found, paths, strict=True):
        row[:] = _decoded(path, side)
    return found


def _decoded(path: Path, side: int) -> Array:
    from PIL import Image

    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except OSError as error:
        raise DataError(f"{path}: not a readable picture ({error}); fetch it again") from error
    width, height = (int(side * length / min(picture.size)) for length in picture.size)
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    top, left = round((height - side) / 2), round((width - side) / 2)
    return pixels[top : top + side, left : left + side].transpose(2, 0, 1)


def _labels(home: Path, paths: Sequence[Path]) -> tuple[Array, tuple[str, ...]]:
    """Class of each picture, the place of its first folder among those in `home`, and the names of all of them."""
    stray = [path for path in paths if path.parent == home]
    if stray:
        raise DataError(f"{stray[0]} is in no folder of a class: expected {home}/<class>/{stray[0].name}")
    names = tuple(sorted(folder.name for folder in home.iterdir() if folder.is_dir()))
    labels = [names.index(path.relative_to(home).parts[0]) for path in paths]
    return np.array(labels, dtype=np.int64), names


def _check(name: str, split: Split, side: int, limit: int = 0) -> None:
    if split != "test":
        raise DataError(f"data set {name!r} has no split {split!r}: a folder of pictures is test images only")
    if side < 1 or limit < 0:
        raise DataError(
            f"data set {name!r}: found side = {side} and limit = {limit}, expected a side of at least 1 pixel and a "
            "count, or 0 for all"
        )


def _root(name: str, place: Place) -> Path:
    if place.root is None:
        raise DataError(
            f"data set {name!r} needs a data folder and none was named: "
            "give it with --data (of check: --data-root), the variable EVALSUITE_DATA, or data_root in the suite"
        )
    return place.root


def _kinds() -> str:
    return ", ".join(sorted(SUFFIXES))


def holds_pictures(home: Path) -> bool:
    """Says whether a folder is one of pictures and not of arrays."""
    return home.is_dir() and not any(home.glob("*.npy")) and any(_pictures(home))


def _pictures(home: Path) -> Iterator[Path]:
    return (path for path in home.rglob("*") if path.suffix.lower() in SUFFIXES)
