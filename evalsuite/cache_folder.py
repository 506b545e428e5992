"""The cache folder of this machine's user: where it is, how much of each kind it keeps, and what goes first."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from evalsuite.errors import DataError

CACHE_VARIABLE = "EVALSUITE_CACHE"
"""Environment variable with the cache folder."""


@dataclass(frozen=True)
class Entry:
    """One thing that is kept: the files of one name, whatever their endings.

    Attributes:
        files: All of them.
        size: Of all, in bytes.
        used: When it was last used, in seconds since the epoch.
    """

    files: tuple[Path, ...]
    size: int
    used: float


@dataclass(frozen=True)
class CacheKind:
    """One kind of what is kept.

    Attributes:
        name: A word for it.
        text: What it is, in words.
        folder: Below the cache folder; empty for that itself.
        suffix: Ending of the file that makes an entry, and whose time says when it was used.
        variable: Environment variable with the gigabytes that are kept.
        default: Bytes that are kept where it is not set.
        least: What the variable may be: ``above 0``, or ``from 0 on`` where 0 keeps nothing.
    """

    name: str
    text: str
    folder: str
    suffix: str
    variable: str
    default: float
    least: str = "above 0"

    @property
    def path(self) -> Path:
        """Where the entries are."""
        return cache_folder() / self.folder

    def most(self) -> float:
        """Returns how many bytes are kept.

        Raises:
            DataError: If the variable is no such number.
        """
        return bytes_kept(self.variable, self.default, least=self.least)

    def entries(self) -> list[Entry]:
        """Returns the entries, the least recently used first."""
        return entries(self.path, self.suffix)


PICTURES = CacheKind("pictures", "decoded pictures", "", ".json", "EVALSUITE_CACHE_GB", 64e9)
OUTPUTS = CacheKind(
    "outputs", "outputs of parents", "outputs", ".npz", "EVALSUITE_OUTPUTS_GB", 8e9, least="from 0 on"
)
KINDS = (PICTURES, OUTPUTS)


def cache_folder() -> Path:
    """Returns the cache folder: `CACHE_VARIABLE`, else ``evalsuite`` in the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser()
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(user).expanduser() / "evalsuite"


def bytes_kept(variable: str, default: float, *, least: str = "above 0") -> float:
    """Returns how many bytes of one kind are kept: gigabytes in an environment variable, else the default.

    Args:
        variable: Its name.
        default: Bytes where it is not set.
        least: ``above 0``, or ``from 0 on`` where nothing may be kept.

    Raises:
        DataError: If the variable is no such number.
    """
    text = os.environ.get(variable)
    if not text:
        return default
    try:
        size = float(text)
    except ValueError:
        size = -1.0
    if not (0 < size < float("inf") or (size == 0 and least != "above 0")):
        raise DataError(f"found {variable} = {text}, expected gigabytes {least}, for example 250")
    return size * 1e9


def entries(folder: Path, suffix: str) -> list[Entry]:
    """Returns the entries of a folder, the least recently used first; none where it cannot be read.

    Args:
        folder: In which they are.
        suffix: Of the file that makes an entry, and whose time says when it was used.
    """
    found = []
    with contextlib.suppress(OSError):
        files: dict[str, list[Path]] = {}
        for path in folder.iterdir():
            files.setdefault(path.name.partition(".")[0], []).append(path)
        for path in folder.glob(f"*{suffix}"):
            if path.name.startswith("."):  # one that is being written
                continue
            with contextlib.suppress(OSError):  # another process has just removed it
                ours = tuple(files.get(path.stem, [path]))
                found.append(Entry(ours, sum(file.stat().st_size for file in ours), path.stat().st_mtime))
    return sorted(found, key=lambda entry: entry.used)


def make_room(folder: Path, suffix: str, *, size: int, most: float, idle: float = 0.0) -> bool:
    """Removes what was not used for longest until `size` bytes more fit, and returns whether they do.

    Args:
        folder: Of the entries.
        suffix: As for `entries`.
        size: Bytes that are to be added.
        most: Bytes that are kept.
        idle: Seconds without use before which an entry stays.
    """
    kept = entries(folder, suffix)
    used, now = sum(entry.size for entry in kept), time.time()
    for entry in kept:
        if used + size <= most:
            break
        if now - entry.used >= idle:
            remove(entry)
            used -= entry.size
    return used + size <= most


def remove(entry: Entry) -> None:
    """Removes the files of an entry; processes that have one mapped keep it."""
    for file in entry.files:
        with contextlib.suppress(OSError):
            file.unlink()
