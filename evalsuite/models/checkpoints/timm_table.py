"""Writes the table of timm's networks: ``python -m evalsuite.models.checkpoints.timm_table``."""

from __future__ import annotations

import json
import logging

from evalsuite.atomic_files import write_atomically
from evalsuite.models.checkpoints.architecture_detection import CLASSES, tensor_shapes
from evalsuite.models.checkpoints.timm_fingerprints import TABLE, fingerprint, split_head


def write_table() -> None:
    """Writes the table of `timm_models_like` for the installed timm; takes minutes."""
    import timm

    heads: list[list[str]] = []
    models = {}
    for name in timm.list_models():
        try:
            body, head = split_head(tensor_shapes(f"timm:{name}"), CLASSES)
        except Exception as error:  # a network that cannot be built without memory is left out
            logging.warning("%s is left out: %s", name, error)
            continue
        if head and head not in heads:
            heads.append(head)
        if head:
            models[name] = [fingerprint(body), heads.index(head)]
    lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in models.items()]
    text = f'{{"timm": {json.dumps(timm.__version__)},\n"heads": {json.dumps(heads)},\n"models": {{\n'
    write_atomically(TABLE, (text + ",\n".join(lines) + "\n}}\n").encode())


if __name__ == "__main__":
    write_table()
