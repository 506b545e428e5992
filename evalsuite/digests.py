"""What results depend on, in one number: a cell whose digest has changed is computed again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evalsuite.records import Candidate


def digest_of(content: Mapping[str, Any]) -> str:
    """Returns the hexadecimal digest of what a cell depends on, given as plain JSON."""
    plain = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(plain.encode()).hexdigest()


def candidate_digest(parent: Candidate, producer: str, ratios: Sequence[float]) -> str:
    """Returns the digest of a candidate: of its parent, the method, and all the ratios on the way to its own.

    Args:
        parent: Of the same seed.
        producer: Digest of the method and of how it retrains, from the ``inputs`` of ``run.json``.
        ratios: Target ratios up to and with the candidate's.
    """
    way = {"parent": parent.weights, "seed": parent.seed, "ratios": list(ratios)}
    return digest_of({**way, "producer": producer})


def cell_digest(candidate: Candidate, parent: Candidate, evaluator: str) -> str:
    """Returns the digest of a cell: of both models and the test.

    Args:
        candidate: Whose cell it is; may be the parent itself.
        parent: Of the same seed.
        evaluator: Digest of the test and its images, from the ``inputs`` of ``run.json``.
    """
    models = {"weights": candidate.weights, "model": candidate.model, "parent": parent.weights}
    return digest_of({**models, "seed": candidate.seed, "evaluator": evaluator})


def file_digest(path: Path) -> str:
    """Returns the digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
