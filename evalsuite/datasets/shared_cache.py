"""Large arrays that the processes of a run share: computed once, written to a file, mapped into memory by all."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

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

    def array(self, name: str, compute: Callable[[], Array]) -> Array:
        """Returns the array with a name, computed by one process and mapped by the others, which wait for it.

        Where the disk is nearly full, each process has it in its own memory.

        Args:
            name: A digest of everything that the array depends on.
            compute: Returns the array.
        """
        path = self.folder / f"{name}.npy"
        mapped = _mapped(path)
        if mapped is not None:
            return mapped
        with exclusive(self.folder, name):
            mapped = _mapped(path)  # another process may have computed it meanwhile
            if mapped is not None:
                return mapped
            values = compute()
            if values.nbytes <= SMALL:
                return values
            mapped = _mapped(path) if has_room(self.folder, values.nbytes) and _store(path, values) else None
            return values if mapped is None else mapped

    def clear(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


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


def _store(path: Path, values: Array) -> bool:
    """Writes an array, and returns whether that succeeded; a crash of the machine ends the run that would read it."""
    try:
        with atomic_path(path, durable=False) as temporary, temporary.open("wb") as file:
            np.save(file, values)
    except StoreError as error:
        log.info("%s stays in memory: %s", path.name, error)
        return False
    return True
