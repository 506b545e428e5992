"""Large arrays that the processes of a run share: computed once, written to a file, mapped into memory by all."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from evalsuite.atomic_files import atomic_path
from evalsuite.errors import StoreError
from evalsuite.types import Array

log = logging.getLogger(__name__)

SMALL = 1 << 20
"""Bytes up to which an array is not worth a file."""
RESERVE = 5 << 30
"""Bytes of the disk, or a tenth of a small one, that are left for results."""


class SharedArrayCache:
    """Named arrays in a folder of this machine.

    The files are not checked, so a run must remove the folder before it starts and after it ends.

    Args:
        folder: Created when the first array is stored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def array(self, name: str, shape: tuple[int, ...], compute: Callable[[], Iterator[Array]]) -> Array:
        """Returns the array with a name, computed by one process and mapped by the others, which wait for it.

        Its rows are written as they are computed, so that memory holds a part of it. Where the disk is nearly full,
        each process has all of it in its own memory.

        Args:
            name: A digest of everything that the array depends on.
            shape: Of the array.
            compute: Yields its rows, some at a time and in order.
        """
        path = self.folder / f"{name}.npy"
        mapped = _mapped(path)
        if mapped is not None:
            return mapped
        with exclusive(self.folder, name):
            mapped = _mapped(path)  # another process may have computed it meanwhile
            if mapped is not None:
                return mapped
            parts = compute()
            first = next(parts, np.empty((0, *shape[1:])))
            size, parts = int(np.prod(shape)) * first.itemsize, itertools.chain([first], parts)
            if size > SMALL and has_room(self.folder, size):
                if _store(path, shape, first.dtype, parts) and (mapped := _mapped(path)) is not None:
                    return mapped
                parts = compute()
            return joined(shape, parts)

    def clear(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def joined(shape: tuple[int, ...], parts: Iterable[Array]) -> Array:
    """Returns rows that are computed some at a time as one array of a shape."""
    result, filled = np.empty(shape), 0
    for part in parts:
        result = result if filled else np.empty(shape, part.dtype)
        result[filled : filled + len(part)] = part
        filled += len(part)
    return result


def has_room(folder: Path, size: int) -> bool:
    """Returns whether the disk of a folder has room for so many bytes more, and enough left for results."""
    try:
        disk = shutil.disk_usage(folder)
    except OSError:  # the folder does not exist and cannot be created
        return False
    return disk.free - size > min(RESERVE, disk.total // 10)


@contextlib.contextmanager
def exclusive(folder: Path, name: str) -> Iterator[None]:
    """Lets one process at a time compute what a name stands for; when it dies, the system releases its lock.

    Args:
        folder: Created if it is not there.
        name: Of what is computed; the lock is the file ``<name>.lock``.
    """
    path = folder / f"{name}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError:
        yield  # without a lock each process computes it, which is only slower
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
        with contextlib.suppress(
            OSError
        ):  # it is computed: who waits for the lock finds it, and who comes later
            path.unlink()
    finally:
        os.close(handle)


def _mapped(path: Path) -> Array | None:
    """The array of a file, or ``None`` where it is missing or damaged."""
    try:
        values: Array = np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        return None
    return values


def _store(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], parts: Iterable[Array]) -> bool:
    """Writes an array, and returns whether that succeeded; a crash of the machine ends the run that would read it."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    try:
        with atomic_path(path, durable=False) as temporary, temporary.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for part in parts:
                file.write(np.ascontiguousarray(part, dtype).data)
    except StoreError as error:
        log.info("%s stays in memory: %s", path.name, error)
        return False
    return True
