"""What lies among the pictures of a folder and is read by nothing, although its owner may take it for pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from evalsuite.datasets.base import PICTURE_SUFFIXES
from evalsuite.datasets.decoding import is_hidden
from evalsuite.errors import DataError, first_few

UNREAD_SUFFIXES = frozenset(
    {".avif", ".cr2", ".dng", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".nef", ".svg"}
)
"""Suffixes of pictures, in lower case, that torchvision's ``ImageFolder`` does not read either."""


def overlooked(folder: Path, *, skip_unreadable: bool) -> Sequence[str]:
    """Returns sentences about pictures in a folder that are not read.

    Args:
        folder: Searched at any depth, without hidden files and folders.
        skip_unreadable: Whether links that lead to no file are left out and counted.

    Raises:
        DataError: If there are such links and they are not left out: a set must not shrink unseen where a disk is
            not there.
    """
    broken: list[Path] = []
    unread: list[Path] = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        for path in (Path(where, name) for name in files if not is_hidden(name)):
            if path.suffix.lower() in UNREAD_SUFFIXES:
                unread.append(path)
            elif path.suffix.lower() in PICTURE_SUFFIXES and not path.exists():
                broken.append(path)
    if broken and not skip_unreadable:
        raise DataError(
            f"{min(broken)}: not a readable picture (one of {len(broken)} links that lead to no file); put the files "
            "there, or leave such links out with --skip-unreadable (skip_unreadable = true)"
        )
    notes = []
    if broken:
        names = first_few(path.name for path in broken)
        notes.append(f"{folder.name}: {len(broken)} links that lead to no file are left out ({names}).")
    if unread:
        endings = sorted({path.suffix.lower() for path in unread})
        notes.append(
            f"{folder.name}: pictures of types that are not read are ignored ({first_few(endings)})."
        )
    return notes
