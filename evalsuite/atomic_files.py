"""Files that are there whole or not at all, on local disks and on shared ones."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
import time
from pathlib import Path

from evalsuite.errors import StoreError

log = logging.getLogger(__name__)

HOUR = 3600.0
LEFTOVER = re.compile(r"\..+\.(\w{8}|\d+(\.tmp)?)")
"""Temporary names: those of `write_atomically`, of saved weights and of the report."""


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that it is there whole or not at all, even if the process or machine dies.

    Raises:
        StoreError: If the folder cannot be written to, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error


def sync_folder(folder: Path) -> None:
    """Has the names in a folder written to the disk, where its file system can: a rename is only then for good."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def set_aside(path: Path) -> Path:
    """Renames a damaged file to ``<name>.damaged-<n>``, where nothing looks for it, and returns its new name.

    Raises:
        StoreError: If it cannot be renamed.
    """
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    try:
        path.replace(aside)
    except FileNotFoundError:
        return aside  # somebody else was faster
    except OSError as error:
        raise unwritable(path, error) from error
    log.warning("%s is damaged: it was renamed to %s and is made again", path, aside.name)
    return aside


def remove_leftovers(root: Path) -> None:
    """Removes what killed writes left behind; younger than an hour, it may be of somebody who writes now.

    A date in the future is that of a clock that was set back, and as old.
    """
    for path in root.rglob(".*"):
        with contextlib.suppress(FileNotFoundError):  # its writer may have come to an end
            old = abs(time.time() - path.stat().st_mtime) > HOUR
            if LEFTOVER.fullmatch(path.name) and path.is_file() and old:
                path.unlink()


def wait_for_file(path: Path, patience: float) -> bool:
    """Returns whether a file is there, at most `patience` seconds from now: shared folders show it late.

    Listing its folder makes the client of a network file system ask the server again.
    """
    until, pause = time.monotonic() + patience, 0.05
    while not path.exists():
        if time.monotonic() >= until:
            return False
        with contextlib.suppress(OSError):
            list(path.parent.iterdir())  # a network file system then asks its server
        time.sleep(pause)
        pause = min(2 * pause, 1.0)
    return True


def unwritable(path: Path, error: OSError) -> StoreError:
    """Returns the sentence that says that `path` cannot be written."""
    return StoreError(f"{path} cannot be written: {error}; free space or name another folder with --out")
