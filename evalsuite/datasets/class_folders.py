"""Which class a folder of pictures is: its number, its place among sorted names, or what a file of the user's says."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalsuite.errors import DataError, first_few

SHOWN = 20
"""Classes that `FolderClasses.text` lists."""


@dataclass(frozen=True)
class FolderClasses:
    """The classes of a set of folders.

    Attributes:
        labels: Name of a folder to its label.
        names: Names of all classes, one each.
        rule: How labels were found, in words.
    """

    labels: Mapping[str, int]
    names: tuple[str, ...]
    rule: str

    @property
    def text(self) -> str:
        """The mapping in words, for readers."""
        pairs = sorted((label, folder) for folder, label in self.labels.items())
        listed = ", ".join(f"{label} {folder}" for label, folder in pairs[:SHOWN])
        more = f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
        return f"{len(self.names)} classes, {self.rule}: {listed}{more}"


def folder_classes(
    folder: Path,
    folders: Sequence[str],
    *,
    count: int = 0,
    class_map: Path | None = None,
    known: Sequence[str] = (),
) -> FolderClasses:
    """Returns the class of each folder.

    Integer names are labels; names that are all known classes have their labels; other names are numbered in sorted
    order. A class map comes before all of these.

    Args:
        folder: Where the folders are, for messages.
        folders: Their names.
        count: Number of classes K, where it is known: labels that are numbers are below it.
        class_map: A file with the class of each folder, see `read_class_map`.
        known: Names of the classes of a set that this one belongs to.

    Raises:
        DataError: If there are none or only one, or a label is outside of the classes.
    """
    if not folders:
        raise DataError(f"{folder}: found no folders of classes, expected {folder}/<class>/<picture>")
    if class_map is not None:
        return _mapped(folder, folders, class_map, count)
    if all(name.isdecimal() and name.isascii() for name in folders):
        return _numbered(folder, folders, count)
    if known and set(folders) <= set(known):
        labels = {name: known.index(name) for name in folders}
        return FolderClasses(labels, tuple(known), "named as those of the suite's data")
    _check_two(folder, folders, len(folders))
    names = tuple(sorted(folders))
    return FolderClasses({name: names.index(name) for name in names}, names, "numbered in sorted order")


def read_class_map(path: Path) -> dict[str, int | str]:
    """Returns the class of each folder that a file names: an index, or the name of a class.

    JSON: an object of folder to class, or a list of folders in the order of their indices. CSV and text: a folder and
    its class in each line, between commas, semicolons, tabs or spaces; or one folder in each line, in the order of
    their indices. A header of words before lines of numbers is skipped.

    Raises:
        DataError: If the file is not like that.
    """
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() == ".json":
            return _of_json(path, json.loads(text))
    except (OSError, ValueError) as error:
        raise DataError(f"class map {path} cannot be read: {error}") from error
    rows = [row for row in map(_row, text.splitlines()) if row]
    if not rows:
        raise DataError(f"class map {path} is empty, expected a folder and its class in each line")
    if all(len(row) == 1 for row in rows):
        return {row[0]: index for index, row in enumerate(rows)}
    if broken := [row for row in rows if len(row) != 2]:
        raise DataError(
            f"class map {path}: found the line {' '.join(broken[0])!r}, expected a folder and its class in each line"
        )
    if not rows[0][1].isdecimal() and len(rows) > 1 and all(row[1].isdecimal() for row in rows[1:]):
        rows = rows[1:]
    return {name: int(label) if label.isdecimal() else label for name, label in rows}


def _of_json(path: Path, content: object) -> dict[str, int | str]:
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return {name: index for index, name in enumerate(content)}
    if isinstance(content, dict) and all(
        isinstance(label, int | str) and not isinstance(label, bool) for label in content.values()
    ):
        return {
            name: int(label) if isinstance(label, str) and label.isdecimal() else label
            for name, label in content.items()
        }
    raise DataError(
        f"class map {path}: expected an object of folder to index or class name, or a list of folders"
    )


def _row(line: str) -> list[str]:
    for separator in ("\t", ";", ","):
        if separator in line:
            return [part.strip() for part in next(csv.reader([line], delimiter=separator))]
    name, space, label = line.strip().rpartition(" ")
    return [name.strip(), label] if space and label.isdecimal() else [line.strip()] if line.strip() else []


def _mapped(folder: Path, folders: Sequence[str], class_map: Path, count: int) -> FolderClasses:
    classes = read_class_map(class_map)
    if missing := [name for name in folders if name not in classes]:
        raise DataError(
            f"class map {class_map} has no class for {len(missing)} of {len(folders)} folders in {folder} "
            f"({first_few(missing)}); add them, or remove the folders"
        )
    words = sorted({label for label in classes.values() if isinstance(label, str)})
    if words and len(words) < len({*classes.values()}):
        raise DataError(
            f"class map {class_map}: found both indices and names of classes ({first_few(words)}), expected one kind"
        )
    rule = f"by the class map {class_map.name}"
    if words:
        _check_two(folder, words, len(words))
        labels = {name: words.index(str(classes[name])) for name in folders}
        return FolderClasses(labels, tuple(words), rule)
    labels = {name: int(classes[name]) for name in folders}
    return _checked(folder, labels, count, rule)


def _numbered(folder: Path, folders: Sequence[str], count: int) -> FolderClasses:
    labels = {name: int(name) for name in folders}
    if len(set(labels.values())) < len(labels):
        twice = sorted(name for name in labels if [*labels.values()].count(labels[name]) > 1)
        raise DataError(
            f"{folder}: found the folders {first_few(twice)}, which are the same number; keep one of each"
        )
    return _checked(folder, labels, count, "the numbers of the folders")


def _checked(folder: Path, labels: Mapping[str, int], count: int, rule: str) -> FolderClasses:
    """The classes of labels that are numbers below `count`, which is known or follows from them."""
    count = count or max(labels.values()) + 1
    if outside := {name: label for name, label in labels.items() if not 0 <= label < count}:
        name, label = next(iter(outside.items()))
        raise DataError(
            f"{folder}: the folder {name!r} is label {label}, expected 0 to {count - 1} for the {count} classes of the "
            "network; set its number of classes, number folders from 0 on, or name a file with the class of each "
            "folder: class_map = 'classes.json'"
        )
    _check_two(folder, [*labels], len(set(labels.values())))
    names = [str(index) for index in range(count)]
    for name, label in sorted(labels.items(), reverse=True):
        names[label] = name
    return FolderClasses(dict(labels), tuple(names), rule)


def _check_two(folder: Path, names: Sequence[str], classes: int) -> None:
    if classes < 2:
        raise DataError(
            f"{folder}: found the folder of one class, {names[0]!r}, expected at least two: give the folder above the "
            "folders of classes"
        )
