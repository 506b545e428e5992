"""TOML files that people write: read with limits, so that a mistake in one is a sentence."""

from __future__ import annotations

import codecs
import tomllib
from typing import Any

from evalsuite.errors import SuiteError

MAX_DEPTH = 20
"""Tables and lists inside each other; suites have five."""


def toml_tables(text: str, *, where: str) -> dict[str, Any]:
    """Returns the tables of a TOML text.

    Args:
        text: The content of a file.
        where: What error messages call the file.

    Raises:
        SuiteError: If it is not valid, or nested more than `MAX_DEPTH` deep.
    """
    too_deep = f"{where}: found tables or lists nested more than {MAX_DEPTH} deep, expected those of a suite"
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SuiteError(f"{where}: not valid TOML: {error}") from error
    except RecursionError as error:
        raise SuiteError(too_deep) from error
    level: list[Any] = [tables]
    for _ in range(MAX_DEPTH):
        level = [value for item in level for value in _children(item)]
        if not level:
            return tables
    raise SuiteError(too_deep)


def decoded_text(content: bytes) -> str:
    """Returns the text of a file: UTF-8, or what spreadsheets and Windows write, with a mark in front.

    >>> decoded_text("file".encode("utf-8-sig")), decoded_text("file".encode("utf-16"))
    ('file', 'file')

    Raises:
        UnicodeDecodeError: If it is none of these.
    """
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if marked else "utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def _children(item: Any) -> list[Any]:
    """The tables and lists inside a table or list."""
    values = item.values() if isinstance(item, dict) else item
    return [value for value in values if isinstance(value, dict | list) and value]
