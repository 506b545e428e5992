"""The data flow of a network as torch.fx sees it."""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass

from torch import fx, nn

from evalsuite.errors import InvalidModelError
from evalsuite.models.surgery.channel_selection import ChannelSelection

PER_CHANNEL = (
    *(nn.Identity, nn.Dropout, nn.Dropout2d),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish, nn.Tanh),
    *(nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
)
"""Modules that treat each channel by itself and leave a zero channel zero (so no sigmoid, no softmax)."""

PER_CHANNEL_NAMES = frozenset(
    {"relu", "relu_", "relu6", "leaky_relu", "elu", "gelu", "silu", "hardswish", "mish", "tanh"}
    | {"dropout", "dropout2d", "contiguous"}
    | {"avg_pool2d", "max_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"}
)
"""The same as functions and methods."""


@dataclass(frozen=True)
class Flow:
    """Is a network's graph beside its modules.

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

    def once(self, node: fx.Node) -> bool:
        """Returns whether `node` calls a module that nothing else calls, so that it may be changed."""
        return (
            node.op == "call_module" and self.calls[str(node.target)] == 1 and self.names[self._id(node)] == 1
        )

    def _id(self, node: fx.Node) -> int:
        return id(self.modules[str(node.target)])


class _Tracer(fx.Tracer):
    """Sees a channel selection as one layer: what it passes on depends on its buffer."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, ChannelSelection) or super().is_leaf_module(module, name)


def flow(model: nn.Module) -> Flow:
    """Returns the data flow of `model` in its present mode.

    Raises:
        InvalidModelError: If the forward pass depends on the values of its input: there is no one graph.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # tracing runs the model's own code, which may fail in any way
        raise InvalidModelError(
            f"the data flow of {type(model).__name__} cannot be traced ({type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}), so its channels cannot be removed; "
            "prune single weights instead"
        ) from error
    nodes = tuple(graph.nodes)
    calls = Counter(str(node.target) for node in nodes if node.op == "call_module")
    names = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    return Flow(nodes, dict(model.named_modules()), calls, names)


def plain(module: nn.Module) -> bool:
    """Returns whether `module` computes from its own parameters alone: no hook, no parametrisation."""
    return not hooked(module) and "weight" in module._parameters


def hooked(module: nn.Module) -> bool:
    """Returns whether other code runs before or after `module`, as masks and parametrisations need."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def per_channel(traced: Flow, user: fx.Node, source: fx.Node) -> bool:
    """Returns whether `user` treats each channel of `source` by itself and leaves a zero channel zero."""
    others = [node for node in user.all_input_nodes if node is not source]
    if not all(_is_size(node) for node in others):
        return False
    if user.op == "call_module":
        return isinstance(traced.module(user), PER_CHANNEL)
    return _called(user) in PER_CHANNEL_NAMES or (
        _called(user) == "mean" and _mean_dims(user) == (True, True)
    )


def flattens(user: fx.Node, module: nn.Module | None, source: fx.Node) -> bool:
    """Returns whether `user` turns maps (N, C, H, W) into vectors whose entries are ordered by channel."""
    if isinstance(module, nn.Flatten):
        return (module.start_dim, module.end_dim) in {(1, -1), (1, 3)}
    if not user.args or user.args[0] is not source:
        return False
    called, rest = _called(user), tuple(user.args[1:])
    if called == "flatten":
        bounds = dict(zip(("start_dim", "end_dim"), rest, strict=False)) | user.kwargs
        return (bounds.get("start_dim", 0), bounds.get("end_dim", -1)) in {(1, -1), (1, 3)}
    if called in {"view", "reshape"}:
        sizes = rest[0] if len(rest) == 1 and isinstance(rest[0], tuple | list) else rest
        return len(sizes) == 2 and not isinstance(sizes[0], int) and sizes[1] in {-1}
    return called == "mean" and _mean_dims(user) == (True, False)


def asks_size(user: fx.Node, *, channel_dims: set[int]) -> bool:
    """Returns whether `user` only asks for sizes other than the number of channels."""
    if _called(user) == "size" and len(user.args) == 2:
        return _is_other(user.args[1], channel_dims)
    if _called(user) == "size" or (user.target is getattr and user.args[1] == "shape"):
        return all(
            item.target is operator.getitem and _is_other(item.args[1], channel_dims) for item in user.users
        )
    return False


def _mean_dims(user: fx.Node) -> tuple[bool, bool]:
    """Whether a mean runs over height and width, and whether it keeps those dimensions."""
    named = dict(zip(("dim", "keepdim"), user.args[1:], strict=False)) | user.kwargs
    dims = named.get("dim")
    spatial = isinstance(dims, tuple | list) and sorted(int(str(dim)) % 4 for dim in dims) == [2, 3]
    return spatial, bool(named.get("keepdim", False))


def _is_size(node: fx.Node) -> bool:
    """Whether `node` is the size of a tensor along one dimension."""
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        node = node.args[0]
        return _called(node) == "size" or node.target is getattr
    return _called(node) == "size" and len(node.args) == 2


def _is_other(dim: object, channel_dims: set[int]) -> bool:
    return isinstance(dim, int) and dim not in channel_dims


def _called(node: fx.Node) -> str:
    """Name of the torch function or tensor method that `node` calls."""
    if node.op == "call_method":
        return str(node.target)
    module = str(getattr(node.target, "__module__", "") or "")
    is_torch = node.op == "call_function" and (module.startswith("torch") or module == "")
    return str(getattr(node.target, "__name__", "")) if is_torch else ""
