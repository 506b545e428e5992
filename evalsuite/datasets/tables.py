"""Arrow and parquet files with encoded pictures, as the library `datasets` of Hugging Face writes them.

A picture is a record of ``bytes`` and ``path``, a label an integer whose names stand in the metadata of the schema.
Arrow files are mapped into memory; of parquet files a few groups of rows are in memory at once.
"""

from __future__ import annotations

import importlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from evalsuite.datasets.decoding import file_stamp, is_hidden
from evalsuite.datasets.splits import split_named
from evalsuite.errors import DataError, first_few
from evalsuite.types import Split

STATE, DICTIONARY = "state.json", "dataset_dict.json"
"""What `Dataset.save_to_disk` and `DatasetDict.save_to_disk` write beside the tables."""
BLOCKS = 2
"""Arrow files or groups of rows that are open at once: threads decode neighbouring rows."""


@dataclass(frozen=True)
class TableFiles:
    """The tables of a folder.

    Attributes:
        whole: All files, in order.
        parts: The files of each split; none if the folder does not say which are which.
        unused: Names of splits that are none of train, validation and test.
    """

    whole: tuple[Path, ...]
    parts: Mapping[Split, tuple[Path, ...]]
    unused: tuple[str, ...] = ()


def holds_tables(folder: Path) -> bool:
    """Returns whether a folder holds a saved data set, or parquet files."""
    if (folder / DICTIONARY).is_file() or ((folder / STATE).is_file() and any(folder.glob("*.arrow"))):
        return True
    return next(_parquet_files(folder), None) is not None


def find_tables(folder: Path) -> TableFiles:
    """Returns the tables of a folder, by split.

    Saved dictionaries have a folder for each split; parquet files are named after them, as on the Hub:
    ``data/train-00000-of-00002.parquet``, ``test.parquet``.

    Raises:
        DataError: If there are none, or not all are of a split.
    """
    if (folder / STATE).is_file():
        return TableFiles(_saved_files(folder), {})
    if (folder / DICTIONARY).is_file():
        names = _read_json(folder / DICTIONARY).get("splits", [])
        by_name = {str(name): _saved_files(folder / str(name)) for name in names}
    else:
        by_name = {}
        for path in sorted(_parquet_files(folder)):
            name = _split_word(path.relative_to(folder))
            by_name[name] = (*by_name.get(name, ()), path)
    if not by_name:
        raise DataError(f"{folder}: found no saved data set and no .parquet file, expected one of them")
    if len(by_name) == 1 and split_named(next(iter(by_name))) is None:
        return TableFiles(next(iter(by_name.values())), {})
    return _by_split(folder, by_name)


def _by_split(folder: Path, by_name: Mapping[str, tuple[Path, ...]]) -> TableFiles:
    parts: dict[Split, tuple[Path, ...]] = {}
    for name, files in by_name.items():
        split = split_named(name)
        if split in parts:
            raise DataError(f"{folder}: found two splits that are {split}, {first_few([*by_name])}; keep one")
        if split is not None:
            parts[split] = files
    unused = tuple(name for name in by_name if split_named(name) is None)
    if not parts or "" in unused:
        found = first_few([name or "files without a split in their names" for name in by_name])
        raise DataError(
            f"{folder}: found the splits {found}, expected train, validation and test in the names of files or folders"
        )
    return TableFiles(tuple(path for files in parts.values() for path in files), parts, unused)


def _saved_files(folder: Path) -> tuple[Path, ...]:
    """The arrow files of one saved data set, in its order."""
    state = _read_json(folder / STATE)
    if state.get("_indices_data_files"):
        raise DataError(
            f"{folder}: found a selection of rows beside the table, expected a table; call flatten_indices() before "
            "save_to_disk()"
        )
    files = tuple(folder / str(file["filename"]) for file in state.get("_data_files", ()))
    if missing := [path.name for path in files if not path.is_file()]:
        raise DataError(f"{folder}: {first_few(missing)} is missing; copy the whole folder again")
    if not files:
        raise DataError(f"{folder}: found an empty data set, expected rows with pictures")
    return files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; save the data set again") from error
    return content if isinstance(content, dict) else {}


def _parquet_files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*.parquet"):
        if path.is_file() and not any(map(is_hidden, path.relative_to(folder).parts)):
            yield path


def _split_word(path: Path) -> str:
    """The split that a file's name begins with, else that of a folder; empty if there is none."""
    words = [path.name.replace(".", "-").split("-")[0], *path.parts[:-1]]
    return next((word for word in words if split_named(word) is not None), "")


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are a picture and its class.

    Attributes:
        image: Name of the column with pictures.
        label: Name of the column with classes.
        names: Names of the classes in the order of their labels; empty where the table does not say them.
    """

    image: str
    label: str
    names: tuple[str, ...] = ()


def find_columns(path: Path, *, image: str = "", label: str = "") -> Columns:
    """Returns the columns of a table with pictures and classes.

    Args:
        path: An arrow or parquet file.
        image: Name of the column with pictures; empty for the only one.
        label: Name of the column with classes; empty for the only one whose classes are named, else ``label``.

    Raises:
        DataError: If there is none, or several and no name.
    """
    schema = _schema(path)
    written = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = written.get("info", {}).get("features", {})
    image = find_picture_column(path, image)
    named = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    usual = [name for name in ("label", "labels", "class") if name in schema.names]
    label = _only(
        path, "label", label, named or usual, known=[name for name in schema.names if name != image]
    )
    return Columns(image, label, tuple(map(str, features.get(label, {}).get("names") or ())))


def find_picture_column(path: Path, image: str = "") -> str:
    """Returns the column of a table with pictures.

    Args:
        path: An arrow or parquet file.
        image: Its name; empty for the only one.

    Raises:
        DataError: If there is none, or several and no name.
    """
    schema = _schema(path)
    pictures = [name for name in schema.names if _is_picture(schema.field(name).type)]
    return _only(path, "image", image, pictures)


def _is_picture(kind: Any) -> bool:
    arrow = _arrow("types")
    if arrow.is_struct(kind):
        return {"bytes", "path"} <= {kind.field(index).name for index in range(kind.num_fields)}
    return bool(arrow.is_binary(kind) or arrow.is_large_binary(kind))


def _only(path: Path, key: str, chosen: str, found: Sequence[str], known: Sequence[str] | None = None) -> str:
    """The column that was named, or the only one."""
    known = found if known is None else known
    if chosen and chosen not in known:
        raise DataError(
            f"{path}: found no column {chosen!r} ({key}_column), expected one of {first_few(known)}"
        )
    if chosen or len(found) == 1:
        return chosen or found[0]
    what = "pictures" if key == "image" else "classes"
    columns = f"{len(found)} columns of {what} ({first_few(found)})" if found else f"no column of {what}"
    raise DataError(f"{path}: found {columns}, expected one; name it: {key}_column = 'COLUMN'")


class Pictures:
    """The pictures of several tables, by row.

    Args:
        files: Arrow or parquet files.
        columns: Which columns are read.
    """

    def __init__(self, files: Sequence[Path], columns: Columns) -> None:
        self.columns = columns
        self._blocks = [block for path in files for block in _blocks(path)]
        self._starts = np.cumsum([0, *(rows for _, _, rows in self._blocks)])
        self._stamps = {path: file_stamp(path) for path in files}
        self._open: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def labels(self) -> list[Any]:
        """The class of each row as the table has it: a number, a word, or ``None``."""
        return [
            label
            for path, group, _ in self._blocks
            for label in _read(path, group, self.columns.label).to_pylist()
        ]

    def picture(self, row: int) -> TablePicture:
        """Returns the picture of a row, which is not read yet."""
        return TablePicture(self, row)

    def at(self, row: int) -> tuple[Path, int]:
        """Returns the file of a row, and its place in it or in its group of rows."""
        block = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._blocks[block][0], row - int(self._starts[block])

    def stamp(self, row: int) -> str:
        """Returns what the cache knows the picture of a row by."""
        return f"{self._stamps[self.at(row)[0]]} {self.columns.image} {row}"

    def read(self, row: int) -> bytes:
        """Returns the encoded picture of a row."""
        block = int(np.searchsorted(self._starts, row, side="right")) - 1
        with self._lock:
            if block not in self._open:
                while len(self._open) >= BLOCKS:
                    self._open.pop(next(iter(self._open)))
                path, group, _ = self._blocks[block]
                self._open[block] = _read(path, group, self.columns.image)
            column = self._open[block]
        value = column[row - int(self._starts[block])].as_py()
        if isinstance(value, Mapping):
            encoded, file = value.get("bytes"), value.get("path")
            value = Path(str(file)).read_bytes() if encoded is None and file else encoded
        if not isinstance(value, bytes):
            raise ValueError("the row has no picture")
        return value


@dataclass(frozen=True)
class TablePicture:
    """One picture of a table."""

    pictures: Pictures
    row: int

    @property
    def name(self) -> str:
        """The row."""
        return f"row {self.row}"

    @property
    def stamp(self) -> str:
        """What the cache knows it by."""
        return self.pictures.stamp(self.row)

    def read(self) -> bytes:
        """Returns its bytes."""
        return self.pictures.read(self.row)

    def __str__(self) -> str:
        return f"{self.pictures.at(self.row)[0].parent}, row {self.row}"


def _blocks(path: Path) -> Iterator[tuple[Path, int, int]]:
    """File, index of a group of rows, and number of rows, of each group; an arrow file is one."""
    if path.suffix == ".parquet":
        metadata = _opened(path).metadata
        yield from (
            (path, group, metadata.row_group(group).num_rows) for group in range(metadata.num_row_groups)
        )
    else:
        yield path, 0, _opened(path).num_rows


def _read(path: Path, group: int, column: str) -> Any:
    """A column of a group of rows."""
    table = _opened(path)
    if path.suffix == ".parquet":
        table = table.read_row_group(group, columns=[column])
    if column not in table.column_names:
        raise DataError(f"{path}: found no column {column!r}, expected the columns of the other files")
    return table.column(column)


def _schema(path: Path) -> Any:
    opened = _opened(path)
    return opened.schema_arrow if path.suffix == ".parquet" else opened.schema


def _opened(path: Path) -> Any:
    """A parquet file, or the mapped table of an arrow file."""
    arrow = _arrow()
    try:
        if path.suffix == ".parquet":
            return _arrow("parquet").ParquetFile(path)
        return arrow.ipc.open_stream(arrow.memory_map(str(path))).read_all()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: found no whole table ({error}); save the data set again") from error


def _arrow(part: str = "") -> Any:
    try:
        return importlib.import_module(f"pyarrow.{part}" if part else "pyarrow")
    except ImportError as error:
        raise DataError(
            "tables of pictures are read by pyarrow, which is not installed: pip install 'evalsuite[parquet]'"
        ) from error
