"""ONNX files: outputs by onnxruntime, gradients by onnx2torch. Both are optional and imported when used."""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from evalsuite.errors import CheckpointError, first_line
from evalsuite.models.exported import onnx_probe
from evalsuite.models.exported.program import LoadedProgram, check_output_operator, declared_input_spec
from evalsuite.models.limited_program import answer_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

MAX_BYTES = 2**31 - 1
"""Bytes of a model with its external tensors: the limit of a protobuf message."""

DYNAMIC = frozenset(
    {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulIntegerToFloat"}
)
"""Operators of dynamic quantisation: the scale of an activation is that of the batch."""
PROBABILITIES = frozenset({"Softmax", "Sigmoid", "HardSigmoid", "QLinearSoftmax", "QLinearSigmoid"})
"""Operators that return probabilities."""
_KEEP_VALUES = frozenset(
    {"Identity", "Cast", "QuantizeLinear", "DequantizeLinear", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
)

_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
}


def load_onnx(path: Path, *, image_shape: Sequence[int] | None = None) -> LoadedProgram:
    """Returns the network of an ONNX file, whose first run is in a process with limits.

    Args:
        path: One file, perhaps with files of tensors in its folder or below.
        image_shape: (C, H, W) of the images of the data set, if known.

    Raises:
        CheckpointError: If a package is missing, the file is too large, reads tensors from elsewhere, or takes
            and returns anything else than images and logits.
    """
    model = read_onnx(path)
    check_output_operator(last_operator(model))
    _probe(path, model.ByteSize(), image_shape)
    session = _Session(model)
    images, _ = _single("inputs", session.inputs), _single("outputs", session.outputs)
    sizes = [size if isinstance(size, int) else None for size in images.shape]
    spec = declared_input_spec(
        sizes, _DTYPES.get(images.type, images.type.removeprefix("tensor").strip("()"))
    )
    dynamic = any(node.op_type in DYNAMIC for node in model.graph.node)
    try:
        converted = _import_optional("onnx2torch").convert(lower_for_converter(model)).eval()
    except CheckpointError:
        raise
    except Exception as error:  # the converter supports some operators alone, and fails in any way
        return LoadedProgram(
            OnnxNetwork(session, weights=graph_weights(model)),
            spec,
            gradient_obstacle=f"onnx2torch cannot convert it ({first_line(error)})",
            dynamic=dynamic,
        )
    source = (
        f"Outputs are those of onnxruntime {importlib.metadata.version('onnxruntime')}, gradients those of the "
        f"conversion by onnx2torch {importlib.metadata.version('onnx2torch')}"
    )
    return LoadedProgram(OnnxNetwork(session, converted), spec, gradient_source=source, dynamic=dynamic)


def _probe(path: Path, size: int, image_shape: Sequence[int] | None) -> None:
    """Runs a file once under limits of memory and computing time.

    Raises:
        CheckpointError: If it needs more.
    """
    _import_optional("onnxruntime")
    bounds = onnx_probe.limits(size)
    shape = None if image_shape is None else [int(length) for length in image_shape]
    question = {"path": str(path), "shape": shape, "search": sys.path, **bounds}
    if answer_of(onnx_probe.__file__, question, seconds=4 * bounds["seconds"]) is None:  # of the clock
        raise CheckpointError(
            f"takes more than {bounds['seconds']} s of computing or {bounds['memory'] // 2**20:,} MiB for "
            f"{onnx_probe.IMAGES} images: it is made to exhaust the machine, or larger than a classifier; refused"
        )


def last_operator(model: Any) -> str:
    """Returns the operator that computes the output of a model (an ``onnx.ModelProto``); empty if there is none.

    Those behind it that change only the type, the levels or the shape of numbers are passed over.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    name = model.graph.output[0].name if model.graph.output else ""
    for _ in range(len(model.graph.node)):
        node = makers.get(name)
        if node is None or node.op_type not in _KEEP_VALUES or not node.input:
            return str(node.op_type) if node is not None else ""
        name = node.input[0]
    return ""


def graph_weights(model: Any) -> dict[str, Tensor]:
    """Returns the weights and biases of a quantised model that cannot be converted, so that they can be counted.

    Integer weights are quantised: their numbers are the distances from the zero point, so zeros stay zeros.
    """
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    zeros = _zero_points(model, tensors)
    if not zeros:  # which of its constants are weights is not known
        return {}
    weights: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        values = numpy_helper.to_array(tensor)
        if name in zeros:
            point, axis = zeros[name]
            zero = numpy_helper.to_array(tensors[point]).astype(np.float32)
            if zero.size > 1:  # one for each output
                shape = [1] * values.ndim
                shape[axis] = zero.size
                zero = zero.reshape(shape)
            weights[name] = torch.from_numpy(values.astype(np.float32) - zero)
        elif values.dtype.kind == "f" and values.ndim and not _is_statistic(model, name):
            weights[name] = torch.from_numpy(values.astype(np.float32))
    return weights


def _zero_points(model: Any, tensors: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """Names of quantised weights to those of their zero points, with the dimension along which there are several."""
    places = {
        "DequantizeLinear": ((0, 2),),
        "ConvInteger": ((1, 3),),
        "MatMulInteger": ((1, 3),),
        "QLinearConv": ((3, 5),),
        "QLinearMatMul": ((3, 5),),
        "MatMulIntegerToFloat": ((1, 5),),
        "DynamicQuantizeMatMul": ((1, 3),),
    }
    pairs: dict[str, tuple[str, int]] = {}
    for node in model.graph.node:
        for weight, zero in places.get(node.op_type, ()):
            if len(node.input) > zero and {node.input[weight], node.input[zero]} <= tensors.keys():
                stated = {item.name: item.i for item in node.attribute}.get("axis", 1)  # of DequantizeLinear
                axis = 0 if "Conv" in node.op_type else -1 if "MatMul" in node.op_type else int(stated)
                pairs[node.input[weight]] = (node.input[zero], axis)
    return pairs


def _is_statistic(model: Any, name: str) -> bool:
    """Returns whether a tensor is a running statistic, a scale or another setting of an operator."""
    for node in model.graph.node:
        if name not in node.input:
            continue
        place = list(node.input).index(name)
        if node.op_type == "BatchNormalization" and place > 2:
            return True
        if "Quantize" in node.op_type or node.op_type.startswith("QLinear"):
            return True
    return False


class OnnxNetwork(nn.Module):
    """A graph that onnxruntime runs on one thread, and its conversion to torch where gradients are needed.

    Args:
        session: Computes outputs; shared by copies.
        converted: Computes the same with gradients; ``None`` if the graph cannot be converted.
        weights: Numbers of the graph that are counted where there is no conversion.
    """

    def __init__(
        self,
        session: _Session,
        converted: nn.Module | None = None,
        *,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.session = session
        self.converted = converted
        self.counted = nn.ParameterList(
            nn.Parameter(tensor, requires_grad=False) for tensor in (weights or {}).values()
        )

    def forward(self, images: Tensor) -> object:
        """Returns the output of the graph for images of its dtype."""
        if self.converted is not None and torch.is_grad_enabled() and images.requires_grad:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # of the converter's own use of torch, verified by its results
                return self.converted(images)
        return self.session(images)


class _Session:
    """A session of onnxruntime, which has no state: copies of a model share it."""

    def __init__(self, model: Any) -> None:
        runtime = _import_optional("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 4  # errors are raised as well
        self._session = runtime.InferenceSession(
            model.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self.inputs: Sequence[Any] = self._session.get_inputs()
        self.outputs: Sequence[Any] = self._session.get_outputs()

    def __deepcopy__(self, _: object) -> _Session:
        return self

    def __call__(self, images: Tensor) -> Tensor:
        feed = {self.inputs[0].name: images.detach().cpu().contiguous().numpy()}
        return torch.from_numpy(self._session.run(None, feed)[0]).to(images.device)


def read_onnx(path: Path) -> Any:
    """Returns the model (an ``onnx.ModelProto``) in a file, with its external tensors from the same folder.

    Raises:
        CheckpointError: If the package onnx is missing, the file is too large, or reads tensors from elsewhere.
    """
    onnx = _import_optional("onnx")
    _check_size(path.stat().st_size)
    model = onnx.load(path, load_external_data=False)
    external = [tensor for tensor in _tensors(model) if _is_external(tensor)]
    if external:
        _check_external(external, path.parent.resolve())
        onnx.load_external_data_for_model(model, str(path.parent.resolve()))
        if any(_is_external(tensor) for tensor in _tensors(model)):
            raise CheckpointError("has external tensors inside a function, expected them among its weights")
    return model


def _tensors(message: Any) -> Iterator[Any]:
    """Yields every tensor of a message: weights, constants, those of subgraphs and functions."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "DESCRIPTOR") else value:
                yield from _tensors(part)


def _is_external(tensor: Any) -> bool:
    return bool(tensor.data_location == tensor.EXTERNAL)


def _check_external(tensors: Sequence[Any], folder: Path) -> None:
    """Refuses external tensors outside the folder, in no regular file, or larger than a model can be."""
    total = 0
    for tensor in tensors:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        file = (folder / location).resolve()
        if not file.is_relative_to(folder):
            raise CheckpointError(
                f"refers to tensors in {location!r} outside its own folder, expected them beside the model: refused"
            )
        if not file.is_file():
            raise CheckpointError(
                f"refers to tensors in {location!r}, which does not exist: copy it beside the model"
            )
        start = int(entries.get("offset", 0))
        rest = file.stat().st_size - start
        length = int(entries.get("length", rest))
        if start < 0 or not 0 <= length <= rest:
            raise CheckpointError(f"refers to tensors beyond the end of {location!r}: the file is truncated")
        total += length
    _check_size(total)


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise CheckpointError(f"has {size:,} bytes of tensors, expected at most {MAX_BYTES:,}")


def _single(kind: str, values: Sequence[Any]) -> Any:
    if len(values) != 1:
        names = ", ".join(value.name for value in values)
        raise CheckpointError(
            f"has {len(values)} {kind} ({names}), expected one: images in, logits out; export it so"
        )
    return values[0]


def _import_optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CheckpointError(
            f"is in ONNX, which needs the package {name}: install it with pip install 'evalsuite[programs]'"
        ) from error


# Graphs are rewritten to operators that onnx2torch 1.5 knows: those of opset 17. The exports of today's torch
# (opset 18 and later) and of its older exporter differ from that in little: axes that became inputs, constants
# behind Identity, an attribute that changes nothing. A wrong rewrite is no danger: outputs are compared with those of
# the original before gradients are used.

CONVERTER_OPSET = 17
"""The newest opset that the converter mostly knows."""

_REDUCTIONS = frozenset(
    {"ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"}
    | {"ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"}
)
"""Take their axes as an input since opset 18; ReduceSum has since 13, and the converter knows that."""


def lower_for_converter(model: Any) -> Any:
    """Returns a copy of a model (an ``onnx.ModelProto``) rewritten to `CONVERTER_OPSET`, with its nodes renamed.

    The converter writes names of nodes into Python source that it then runs: a name from a file must not
    get there.
    """
    lowered = copy.deepcopy(model)
    graph = lowered.graph
    _inline_constants(graph)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for index, node in enumerate(graph.node):
        node.name = f"node_{index}"
        if node.op_type in _REDUCTIONS and len(node.input) == 2:
            _axes_to_attribute(node, constants)
        elif node.op_type == "Reshape":
            _drop_allowzero(node, constants)
    for opset in lowered.opset_import:
        if opset.domain == "":
            opset.version = min(opset.version, CONVERTER_OPSET)
    return lowered


def _inline_constants(graph: Any) -> None:
    """Turns every Constant into an initializer, and removes every Identity of an initializer."""
    constants = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    originals: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        value = next((item.t for item in node.attribute if item.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            graph.initializer.add().CopyFrom(value)
            graph.initializer[-1].name = node.output[0]
            constants.add(node.output[0])
        elif node.op_type == "Identity" and node.input[0] in constants and node.output[0] not in outputs:
            originals[node.output[0]] = originals.get(node.input[0], node.input[0])
            constants.add(node.output[0])
        else:
            nodes.append(copy.deepcopy(node))
    for node in nodes:
        node.input[:] = [originals.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(nodes)


def _axes_to_attribute(node: Any, constants: dict[str, Any]) -> None:
    from onnx import helper, numpy_helper

    if node.input[1] in constants:
        axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
        del node.input[1]
        node.attribute.append(helper.make_attribute("axes", axes))


def _drop_allowzero(node: Any, constants: dict[str, Any]) -> None:
    """Removes the attribute `allowzero` where it has no effect: without a zero in the shape."""
    from onnx import numpy_helper

    shape = constants.get(node.input[1])
    if shape is not None and numpy_helper.to_array(shape).all():
        others = [copy.deepcopy(item) for item in node.attribute if item.name != "allowzero"]
        del node.attribute[:]
        node.attribute.extend(others)
