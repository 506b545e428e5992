"""Large arrays that the processes of a run share: made once, written to a file, mapped into memory by all."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from evalsuite.types import Array

log = logging.getLogger(__name__)

SMALL = 1 << 20
"""Bytes up to which an array is not worth a file."""
RESERVE = 5 << 30
"""Bytes of the disk, or a tenth of a small one, that are left for results."""


class SharedArrayCache:
    """Keeps arrays in a folder of this machine.

    Args:
        folder: Made when the first array is put there; whoever starts a run removes it before and after, since
            nobody checks what is in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def array(self, name: str, make: Callable[[], Array]) -> Array:
        """Returns the array of that name, made by one process and mapped by the others, which wait for it.

        Where the disk is nearly full, each process has it in its own memory.

        Args:
            name: Says everything that the array depends on.
            make: Computes it.
        """
        path = self.folder / f"{name}.npy"
        found = _mapped(path)
        if found is not None:
            return found
        with self._turn(name):
            found = _mapped(path)
            if found is not None:
                return found
            made = make()
            if made.nbytes <= SMALL:
                return made
            shared = _mapped(path) if self._room(made.nbytes) and _written(path, made) else None
            return made if shared is None else shared

    def clear(self) -> None:
        """Removes everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _room(self, size: int) -> bool:
        """Whether the disk has room for so many bytes more, and enough left for results."""
        try:
            disk = shutil.disk_usage(self.folder)
        except OSError:  # there is no such folder, and none can be made
            return False
        return disk.free - size > min(RESERVE, disk.total // 10)

    @contextlib.contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        """Lets one process at a time make an array; the system lets the next one in when one dies."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / f"{name}.lock", os.O_CREAT | os.O_RDWR, 0o644)
        except OSError:
            yield  # everybody makes it, which is only slower
            return
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _mapped(path: Path) -> Array | None:
    try:
        found: Array = np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        return None
    return found


def _written(path: Path, values: Array) -> bool:
    """Writes an array under its name when it is whole; says whether it could."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.save(file, values)
        temporary.replace(path)
    except OSError as error:
        log.info("%s stays in memory: %s", path.name, error)
        temporary.unlink(missing_ok=True)
        return False
    return True
