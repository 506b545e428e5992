"""Sets of pictures that a list names, one path and a label in a line: those of OpenOOD v1.5.

References:
    Zhang et al. 2023, "OpenOOD v1.5: Enhanced benchmark for out-of-distribution detection", arXiv 2306.09301: CIFAR-10,
    CIFAR-100, ImageNet-200 and ImageNet-1K, each with its near and far outliers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from evalsuite.datasets.base import DataSet, Place, check_test_only
from evalsuite.datasets.decoding import decode_pictures
from evalsuite.datasets.folders import check_side
from evalsuite.errors import DataError
from evalsuite.preprocessing import Preprocessing
from evalsuite.types import Array, ImageSet, Split

OUTLIER = -1
"""Label of pictures that belong to no class."""
LARGE, CLASSIC = "images_largescale", "images_classic"
"""Folders under OpenOOD's ``data`` with pictures; ``images_classic`` has those of CIFAR's benchmarks, and textures."""
LISTS = "benchmark_imglist"
"""Folder of its lists, beside these."""


@dataclass(frozen=True)
class ImageList(DataSet):
    """Pictures that a list names: ``<path> <label>`` in each line; with the label -1, of no class.

    Attributes:
        path: The list: absolute, under the data root, or under the working directory.
        root: Folder where the paths in it start; empty for ``images_largescale``, ``images_classic`` or the folder
            itself, beside ``benchmark_imglist`` where the list is in it, else under the data root: the first that
            holds the first picture.
        side: Height and width in pixels, instead of the network's own resize and crop; 0 for the network's.
        limit: Use only the first so many pictures; 0 for all.
        classes: Number of classes; 0 for the network's, else the largest label and one.
        skip_unreadable: Whether pictures that cannot be read are left out and counted.
    """

    reads_pictures: ClassVar[bool] = True

    path: str
    root: str = ""
    side: int = 0
    limit: int = 0
    classes: int = 0
    skip_unreadable: bool = False

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the pictures, uint8 (N, 3, H, W), in the order of the list; without labels if all are -1."""
        file = place.locate(self.path)
        check_test_only(file.stem, split, reason="a list names test images")
        check_side(file.stem, self.side, self.limit)
        names, labels = read_image_list(file)
        names, labels = names[: self.limit or None], labels[: self.limit or None]
        paths = _located(file, names, self._folders(file, place))
        place = replace(place, skip_unreadable=place.skip_unreadable or self.skip_unreadable)
        geometry = Preprocessing((self.side, self.side), (self.side,)) if self.side else place.preprocessing
        decoded = decode_pictures(paths, geometry, place, name=file.stem)
        outside = labels == OUTLIER
        if outside.all():
            return ImageSet(file.stem, decoded.images, None, 0, notes=decoded.notes)
        classes = self.classes or place.classes or int(labels.max()) + 1
        return ImageSet(
            file.stem, decoded.images, labels[decoded.kept], classes, notes=decoded.notes,
            labelling=f"{classes} classes, by the list {file.name}",
            files=tuple(paths[row].stem for row in decoded.kept),
        )  # fmt: skip

    def _folders(self, file: Path, place: Place) -> list[Path]:
        """Folders where paths may start."""
        if self.root:
            return [place.locate(self.root)]
        above = [parent.parent for parent in file.parents if parent.name == LISTS]
        homes = [*above, *([place.root] if place.root is not None else [])] or [file.parent]
        return [folder for home in homes for folder in (home / LARGE, home / CLASSIC, home)]


def read_image_list(file: Path) -> tuple[list[str], Array]:
    """Returns the paths that a list names, and their labels, int64 (N,): lines are split at their first space.

    Raises:
        DataError: If a line is not a relative path and an integer from -1 on, or only some labels are -1.
    """
    try:
        lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file}: no readable list ({error}); expected a path and a label in each line"
        ) from error
    pairs = [(number, *line.partition(" ")[::2]) for number, line in enumerate(lines, start=1) if line]
    if not pairs:
        raise DataError(f"{file}: found no line, expected a path and a label in each")
    for number, name, label in pairs:
        if not label.strip().removeprefix("-").isdecimal() or int(label) < OUTLIER or name.startswith("/"):
            raise DataError(
                f"{file}, line {number}: found {lines[number - 1]!r}, expected a relative path without spaces, a "
                "space, and a label from 0 on, or -1 for an outlier"
            )
    labels = np.array([int(label) for _, _, label in pairs], np.int64)
    if 0 < (outliers := int((labels == OUTLIER).sum())) < len(labels):
        raise DataError(
            f"{file}: found {outliers} outliers (label -1) among {len(labels)} pictures, expected none or all; make a "
            "list of each kind"
        )
    return [name for _, name, _ in pairs], labels


def _located(file: Path, names: Sequence[str], folders: Sequence[Path]) -> list[Path]:
    """The pictures under the first folder that holds the first of them."""
    folder = next((folder for folder in folders if (folder / names[0]).is_file()), folders[0])
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        looked = " and ".join(map(str, folders)) if folder is folders[0] else folder
        raise DataError(
            f"{file} names {len(missing)} of {len(names)} pictures that are not under {looked}, first {missing[0]!r}; "
            "unpack them there, or name the folder where the paths start (root)"
        )
    return [folder / name for name in names]


@dataclass(frozen=True)
class _OpenOodLarge(DataSet):
    """An outlier set of OpenOOD's ImageNet benchmarks: the pictures of its list.

    Attributes:
        path: The list; empty for OpenOOD's.
        root: Folder where the paths in it start; empty for OpenOOD's.
    """

    reads_pictures: ClassVar[bool] = True
    name: ClassVar[str]
    list_name: ClassVar[str]
    path: str = ""
    root: str = ""

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the pictures as the suite's images are made."""
        check_test_only(self.name, split, reason="it is out of distribution")
        path = self.path or self._list(place)
        images = ImageList(path, self.root).load("test", place)
        return replace(images, name=self.name, labels=None, classes=0, labelling="")

    def _list(self, place: Place) -> str:
        root = place.require_root(f"data set {self.name!r}")
        names = [
            f"{LISTS}/{benchmark}/test_{self.list_name}.txt" for benchmark in ("imagenet", "imagenet200")
        ]
        for name in names:
            if (root / name).is_file():
                return str(root / name)
        raise DataError(
            f"data set {self.name!r}: found none of {', '.join(names)} under {root}; the data root is OpenOOD's folder "
            f"'data', with {LARGE} in it"
        )


@dataclass(frozen=True)
class SsbHard(_OpenOodLarge):
    """SSB-hard, near to ImageNet: 49,000 pictures of 980 classes of ImageNet-21K (OpenOOD v1.5)."""

    name: ClassVar[str] = "ssb-hard"
    list_name: ClassVar[str] = "ssb_hard"


@dataclass(frozen=True)
class Ninco(_OpenOodLarge):
    """NINCO, near to ImageNet: 5,879 pictures of 64 classes without any of ImageNet's (OpenOOD v1.5)."""

    name: ClassVar[str] = "ninco"
    list_name: ClassVar[str] = "ninco"


@dataclass(frozen=True)
class INaturalist(_OpenOodLarge):
    """iNaturalist, far from ImageNet: 10,000 pictures of plants (OpenOOD v1.5)."""

    name: ClassVar[str] = "inaturalist"
    list_name: ClassVar[str] = "inaturalist"


@dataclass(frozen=True)
class OpenImageO(_OpenOodLarge):
    """OpenImage-O, far from ImageNet: 15,869 pictures (OpenOOD v1.5)."""

    name: ClassVar[str] = "openimage-o"
    list_name: ClassVar[str] = "openimage_o"
