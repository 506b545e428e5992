"""Files that are written completely or not at all, on local disks and on shared ones."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from evalsuite.errors import StoreError

log = logging.getLogger(__name__)

HOUR = 3600.0
"""Seconds after which a temporary file counts as one of a killed process."""
LEFTOVER = re.compile(r"\..+\.(\w{8}|\d+(\.tmp)?)")
"""Temporary names: those of `atomic_path`, and those that versions before it gave to weights and reports."""


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file completely or not at all, even if the process or the machine dies.

    Args:
        path: Replaced if it exists; its folder is created.
        data: The content of the file.

    Raises:
        StoreError: If the folder cannot be written to, or the disk is full.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`, which replaces `path` when the block ends without an error.

    For files that are too large for `write_atomically`, or that a library writes. The temporary file exists and is
    empty when the block starts. Afterwards its content is on the disk (fsync) before it gets its name, and so is the
    name, as in the protocol of Pillai et al. 2014, "All file systems are not created equal". After an error the
    temporary file is removed and `path` is as it was.

    Args:
        path: Replaced if it exists; its folder is created.
        durable: Whether the file must outlive a crash of the machine; without, nothing waits for the disk.

    Raises:
        StoreError: If the folder cannot be written to, or the block raised an `OSError`, such as for a full disk.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _new_file(path)
        try:
            yield temporary
            if durable:
                _sync(temporary)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error


def _new_file(path: Path) -> Path:
    """Makes an empty file beside `path` that the users may read whom the umask lets: a temporary file has fewer."""
    while True:
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        with contextlib.suppress(FileExistsError):
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return temporary


def sync_folder(folder: Path) -> None:
    """Writes the file names of a folder to the disk, where the file system can: a rename lasts only after that."""
    with contextlib.suppress(OSError):
        _sync(folder)


def _sync(path: Path) -> None:
    """Writes what the system still holds in memory of a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def set_aside(path: Path) -> Path:
    """Renames a damaged file to ``<name>.damaged-<n>``, a name that is never read, and returns it.

    Raises:
        StoreError: If it cannot be renamed.
    """
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    try:
        path.replace(aside)
    except FileNotFoundError:
        return aside  # another process has renamed it
    except OSError as error:
        raise unwritable(path, error) from error
    log.warning("%s is damaged: it was renamed to %s and is computed again", path, aside.name)
    return aside


def remove_leftovers(root: Path) -> None:
    """Removes the temporary files of killed processes below `root`; one younger than an hour may still be written to.

    A date more than an hour in the future was given by a clock that was set back: such a file is removed too.
    """
    for path in root.rglob(".*"):
        with contextlib.suppress(FileNotFoundError):  # its writer may have finished meanwhile
            outdated = abs(time.time() - path.stat().st_mtime) > HOUR
            if LEFTOVER.fullmatch(path.name) and path.is_file() and outdated:
                path.unlink()


def wait_for_file(path: Path, timeout: float) -> bool:
    """Waits until a file exists, since shared folders show it late, and returns whether it does.

    Args:
        path: The file.
        timeout: Longest wait in seconds.
    """
    deadline, pause = time.monotonic() + timeout, 0.05
    while not path.exists():
        if time.monotonic() >= deadline:
            return False
        with contextlib.suppress(OSError):
            list(path.parent.iterdir())  # listing it makes the client of a network file system ask its server
        time.sleep(pause)
        pause = min(2 * pause, 1.0)
    return True


def unwritable(path: Path, error: OSError) -> StoreError:
    """Returns the error of a path that cannot be written."""
    return StoreError(f"{path} cannot be written: {error}; free space or name another folder with --out")
