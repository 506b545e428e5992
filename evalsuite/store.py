"""Results on disk: one atomic file per finished cell, found by what it is, believed by its digest.

A run folder holds::

    run.json                                         what was run, with what, on what
    candidates/<method>/seed-<s>/<ratio>.safetensors the weights of a candidate
    candidates/<method>/seed-<s>/<ratio>.json        how to rebuild it, its ratio and cost; written last
    cells/<method>/seed-<s>/<ratio>/<evaluator>.cell what one evaluator found, a safetensors file

A file is written under a temporary name, synchronised and renamed, so it is there whole or not at all. A
cell carries the digest of everything that it depends on; if the digest has changed, the cell is computed
again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from evalsuite.errors import StoreError
from evalsuite.records import Array, Candidate, Cost, Metric, Score, Status

FORMAT = 1
"""Version of the files; raise it when older ones can no longer be read."""
LONGEST = 80
"""Characters of a label that its file name shows; file systems take 255 bytes."""
HOUR = 3600.0
LEFTOVER = re.compile(r"\..+\.(\w{8}|\d+(\.tmp)?)")
"""Temporary names: those of `write_atomically`, of saved weights and of the report."""


@dataclass(frozen=True, slots=True)
class Key:
    """Is which candidate: the address of everything about it in a run folder."""

    method: str
    seed: int
    target_ratio: float

    @property
    def folder(self) -> Path:
        """Relative path without ending."""
        return Path(_slug(self.method), f"seed-{self.seed}", repr(self.target_ratio))


@dataclass(frozen=True)
class Cell:
    """Is what one evaluator found about one candidate.

    Attributes:
        digest: Of everything that the result depends on.
        status: ``ok``, or why there are no scores.
        reason: In words, where the status is not ``ok``.
        metrics: The metrics that the scores are of.
        scores: With their evidence.
    """

    digest: str
    status: Status
    reason: str = ""
    metrics: tuple[Metric, ...] = ()
    scores: tuple[Score, ...] = ()


class Store:
    """Reads and writes one run folder.

    Args:
        root: The folder; made when the first file is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Writes ``run.json``."""
        write_atomically(self.root / "run.json", _json({"format": FORMAT, **record}))

    def seconds(self) -> float | None:
        """Returns how long the last run that computed something took; ``None`` if there is none."""
        try:
            found = self.record().get("seconds")
        except StoreError:
            return None
        return float(found) if isinstance(found, int | float) else None

    def record(self) -> dict[str, Any]:
        """Returns ``run.json``.

        Raises:
            StoreError: If the folder has none, or one of another format.
        """
        path = self.root / "run.json"
        try:
            record = _table(path.read_text("utf-8"))
        except FileNotFoundError:
            raise StoreError(
                f"{self.root} is not a run folder: it has no run.json; start one with 'evalsuite run SUITE'"
            ) from None
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be read: {error}") from error
        if record.get("format") != FORMAT:
            raise StoreError(
                f"{path} has format {record.get('format')!r}, this evalsuite reads {FORMAT}; run the suite again"
            )
        return record

    def weights_path(self, key: Key) -> Path:
        """Returns where the weights of a candidate are or belong."""
        return self.root / "candidates" / key.folder.with_name(f"{key.folder.name}.safetensors")

    def has_weights(self, key: Key) -> bool:
        """Says whether the weights of a candidate are there in full, without reading them."""
        try:
            with safe_open(self.weights_path(key), framework="numpy"):
                return True
        except (SafetensorError, OSError):
            return False

    def candidate(self, key: Key, digest: str | None = None) -> Candidate | None:
        """Returns a finished candidate; ``None`` if there is none, or not of this digest."""
        try:
            content = _table(self._candidate_path(key).read_text("utf-8"))
            _check_format(content)
            if digest is not None and content["digest"] != digest:
                return None
            fields = content["candidate"]
            return Candidate(**{**fields, "cost": Cost(**fields["cost"])})
        except (OSError, KeyError, ValueError, TypeError):
            return None  # not there, or damaged: made again

    def forget_candidate(self, key: Key) -> None:
        """Removes the record of a candidate, and makes room for its weights.

        Raises:
            StoreError: If the folder cannot be written to.
        """
        path = self._candidate_path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(path, error) from error

    def write_candidate(self, key: Key, candidate: Candidate, *, digest: str) -> None:
        """Writes the JSON beside the weights, which must be there already: with it the candidate is finished."""
        content = {"format": FORMAT, "digest": digest, "candidate": asdict(candidate)}
        write_atomically(self._candidate_path(key), _json(content))

    def cell(self, key: Key, evaluator: str, digest: str | None = None) -> Cell | None:
        """Returns a cell; ``None`` if there is none, not of this digest, or one that cannot be read."""
        path = self._cell_path(key, evaluator)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                content = _table(file.metadata()["cell"])
                _check_format(content)
                if digest is not None and content["digest"] != digest:
                    return None
                return _cell(content, {name: _whole(name, file.get_tensor(name)) for name in file.keys()})  # noqa: SIM118  # no mapping
        except (SafetensorError, OSError, KeyError, ValueError, TypeError):
            return None  # damaged: computed again

    def write_cell(self, key: Key, evaluator: str, cell: Cell) -> None:
        """Writes a cell in one file; arrays that several scores share are stored once."""
        arrays: dict[str, Array] = {}
        scores = [
            asdict(replace(score, evidence={}))
            | {
                "evidence": {
                    population: _kept(arrays, values) for population, values in score.evidence.items()
                }
            }
            for score in cell.scores
        ]
        content = {
            "format": FORMAT,
            "digest": cell.digest,
            "status": cell.status,
            "reason": cell.reason,
            "metrics": [asdict(metric) for metric in cell.metrics],
            "scores": scores,
        }
        # one metadata entry only: safetensors does not keep the order of several, and bytes must be the same
        data = save(arrays, metadata={"cell": _json(content).decode()})
        write_atomically(self._cell_path(key, evaluator), data)

    def sweep(self) -> None:
        """Removes what killed writes left behind; younger than an hour, it may be of somebody who writes now."""
        for path in self.root.rglob(".*"):
            if LEFTOVER.fullmatch(path.name) and path.is_file() and path.stat().st_mtime < time.time() - HOUR:
                path.unlink(missing_ok=True)

    def _candidate_path(self, key: Key) -> Path:
        return self.root / "candidates" / key.folder.with_name(f"{key.folder.name}.json")

    def _cell_path(self, key: Key, evaluator: str) -> Path:
        return self.root / "cells" / key.folder / f"{_slug(evaluator)}.cell"


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
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path} cannot be written: {error}; free space or name another folder with --out")


def _cell(content: Mapping[str, Any], arrays: Mapping[str, Array]) -> Cell:
    metrics = tuple(Metric(**one) for one in content["metrics"])
    scores = tuple(_score(one, arrays) for one in content["scores"])
    return Cell(content["digest"], content["status"], content["reason"], metrics, scores)


def _score(fields: Mapping[str, Any], arrays: Mapping[str, Array]) -> Score:
    evidence = {population: arrays[name] for population, name in fields["evidence"].items()}
    return Score(**{**fields, "evidence": evidence, "flags": tuple(fields.get("flags", ()))})


def _kept(arrays: dict[str, Array], values: Array) -> str:
    """Name under which `values` are stored: their own digest, so that equal arrays are stored once."""
    whole = np.ascontiguousarray(values)
    name = _array_name(whole)
    arrays[name] = whole
    return name


def _whole(name: str, values: Array) -> Array:
    """`values`, if they are still what they were called after."""
    if _array_name(values) != name:
        raise ValueError(f"array {name} is damaged")
    return values


def _array_name(values: Array) -> str:
    return hashlib.sha256(f"{values.dtype}{values.shape}".encode() + values.tobytes()).hexdigest()[:16]


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1, ensure_ascii=False, default=str).encode()


def _table(text: str) -> dict[str, Any]:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"found {type(content).__name__}, expected a table")
    return content


def _check_format(content: Mapping[str, Any]) -> None:
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']!r}, expected {FORMAT}")


def _slug(label: str) -> str:
    """A file name for a label: readable, and different for different labels."""
    plain = re.sub(r"[^A-Za-z0-9.-]+", "_", label).strip("._") or "_"
    if plain == label and len(label) <= LONGEST:
        return label
    return f"{plain[:LONGEST]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
