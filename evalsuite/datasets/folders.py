"""Pictures of the user's own: a folder of class folders, or of pictures that belong to no class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from evalsuite.datasets.base import PICTURE_SUFFIXES, DataSet, Place
from evalsuite.datasets.class_folders import FolderClasses, folder_classes
from evalsuite.datasets.decoding import DecodedPictures, Listing, decode_pictures, list_folder, subfolders
from evalsuite.datasets.overlooked import overlooked
from evalsuite.datasets.reported_names import reported_name
from evalsuite.datasets.splits import Shares, split_named
from evalsuite.errors import DataError, SuiteError, first_few
from evalsuite.preprocessing import Preprocessing
from evalsuite.types import Array, ImageSet, Split


@dataclass(frozen=True)
class Folder(DataSet):
    """Pictures in a folder, at any depth: ``<path>/<class>/<picture>``, or ``<path>/test/<class>/<picture>``.

    Every picture becomes RGB, or grey for a network of one channel, and is resized and cropped as the network wants it,
    or to `side`. All pictures are test images, unless the folder has folders ``train`` and ``test`` (or ``val``), or a
    share for testing is set. Integer names of class folders are labels; other names are numbered in sorted order; a
    class map says otherwise.

    Attributes:
        path: Folder: absolute, under the data root, or under the working directory.
        side: Height and width in pixels, instead of the network's own resize and crop: the shorter side is resized
            (bilinear), and the middle is cut out. 0 for the network's; without one, pictures of one size stay
            as they are.
        labelled: Whether the folders in it are classes; without, the pictures are out of distribution.
        limit: Use only the first so many test pictures, in sorted order of their paths; 0 for all.
        classes: Number of classes, where labels are numbers; 0 for the network's, else the largest label and one.
        class_map: File with the class of each folder (JSON, CSV or text); empty for none.
        class_names: Names of all classes in the order of their labels, where folders are named so; empty for the
            folders' own order.
        test_share: Share of each class that is tested on, where there is no ``test`` folder; the rest is for training.
            0 for all.
        split_seed: Which pictures these are; they stay the same when others are added.
        skip_unreadable: Whether pictures that cannot be read are left out and counted, instead of refused.

    References:
        The resize to `side` is that of Zhang et al. 2023, OpenOOD v1.5, arXiv 2306.09301.
    """

    reads_pictures: ClassVar[bool] = True

    path: str
    side: int = 0
    labelled: bool = False
    limit: int = 0
    classes: int = 0
    class_map: str = ""
    class_names: tuple[str, ...] = ()
    test_share: float = 0.0
    split_seed: int = 0
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.test_share < 1:
            raise SuiteError(f"folder: found test_share = {self.test_share}, expected a share in [0, 1)")
        if not self.labelled and (self.class_map or self.classes or self.class_names):
            raise SuiteError(
                "folder: class_map, classes and class_names need labelled = true, or leave them out"
            )

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the pictures of a split as uint8 (N, C, H, W)."""
        check_side(self.name, self.side, self.limit)
        if place.classes and self.classes and self.classes != place.classes:
            raise DataError(
                f"data set {self.name!r}: found classes = {self.classes}, expected the network's {place.classes}"
            )
        root = place.locate(self.path)
        if not root.is_dir():
            raise DataError(f"{root}: found a file, expected a folder of pictures")
        parts = _split_folders(root)
        shares = self._shares(root, parts)
        listing = list_folder(shares.part(self.name, root, parts, split, root))
        if not listing.paths:
            suffixes = ", ".join(sorted(PICTURE_SUFFIXES))
            raise DataError(f"{listing.folder}: found no picture, expected {suffixes} files in it or deeper")
        classes = self._classes(root, listing, parts, place) if self.labelled else None
        labels = None if classes is None else _labels(listing, classes)
        names = [path.relative_to(listing.folder).as_posix() for path in listing.paths]
        rows = shares.rows(names, labels, split, validated={"validation", "test"} <= parts.keys())
        paths = [listing.paths[row] for row in rows]
        place = replace(place, skip_unreadable=place.skip_unreadable or self.skip_unreadable)
        unread = overlooked(listing.folder, skip_unreadable=place.skip_unreadable)
        decoded = decode_pictures(paths, self._preprocessing(place), place, name=self.name)
        notes = (*listing.notes, *unread, *decoded.notes)
        if classes is None or labels is None:
            return ImageSet(self.name, decoded.images, None, 0, notes=notes)
        notes = (*_empty_classes(listing, classes), *_left_out(self.name, self.limit, labels, rows), *notes)
        files = [path.stem for path in paths]
        return labelled_pictures(self.name, decoded, labels[rows], classes, notes, files)

    @property
    def name(self) -> str:
        """Its name in reports: the last part of an absolute path."""
        return reported_name(self.path)

    def _preprocessing(self, place: Place) -> Preprocessing | None:
        if self.side:
            return Preprocessing(crop=(self.side, self.side), resize=(self.side,))
        return place.preprocessing

    def _shares(self, root: Path, parts: Mapping[Split, Path]) -> Shares:
        """How the folder is split where its folders do not say it."""
        check_share(root, self.test_share, parts, labelled=self.labelled)
        return Shares(self.test_share, self.split_seed, self.limit)

    def _classes(
        self, root: Path, listing: Listing, parts: Mapping[Split, Path], place: Place
    ) -> FolderClasses:
        """The classes of all folders of all splits, so that a label means the same in each."""
        if outside := [path for path in listing.paths if path.parent == listing.folder]:
            raise DataError(
                f"{outside[0]} is in no folder of a class: expected {listing.folder}/<class>/{outside[0].name}"
            )
        folders = {name for part in parts.values() for name in subfolders(part)} or {*listing.folders}
        class_map = place.locate(self.class_map) if self.class_map else None
        count = self.classes or place.classes
        return folder_classes(root, sorted(folders), count=count, class_map=class_map, known=self.class_names)


def labelled_pictures(
    name: str,
    decoded: DecodedPictures,
    labels: Array,
    classes: FolderClasses,
    notes: Sequence[str],
    files: Sequence[str] = (),
) -> ImageSet:
    """Returns the pictures that could be read, with their labels and the names of the classes.

    Args:
        name: Of the data set.
        decoded: The pictures.
        labels: Of all pictures, int64 (N,), those that could not be read included.
        classes: What the labels mean.
        notes: Sentences for readers of numbers about them.
        files: Names of all pictures without endings; empty for pictures that are no files.
    """
    kept = labels[decoded.kept]
    names = tuple(files[row] for row in decoded.kept) if files else ()
    return ImageSet(
        name, decoded.images, kept, len(classes.names), classes.names, tuple(notes), classes.text, files=names
    )


def check_side(name: str, side: int, limit: int = 0, *, minimum: int = 0) -> None:
    """Checks the settings of a data set of pictures.

    Args:
        name: Name of the data set, for the error message.
        side: Height and width in pixels; 0 for the network's.
        limit: Number of pictures; 0 for all.
        minimum: Smallest side.

    Raises:
        DataError: If the side is below that, or the limit negative.
    """
    if side < minimum or limit < 0:
        expected = "a side of at least 1 pixel" if minimum else "a side in pixels, or 0 for the network's,"
        raise DataError(
            f"data set {name!r}: found side = {side} and limit = {limit}, expected {expected} and a count, or 0 for all"
        )


def check_share(root: Path, share: float, parts: Mapping[Split, object], *, labelled: bool = True) -> None:
    """Checks that a share for testing has an effect.

    Args:
        root: Where the set is.
        share: Of each class, to test on; 0 for none.
        parts: The parts of the set, by split.
        labelled: Whether it has classes.

    Raises:
        DataError: If there is a part to test on, or there are no classes.
    """
    tested = "test/" if "test" in parts else "val/" if "validation" in parts else ""
    if share and (tested or not labelled):
        reason = f"{tested} is there" if tested else "without labels all are tested on"
        raise DataError(f"{root}: found test_share = {share:g}, but {reason}; leave it out")


def _split_folders(root: Path) -> dict[Split, Path]:
    """The folders of splits, by split; none if the folders in `root` are classes."""
    found: dict[Split, Path] = {}
    children = subfolders(root)
    for child in children:
        split = split_named(child)
        if split is None:
            return {}
        if split in found:
            raise DataError(
                f"{root}: found the folders {found[split].name} and {child}, expected one of them"
            )
        found[split] = root / child
    return found


def _labels(listing: Listing, classes: FolderClasses) -> Array:
    """The class of each picture: that of its first folder."""
    labels = [classes.labels[path.relative_to(listing.folder).parts[0]] for path in listing.paths]
    return np.array(labels, dtype=np.int64)


def _left_out(name: str, limit: int, labels: Array, rows: Array) -> Sequence[str]:
    """What is said where the first pictures in the order of the folders are not of all classes."""
    shown, there = (len(np.unique(values)) for values in (labels[rows], labels))
    if not limit or shown == there:
        return ()
    return (
        f"{name}: the first {limit} pictures are of {shown} of {there} classes; leave out limit, and take a sample of "
        f"all classes with --limit {limit}.",
    )


def _empty_classes(listing: Listing, classes: FolderClasses) -> Sequence[str]:
    filled = {path.relative_to(listing.folder).parts[0] for path in listing.paths}
    empty = [name for name in classes.labels if name not in filled]
    return (
        [f"{listing.folder.name}: {len(empty)} classes have no picture ({first_few(empty)})."]
        if empty
        else []
    )
