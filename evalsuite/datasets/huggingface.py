"""A data set of the library `datasets` on disk: saved tables, or parquet files, with a column of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from evalsuite.datasets.base import DataSet, Place
from evalsuite.datasets.class_folders import FolderClasses, folder_classes
from evalsuite.datasets.decoding import decode_pictures
from evalsuite.datasets.folders import check_share, check_side, labelled_pictures
from evalsuite.datasets.reported_names import reported_name
from evalsuite.datasets.splits import Shares
from evalsuite.datasets.tables import (
    Columns,
    Pictures,
    TableFiles,
    find_columns,
    find_picture_column,
    find_tables,
)
from evalsuite.errors import DataError, SuiteError, first_few
from evalsuite.preprocessing import Preprocessing
from evalsuite.types import ImageSet, Split


@dataclass(frozen=True)
class HuggingFace(DataSet):
    """A folder that `save_to_disk` of Hugging Face's `datasets` wrote, or of parquet files, with pictures and classes.

    The same rules as for a folder of pictures: all rows are test images, unless there are splits ``train`` and ``test``
    (or ``validation``), or a share for testing is set. Labels are those of the table's named classes; numbers are
    labels; words are numbered in sorted order, or as a class map says.

    Attributes:
        path: Folder: absolute, under the data root, or under the working directory.
        side: Height and width in pixels, instead of the network's own resize and crop; 0 for the network's.
        limit: Use only the first so many test pictures; 0 for all.
        image_column: Column with the pictures; empty for the only one.
        label_column: Column with the classes; empty for the only one with named classes, else ``label``.
        classes: Number of classes, where labels are numbers; 0 for the network's, else the largest label and one.
        class_map: File with the class of each word or number in the column (JSON, CSV or text); empty for none.
        test_share: Share of each class that is tested on, where there is no split for it; 0 for all.
        split_seed: Which rows these are; they stay the same when others are added at the end.
        skip_unreadable: Whether pictures that cannot be read are left out and counted, instead of refused.
    """

    reads_pictures: ClassVar[bool] = True

    path: str
    side: int = 0
    limit: int = 0
    image_column: str = ""
    label_column: str = ""
    classes: int = 0
    class_map: str = ""
    test_share: float = 0.0
    split_seed: int = 0
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.test_share < 1:
            raise SuiteError(f"huggingface: found test_share = {self.test_share}, expected a share in [0, 1)")

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the pictures of a split as uint8 (N, C, H, W)."""
        check_side(self.name, self.side, self.limit)
        root = place.locate(self.path)
        tables = find_tables(root)
        check_share(root, self.test_share, tables.parts)
        shares = Shares(self.test_share, self.split_seed, self.limit)
        files = shares.part(self.name, root, tables.parts, split, tables.whole)
        pictures = self._pictures(files)
        words = _words(root, pictures)
        classes = self._classes(root, tables, pictures, place)
        labels = np.array([classes.labels[word] for word in words], np.int64)
        validated = {"validation", "test"} <= tables.parts.keys()
        rows = shares.rows([str(row) for row in range(len(words))], labels, split, validated=validated)
        chosen = [pictures.picture(int(row)) for row in rows]
        place = replace(place, skip_unreadable=place.skip_unreadable or self.skip_unreadable)
        side = Preprocessing(crop=(self.side, self.side), resize=(self.side,)) if self.side else None
        decoded = decode_pictures(chosen, side or place.preprocessing, place, name=self.name)
        notes = (*_unused(self.name, tables), *decoded.notes)
        return labelled_pictures(self.name, decoded, labels[rows], classes, notes)

    @property
    def name(self) -> str:
        """Its name in reports: the last part of an absolute path."""
        return reported_name(self.path)

    def _pictures(self, files: Sequence[Path]) -> Pictures:
        pictures = Pictures(files, find_columns(files[0], image=self.image_column, label=self.label_column))
        if not len(pictures):
            raise DataError(f"{files[0].parent}: found no rows, expected at least one picture")
        return pictures

    def _classes(self, root: Path, tables: TableFiles, pictures: Pictures, place: Place) -> FolderClasses:
        """The classes of all rows of all splits, so that a label means the same in each."""
        names, count = pictures.columns.names, self.classes or place.classes
        if names and not self.class_map:
            if self.classes:
                raise DataError(
                    f"{root}: found classes = {self.classes}, but the table names {len(names)} classes; leave it out"
                )
            labels = {name: label for label, name in enumerate(names)}
            return FolderClasses(labels, names, "as the table names them")
        found = names or sorted({*_words(root, self._pictures(tables.whole))})
        class_map = place.locate(self.class_map) if self.class_map else None
        return folder_classes(root, found, count=count, class_map=class_map)


@dataclass(frozen=True)
class TableOutliers(DataSet):
    """The pictures of such a folder as an outlier set, whose classes, if it has some, are not read.

    Those of the split ``test``, or of ``validation``, where it has one; else all rows.

    Attributes:
        path: Folder: absolute, under the data root, or under the working directory.
        limit: Use only the first so many pictures; 0 for all.
        image_column: Column with the pictures; empty for the only one.
    """

    reads_pictures: ClassVar[bool] = True

    path: str
    limit: int = 0
    image_column: str = ""

    def load(self, split: Split, place: Place) -> ImageSet:  # noqa: ARG002  # outliers are tested on alone
        """Returns the pictures as uint8 (N, C, H, W)."""
        tables = find_tables(place.locate(self.path))
        files = tables.parts.get("test") or tables.parts.get("validation") or tables.whole
        pictures = Pictures(files, Columns(find_picture_column(files[0], self.image_column), ""))
        rows = range(min(len(pictures), self.limit) if self.limit else len(pictures))
        if not rows:
            raise DataError(f"{files[0].parent}: found no rows, expected at least one picture")
        chosen = [pictures.picture(row) for row in rows]
        decoded = decode_pictures(chosen, place.preprocessing, place, name=self.name)
        return ImageSet(self.name, decoded.images, None, 0, notes=decoded.notes)

    @property
    def name(self) -> str:
        """Its name in reports: the last part of an absolute path."""
        return reported_name(self.path)


def _words(root: Path, pictures: Pictures) -> list[str]:
    """The class of each row: its name, or its label as a word where the table names no classes."""
    names = pictures.columns.names
    words = [_word(value, names) for value in pictures.labels]
    if without := [row for row, word in enumerate(words) if word is None]:
        raise DataError(
            f"{root}: {len(without)} of {len(words)} rows have no class in the column {pictures.columns.label!r} "
            f"(row {first_few(without)}); expected a class for each: leave these rows out"
        )
    return [word for word in words if word is not None]


def _word(value: object, names: Sequence[str]) -> str | None:
    if names:
        return names[value] if isinstance(value, int) and 0 <= value < len(names) else None
    return None if value is None or value == -1 else str(value)


def _unused(name: str, tables: TableFiles) -> tuple[str, ...]:
    """What is said about splits that mean nothing here."""
    return (f"{name}: the splits {first_few(tables.unused)} are not used.",) if tables.unused else ()
