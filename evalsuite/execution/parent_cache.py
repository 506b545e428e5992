"""What parents computed: shared by the workers of a run, and kept for later runs of the same parent.

Forward passes, attacked images and the like are arrays in files that are found by the digest of all that they depend
on: weights, images, engine, precision, code, versions, processor. Files are written whole or not at all and carry
checksums; a damaged one counts as missing. Nothing is executed when one is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from evalsuite.atomic_files import atomic_path, remove_leftovers
from evalsuite.cache_folder import OUTPUTS, entries, make_room
from evalsuite.datasets.shared_cache import exclusive, has_room
from evalsuite.errors import StoreError
from evalsuite.evaluation import Outputs, ScreenedOutputs
from evalsuite.runs.digests import digest_of
from evalsuite.runs.store import Cell, cell_bytes

if TYPE_CHECKING:
    from evalsuite.types import Array

log = logging.getLogger(__name__)

FOLDER, ENDING = OUTPUTS.folder, OUTPUTS.suffix
"""Folder of what parents computed, below the scratch folder of a run; and the ending of its files."""

Arrays = Mapping[str, "Array"]
Accepts = Callable[[Arrays], bool]


@dataclass(frozen=True)
class CacheSettings:
    """Where later runs find what parents computed.

    Attributes:
        folder: Of the user; ``None`` where only the workers of a run share.
        most: Bytes that it may hold.
        environment: Digest of code, versions, processor, threads and engine.
    """

    folder: Path | None = None
    most: float = 0.0
    environment: str = ""


class ParentCache:
    """Arrays and cells of parents, by digest.

    Args:
        scratch: Folder of the run, for what the user's does not take; ``None`` to keep that in memory.
        settings: The user's folder.
    """

    def __init__(self, scratch: Path | None, settings: CacheSettings) -> None:
        self._scratch, self._kept, self._most = scratch, settings.folder, settings.most
        self._environment = settings.environment
        self._started = time.monotonic()
        self._size: float | None = None  # of the user's folder, once it was counted
        if self._kept is not None:
            with contextlib.suppress(OSError):
                remove_leftovers(self._kept)

    def name(self, content: Mapping[str, Any]) -> str:
        """Returns the digest of what something depends on, together with the environment."""
        return digest_of({**content, "environment": self._environment})

    def arrays(
        self, name: str, compute: Callable[[], tuple[Arrays, bool]], *, accepts: Accepts = lambda _: True
    ) -> Arrays:
        """Returns arrays, computed by one process; others wait for it, or find them later.

        Args:
            name: See `name`.
            compute: Returns them, and whether others may have them.
            accepts: Whether what was found has the right names and shapes.
        """
        arrays_there = self._read(name, accepts)
        if arrays_there is not None:
            return arrays_there
        place = self._kept or self._scratch
        with contextlib.nullcontext() if place is None else exclusive(place, name):
            arrays_there = self._read(name, accepts)  # another process may have computed it meanwhile
            if arrays_there is not None:
                return arrays_there
            values, shareable = compute()
            if shareable:
                self._write(name, values)
            return values

    def cell(self, digest: str) -> bytes | None:
        """Returns the file of a parent's cell that an earlier run measured; ``None`` where none is kept."""
        arrays = None if self._kept is None else self._read(self._cell_name(digest), lambda a: "cell" in a)
        return None if arrays is None else arrays["cell"].tobytes()

    def keep_cell(self, cell: Cell) -> None:
        """Keeps a cell of a parent for later runs."""
        if self._kept is not None:
            self._write(self._cell_name(cell.digest), {"cell": np.frombuffer(cell_bytes(cell), np.uint8)})

    def _cell_name(self, digest: str) -> str:
        return self.name({"cell": digest})

    def _read(self, name: str, accepts: Accepts) -> Arrays | None:
        for folder in (self._kept, self._scratch):
            arrays = None if folder is None else _load(folder / f"{name}{ENDING}")
            if arrays is not None and accepts(arrays):
                return arrays
        return None

    def _write(self, name: str, values: Arrays) -> None:
        """Writes arrays where there is room for them; where there is none, each worker computes them."""
        size = sum(array.nbytes for array in values.values())
        kept, file = self._kept, f"{name}{ENDING}"
        if kept is not None and self._has_room(kept, size) and _store(kept / file, values):
            return
        if self._scratch is not None and _exists(self._scratch) and has_room(self._scratch, size):
            _store(self._scratch / file, values)

    def _has_room(self, folder: Path, size: int) -> bool:
        """Whether the user's folder takes so many bytes more; what this run has used stays there."""
        if not _exists(folder) or not has_room(folder, size):
            return False
        if self._size is None or self._size + size > self._most:
            idle = time.monotonic() - self._started + 1
            if not make_room(folder, ENDING, size=size, most=self._most, idle=idle):
                return False
            self._size = sum(entry.size for entry in entries(folder, ENDING))
        self._size += size
        return True


def persistent(key: object) -> str:
    """Returns a digest of a key that later processes find again; empty where it has none."""
    try:
        return hashlib.sha256(pickle.dumps(key, protocol=4)).hexdigest()
    except Exception:  # whatever a plug-in's class raises
        return ""


def is_arrays(value: object) -> bool:
    """Returns whether a result can be kept: it is a tensor, an array of numbers, or outputs."""
    return isinstance(value, Tensor | Outputs) or (isinstance(value, np.ndarray) and value.dtype != object)


def to_arrays(value: object, *, labels: bool = True) -> Arrays:
    """Returns a result as arrays; of one that is no such, none.

    Args:
        value: See `is_arrays`.
        labels: Whether to keep the labels of outputs.
    """
    if isinstance(value, Tensor):
        return {"tensor": value.detach().cpu().numpy()}
    if not isinstance(value, Outputs):
        return {"array": value} if is_arrays(value) and isinstance(value, np.ndarray) else {}
    arrays = {"logits": value.logits, "features": value.features, "labels": value.labels if labels else None}
    if isinstance(value, ScreenedOutputs):
        arrays |= {"again": value.again, "changed": np.array(value.changed)}
    return {name: array for name, array in arrays.items() if array is not None}


def from_arrays(arrays: Arrays) -> object:
    """Returns the result that `to_arrays` took apart."""
    if "tensor" in arrays:
        return torch.from_numpy(arrays["tensor"])
    return arrays["array"] if "array" in arrays else outputs_of(arrays, arrays.get("labels"))


def outputs_of(arrays: Arrays, labels: Array | None) -> Outputs:
    """Returns the outputs that `to_arrays` took apart, with the labels of their images."""
    if "again" in arrays:
        changed = int(arrays["changed"])
        return ScreenedOutputs(arrays["logits"], labels, again=arrays["again"], changed=changed)
    return Outputs(arrays["logits"], labels, arrays.get("features"))


def _load(path: Path) -> Arrays | None:
    """The arrays of a file; ``None`` where it is missing or damaged: the archive has a checksum of each."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        os.utime(path)  # it was used
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile):
        return None
    return arrays


def _store(path: Path, values: Arrays) -> bool:
    try:
        with atomic_path(path, durable=False) as temporary, temporary.open("wb") as file:
            np.savez(file, **values)  # type: ignore[arg-type]  # its keywords are arrays
    except StoreError as error:
        log.info("what a parent computed is not kept: %s", error)
        return False
    return True


def _exists(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        return True
    return False
