"""What results depend on, in one number: a cell whose digest has changed is computed again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evalsuite.compat.transformers import folder_files
from evalsuite.types import Candidate


def digest_of(content: Mapping[str, Any]) -> str:
    """Returns the hexadecimal digest of what a cell depends on, given as plain JSON."""
    plain = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(plain.encode()).hexdigest()


def candidate_digest(parent: Candidate, producer: str, ratios: Sequence[float]) -> str:
    """Returns the digest of a candidate: of its parent, the method, and all the ratios on the way to its own.

    Args:
        parent: Of the same seed.
        producer: Digest of the method and of how it retrains.
        ratios: Target ratios up to and with the candidate's.
    """
    way = {"parent": parent.weights, "seed": parent.seed, "ratios": list(ratios)}
    return digest_of({**way, "producer": producer})


def control_of(seed: int, seeds: Sequence[int]) -> int | None:
    """Returns whose parent is the control of a seed's: the next seed's; ``None`` where there is one seed.

    >>> control_of(2, [0, 1, 2]), control_of(0, [0])
    (0, None)
    """
    return seeds[(seeds.index(seed) + 1) % len(seeds)] if len(seeds) > 1 else None


def cell_digest(
    candidate: Candidate,
    parent: Candidate,
    evaluator: str,
    *,
    code: str = "",
    control: Candidate | None = None,
    historical: bool = False,
) -> str:
    """Returns the digest of a cell: of the models and the test.

    Args:
        candidate: Whose cell it is; may be the parent itself.
        parent: Of the same seed.
        evaluator: Digest of the test and its images.
        code: Digest of the code that rebuilds the candidate; empty in plans of older versions.
        control: The network that the test compares both with, if it does.
        historical: Whether the test looks at what the candidate went through.
    """
    models: dict[str, Any] = {
        "weights": candidate.weights,
        "model": candidate.model,
        "parent": parent.weights,
    }
    if code:
        models["code"] = code
    if control is not None:
        models["control"] = control.weights
    if historical:
        models["history"] = [asdict(phase) for phase in candidate.history]
    return digest_of({**models, "seed": candidate.seed, "evaluator": evaluator})


def file_digest(path: Path) -> str:
    """Returns the digest of a file's bytes; of a model folder, that of the names and digests of its files."""
    if path.is_dir():
        return digest_of({file.name: file_digest(file) for file in folder_files(path)})
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
