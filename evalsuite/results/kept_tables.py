"""Tables of a run that take long to compute, kept in its folder and read again while nothing behind them changes.

They are functions of the cells, of the records of the candidates, of the plan and the tolerances of the suite, and of
the code that computes them. All of that is in one digest, by content: where any of it differs, they are computed anew.
"""

from __future__ import annotations

import gzip
import importlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pandas as pd

from evalsuite.atomic_files import write_atomically

NAME = "statistics.json.gz"
PACKAGE = Path(__file__).resolve().parents[1]
SOURCES = (
    "metrics",
    "statistics",
    "thresholds",
    "results",
    "runs",
    "tolerances.py",
    "types.py",
    "random_streams.py",
)
"""Modules whose text is part of the digest."""
LIBRARIES = ("numpy", "scipy", "pandas")
DATA = (("cells", "*.cell"), ("candidates", "*.json"))
"""Folders of a run and the files below them that tables are computed from."""


class KeptTables:
    """Tables by name, each computed once.

    Args:
        path: The run folder.
        content: What tables depend on beside files and code; ``None``: nothing is read or kept.
    """

    def __init__(self, path: Path, content: Mapping[str, Any] | None) -> None:
        self._path = path / NAME
        self._digest = "" if content is None else _digest(path, content)
        self._tables: dict[str, pd.DataFrame | None] = self._read() if self._digest else {}
        self._is_new = False

    def table(self, name: str, compute: Callable[[], pd.DataFrame | None]) -> pd.DataFrame | None:
        """Returns a table that may be missing, computed where it is not kept."""
        if name not in self._tables:
            self._tables[name] = compute()
            self._is_new = True
        return self._tables[name]

    def write(self) -> None:
        """Keeps the tables that were asked for.

        Raises:
            StoreError: If the folder cannot be written.
        """
        if self._digest and self._is_new:
            content = {"digest": self._digest, "tables": {k: _plain(t) for k, t in self._tables.items()}}
            write_atomically(self._path, gzip.compress(json.dumps(content).encode(), 1, mtime=0))
            self._is_new = False

    def _read(self) -> dict[str, pd.DataFrame | None]:
        """What is kept; nothing where it is of something else, or damaged."""
        try:
            content = json.loads(gzip.decompress(self._path.read_bytes()))
            tables = content["tables"] if content["digest"] == self._digest else {}
            return {name: _table(fields) for name, fields in tables.items()}
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
            return {}


def _plain(table: pd.DataFrame | None) -> dict[str, Any] | None:
    """A table as JSON has it: columns with their types and values."""
    if table is None:
        return None
    return {
        str(name): {
            "dtype": str(column.dtype),
            "values": [None if x is pd.NA else x for x in column.tolist()],
        }
        for name, column in table.items()
    }


def _table(fields: Mapping[str, Any] | None) -> pd.DataFrame | None:
    if fields is None:
        return None
    return pd.DataFrame(
        {name: pd.Series(of["values"], dtype=of["dtype"]) for name, of in fields.items()},
        columns=list(fields),
    )


def _digest(path: Path, content: Mapping[str, Any]) -> str:
    total = blake2b(json.dumps(content, sort_keys=True, default=str).encode(), digest_size=16)
    total.update(_code_digest())
    for folder, pattern in DATA:
        for file in sorted((path / folder).rglob(pattern)):
            total.update(file.relative_to(path).as_posix().encode() + blake2b(file.read_bytes()).digest())
    return total.hexdigest()


@cache
def _code_digest() -> bytes:
    """Digest of the modules that compute tables, and of the versions of the libraries below them."""
    total = blake2b(digest_size=16)
    for name in LIBRARIES:
        total.update(importlib.import_module(name).__version__.encode())
    for source in SOURCES:
        place = PACKAGE / source
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            total.update(file.relative_to(PACKAGE).as_posix().encode() + file.read_bytes())
    return total.digest()
