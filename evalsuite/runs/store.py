"""Results on disk: one atomic file per finished cell, found by its address, valid by its digest.

A run folder holds::

    run.json                                         the suite, the plan, versions and hardware
    candidates/<method>/seed-<s>/<ratio>.safetensors the weights of a candidate
    candidates/<method>/seed-<s>/<ratio>.<n>.training a long training that is under way
    candidates/<method>/seed-<s>/<ratio>.json        how to rebuild it, its ratio and cost; written last
    cells/<method>/seed-<s>/<ratio>/<evaluator>.cell the scores of one evaluator, a safetensors file

A file is written under a temporary name, synchronised and renamed, so it is there completely or not at all. A
cell carries the digest of everything that it depends on; if the digest has changed, the cell is computed
again. It also carries checksums of itself: a file that does not agree with them is set aside, and never read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from evalsuite.atomic_files import remove_leftovers, set_aside, unwritable
from evalsuite.atomic_files import write_atomically as write_atomically
from evalsuite.errors import StoreError
from evalsuite.runs.serialization import (
    FORMAT,
    READABLE,
    DamagedError,
    UnreadableError,
    array_name,
    parse_table,
    to_json,
    verified_table,
    verify_array,
    with_checksum,
)
from evalsuite.types import Array, Candidate, CellStatus, Cost, Metric, Phase, Score

LONGEST = 80
"""Characters of a label that its file name shows; file systems take 255 bytes."""


@dataclass(frozen=True, slots=True)
class Key:
    """The address of a candidate, and of everything about it in a run folder."""

    method: str
    seed: int
    target_ratio: float

    @property
    def folder(self) -> Path:
        """Relative path without ending."""
        return Path(_slug(self.method), f"seed-{self.seed}", repr(self.target_ratio))


@dataclass(frozen=True)
class Cell:
    """The scores of one evaluator on one candidate.

    Attributes:
        digest: Of everything that the result depends on.
        status: ``ok``, or why there are no scores.
        reason: In words, where the status is not ``ok``.
        metrics: The metrics that the scores are of.
        scores: With their evidence.
        parent: Of a test in stages, the scores of the parent on the same images as those of the candidate.
        looks: Of a test in stages, how many images have been seen after each; empty of a test on all images.
    """

    digest: str
    status: CellStatus
    reason: str = ""
    metrics: tuple[Metric, ...] = ()
    scores: tuple[Score, ...] = ()
    parent: tuple[Score, ...] = ()
    looks: tuple[int, ...] = ()


class Store:
    """Reads and writes one run folder.

    Args:
        root: The folder; made when the first file is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Writes ``run.json``."""
        write_atomically(self.root / "run.json", to_json({"format": FORMAT, **record}))

    def refuse_newer(self) -> None:
        """Checks that no newer evalsuite wrote this folder.

        Raises:
            StoreError: If one did: what it wrote would be overwritten.
        """
        try:
            version = int(json.loads((self.root / "run.json").read_bytes())["format"])
        except (OSError, ValueError, KeyError, TypeError):
            return  # none there, or damaged: it is written again
        if version > FORMAT:
            raise StoreError(
                f"{self.root} was written by a newer evalsuite (format {version}, this one writes {FORMAT}); "
                "use that one, or name another folder with --out"
            )

    def seconds(self) -> float | None:
        """Returns how long the last run that computed something took; ``None`` if there is none."""
        try:
            seconds = self.record().get("seconds")
        except StoreError:
            return None
        return float(seconds) if isinstance(seconds, int | float) else None

    def record(self) -> dict[str, Any]:
        """Returns ``run.json``.

        Raises:
            StoreError: If the folder has none, or one of another format.
        """
        path = self.root / "run.json"
        try:
            record = parse_table(path.read_text("utf-8"))
        except FileNotFoundError:
            raise StoreError(
                f"{self.root} is not a run folder: it has no run.json; start one with 'evalsuite run SUITE'"
            ) from None
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be read: {error}") from error
        if record.get("format") not in READABLE:
            raise StoreError(
                f"{path} has format {record.get('format')!r}, this evalsuite reads 1 to {FORMAT}; "
                "use the evalsuite that wrote it, or run the suite again in another folder (--out)"
            )
        return record

    def weights_path(self, key: Key) -> Path:
        """Returns where the weights of a candidate are or belong."""
        return self.root / "candidates" / key.folder.with_name(f"{key.folder.name}.safetensors")

    def has_weights(self, key: Key) -> bool:
        """Returns whether the weights of a candidate are there in full, without reading them."""
        try:
            with safe_open(self.weights_path(key), framework="numpy"):
                return True
        except (SafetensorError, OSError):
            return False

    def candidate(self, key: Key, digest: str | None = None) -> Candidate | None:
        """Returns a finished candidate; ``None`` if there is none, or not of this digest."""
        try:
            content = verified_table(self.candidate_path(key).read_text("utf-8"))
            if digest is not None and content["digest"] != digest:
                return None
            fields = content["candidate"]
            history = tuple(_phase(phase) for phase in fields.get("history", ()))
            return Candidate(**{**fields, "cost": Cost(**fields["cost"]), "history": history})
        except (OSError, KeyError, ValueError, TypeError):
            return None  # not there, or damaged: made again

    def forget_candidate(self, key: Key) -> None:
        """Removes the record of a candidate, and makes room for its weights.

        Raises:
            StoreError: If the folder cannot be written to.
        """
        path = self.candidate_path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error

    def write_candidate(self, key: Key, candidate: Candidate, *, digest: str) -> None:
        """Writes the JSON beside the weights, which must be there already: with it the candidate is finished."""
        content = {"format": FORMAT, "digest": digest, "candidate": asdict(candidate)}
        write_atomically(self.candidate_path(key), to_json(with_checksum(content)))

    def cell(self, key: Key, evaluator: str, digest: str | None = None) -> Cell | None:
        """Returns a cell; ``None`` if there is none, not of this digest, or one that cannot be read."""
        try:
            return _read(self.cell_path(key, evaluator), digest)
        except DamagedError:
            return None

    def damage(self, key: Key, evaluator: str) -> str:
        """Returns what is wrong with the file of a cell, all of it read; an empty text if nothing is."""
        try:
            _read(self.cell_path(key, evaluator), None)
        except DamagedError as error:
            return str(error.__cause__ or error)
        return ""

    def wanted_cell(self, key: Key, evaluator: str, digest: str) -> Cell | None:
        """Returns a cell as `cell` does, and sets a damaged one aside.

        Raises:
            StoreError: If a damaged one cannot be set aside.
        """
        path = self.cell_path(key, evaluator)
        try:
            return _read(path, digest)
        except DamagedError:
            set_aside(path)
            return None

    def status(self, key: Key, evaluator: str, digest: str) -> tuple[CellStatus, str] | None:
        """Returns how a cell of this digest ended and why, without reading its arrays; ``None`` if there is none."""
        try:
            with safe_open(self.cell_path(key, evaluator), framework="numpy") as file:
                content = verified_table(file.metadata()["cell"])
            return (content["status"], content["reason"]) if content["digest"] == digest else None
        except (SafetensorError, OSError, KeyError, ValueError, TypeError):
            return None

    def write_cell(self, key: Key, evaluator: str, cell: Cell) -> None:
        """Writes a cell in one file."""
        write_atomically(self.cell_path(key, evaluator), cell_bytes(cell))

    def take_cell(self, key: Key, evaluator: str, digest: str, data: bytes) -> Cell | None:
        """Writes the file of a cell that another run computed, and returns it; ``None`` if it is not of this digest.

        Args:
            key: Address of the candidate.
            evaluator: Label of the test.
            digest: Of the cell.
            data: See `cell_bytes`.
        """
        write_atomically(self.cell_path(key, evaluator), data)
        return self.wanted_cell(key, evaluator, digest)

    def remove_leftovers(self) -> None:
        """Removes what killed writes left behind."""
        remove_leftovers(self.root)

    def candidate_path(self, key: Key) -> Path:
        """Returns where the record of a candidate is or belongs."""
        return self.root / "candidates" / key.folder.with_name(f"{key.folder.name}.json")

    def cell_path(self, key: Key, evaluator: str) -> Path:
        """Returns where a cell is or belongs."""
        return self.root / "cells" / key.folder / f"{_slug(evaluator)}.cell"


def cell_bytes(cell: Cell) -> bytes:
    """Returns the content of a cell's file; arrays that several scores share are in it once."""
    arrays: dict[str, Array] = {}
    content: dict[str, Any] = {
        "format": FORMAT,
        "digest": cell.digest,
        "status": cell.status,
        "reason": cell.reason,
        "metrics": [asdict(metric) for metric in cell.metrics],
        "scores": [_score_fields(score, arrays) for score in cell.scores],
    }
    if cell.looks:
        content["parent"] = [_score_fields(score, arrays) for score in cell.parent]
        content["looks"] = list(cell.looks)
    # one metadata entry only: safetensors does not keep the order of several, and bytes must be the same
    return save(arrays, metadata={"cell": to_json(with_checksum(content)).decode()})


def _phase(fields: Mapping[str, Any]) -> Phase:
    return Phase(**{**fields, "curve": tuple(fields["curve"])})


def _read(path: Path, digest: str | None) -> Cell | None:
    """A cell on disk.

    Raises:
        DamagedError: If what is there is not what was written.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            content = verified_table(file.metadata()["cell"])
            if digest is not None and content["digest"] != digest:
                return None
            return _cell(content, {name: verify_array(name, file.get_tensor(name)) for name in file.keys()})  # noqa: SIM118  # no mapping
    except (OSError, UnreadableError):  # not there, or of another version
        return None
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DamagedError(f"{path} is damaged: {error}") from error


def _cell(content: Mapping[str, Any], arrays: Mapping[str, Array]) -> Cell:
    metrics = tuple(Metric(**metric) for metric in content["metrics"])
    scores, parent = (
        tuple(_score(score, arrays) for score in content.get(name, ())) for name in ("scores", "parent")
    )
    looks = tuple(content.get("looks", ()))
    return Cell(content["digest"], content["status"], content["reason"], metrics, scores, parent, looks)


def _score_fields(score: Score, arrays: dict[str, Array]) -> dict[str, Any]:
    """A score as plain JSON; its evidence goes to `arrays`."""
    evidence = {population: _kept(arrays, values) for population, values in score.evidence.items()}
    return asdict(replace(score, evidence={})) | {"evidence": evidence}


def _score(fields: Mapping[str, Any], arrays: Mapping[str, Array]) -> Score:
    evidence = {population: arrays[name] for population, name in fields["evidence"].items()}
    return Score(**{**fields, "evidence": evidence, "flags": tuple(fields.get("flags", ()))})


def _kept(arrays: dict[str, Array], values: Array) -> str:
    """Name under which `values` are stored: their own digest, so that equal arrays are stored once."""
    contiguous = np.ascontiguousarray(values)
    name = array_name(contiguous)
    arrays[name] = contiguous
    return name


def _slug(label: str) -> str:
    """A file name for a label: readable, and different for different labels."""
    plain = re.sub(r"[^A-Za-z0-9.-]+", "_", label).strip("._") or "_"
    if plain == label and len(label) <= LONGEST:
        return label
    return f"{plain[:LONGEST]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
