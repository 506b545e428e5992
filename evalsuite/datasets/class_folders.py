"""Which class a folder of pictures is: its number, its place among sorted names, or what a file of the user's says."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalsuite.datasets.wordnet_ids import CLASSES, WORDNET_ID, wnids
from evalsuite.errors import DataError, first_few

SHOWN = 20
"""Classes that `FolderClasses.text` lists."""
SEPARATORS = ("\t", ";", ",", " ")
"""What may stand between a folder and its class in a class map."""
_NUMBER = re.compile(r"-?\d+", re.ASCII)


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

    Integer names are labels; names that are all known classes have their labels, as WordNet ids of ImageNet have for a
    network of 1,000 classes; other names are numbered in sorted order. A class map comes before all of these.

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
    numbers = [name for name in folders if _NUMBER.fullmatch(name)]
    if len(numbers) == len(folders):
        return _numbered(folder, folders, count)
    if count == CLASSES != len(folders) and all(map(WORDNET_ID.fullmatch, folders)):
        known = known or wnids()
    if known and set(folders) <= set(known):
        of_imagenet = all(map(WORDNET_ID.fullmatch, known))
        rule = "in the order of their WordNet ids" if of_imagenet else "named as those of the suite's data"
        return FolderClasses({name: known.index(name) for name in folders}, tuple(known), rule)
    _check_two(folder, folders, len(folders))
    names = tuple(sorted(folders))
    as_text = " (as text, since not all names are numbers: 10 before 2)" if numbers else ""
    return FolderClasses(
        {name: names.index(name) for name in names}, names, f"numbered in sorted order{as_text}"
    )


def read_class_map(path: Path) -> dict[str, int | str]:
    """Returns the class of each folder that a file names: an index, or the name of a class.

    JSON: an object of folder to class, or a list of folders in the order of their indices. CSV and text: a folder and
    its class in each line, between the one of tabs, semicolons, commas and spaces that most lines have; or one folder
    in each line, in the order of their indices. A header of words before lines of numbers is skipped.

    Raises:
        DataError: If the file is not like that.
    """
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() == ".json":
            return _of_json(path, json.loads(text))
    except (OSError, ValueError) as error:
        raise DataError(f"class map {path} cannot be read: {error}") from error
    rows = _rows([line for line in text.splitlines() if line.strip()])
    if not rows:
        raise DataError(f"class map {path} is empty, expected a folder and its class in each line")
    if all(len(row) == 1 for row in rows):
        return _unambiguous(path, ((row[0], index) for index, row in enumerate(rows)))
    if broken := [row for row in rows if len(row) != 2]:
        raise DataError(
            f"class map {path}: found the line {' '.join(broken[0])!r}, expected a folder and its class in each line"
        )
    if not rows[0][1].isdecimal() and len(rows) > 1 and all(row[1].isdecimal() for row in rows[1:]):
        rows = rows[1:]
    return _unambiguous(path, ((name, int(label) if label.isdecimal() else label) for name, label in rows))


def _unambiguous(path: Path, pairs: Iterable[tuple[str, int | str]]) -> dict[str, int | str]:
    """Pairs of folder and class as a mapping, where no folder has two classes."""
    classes: dict[str, int | str] = {}
    for name, label in pairs:
        if classes.setdefault(name, label) != label:
            raise DataError(
                f"class map {path}: found the classes {classes[name]} and {label} of the folder {name!r}, expected one"
            )
    return classes


def _of_json(path: Path, content: object) -> dict[str, int | str]:
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return _unambiguous(path, ((name, index) for index, name in enumerate(content)))
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


def _rows(lines: Sequence[str]) -> list[list[str]]:
    """The cells of lines, between what separates them in most lines; whole lines where nothing does."""
    best, most = [[line.strip()] for line in lines], len(lines) / 2
    for separator in SEPARATORS:
        rows = [_cells(line, separator) for line in lines]
        divided = [row for row in rows if len(row) > 1]
        if separator == " " and len({row[0] for row in divided}) < len(divided):
            continue  # a list of "class 1", "class 2"
        if len(divided) > most:
            best, most = rows, len(divided)
    return best


def _cells(line: str, separator: str) -> list[str]:
    if separator != " ":
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]
    name, space, label = line.strip().rpartition(" ")
    return [name.strip(), label] if space and label.isdecimal() else [line.strip()]


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
    return _checked(
        folder, labels, count, rule, "number the classes in it from 0 on, as the network's outputs are"
    )


def _numbered(folder: Path, folders: Sequence[str], count: int) -> FolderClasses:
    labels = {name: int(name) for name in folders}
    if len(set(labels.values())) < len(labels):
        twice = sorted(name for name in labels if [*labels.values()].count(labels[name]) > 1)
        raise DataError(
            f"{folder}: found the folders {first_few(twice)}, which are the same number; keep one of each"
        )
    remedy = (
        "set its number of classes, number folders from 0 on, or name a file with the class of each folder: "
        "class_map = 'classes.json'"
    )
    return _checked(folder, labels, count, "the numbers of the folders", remedy)


def _checked(folder: Path, labels: Mapping[str, int], count: int, rule: str, remedy: str) -> FolderClasses:
    """The classes of labels that are numbers below `count`, which is known or follows from them."""
    network = f" for the {count} classes of the network" if count else ""
    count = count or max(1, max(labels.values()) + 1)
    if outside := {name: label for name, label in labels.items() if not 0 <= label < count}:
        name, label = next(iter(outside.items()))
        raise DataError(
            f"{folder}: the folder {name!r} is label {label} ({rule}), expected 0 to {count - 1}{network}; {remedy}"
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
