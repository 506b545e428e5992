"""Networks of timm whose tensors have the names and shapes of a state dict: a table, since building all takes minutes.

``python -m evalsuite.models.checkpoints.timm_table`` writes the table anew for the installed timm.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from evalsuite.models.checkpoints.state_dict_keys import COUNTER

Shapes = Mapping[str, Sequence[int]]

TABLE = Path(__file__).with_suffix(".json")
"""Fingerprint of each of timm's networks without its head, and the tensors that are its head."""


def timm_models_like(weights: Mapping[str, Tensor]) -> list[str]:
    """Returns the names of timm's networks whose tensors have the names and shapes of `weights`, but for the classes.

    Args:
        weights: As `evalsuite.models.checkpoints.reading.read_weights` returns them.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items() if not name.endswith(COUNTER)}
    table = _table()
    matches = {
        fingerprint({name: shape for name, shape in shapes.items() if name not in head})
        for head in map(set, table["heads"])
        if head <= shapes.keys()
    }
    return [
        name
        for name, (digest, head) in table["models"].items()
        if digest in matches and set(table["heads"][head]) <= shapes.keys()
    ]


def fingerprint(shapes: Shapes) -> str:
    """Returns a digest of names and shapes of tensors, whatever their order."""
    lines = sorted(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def split_head(shapes: Shapes, classes: int) -> tuple[dict[str, Sequence[int]], list[str]]:
    """Returns the shapes that do not depend on the number of classes, and the names of the tensors that do."""
    head = sorted(name for name, shape in shapes.items() if classes in shape)
    return {name: shape for name, shape in shapes.items() if name not in head}, head


@functools.cache
def _table() -> dict[str, dict]:  # type: ignore[type-arg]  # JSON
    content: dict[str, dict] = json.loads(TABLE.read_text("utf-8"))  # type: ignore[type-arg]
    return content
