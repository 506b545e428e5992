"""The data flow of a network, traced by torch.fx, with the questions that channel removal and folding ask of it."""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass

from torch import fx, nn

from evalsuite.errors import InvalidModelError, first_line
from evalsuite.models.surgery.channel_selection import ChannelSelection

POINTWISE_MODULES = (
    *(nn.Identity, nn.Dropout),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish, nn.Tanh),
)
"""Modules that compute each number from itself alone and leave a zero zero."""

CHANNELWISE_MODULES = (
    *(*POINTWISE_MODULES, nn.Dropout2d),
    *(nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
)
"""Modules that compute each channel from itself alone and leave a zero channel zero (so no sigmoid, no softmax)."""

POINTWISE_FUNCTIONS = frozenset(
    {"relu", "relu_", "relu6", "leaky_relu", "elu", "gelu", "silu", "hardswish", "mish", "tanh"}
    | {"dropout", "contiguous"}
)
"""Functions and methods that do so."""

CHANNELWISE_FUNCTIONS = frozenset(
    {*POINTWISE_FUNCTIONS, "dropout2d"}
    | {"avg_pool2d", "max_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"}
)
"""Functions and methods that do so."""


@dataclass(frozen=True)
class TracedGraph:
    """A network's graph beside its modules.

    Attributes:
        nodes: In order of execution.
        modules: By name.
        calls: How often each module is called in one forward pass.
        names: Under how many names each module, by `id`, is registered.
    """

    nodes: tuple[fx.Node, ...]
    modules: dict[str, nn.Module]
    calls: Counter[str]
    names: Counter[int]

    def module(self, node: fx.Node) -> nn.Module | None:
        """Returns the module that `node` calls; ``None`` if it calls something else."""
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def is_called_once(self, node: fx.Node) -> bool:
        """Returns whether `node` calls a module that nothing else calls, so that it may be changed."""
        module = self.module(node)
        return module is not None and self.calls[str(node.target)] == 1 and self.names[id(module)] == 1


class _Tracer(fx.Tracer):
    """A tracer to which a channel selection is one layer: its output depends on the values in its buffer."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, ChannelSelection) or super().is_leaf_module(module, name)


def trace_graph(model: nn.Module) -> TracedGraph:
    """Returns the data flow of `model` in its present mode.

    Raises:
        InvalidModelError: If the forward pass depends on the values of its input: then there is no single graph.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # tracing runs the model's own code, which may fail in any way
        raise InvalidModelError(
            f"the data flow of {type(model).__name__} cannot be traced ({type(error).__name__}: "
            f"{first_line(error)}), so its channels cannot be removed; "
            "prune single weights instead"
        ) from error
    nodes = tuple(graph.nodes)
    calls = Counter(str(node.target) for node in nodes if node.op == "call_module")
    names = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    return TracedGraph(nodes, dict(model.named_modules()), calls, names)


def is_unmodified(module: nn.Module) -> bool:
    """Returns whether `module` computes from its own parameters alone: no hook, no parametrisation."""
    return not has_hooks(module) and "weight" in module._parameters


def has_hooks(module: nn.Module) -> bool:
    """Returns whether other code runs before or after `module`, as masks and parametrisations need."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def is_channelwise(graph: TracedGraph, user: fx.Node, source: fx.Node) -> bool:
    """Returns whether `user` computes each channel of `source` from itself alone and leaves a zero channel zero."""
    others = [node for node in user.all_input_nodes if node is not source]
    if not all(_is_size(node) for node in others):
        return False
    if user.op == "call_module":
        return isinstance(graph.module(user), CHANNELWISE_MODULES)
    function = _function_name(user)
    return function in CHANNELWISE_FUNCTIONS or (function == "mean" and _mean_dims(user) == (True, True))


def is_pointwise(graph: TracedGraph, user: fx.Node, source: fx.Node) -> bool:
    """Returns whether `user` computes each number of `source` from itself alone and leaves a zero zero."""
    if any(node is not source for node in user.all_input_nodes):
        return False
    if user.op == "call_module":
        return isinstance(graph.module(user), POINTWISE_MODULES)
    return _function_name(user) in POINTWISE_FUNCTIONS


def node_label(graph: TracedGraph, node: fx.Node) -> str:
    """Returns what a node does, for a sentence: an operation, a layer, or the network's output."""
    module = graph.module(node)
    if module is not None:
        return f"{node.target} ({type(module).__name__})"
    if node.op == "output":
        return "the output"
    name = _function_name(node) or str(getattr(node.target, "__name__", node.target))
    return f"an operation {name!r}"


def flattens_channels(user: fx.Node, module: nn.Module | None, source: fx.Node) -> bool:
    """Returns whether `user` turns maps (N, C, H, W) into vectors whose entries are ordered by channel."""
    if isinstance(module, nn.Flatten):
        return (module.start_dim, module.end_dim) in {(1, -1), (1, 3)}
    if not user.args or user.args[0] is not source:
        return False
    function, rest = _function_name(user), tuple(user.args[1:])
    if function == "flatten":
        bounds = dict(zip(("start_dim", "end_dim"), rest, strict=False)) | user.kwargs
        return (bounds.get("start_dim", 0), bounds.get("end_dim", -1)) in {(1, -1), (1, 3)}
    if function in {"view", "reshape"}:
        sizes = rest[0] if len(rest) == 1 and isinstance(rest[0], tuple | list) else rest
        return len(sizes) == 2 and not isinstance(sizes[0], int) and sizes[1] in {-1}
    return function == "mean" and _mean_dims(user) == (True, False)


def reads_other_sizes(user: fx.Node, *, channel_dims: set[int]) -> bool:
    """Returns whether `user` only reads sizes other than the number of channels."""
    if _function_name(user) == "size" and len(user.args) == 2:
        return _is_other_dim(user.args[1], channel_dims)
    if _function_name(user) == "size" or (user.target is getattr and user.args[1] == "shape"):
        return all(
            item.target is operator.getitem and _is_other_dim(item.args[1], channel_dims)
            for item in user.users
        )
    return False


def _mean_dims(user: fx.Node) -> tuple[bool, bool]:
    """Returns whether a mean is over height and width, and whether it keeps those dimensions."""
    arguments = dict(zip(("dim", "keepdim"), user.args[1:], strict=False)) | user.kwargs
    dims = arguments.get("dim")
    spatial = isinstance(dims, tuple | list) and sorted(int(str(dim)) % 4 for dim in dims) == [2, 3]
    return spatial, bool(arguments.get("keepdim", False))


def _is_size(node: fx.Node) -> bool:
    """Returns whether `node` is the size of a tensor along one dimension."""
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        node = node.args[0]
        return _function_name(node) == "size" or node.target is getattr
    return _function_name(node) == "size" and len(node.args) == 2


def _is_other_dim(dim: object, channel_dims: set[int]) -> bool:
    return isinstance(dim, int) and dim not in channel_dims


def _function_name(node: fx.Node) -> str:
    """Returns the name of the torch function or tensor method that `node` calls; empty if it calls neither."""
    if node.op == "call_method":
        return str(node.target)
    module = str(getattr(node.target, "__module__", "") or "")
    is_torch = node.op == "call_function" and (module.startswith("torch") or module == "")
    return str(getattr(node.target, "__name__", "")) if is_torch else ""
