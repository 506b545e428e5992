"""Inspection of a whole program without running it, whether it is trusted or not: its graph, tensors and sparsity."""

from __future__ import annotations

import json
import math
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from evalsuite.errors import CheckpointError, EvalsuiteError, first_line
from evalsuite.models.checkpoints.inspection import LayerInspection, inspect_checkpoint, inspect_layer
from evalsuite.models.exported.loading import ONNX, SPARE_BYTES, TORCH_EXPORT, TORCHSCRIPT, program_format
from evalsuite.models.exported.onnx import read_onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

HIDDEN_TENSORS = (
    "The names, shapes and sparsity of its tensors show only when it is loaded, which may run code that the "
    "file brings: check takes it with --trust-program; state dicts, safetensors and ONNX need no trust."
)
"""Why no parameters are counted."""

_WEIGHTS_TABLE = "data/weights/model_weights_config.json"  # of torch 2.9 and later
_DTYPES = {6: torch.float16, 7: torch.float32, 8: torch.float64, 13: torch.bfloat16}
"""Floating-point numbers as the tables of torch.export number them; others are no parameters."""

_ONNX_FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
_ONNX_STATISTICS = slice(3, 5)  # inputs of BatchNormalization that are no parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramSummary:
    """The content of a program that can be read without running it.

    Attributes:
        opset: Sets of operators and their versions.
        inputs: Name, type and shape of each.
        outputs: The same.
        operators: Kinds of operator to how many there are.
        tensors: How many the file holds; statistics and constants are among them.
        parameters: Floating-point tensors by name, without running statistics; ``None`` if they are known only
            after the program is loaded.
        layers: Weights of convolutions and linear layers by name: outputs, inputs, kernel.
        notes: Sentences on what cannot be read.
    """

    opset: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    operators: Mapping[str, int] = field(default_factory=dict)
    tensors: int = 0
    parameters: Mapping[str, Tensor] | None = None
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramInspection:
    """The content of a file with a whole program, in numbers.

    Attributes:
        file: Its name.
        format: One of `evalsuite.models.exported.loading.FORMATS`.
        bytes: Size on disk.
        opset: Sets of operators and their versions; empty where it cannot be read.
        inputs: Name, type and shape of each; empty where they cannot be read.
        outputs: The same.
        operators: Kinds of operator to how many there are.
        tensors: How many the file holds, statistics and constants among them.
        parameters: Numbers in floating-point tensors other than running statistics; ``None`` if they are known
            only after the program is loaded. An exporter may have folded norms into the layers before them.
        nonzero: Those of them that are not exactly zero.
        layers: Weights of convolutions and linear layers; a matrix is transposed to outputs and inputs.
        ratio: ``1 - nonzero / nonzero(parent)``; ``None`` without a parent, or if either is unknown.
        notes: Sentences on what cannot be read.
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
    layers: tuple[LayerInspection, ...]
    ratio: float | None
    notes: tuple[str, ...]


def is_program(path: Path) -> bool:
    """Returns whether a file is a whole program, identified by its content.

    Raises:
        CheckpointError: If it cannot be read.
    """
    return path.is_file() and program_format(path) is not None


def inspect_program(
    path: Path, *, parent: Path | None = None, masks: Path | None = None
) -> ProgramInspection:
    """Returns the content of the program at `path`, in numbers; `dataclasses.asdict` of it is JSON.

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
    kind, summary = _summarize(path)
    parameters, nonzero = summary.parameters, _nonzero(summary)
    parent_nonzero = None if parent is None else _parent_nonzero(parent)
    return ProgramInspection(
        file=path.name,
        format=kind,
        bytes=path.stat().st_size,
        opset=summary.opset,
        inputs=summary.inputs,
        outputs=summary.outputs,
        operators=dict(summary.operators),
        tensors=summary.tensors,
        parameters=None if parameters is None else sum(tensor.numel() for tensor in parameters.values()),
        nonzero=nonzero,
        layers=tuple(inspect_layer(name, weight) for name, weight in summary.layers.items()),
        ratio=1 - nonzero / parent_nonzero if nonzero is not None and parent_nonzero else None,
        notes=summary.notes,
    )


def summarize_torch_export(path: Path) -> ProgramSummary:
    """Returns the content of an archive of torch.export: its graph and weights are tables and plain bytes."""
    with zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        if "models/model.json" not in names or _WEIGHTS_TABLE not in names:
            return ProgramSummary(
                tensors=sum(name.startswith("data/weights/") for name in names), notes=(HIDDEN_TENSORS,)
            )
        program = json.loads(archive.read(names["models/model.json"]))
        entries = json.loads(archive.read(names[_WEIGHTS_TABLE]))["config"]
        _check_named_bytes(path, archive, [names[f"data/weights/{e['path_name']}"] for e in entries.values()])
        parameters = {
            name: _tensor(archive.read(names[f"data/weights/{entry['path_name']}"]), entry["tensor_meta"])
            for name, entry in entries.items()
            if entry["is_param"] and entry["tensor_meta"]["dtype"] in _DTYPES and not entry["use_pickle"]
        }
    graph, signature = program["graph_module"]["graph"], program["graph_module"]["signature"]
    operators = Counter(str(node["target"]).removeprefix("torch.ops.") for node in graph["nodes"])
    return ProgramSummary(
        opset=", ".join(f"{name} {version}" for name, version in program["opset_version"].items()),
        inputs=_declared(graph, signature["input_specs"], "user_input"),
        outputs=_declared(graph, signature["output_specs"], "user_output"),
        operators=dict(operators),
        tensors=len(entries),
        parameters=parameters,
        layers={
            name: tensor
            for name, tensor in parameters.items()
            if name.endswith("weight") and tensor.dim() > 1
        },
    )


def summarize_torchscript(path: Path) -> ProgramSummary:
    """Returns the content of an archive of TorchScript: how many tensors, how many files of code."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename.partition("/")[2]: member.file_size for member in archive.infolist()}
    tensors = {name: size for name, size in members.items() if name.startswith(("data/", "constants/"))}
    code = sum(name.startswith("code/") and name.endswith(".py") for name in members)
    content = f"It holds {len(tensors)} tensors of {sum(tensors.values()):,} bytes and {code} files of code."
    return ProgramSummary(tensors=len(tensors), notes=(content, HIDDEN_TENSORS))


def summarize_onnx(path: Path) -> ProgramSummary:
    """Returns the content of an ONNX file.

    Args:
        path: One file, perhaps with files of tensors in its folder or below.

    Raises:
        CheckpointError: If a package is missing, the file is too large, or reads tensors from elsewhere.
    """
    model = read_onnx(path)
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    statistics = {
        name
        for node in graph.node
        if node.op_type == "BatchNormalization"
        for name in node.input[_ONNX_STATISTICS]
    }
    parameters = {
        name: _onnx_values(tensor)
        for name, tensor in tensors.items()
        if _onnx_type(tensor) in _ONNX_FLOATS and name not in statistics
    }
    return ProgramSummary(
        opset=", ".join(f"{opset.domain or 'ai.onnx'} {opset.version}" for opset in model.opset_import),
        inputs=tuple(_onnx_declared(value) for value in graph.input if value.name not in tensors),
        outputs=tuple(map(_onnx_declared, graph.output)),
        operators=dict(Counter(node.op_type for node in graph.node)),
        tensors=len(tensors),
        parameters=parameters,
        layers={name: weight for node in graph.node for name, weight in _onnx_layer(node, parameters)},
    )


_READERS: Mapping[str, Callable[[Path], ProgramSummary]] = {
    TORCH_EXPORT: summarize_torch_export,
    TORCHSCRIPT: summarize_torchscript,
    ONNX: summarize_onnx,
}


def _summarize(path: Path) -> tuple[str, ProgramSummary]:
    kind = program_format(path)
    if kind is None:
        raise CheckpointError(f"program {path} is none of {', '.join(_READERS)}")
    try:
        return kind, _READERS[kind](path)
    except EvalsuiteError as error:
        raise CheckpointError(f"program {path} {error}") from error
    except Exception as error:  # tables of damaged files are wrong in any way
        raise CheckpointError(
            f"program {path} is truncated, damaged or no {kind} program ({first_line(error)}): export it again"
        ) from error


def _nonzero(summary: ProgramSummary) -> int | None:
    if summary.parameters is None:
        return None
    return sum(int(tensor.count_nonzero()) for tensor in summary.parameters.values())


def _parent_nonzero(path: Path) -> int | None:
    return _nonzero(_summarize(path)[1]) if is_program(path) else inspect_checkpoint(path).nonzero


def _tensor(content: bytes, table: Mapping[str, Any]) -> Tensor:
    """Returns the tensor in `content` that has the sizes, strides and offset of its table."""
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


def _check_named_bytes(path: Path, archive: zipfile.ZipFile, members: list[str]) -> None:
    """Refuses a table that names the bytes of its archive again and again: each tensor takes memory and time."""
    named, size = sum(archive.getinfo(member).file_size for member in members), path.stat().st_size
    if named > 2 * size + SPARE_BYTES:
        raise CheckpointError(
            f"has {len(members):,} tensors of {named:,} bytes in a file of {size:,}: entries are named many times; "
            "it is damaged or made to exhaust the machine"
        )


def _declared(graph: Mapping[str, Any], specs: list[Any], kind: str) -> tuple[str, ...]:
    """Returns names, types and shapes of the program's inputs or outputs, without its weights."""
    names = [
        spec[kind]["arg"]["as_tensor"]["name"]
        for spec in specs
        if "as_tensor" in spec.get(kind, {}).get("arg", {})
    ]
    return tuple(f"{name}: {_text(graph['tensor_values'][name])}" for name in names)


def _text(table: Mapping[str, Any]) -> str:
    dtype = str(_DTYPES.get(table["dtype"], "another type")).removeprefix("torch.")
    return f"{dtype} ({', '.join(str(size.get('as_int', 'any')) for size in table['sizes'])})"


def _onnx_layer(node: Any, parameters: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yields name and weight of a layer: outputs, inputs, kernel; nothing for other nodes."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return
    name = node.input[1]
    if name not in parameters or parameters[name].dim() < 2:
        return
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    inputs_first = node.op_type != "Conv" and not (node.op_type == "Gemm" and attributes.get("transB"))
    yield name, parameters[name].transpose(0, 1) if inputs_first else parameters[name]


def _onnx_type(tensor: Any) -> str:
    return str(tensor.DataType.Name(tensor.data_type))


def _onnx_values(tensor: Any) -> Tensor:
    from onnx import numpy_helper

    dtype = np.float64 if _onnx_type(tensor) == "DOUBLE" else np.float32
    return torch.from_numpy(np.array(numpy_helper.to_array(tensor), dtype=dtype))


def _onnx_declared(value: Any) -> str:
    """Returns name, type and shape of an input or output; a dimension without a number has a name, or any size."""
    tensor_type = value.type.tensor_type
    sizes = [
        str(size.dim_value) if size.HasField("dim_value") else size.dim_param or "any"
        for size in tensor_type.shape.dim
    ]
    types = type(value).DESCRIPTOR.file.pool.FindEnumTypeByName("onnx.TensorProto.DataType")
    return f"{value.name}: {types.values_by_number[tensor_type.elem_type].name.lower()} ({', '.join(sizes)})"
