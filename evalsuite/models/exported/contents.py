"""What is in a file with a whole program, without running anything of it, whether it is trusted or not."""

from __future__ import annotations

import json
import math
import zipfile
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evalsuite.errors import CheckpointError, EvalsuiteError
from evalsuite.models.checkpoints.inspection import LayerContent, inspect, layer_content
from evalsuite.models.exported.onnx_contents import shown_onnx
from evalsuite.models.exported.programs import EXPORTED, ONNX, SCRIPTED, program_format
from evalsuite.models.exported.summary import ProgramSummary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from evalsuite.models.exported.summary import ProgramSummary


HIDDEN = (
    "The names, shapes and sparsity of its tensors show only when it is loaded, which may run code that the "
    "file brings: check takes it with --trust-program; state dicts, safetensors and ONNX need no trust."
)
"""Why no parameters are counted."""

_WEIGHTS = "data/weights/model_weights_config.json"  # of torch 2.9 and later
_DTYPES = {6: torch.float16, 7: torch.float32, 8: torch.float64, 13: torch.bfloat16}
"""Floating-point numbers as the tables of torch.export number them; others are no parameters."""


def shown_exported(path: Path) -> ProgramSummary:
    """Returns what an archive of torch.export shows: its graph and weights are tables and plain bytes."""
    with zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        if "models/model.json" not in names or _WEIGHTS not in names:
            return ProgramSummary(
                tensors=sum(name.startswith("data/weights/") for name in names), notes=(HIDDEN,)
            )
        program = json.loads(archive.read(names["models/model.json"]))
        table = json.loads(archive.read(names[_WEIGHTS]))["config"]
        parameters = {
            name: _tensor(archive.read(names[f"data/weights/{one['path_name']}"]), one["tensor_meta"])
            for name, one in table.items()
            if one["is_param"] and one["tensor_meta"]["dtype"] in _DTYPES and not one["use_pickle"]
        }
    graph, signature = program["graph_module"]["graph"], program["graph_module"]["signature"]
    kinds = Counter(str(node["target"]).removeprefix("torch.ops.") for node in graph["nodes"])
    return ProgramSummary(
        opset=", ".join(f"{name} {version}" for name, version in program["opset_version"].items()),
        inputs=_declared(graph, signature["input_specs"], "user_input"),
        outputs=_declared(graph, signature["output_specs"], "user_output"),
        operators=dict(kinds),
        tensors=len(table),
        parameters=parameters,
        layers={name: one for name, one in parameters.items() if name.endswith("weight") and one.dim() > 1},
    )


def shown_scripted(path: Path) -> ProgramSummary:
    """Returns what an archive of TorchScript shows: how many tensors, how many files of code."""
    with zipfile.ZipFile(path) as archive:
        members = {one.filename.partition("/")[2]: one.file_size for one in archive.infolist()}
    tensors = {name: size for name, size in members.items() if name.startswith(("data/", "constants/"))}
    code = sum(name.startswith("code/") and name.endswith(".py") for name in members)
    held = f"It holds {len(tensors)} tensors of {sum(tensors.values()):,} bytes and {code} files of code."
    return ProgramSummary(tensors=len(tensors), notes=(held, HIDDEN))


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramContent:
    """Is what a file with a whole program shows.

    Attributes:
        file: Its name.
        format: One of `evalsuite.models.exported.programs.FORMATS`.
        bytes: Size on disk.
        opset: Sets of operators and their versions; empty where it does not show.
        inputs: Name, type and shape of each; empty where they do not show.
        outputs: The same.
        operators: Kinds of operator to how many there are.
        tensors: How many the file holds, statistics and constants among them.
        parameters: Numbers in floating-point tensors other than running statistics; ``None`` if only running
            the program tells. An exporter may have folded norms into the layers before them.
        nonzero: Those of them that are not exactly zero.
        layers: Weights of convolutions and linear layers; a matrix is turned to outputs and inputs.
        ratio: ``1 - nonzero / nonzero(parent)``; ``None`` without a parent, or if either does not show.
        notes: Sentences on what cannot be told.
    """

    file: str
    format: str
    bytes: int
    opset: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: dict[str, int]
    tensors: int
    parameters: int | None
    nonzero: int | None
    layers: tuple[LayerContent, ...]
    ratio: float | None
    notes: tuple[str, ...]


def is_program(path: Path) -> bool:
    """Returns whether a file is a whole program, told by its content.

    Raises:
        CheckpointError: If it cannot be read.
    """
    return path.is_file() and program_format(path) is not None


def program_content(path: Path, *, parent: Path | None = None, masks: Path | None = None) -> ProgramContent:
    """Returns what is in the program at `path`; `dataclasses.asdict` of it is JSON.

    Args:
        path: A file for which `is_program` is true.
        parent: The dense model, as weights or as a program, to measure the ratio against.
        masks: Of no use to a program; refused.

    Raises:
        CheckpointError: If a file is damaged, or masks are given.
    """
    if masks is not None:
        raise CheckpointError(
            f"program {path} takes no masks: multiply them into the weights before the export"
        )
    kind, shown = _shown(path)
    nonzero = _nonzero(shown)
    before = None if parent is None else _parents(parent)
    return ProgramContent(
        file=path.name,
        format=kind,
        bytes=path.stat().st_size,
        opset=shown.opset,
        inputs=shown.inputs,
        outputs=shown.outputs,
        operators=dict(shown.operators),
        tensors=shown.tensors,
        parameters=None
        if shown.parameters is None
        else sum(one.numel() for one in shown.parameters.values()),
        nonzero=nonzero,
        layers=tuple(layer_content(name, weight) for name, weight in shown.layers.items()),
        ratio=1 - nonzero / before if nonzero is not None and before else None,
        notes=shown.notes,
    )


_READERS: Mapping[str, Callable[[Path], ProgramSummary]] = {
    EXPORTED: shown_exported,
    SCRIPTED: shown_scripted,
    ONNX: shown_onnx,
}


def _shown(path: Path) -> tuple[str, ProgramSummary]:
    kind = program_format(path)
    if kind is None:
        raise CheckpointError(f"program {path} is none of {', '.join(_READERS)}")
    try:
        return kind, _READERS[kind](path)
    except EvalsuiteError as error:
        raise CheckpointError(f"program {path} {error}") from error
    except Exception as error:  # tables of other people's files are wrong in any way
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise CheckpointError(
            f"program {path} is truncated, damaged or no {kind} program ({reason}): export it again"
        ) from error


def _nonzero(shown: ProgramSummary) -> int | None:
    if shown.parameters is None:
        return None
    return sum(int(one.count_nonzero()) for one in shown.parameters.values())


def _parents(path: Path) -> int | None:
    return _nonzero(_shown(path)[1]) if is_program(path) else inspect(path).nonzero
