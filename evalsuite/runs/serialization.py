"""JSON with the version of the format and a checksum, for all that is written about results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from evalsuite.types import Array

FORMAT = 4
"""Version of the files that are written: 2 brought checksums of the descriptions of arrays; 3 the packed size of
weights, and the axis of a candidate's ratio; 4 the plan of a run, and the text of its suite."""
READABLE = (1, 2, 3, 4)
"""Versions of the files that are read."""


class DamagedError(ValueError):
    """A file is not what was written."""


class UnreadableError(ValueError):
    """A file is of a version that is not read here."""


def to_json(content: Mapping[str, Any]) -> bytes:
    """Returns `content` as JSON that people can read."""
    return json.dumps(content, indent=1, ensure_ascii=False, default=str).encode()


def parse_table(text: str) -> dict[str, Any]:
    """Returns a table that is written as JSON.

    Raises:
        ValueError: If it is no table.
    """
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"found {type(content).__name__}, expected a table")
    return content


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `content` with its checksum."""
    return {**content, "checksum": _sum(to_json(content))}


def verified_table(text: str) -> dict[str, Any]:
    """Returns the content of a table with a checksum that is written as JSON; version 1 had none.

    The checksum is the last key of what `to_json` writes, so that the text before it is what was summed; a text with
    other spaces or another order of keys is written anew to compare.

    Raises:
        UnreadableError: If it has a version that is not read here.
        ValueError: If it is not what was written.
    """
    content = parse_table(text)
    checksum = content.pop("checksum", None)
    ending = f',\n "checksum": "{checksum}"\n}}'
    written = f"{text.removesuffix(ending)}\n}}".encode() if text.endswith(ending) else to_json(content)
    is_intact = checksum == _sum(written) or checksum == _sum(to_json(content))
    if not is_intact and (checksum is not None or content["format"] != 1):
        raise ValueError("the checksum is wrong")
    if content["format"] not in READABLE:
        raise UnreadableError(f"format {content['format']!r}, expected 1 to {FORMAT}")
    return content


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def array_name(values: Array) -> str:
    """Returns the name under which an array is stored: its own digest."""
    return hashlib.sha256(f"{values.dtype}{values.shape}".encode() + values.tobytes()).hexdigest()[:16]


def verify_array(name: str, values: Array) -> Array:
    """Returns `values`, if their digest is still their name.

    Raises:
        ValueError: If they are not.
    """
    if array_name(values) != name:
        raise ValueError(f"array {name} is damaged")
    return values
