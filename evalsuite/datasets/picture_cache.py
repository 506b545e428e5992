"""Decoded pictures of this machine's user: decoded once, written to a file, mapped into memory by all processes.

A file is found by the digest of what was decoded: names, sizes and times of the pictures, and how they were resized.
It holds the content, so the digest of the content is computed once too. Memory does not grow with a set: rows are
written as they are decoded, and pages that are read can be dropped by the system.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evalsuite.atomic_files import atomic_path, write_atomically
from evalsuite.cache_folder import PICTURES, make_room
from evalsuite.datasets.shared_cache import SMALL, exclusive, has_room
from evalsuite.errors import StoreError
from evalsuite.types import Array

log = logging.getLogger(__name__)

FACTS = PICTURES.suffix
"""Ending of the files of facts, one beside the pixels of each set."""
ROWS = "rows"
"""The fact about decoded pictures that the cache reads itself: how many there are."""

Write = Callable[[Array], object]
Decode = Callable[[Write], Mapping[str, Any]]
"""Writes decoded pictures, uint8 (n, C, H, W), part after part, and returns facts about them as plain JSON, among them
`ROWS`."""


class CachedArray(np.memmap[Any, Any]):
    """A whole array of the cache, which remembers what was computed about its content; parts of it are plain."""

    file: Path | None = None

    def remember(self, question: str, compute: Callable[[], str]) -> str:
        """Returns an answer about the content, computed once for all processes and runs.

        Args:
            question: What is asked.
            compute: Returns the answer.
        """
        if self.file is None:  # a part of it
            return compute()
        path = self.file.with_suffix(f".{hashlib.sha256(question.encode()).hexdigest()[:16]}")
        with contextlib.suppress(OSError):
            return path.read_text("utf-8")
        answer = compute()
        with contextlib.suppress(StoreError):
            write_atomically(path, answer.encode())
        return answer


def cached_pictures(
    name: str, shape: tuple[int, int, int, int], decode: Decode, *, renew: bool = False
) -> tuple[Array, Mapping[str, Any]]:
    """Returns decoded pictures and facts about them; one process decodes them, and the others wait for it.

    Args:
        name: A digest of everything that the pixels depend on.
        shape: (N, C, H, W), where N is the largest possible number of pictures.
        decode: Decodes them.
        renew: Whether to decode them also where that has been done.

    Returns:
        uint8 (n, C, H, W), memory-mapped unless they are few or the disk is full.
    """
    size = int(np.prod(shape))
    if size <= SMALL:
        return _in_memory(shape, decode)
    folder = PICTURES.path
    found = None if renew else _found(folder / f"{name}{FACTS}", shape)
    if found is not None:
        return found
    with exclusive(folder, name):
        found = (
            None if renew else _found(folder / f"{name}{FACTS}", shape)
        )  # another process may have done it
        if found is not None:
            return found
        if size > (most := PICTURES.most()):
            log.warning(
                "%.0f GB of decoded pictures are more than the %.0f GB that are kept, so other runs decode them again: "
                "set %s",
                size / 1e9,
                most / 1e9,
                PICTURES.variable,
            )
        make_room(folder, FACTS, size=size, most=most)
        stored = has_room(folder, size) and _stored(folder / f"{name}{FACTS}", decode)
        found = _found(folder / f"{name}{FACTS}", shape) if stored else None
    if found is None:
        log.warning("%s cannot take %.1f GB of decoded pictures: they stay in memory", folder, size / 1e9)
    return _in_memory(shape, decode) if found is None else found


def _in_memory(shape: tuple[int, int, int, int], decode: Decode) -> tuple[Array, Mapping[str, Any]]:
    values, filled = np.empty(shape, np.uint8), 0

    def write(rows: Array) -> None:
        nonlocal filled
        values[filled : filled + len(rows)] = rows
        filled += len(rows)

    facts = decode(write)
    return values[: int(facts[ROWS])], facts


def _stored(path: Path, decode: Decode) -> bool:
    """Writes pixels, then facts, without which the pixels do not count; returns whether that succeeded."""
    try:
        path.unlink(missing_ok=True)
        for answer in path.parent.glob(f"{path.stem}.????????????????"):
            answer.unlink()
        with (
            atomic_path(path.with_suffix(".pixels"), durable=False) as temporary,
            temporary.open("wb") as file,
        ):
            facts = decode(lambda rows: file.write(rows.tobytes()))
        write_atomically(path, json.dumps(dict(facts)).encode())
    except StoreError as error:
        log.info("decoded pictures are not kept: %s", error)
        return False
    return True


def _found(path: Path, shape: tuple[int, int, int, int]) -> tuple[Array, Mapping[str, Any]] | None:
    """The pictures behind a file of facts, or ``None`` where it or the pixels are missing or damaged."""
    pixels = path.with_suffix(".pixels")
    try:
        facts = json.loads(path.read_text("utf-8"))
        whole = (int(facts[ROWS]), *shape[1:])
        if pixels.stat().st_size != int(np.prod(whole)):
            return None
        values = CachedArray(pixels, dtype=np.uint8, mode="r", shape=whole)
        os.utime(path)  # it was used
    except (OSError, ValueError, KeyError, TypeError):
        return None
    values.file = path
    return values, facts
