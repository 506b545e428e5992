"""ONNX files: outputs by onnxruntime, gradients through onnx2torch. Both are optional and imported when used."""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evalsuite.errors import CheckpointError
from evalsuite.models.exported.input_spec import Loaded, input_spec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

LARGEST = 2**31 - 1
"""Bytes of a model with its external tensors: what a protobuf message can hold."""

_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
}


def load_onnx(path: Path) -> Loaded:
    """Returns the network of an ONNX file.

    Args:
        path: One file, perhaps with files of tensors in its folder or below.

    Raises:
        CheckpointError: If a package is missing, the file is too large, reads tensors from elsewhere, or takes
            and returns anything else than images and logits.
    """
    model = parsed(path)
    session = _Session(model)
    one, _ = _only("inputs", session.inputs), _only("outputs", session.outputs)
    sizes = [size if isinstance(size, int) else None for size in one.shape]
    intake = input_spec(sizes, _DTYPES.get(one.type, one.type.removeprefix("tensor").strip("()")))
    try:
        twin = _package("onnx2torch").convert(lowered(model)).eval()
    except CheckpointError:
        raise
    except Exception as error:  # a converter of somebody else's that knows some operators
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        return Loaded(OnnxNetwork(session), intake, obstacle=f"onnx2torch cannot convert it ({reason})")
    origin = (
        f"Outputs are those of onnxruntime {importlib.metadata.version('onnxruntime')}, gradients those of the "
        f"conversion by onnx2torch {importlib.metadata.version('onnx2torch')}"
    )
    return Loaded(OnnxNetwork(session, twin), intake, origin=origin)


class OnnxNetwork(nn.Module):
    """Runs a graph with onnxruntime on one thread; where gradients are asked for, its conversion to torch.

    Args:
        session: Computes outputs; shared by copies.
        twin: Computes the same with gradients; ``None`` if there is no such thing.
    """

    def __init__(self, session: _Session, twin: nn.Module | None = None) -> None:
        super().__init__()
        self.session = session
        self.twin = twin

    def forward(self, images: Tensor) -> object:
        """Returns what the graph returns for images of its dtype."""
        if self.twin is not None and torch.is_grad_enabled() and images.requires_grad:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the converter's own use of torch, checked by its results
                return self.twin(images)
        return self.session(images)


class _Session:
    """Is a session of onnxruntime, which has no state: copies of a model share it."""

    def __init__(self, model: Any) -> None:
        runtime = _package("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 4  # what goes wrong is raised as well
        self._session = runtime.InferenceSession(
            model.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self.inputs: Sequence[Any] = self._session.get_inputs()
        self.outputs: Sequence[Any] = self._session.get_outputs()

    def __deepcopy__(self, _: object) -> _Session:
        return self

    def __call__(self, images: Tensor) -> Tensor:
        given = {self.inputs[0].name: images.detach().cpu().contiguous().numpy()}
        return torch.from_numpy(self._session.run(None, given)[0]).to(images.device)


def parsed(path: Path) -> Any:
    """Returns the message in a file, with its external tensors, which lie beside it.

    Raises:
        CheckpointError: If the package onnx is missing, the file is too large, or reads tensors from elsewhere.
    """
    onnx = _package("onnx")
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
    """Every tensor of a message: weights, constants, those of subgraphs and functions."""
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
    """Refuses to read what lies outside the folder, is no file, or is more than a model can hold."""
    total = 0
    for tensor in tensors:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        file = (folder / location).resolve()
        if not file.is_relative_to(folder):
            raise CheckpointError(
                f"wants to read {location!r} outside its own folder, which a model has no business to: refused"
            )
        if not file.is_file():
            raise CheckpointError(
                f"keeps tensors in {location!r}, which is not there: copy it beside the model"
            )
        start = int(entries.get("offset", 0))
        rest = file.stat().st_size - start
        length = int(entries.get("length", rest))
        if start < 0 or not 0 <= length <= rest:
            raise CheckpointError(f"keeps tensors beyond the end of {location!r}: the file is truncated")
        total += length
    _check_size(total)


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise CheckpointError(f"has {size:,} bytes of tensors, expected at most {LARGEST:,}")


def _only(what: str, found: Sequence[Any]) -> Any:
    if len(found) != 1:
        names = ", ".join(one.name for one in found)
        raise CheckpointError(
            f"has {len(found)} {what} ({names}), expected one: images in, logits out; export it so"
        )
    return found[0]


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CheckpointError(
            f"is in ONNX, which needs the package {name}: install it with pip install 'evalsuite[programs]'"
        ) from error


# Graphs are rewritten into what onnx2torch 1.5 knows: the same graph in the words of opset 17. What torch exports today
# (opset 18 and later) and what its older exporter wrote differ from that in little: axes that became inputs, constants
# behind Identity, an attribute that changes nothing. A wrong rewrite is no danger: outputs are compared with those of
# the original before gradients are believed.

OPSET = 17
"""The newest opset that the converter mostly knows."""

_REDUCTIONS = frozenset(
    {"ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"}
    | {"ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"}
)
"""Take their axes as an input since opset 18; ReduceSum has since 13, and the converter knows that."""


def lowered(model: Any) -> Any:
    """Returns a rewritten copy of a model (an ``onnx.ModelProto``), with its nodes renamed.

    The converter writes names of nodes into Python source that it then runs: a name from a file must not
    get there.
    """
    result = copy.deepcopy(model)
    graph = result.graph
    _inline_constants(graph)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for index, node in enumerate(graph.node):
        node.name = f"node_{index}"
        if node.op_type in _REDUCTIONS and len(node.input) == 2:
            _axes_to_attribute(node, constants)
        elif node.op_type == "Reshape":
            _drop_allowzero(node, constants)
    for opset in result.opset_import:
        if opset.domain == "":
            opset.version = min(opset.version, OPSET)
    return result


def _inline_constants(graph: Any) -> None:
    """Makes an initializer of every Constant, and every Identity of an initializer disappear."""
    known = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    same: dict[str, str] = {}
    kept = []
    for node in graph.node:
        value = next((item.t for item in node.attribute if item.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            graph.initializer.add().CopyFrom(value)
            graph.initializer[-1].name = node.output[0]
            known.add(node.output[0])
        elif node.op_type == "Identity" and node.input[0] in known and node.output[0] not in outputs:
            same[node.output[0]] = same.get(node.input[0], node.input[0])
            known.add(node.output[0])
        else:
            kept.append(copy.deepcopy(node))
    for node in kept:
        node.input[:] = [same.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(kept)


def _axes_to_attribute(node: Any, constants: dict[str, Any]) -> None:
    from onnx import helper, numpy_helper

    if node.input[1] in constants:
        axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
        del node.input[1]
        node.attribute.append(helper.make_attribute("axes", axes))


def _drop_allowzero(node: Any, constants: dict[str, Any]) -> None:
    """Without a zero in the shape, the attribute says nothing."""
    from onnx import numpy_helper

    shape = constants.get(node.input[1])
    if shape is not None and numpy_helper.to_array(shape).all():
        kept = [copy.deepcopy(item) for item in node.attribute if item.name != "allowzero"]
        del node.attribute[:]
        node.attribute.extend(kept)
