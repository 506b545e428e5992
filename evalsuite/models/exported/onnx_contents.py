"""What is in an ONNX file, read as data: its graph, its tensors, and which of them are weights of layers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from evalsuite.models.exported.onnx import parsed
from evalsuite.models.exported.summary import ProgramSummary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

_FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
_STATISTICS = slice(3, 5)  # inputs of BatchNormalization that are no parameters


def shown_onnx(path: Path) -> ProgramSummary:
    """Returns what an ONNX file shows.

    Args:
        path: One file, perhaps with files of tensors in its folder or below.

    Raises:
        CheckpointError: If a package is missing, the file is too large, or reads tensors from elsewhere.
    """
    model = parsed(path)
    graph = model.graph
    tensors = {one.name: one for one in graph.initializer}
    statistics = {
        name
        for node in graph.node
        if node.op_type == "BatchNormalization"
        for name in node.input[_STATISTICS]
    }
    values = {
        name: _values(one)
        for name, one in tensors.items()
        if _kind(one) in _FLOATS and name not in statistics
    }
    return ProgramSummary(
        opset=", ".join(f"{one.domain or 'ai.onnx'} {one.version}" for one in model.opset_import),
        inputs=tuple(_declared(one) for one in graph.input if one.name not in tensors),
        outputs=tuple(map(_declared, graph.output)),
        operators=dict(Counter(node.op_type for node in graph.node)),
        tensors=len(tensors),
        parameters=values,
        layers={name: weight for node in graph.node for name, weight in _layer(node, values)},
    )


def _layer(node: Any, values: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The weight of a layer: outputs, inputs, kernel."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return
    name = node.input[1]
    if name not in values or values[name].dim() < 2:
        return
    flags = {one.name: one.i for one in node.attribute}
    turned = node.op_type != "Conv" and not (node.op_type == "Gemm" and flags.get("transB"))
    yield name, values[name].transpose(0, 1) if turned else values[name]


def _kind(tensor: Any) -> str:
    return str(tensor.DataType.Name(tensor.data_type))


def _values(tensor: Any) -> Tensor:
    from onnx import numpy_helper

    wide = np.float64 if _kind(tensor) == "DOUBLE" else np.float32
    return torch.from_numpy(np.array(numpy_helper.to_array(tensor), dtype=wide))


def _declared(value: Any) -> str:
    """Name, type and shape of an input or output; a dimension without a number has a name, or any size."""
    kind = value.type.tensor_type
    sizes = [
        str(size.dim_value) if size.HasField("dim_value") else size.dim_param or "any"
        for size in kind.shape.dim
    ]
    name = type(value).DESCRIPTOR.file.pool.FindEnumTypeByName("onnx.TensorProto.DataType")
    return f"{value.name}: {name.values_by_number[kind.elem_type].name.lower()} ({', '.join(sizes)})"
