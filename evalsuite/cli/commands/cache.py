"""``cache``: prints what is kept for later runs, or removes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from evalsuite.cache_folder import KINDS, CacheKind, remove
from evalsuite.cli import console
from evalsuite.cli.options import AsJson
from evalsuite.errors import UserError
from evalsuite.registry import unknown_name


def cache_command(
    kind: Annotated[
        str, typer.Argument(help=f"{' or '.join(kind.name for kind in KINDS)}. [default: both]")
    ] = "",
    clear: Annotated[
        bool, typer.Option("--clear", help="Remove it; runs compute again what they need.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print what is kept for later runs: where, how much, and how much may be kept."""
    kinds = _kinds(kind)
    rows = [_row(each) for each in kinds]
    if clear:
        for each in kinds:
            for entry in each.entries():
                remove(entry)
    if as_json:
        console.print_json(json.dumps(rows))
        return
    table = Table(box=None, pad_edge=False)
    for title in ("kept", "entries", "size", "at most", "set by"):
        table.add_column(title, justify="right" if title in ("entries", "size", "at most") else "left")
    for row in rows:
        sizes = (_gigabytes(row["bytes"]), _gigabytes(row["most"]))
        table.add_row(str(row["kept"]), str(row["entries"]), *sizes, str(row["variable"]))
    console.out.print(table)
    for row in rows:
        console.print_path(f"{'Removed from' if clear else 'In'}", Path(str(row["path"])))


def _kinds(name: str) -> tuple[CacheKind, ...]:
    if name and name not in {kind.name for kind in KINDS}:
        raise UserError(f"cache {name}: {unknown_name('kind', name, [kind.name for kind in KINDS])}")
    return tuple(kind for kind in KINDS if name in ("", kind.name))


def _row(kind: CacheKind) -> dict[str, str | int | float]:
    """What is kept of one kind, as plain JSON; sizes in bytes."""
    entries = kind.entries()
    return {
        "name": kind.name,
        "kept": kind.text,
        "path": str(kind.path),
        "entries": len(entries),
        "bytes": sum(entry.size for entry in entries),
        "most": kind.most(),
        "variable": kind.variable,
    }


def _gigabytes(size: str | int | float) -> str:
    """Bytes in words: ``12.3 MB``."""
    number = float(size)
    unit, divisor = ("GB", 1e9) if number >= 1e9 else ("MB", 1e6)
    return f"{number / divisor:.3g} {unit}"
