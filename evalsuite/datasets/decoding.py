"""Picture files to pixels: found in a folder, decoded by a few threads as the network's preprocessing wants them."""

from __future__ import annotations

import hashlib
import io
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, __version__

from evalsuite.datasets.base import PICTURE_SUFFIXES, Place
from evalsuite.datasets.picture_cache import ROWS, Write, cached_pictures
from evalsuite.errors import DataError, first_few
from evalsuite.preprocessing import Preprocessing
from evalsuite.types import Array

VERSION = 1
"""Raise it when the same files become other pixels."""
BATCH = 64
"""Pictures that are in memory at once while a set is decoded."""
READERS = 8
"""Most threads that decode: Pillow works outside of the interpreter's lock."""
HIDDEN = frozenset({"__macosx", "desktop.ini", "thumbs.db", "@eadir"})
"""Names, in lower case, of what systems leave behind beside pictures; so are all names that start with a dot."""
ORIENTATION = 0x0112
"""EXIF tag of the orientation; 1 is upright."""
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""Exceptions that Pillow raises for a damaged file."""


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder.

    Attributes:
        folder: Where they are.
        paths: Pictures at any depth, sorted by path.
        folders: Names of the folders in it that are not hidden, sorted.
        hidden: Hidden files and folders, which are left out.
        others: Files that are no pictures.
    """

    folder: Path
    paths: tuple[Path, ...]
    folders: tuple[str, ...]
    hidden: tuple[str, ...] = ()
    others: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, in words."""
        notes = []
        if self.hidden:
            notes.append(
                f"{self.folder.name}: {len(self.hidden)} hidden files or folders are ignored "
                f"({first_few(sorted(set(self.hidden)))})."
            )
        if self.others:
            notes.append(f"{self.folder.name}: {self.others} files that are no pictures are ignored.")
        return tuple(notes)


class StoredPicture(Protocol):
    """An encoded picture inside of a larger file; its text is what messages call it."""

    @property
    def name(self) -> str:
        """A short name."""

    @property
    def stamp(self) -> str:
        """File, size, time and row: what the cache knows it by."""

    def read(self) -> bytes:
        """Returns its bytes."""


@dataclass(frozen=True)
class DecodedPictures:
    """Pixels, and what was met on the way.

    Attributes:
        images: uint8 (N, C, H, W): RGB, or grey for a network of one channel.
        kept: Indices of the pictures that could be read, int64 (N,).
        notes: Sentences for readers of numbers about them.
    """

    images: Array
    kept: Array
    notes: tuple[str, ...]


def list_folder(folder: Path) -> Listing:
    """Returns the pictures in a folder at any depth, through links as torchvision goes; none if there is no folder."""
    paths, hidden, others, visited = [], [], 0, set()
    for where, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(where)) in visited:
            folders.clear()  # a link to a folder above
            continue
        visited.add(real)
        hidden += [name for name in (*folders, *files) if is_hidden(name)]
        folders[:] = [name for name in folders if not is_hidden(name)]
        shown = [Path(where, name) for name in files if not is_hidden(name)]
        pictures = [path for path in shown if path.suffix.lower() in PICTURE_SUFFIXES]
        paths += [path for path in pictures if path.is_file()]
        others += len(shown) - len(pictures)
    return Listing(folder, tuple(sorted(paths)), subfolders(folder), tuple(hidden), others)


def subfolders(folder: Path) -> tuple[str, ...]:
    """Returns the names of the folders in a folder, sorted, without hidden ones."""
    if not folder.is_dir():
        return ()
    return tuple(
        sorted(child.name for child in folder.iterdir() if child.is_dir() and not is_hidden(child.name))
    )


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder is one that people do not see.

    >>> [is_hidden(name) for name in (".ipynb_checkpoints", "._1.png", "Thumbs.db", "1.png")]
    [True, True, True, False]
    """
    return name.startswith(".") or name.lower() in HIDDEN


def holds_pictures(folder: Path) -> bool:
    """Returns whether a folder holds pictures, and not arrays."""
    if not folder.is_dir() or any(folder.glob("*.npy")):
        return False
    return any(
        Path(name).suffix.lower() in PICTURE_SUFFIXES and not is_hidden(name)
        for _, _, files in os.walk(folder, followlinks=True)
        for name in files
    )


def decode_pictures(
    paths: Sequence[Path] | Sequence[StoredPicture],
    preprocessing: Preprocessing | None,
    place: Place,
    *,
    name: str = "",
    border: int = 0,
) -> DecodedPictures:
    """Returns pictures as a network sees them, decoded once for all runs of this user.

    Args:
        paths: The files, or pictures inside of files.
        preprocessing: Resize and crop; ``None`` for pictures that have one size already.
        place: Number of channels, whether unreadable pictures are left out, and whether what is decoded already is
            decoded again.
        name: What messages call the set.
        border: Pixels that are cut off each side before anything else.

    Raises:
        DataError: If one cannot be read, they have different sizes and no preprocessing, or the network takes
            neither one channel nor three.
    """
    if place.channels not in (1, 3):
        raise DataError(
            f"{name}: found pictures and a network of {place.channels} channels, expected 1 (grey) or 3 (RGB); give "
            "its images as arrays (a folder with test_images.npy)"
        )
    grey = place.channels == 1
    preprocessing = preprocessing or Preprocessing(crop=_common_size(paths, place, name))
    shape = (len(paths), place.channels, *preprocessing.crop)
    read = partial(_decode_or_reason, preprocessing=preprocessing, grey=grey, border=border)
    decode = partial(_decode_all, paths, read, skip=place.skip_unreadable)
    how = (
        f"{preprocessing!r} {place.skip_unreadable}"
        + " grey" * grey
        + (f" without {border} px" if border else "")
    )
    key = _key(paths, how)
    images, facts = cached_pictures(key, shape, decode, renew=place.verify)
    unreadable = list(facts["unreadable"])
    if not len(images):
        raise DataError(f"{name}: none of {len(paths)} pictures can be read ({first_few(unreadable)})")
    kept = np.setdiff1d(np.arange(len(paths)), np.array([row for row, _ in unreadable], np.int64))
    return DecodedPictures(images, kept, tuple(_notes(name, facts)))


def _notes(name: str, facts: Mapping[str, Any]) -> Iterator[str]:
    if unreadable := [Path(path).name for _, path in facts["unreadable"]]:
        yield f"{name}: {len(unreadable)} unreadable pictures are left out ({first_few(unreadable)})."
    if facts["turned"]:
        yield (
            f"{name}: {facts['turned']} pictures carry an EXIF orientation, which is not applied, as torchvision's "
            "ImageFolder and timm's reader do not apply it."
        )
    if facts["transparent"]:
        yield (
            f"{name}: {facts['transparent']} pictures have an alpha channel, which is dropped, as torchvision's "
            "ImageFolder and timm's reader drop it."
        )


def _key(paths: Sequence[Path] | Sequence[StoredPicture], how: str) -> str:
    """A digest of names, sizes and times of files, of what is made of them, and of the decoder's version."""
    total = hashlib.sha256(f"{VERSION} {__version__} {how}".encode())
    for path in paths:
        total.update(f"\n{file_stamp(path) if isinstance(path, Path) else path.stamp}".encode())
    return total.hexdigest()


def file_stamp(path: Path) -> str:
    """Returns path, size and time of a file: what the cache knows it by."""
    status = path.stat()
    return f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"


def _decode_all(
    paths: Sequence[Path] | Sequence[StoredPicture],
    read: Callable[[Any], _Picture | DataError],
    write: Write,
    *,
    skip: bool,
) -> dict[str, Any]:
    facts: dict[str, Any] = {ROWS: 0, "unreadable": [], "turned": 0, "transparent": 0}
    for start, pictures in _batches(paths, read):
        rows = []
        for row, picture in enumerate(pictures, start=start):
            if isinstance(picture, DataError):
                if not skip:
                    raise picture
                facts["unreadable"].append((row, str(paths[row])))
                continue
            rows.append(picture.pixels)
            facts["turned"] += picture.turned
            facts["transparent"] += picture.transparent
        if rows:
            write(np.stack(rows))
        facts[ROWS] += len(rows)
    return facts


def _batches(
    paths: Sequence[Path] | Sequence[StoredPicture], read: Callable[[Any], _Picture | DataError]
) -> Iterator[tuple[int, list[_Picture | DataError]]]:
    """Yields the results of a few pictures at a time, in order, with the index of their first."""
    with ThreadPoolExecutor(max_workers=min(READERS, 2 * (os.cpu_count() or 1))) as readers:
        files = iter(paths)
        for start in range(0, len(paths), BATCH):
            yield start, list(readers.map(read, islice(files, BATCH)))


@dataclass(frozen=True)
class _Picture:
    """One decoded picture: pixels, uint8 (C, H, W), whether its EXIF data turn it, whether it had an alpha channel."""

    pixels: Array
    turned: bool
    transparent: bool


def _decode_or_reason(
    path: Path | StoredPicture, preprocessing: Preprocessing, *, grey: bool, border: int = 0
) -> _Picture | DataError:
    try:
        with Image.open(_encoded(path)) as file:
            turned = file.getexif().get(ORIENTATION, 1) != 1
            picture, transparent = _colour(path, file, grey=grey)
            if border:
                picture = picture.crop((border, border, picture.width - border, picture.height - border))
            return _Picture(preprocessing.pixels(picture, grey=grey), turned, transparent)
    except DataError as error:
        return error
    except UNREADABLE as error:
        return DataError(
            f"{path}: not a readable picture ({error}); download it again, or leave such files out with "
            "--skip-unreadable (skip_unreadable = true)"
        )


def _encoded(path: Path | StoredPicture) -> Path | io.BytesIO:
    """What Pillow opens."""
    return path if isinstance(path, Path) else io.BytesIO(path.read())


def _colour(path: Path | StoredPicture, file: Image.Image, *, grey: bool) -> tuple[Image.Image, bool]:
    """A picture as RGB or grey, or in a mode whose conversion to that is right; whether it had an alpha channel."""
    if file.mode.startswith("I;16"):  # Pillow would clip values above 255
        levels = np.asarray(file).astype(np.float64) / 257
        return Image.fromarray(np.rint(levels).astype(np.uint8)), False
    if file.mode in ("I", "F"):
        raise DataError(
            f"{path}: found a picture of mode {file.mode} (32 bits a pixel), whose range is not known; expected 8 or "
            "16 bits, so convert it"
        )
    if file.mode == "P" and "transparency" in file.info:
        return file.convert("RGBA").convert("RGB"), True
    return file.convert("L" if grey else "RGB"), "A" in file.getbands()


def _common_size(paths: Sequence[Path] | Sequence[StoredPicture], place: Place, name: str) -> tuple[int, int]:
    """Height and width of all pictures, from their headers."""
    sizes: dict[tuple[int, int], Path | StoredPicture] = {}
    for _, batch in _headers(paths):
        for path, size in batch:
            if isinstance(size, DataError) and not place.skip_unreadable:
                raise size
            if not isinstance(size, DataError):
                sizes.setdefault(size, path)
        if len(sizes) > 1:
            break
    if not sizes:
        raise DataError(f"{name}: none of {len(paths)} pictures can be read")
    if len(sizes) > 1:
        (first, path), (second, other) = islice(sizes.items(), 2)
        raise DataError(
            f"{name}: found pictures of different sizes ({path.name} is {first[1]}x{first[0]}, {other.name} "
            f"is {second[1]}x{second[0]}) and a network that does not say what it takes; set the height and width in "
            "pixels, for example side = 32 (--data FOLDER:side=32)"
        )
    return next(iter(sizes))


def _headers(
    paths: Sequence[Path] | Sequence[StoredPicture],
) -> Iterator[tuple[int, list[tuple[Any, tuple[int, int] | DataError]]]]:
    with ThreadPoolExecutor(max_workers=READERS) as readers:
        for start in range(0, len(paths), BATCH):
            batch = paths[start : start + BATCH]
            yield start, list(zip(batch, readers.map(_size, batch), strict=True))


def _size(path: Path | StoredPicture) -> tuple[int, int] | DataError:
    try:
        with Image.open(_encoded(path)) as file:
            return file.height, file.width
    except UNREADABLE as error:
        return DataError(
            f"{path}: not a readable picture ({error}); download it again, or leave such files out with "
            "--skip-unreadable (skip_unreadable = true)"
        )
