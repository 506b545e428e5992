"""The two consoles of the commands, for results and for progress, and what several commands print on them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from evalsuite.cli.endings import OutputConsole, SideConsole

if TYPE_CHECKING:
    import pandas as pd

NARROW = 40
"""Columns below which a text does not fit beside its name."""
PIPE_WIDTH = 160
"""Columns of tables in pipes and files, which have no width."""
out = OutputConsole(highlight=False, width=None if sys.stdout and sys.stdout.isatty() else PIPE_WIDTH)
err = SideConsole(stderr=True, highlight=False)


def print_json(text: str) -> None:
    """Prints JSON, for other programs to read."""
    out.print_json(text)


def print_rows(table: pd.DataFrame) -> None:
    """Prints a table as JSON, one object per row, every number to its last digit."""
    from evalsuite.report.data import records  # pandas takes a while to import

    print_json(json.dumps(records(table), default=str))


def print_error(message: str) -> None:
    """Prints one sentence about a mistake or a failure."""
    err.print(f"[bold red]evalsuite:[/] {escape(message)}", soft_wrap=True)


def print_warning(message: str) -> None:
    """Prints one sentence that asks for a change."""
    err.print(f"[yellow]evalsuite:[/] {escape(message)}", soft_wrap=True)


def print_path(what: str, path: Path, *, count: int | None = None) -> None:
    """Prints where something was written, and how many of it."""
    number = "" if count is None else f"{count} in "
    out.print(f"{what}: {number}{path.resolve()}", soft_wrap=True, markup=False)


def print_facts(facts: Mapping[str, str]) -> None:
    """Prints names with what is known of them, a line each; empty texts are left out."""
    shown = {name: text for name, text in facts.items() if text}
    width = max(12, *(len(name) + 2 for name in shown)) if shown else 0
    for name, text in shown.items():
        out.print(f"{name:<{width}}{text}", soft_wrap=True, markup=False)


def print_sample(text: str) -> None:
    """Prints which part of the test images was looked at; nothing for all."""
    if text:
        out.print(f"Tested on {text}.", soft_wrap=True, markup=False)
