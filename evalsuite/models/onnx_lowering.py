"""Rewrites an ONNX graph into what onnx2torch 1.5 knows: the same graph in words of opset 17.

What torch exports today (opset 18 and later) and what its older exporter wrote differ from what the converter
takes in little: axes that became inputs, constants behind Identity, an attribute that changes nothing. A rewrite
that is wrong is no danger: outputs are compared with those of the original before gradients are believed.
"""

from __future__ import annotations

import copy
from typing import Any

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
