"""Whether what a run folder holds is still what was written: every file is read again, and no model is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from evalsuite.runs.digests import file_digest
from evalsuite.runs.plan import ResolvedPlan, plan_of_record
from evalsuite.runs.store import Key, Store
from evalsuite.types import PROGRAM, Candidate

NETWORK = "network."
"""What the names of weights begin with behind their preprocessing, as they were when their digest was taken."""


@dataclass(frozen=True)
class Verification:
    """What was read again.

    Attributes:
        weights: Number of finished candidates whose weights were read.
        cells: Number of finished cells that were read.
        damaged: Files that are not what was written, with what is wrong.
    """

    weights: int
    cells: int
    damaged: tuple[tuple[Path, str], ...]


def verify(path: Path | str, *, progress: Callable[[int, int], None] = lambda *_: None) -> Verification:
    """Reads every finished candidate and cell of a run and compares it with its digest; nothing is written.

    A run that goes on does so only with weights that it still has to measure, and with cells when it needs them.

    Args:
        path: The run folder.
        progress: Called with the number of files that are read, and of all.

    Raises:
        StoreError: If it is no run folder.
    """
    root = Path(path)
    store = Store(root)
    resolved = ResolvedPlan(plan_of_record(store.record(), path=str(root / "run.json")), store)
    candidates = resolved.candidates
    cells = [(key, label) for key in candidates for label in resolved.plan.labels]
    cells = [(key, label) for key, label in cells if store.cell_path(key, label).exists()]
    damaged = []
    for number, (file, problem) in enumerate(_files(store, candidates, cells), start=1):
        progress(number, len(candidates) + len(cells))
        damaged += [(file, problem)] if problem else []
    return Verification(len(candidates), len(cells), tuple(damaged))


def _files(
    store: Store, candidates: dict[Key, Candidate], cells: list[tuple[Key, str]]
) -> Iterator[tuple[Path, str]]:
    """Every file and what is wrong with it; an empty text where nothing is."""
    for key, candidate in candidates.items():
        if candidate.model["name"] == PROGRAM:
            file = Path(candidate.model["file"])
            yield file, _program_problem(file, candidate.weights)
        else:
            file = store.weights_path(key)
            yield file, _weights_problem(file, candidate.weights)
    for key, label in cells:
        yield store.cell_path(key, label), store.damage(key, label)


def _program_problem(file: Path, expected: str) -> str:
    if not file.exists():
        return "it is gone"
    return "" if file_digest(file) == expected else "it is not the program that was measured"


def _weights_problem(file: Path, expected: str) -> str:
    try:
        return "" if _weights_digest(file) == expected else "its weights are not those of its record"
    except FileNotFoundError:
        return "it is gone"
    except (SafetensorError, OSError) as error:
        return str(error)


def _weights_digest(file: Path) -> str:
    """The digest that `evalsuite.models.cost.weights_digest` takes of a network, from its file."""
    digest = hashlib.sha256()
    with safe_open(file, framework="numpy") as tensors:
        for name in sorted(tensors.keys()):
            values = tensors.get_tensor(name)
            digest.update(f"{NETWORK}{name}\x1ftorch.{values.dtype}\x1f{values.shape}\x1f".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()
