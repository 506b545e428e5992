"""What is in the archives of torch.export and TorchScript, by their tables and bytes; their loaders stay out."""

from __future__ import annotations

import json
import math
import zipfile
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evalsuite.errors import CheckpointError
from evalsuite.models.shown import Shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HIDDEN = (
    "The names, shapes and sparsity of its tensors show only when it is loaded, which may run code that the "
    "file brings: check takes it with --trust-program; state dicts, safetensors and ONNX need no trust."
)
"""Why no parameters are counted."""

_WEIGHTS = "data/weights/model_weights_config.json"  # of torch 2.9 and later
_DTYPES = {6: torch.float16, 7: torch.float32, 8: torch.float64, 13: torch.bfloat16}
"""Floating-point numbers as the tables of torch.export number them; others are no parameters."""


def shown_exported(path: Path) -> Shown:
    """Returns what an archive of torch.export shows: its graph and weights are tables and plain bytes."""
    with zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        if "models/model.json" not in names or _WEIGHTS not in names:
            return Shown(tensors=sum(name.startswith("data/weights/") for name in names), notes=(HIDDEN,))
        program = json.loads(archive.read(names["models/model.json"]))
        table = json.loads(archive.read(names[_WEIGHTS]))["config"]
        parameters = {
            name: _tensor(archive.read(names[f"data/weights/{one['path_name']}"]), one["tensor_meta"])
            for name, one in table.items()
            if one["is_param"] and one["tensor_meta"]["dtype"] in _DTYPES and not one["use_pickle"]
        }
    graph, signature = program["graph_module"]["graph"], program["graph_module"]["signature"]
    kinds = Counter(str(node["target"]).removeprefix("torch.ops.") for node in graph["nodes"])
    return Shown(
        opset=", ".join(f"{name} {version}" for name, version in program["opset_version"].items()),
        inputs=_declared(graph, signature["input_specs"], "user_input"),
        outputs=_declared(graph, signature["output_specs"], "user_output"),
        operators=dict(kinds),
        tensors=len(table),
        parameters=parameters,
        layers={name: one for name, one in parameters.items() if name.endswith("weight") and one.dim() > 1},
    )


def shown_scripted(path: Path) -> Shown:
    """Returns what an archive of TorchScript shows: how many tensors, how many files of code."""
    with zipfile.ZipFile(path) as archive:
        members = {one.filename.partition("/")[2]: one.file_size for one in archive.infolist()}
    tensors = {name: size for name, size in members.items() if name.startswith(("data/", "constants/"))}
    code = sum(name.startswith("code/") and name.endswith(".py") for name in members)
    held = f"It holds {len(tensors)} tensors of {sum(tensors.values()):,} bytes and {code} files of code."
    return Shown(tensors=len(tensors), notes=(held, HIDDEN))


def _tensor(content: bytes, table: Mapping[str, Any]) -> Tensor:
    """A tensor that lies in `content` as its table says."""
    sizes = [int(size["as_int"]) for size in table["sizes"]]
    strides = [int(step["as_int"]) for step in table["strides"]]
    start = int(table["storage_offset"]["as_int"])
    if math.prod(sizes) == 0:
        return torch.empty(sizes, dtype=_DTYPES[table["dtype"]])
    flat = torch.frombuffer(bytearray(content), dtype=_DTYPES[table["dtype"]])
    last = start + sum((size - 1) * step for size, step in zip(sizes, strides, strict=True))
    if min(sizes) < 0 or min([start, *strides]) < 0 or last >= len(flat) or math.prod(sizes) > len(flat):
        raise CheckpointError("has a tensor that is larger than its bytes")
    return flat.as_strided(sizes, strides, start)


def _declared(graph: Mapping[str, Any], specs: list[Any], kind: str) -> tuple[str, ...]:
    """Names, types and shapes of the inputs or outputs that a caller sees."""
    names = [
        one[kind]["arg"]["as_tensor"]["name"]
        for one in specs
        if "as_tensor" in one.get(kind, {}).get("arg", {})
    ]
    return tuple(f"{name}: {_text(graph['tensor_values'][name])}" for name in names)


def _text(table: Mapping[str, Any]) -> str:
    kind = str(_DTYPES.get(table["dtype"], "another type")).removeprefix("torch.")
    return f"{kind} ({', '.join(str(size.get('as_int', 'any')) for size in table['sizes'])})"
