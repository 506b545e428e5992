"""Pictures in a tree of folders, decoded when somebody looks at them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from evalsuite.errors import DataError
from evalsuite.types import Array

SUFFIXES = frozenset({".jpeg", ".jpg", ".png"})
THUMBNAIL = 48
"""Pixels of the longer side of a picture in a report, at most."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Is what a tree holds of one corruption and severity.

    Attributes:
        folder: Folder of the severity.
        paths: Pictures, class after class, each in sorted order.
        labels: Class of each picture: its place among the sorted names of classes.
        classes: Number of classes.
    """

    folder: Path
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: int

    def digest(self, count: int) -> str:
        """Returns a digest of the names, sizes and dates of the first `count` pictures."""
        total = hashlib.sha256()
        for path in self.paths[:count]:
            found = path.stat()
            total.update(f"{path.relative_to(self.folder)} {found.st_size} {found.st_mtime_ns}\n".encode())
        return total.hexdigest()


@cache
def listing(home: Path, kind: str, severity: int) -> Listing:
    """Returns the pictures of ``<home>/<kind>/<severity>/<class>``, or of a folder in between (a family's).

    Raises:
        DataError: If there is no such folder, or more than one.
    """
    found = [path for path in (home / kind, *sorted(home.glob(f"*/{kind}"))) if path.is_dir()]
    if len(found) != 1:
        raise DataError(
            f"{home}: found {len(found)} folders {kind!r} in it or one deeper, expected one, with the folders 1 to 5"
        )
    folder = found[0] / str(severity)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, expected one folder of images per class in it")
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    pictures = [(path, label) for label, one in enumerate(classes) for path in _pictures(one)]
    paths, labels = zip(*pictures, strict=True) if pictures else ((), ())
    return Listing(folder, paths, labels, len(classes))


def _pictures(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES)


class Pictures:
    """Is an array of pictures, uint8 (N, 3, side, side), that decodes the rows that are asked for.

    Only the centre is shown, nothing is resized: published archives are resized already.

    Args:
        paths: Pictures of at least `side` x `side` pixels.
        side: Height and width of what is shown.
    """

    ndim = 4
    dtype = np.dtype(np.uint8)

    def __init__(self, paths: Sequence[Path], side: int) -> None:
        self.paths = tuple(paths)
        self.shape = (len(self.paths), 3, side, side)
        self.nbytes = int(np.prod(self.shape))

    @property
    def array(self) -> Array:
        """The pictures, as what they stand for: slices and lists of rows are arrays."""
        return cast("Array", self)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Any) -> Array:
        chosen = np.arange(len(self.paths))[rows]
        if chosen.ndim == 0:
            return self._decoded(self.paths[int(chosen)])
        decoded = [self._decoded(self.paths[row]) for row in chosen]
        return np.stack(decoded) if decoded else np.empty((0, *self.shape[1:]), self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self[:].astype(dtype or self.dtype, copy=False)

    def _decoded(self, path: Path) -> Array:
        from PIL import Image

        side = self.shape[-1]
        try:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
        except OSError as error:
            raise DataError(f"{path}: not a readable picture ({error}); fetch it again") from error
        top, left = ((size - side) // 2 for size in pixels.shape[:2])
        if top < 0 or left < 0:
            raise DataError(
                f"{path}: found {pixels.shape[0]} x {pixels.shape[1]} px, expected at least {side} x {side}"
            )
        return pixels[top : top + side, left : left + side].transpose(2, 0, 1)


def encode_png(image: Array) -> bytes:
    """Returns an image (C, H, W), uint8 or float in [0, 1], as a PNG file of at most `THUMBNAIL` pixels a side."""
    from PIL import Image

    pixels = image if image.dtype == np.uint8 else (np.asarray(image) * 255).round().astype(np.uint8)
    rows = np.moveaxis(pixels, 0, -1)
    drawn = Image.fromarray(np.ascontiguousarray(rows[..., 0] if rows.shape[-1] == 1 else rows[..., :3]))
    drawn.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    drawn.save(file, "PNG", optimize=True)
    return file.getvalue()
