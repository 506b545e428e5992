"""The weights of a parent, read once for all the questions about them before a run and at its start.

Which architecture do they fit, how many classes has their head, what do they cost, which notes are due: each of these
needs the file, in modules that know nothing of each other.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from evalsuite.compat.transformers import folder_files, is_model_folder
from evalsuite.models.checkpoints.reading import Checkpoint, read_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from evalsuite.models.checkpoints.network_lists import Entry
    from evalsuite.types import WeightSet


def parent_checkpoint(path: Path, *, choice: WeightSet = "", entry: Entry = "") -> Checkpoint:
    """Returns what `read_checkpoint` returns, from memory where the same file was the last that was asked for.

    Args:
        path: As for `read_checkpoint`.
        choice: As for `read_checkpoint`.
        entry: As for `read_checkpoint`.

    Raises:
        CheckpointError: As for `read_checkpoint`.
    """
    checkpoint = _read(path, _stamp(path), choice, str(entry))
    return replace(checkpoint, weights=dict(checkpoint.weights))


def forget_parent() -> None:
    """Frees the memory of the weights that were read last."""
    _read.cache_clear()


@lru_cache(maxsize=1)
def _read(path: Path, stamp: str, choice: WeightSet, entry: str) -> Checkpoint:  # noqa: ARG001  # the key of the cache
    return read_checkpoint(path, choice=choice, entry=entry)


def _stamp(path: Path) -> str:
    """Sizes and times of a file, or of those of a model folder; empty where there is none, which reading says."""
    files = [file for file in (folder_files(path) if is_model_folder(path) else [path]) if file.exists()]
    stats = [file.stat() for file in files]
    return " ".join(f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns}" for stat in stats)
