"""Attention by heads: modules of libraries whose heads can become fewer or narrower.

Most forward passes take the width of their input for heads times width of a head, and fail once a head is gone. Such a
module becomes a class of `evalsuite.models.surgery.headwise_attention`: the same tensors under the same names, the same
numbers, and as many heads of that width as its projections have rows for.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from evalsuite.errors import SuiteError, first_few
from evalsuite.models.surgery.fx_graph import has_hooks
from evalsuite.models.surgery.headwise_attention import (
    HeadwiseAttention,
    HeadwiseMaskedAttention,
    HeadwiseMultiheadAttention,
    HeadwiseSeparateAttention,
    HeadwiseWindowAttention,
)
from evalsuite.registry import unknown_name

_SEPARATE = (("q_proj", "k_proj", "v_proj", "o_proj"), ("query", "key", "value", "dense"))
"""Names of separate projections, that of the output last."""
_TABLE = "relative_position_bias_table"
_SAME_SCALE = 1e-6


class HeadRows(NamedTuple):
    """Rows of a projection: those of head h begin at ``start + h * width``.

    Attributes:
        layer: The layer; a module's own projections have its name, which is empty here.
        start: The first row.
        width: Rows of one head.
    """

    layer: str
    start: int
    width: int


@dataclass(frozen=True)
class HeadLayout:
    """Where the heads of an attention module are.

    Attributes:
        heads: Number of heads.
        queries, keys, values: Rows of the projections.
        output: The layer that reads the heads.
        table: Name of a parameter (entries, heads) of the module, or empty.
        kind: Class that the module becomes; ``None`` if its own forward pass takes any number of heads.
        narrow_kind: The same where widths of heads change.
        fixed: Why the width of queries and keys cannot change; empty if it can.
        fixed_values: The same of values.
    """

    heads: int
    queries: HeadRows
    keys: HeadRows
    values: HeadRows
    output: str
    table: str = ""
    kind: type[nn.Module] | None = None
    narrow_kind: type[nn.Module] | None = None
    fixed: str = ""
    fixed_values: str = ""

    @property
    def inputs(self) -> tuple[HeadRows, HeadRows, HeadRows]:
        """Rows of queries, keys and values."""
        return self.queries, self.keys, self.values

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of heads, width of their queries and keys, width of their values."""
        return self.heads, self.queries.width, self.values.width


def head_layout(module: nn.Module) -> HeadLayout | None:
    """Returns where the heads of a module are; ``None`` if it is no attention whose heads can be distinguished."""
    if isinstance(module, nn.MultiheadAttention):
        return _multihead_layout(module)
    heads = getattr(module, "num_heads", getattr(module, "num_attention_heads", None))
    if not isinstance(heads, int):
        return None
    children = dict(module.named_children())
    if {"qkv", "proj"} <= children.keys():
        return _fused_layout(module, heads)
    for *inputs, output in _SEPARATE:
        if all(isinstance(children.get(name), nn.Linear) for name in (*inputs, output)):
            return _separate_layout(module, heads, inputs, output)
    return None


def attention_modules(model: nn.Module) -> dict[str, HeadLayout]:
    """Returns the attention modules of a model whose heads can be distinguished, by name."""
    layouts = ((name, head_layout(module)) for name, module in model.named_modules())
    return {name: layout for name, layout in layouts if layout is not None}


def head_counts(model: nn.Module) -> dict[str, int]:
    """Returns the number of heads of each attention module, by name."""
    return {name: layout.heads for name, layout in attention_modules(model).items()}


def head_shapes(model: nn.Module) -> dict[str, tuple[int, int, int]]:
    """Returns heads, width of queries and width of values of each attention module, by name."""
    return {name: layout.shape for name, layout in attention_modules(model).items()}


def set_head_shape(module: nn.Module, layout: HeadLayout, shape: tuple[int, int, int]) -> None:
    """Sets the numbers of an attention module, whose tensors have been cut or will be.

    Args:
        module: Changed in place; it becomes the class that its layout names.
        layout: Before.
        shape: After, as `HeadLayout.shape`. Where the width of queries changes, their products are scaled by its
            inverse root, if that of the width before scaled them.
    """
    heads, width, values = shape
    narrower = (width, values) != layout.shape[1:]
    kind = (layout.narrow_kind if narrower else None) or layout.kind
    if kind is not None:
        module.__class__ = kind
    for name in ("num_heads", "num_attention_heads"):
        if hasattr(module, name):
            setattr(module, name, heads)
    if isinstance(module, HeadwiseMultiheadAttention):
        module._qkv_same_embed_dim = False  # no fused kernel around it takes it for the dense one
    for name in ("attn_dim", "all_head_size"):
        if hasattr(module, name):
            setattr(module, name, heads * values)
    if not narrower:
        return
    for name in ("head_dim", "attention_head_size"):
        if hasattr(module, name):
            setattr(module, name, width)
    for name in ("scale", "scaling"):
        if abs(getattr(module, name, 0.0) - layout.queries.width**-0.5) < _SAME_SCALE:
            setattr(module, name, width**-0.5)


def narrow_heads(module: nn.Module, layout: HeadLayout, shape: tuple[int, int, int]) -> None:
    """Sets the numbers of an attention module whose tensors have been cut, and keeps the products of its queries.

    The scale goes with the width, as in a network that is built with it; the queries take up the difference, so that a
    saved network means the same to every library.

    Args:
        module: Changed in place.
        layout: Before.
        shape: After.
    """
    before = _scale(module, layout.queries.width)
    set_head_shape(module, layout, shape)
    factor = before / _scale(module, shape[1])
    if factor == 1:
        return
    projection = module.get_submodule(layout.queries.layer)  # of an empty name the module itself
    rows = slice(layout.queries.start, layout.queries.start + shape[0] * shape[1])
    with torch.no_grad():
        for name, parameter in projection.named_parameters(recurse=False):
            if name in ("weight", "bias", "in_proj_weight", "in_proj_bias"):
                parameter[rows] *= factor


def _scale(module: nn.Module, width: int) -> float:
    """What multiplies the products of queries and keys."""
    return float(getattr(module, "scale", getattr(module, "scaling", width**-0.5)))


def with_called_projections(model: nn.Module) -> nn.Module:
    """Returns a copy whose attention calls its layers: some libraries' attention reads their weights, past hooks."""
    called = copy.deepcopy(model)
    for name, layout in attention_modules(called).items():
        set_head_shape(called.get_submodule(name), layout, layout.shape)
    return called


def keep_head_counts(network: nn.Module, heads: Mapping[str, int]) -> None:
    """Gives the attention modules named in `heads` as many heads, the first ones, in place.

    Raises:
        SuiteError: If there is no such module, or it has fewer heads.
    """
    layouts = attention_modules(network)
    for name, count in heads.items():
        if name not in layouts:
            raise SuiteError(f"heads: {unknown_name('attention module', name, list(layouts))}")
        if not 1 <= count <= layouts[name].heads:
            raise SuiteError(
                f"heads: found {count} for {name!r}, expected 1 to the {layouts[name].heads} that it is built with"
            )
        _keep_first_heads(network.get_submodule(name), layouts[name], count)
        set_head_shape(network.get_submodule(name), layouts[name], (count, *layouts[name].shape[1:]))


def why_not_narrow(module: nn.Module) -> tuple[str, str]:
    """Returns why the widths of queries and keys, and of values, cannot change; empty where they can."""
    layout = head_layout(module)
    reason = why_no_heads(module)
    return (reason, reason) if layout is None else (layout.fixed, layout.fixed_values)


def split_into_heads(network: nn.Module, counts: Sequence[int]) -> None:
    """Gives all attention modules another number of heads, in place: of the same rows where these can be divided.

    Args:
        network: Freshly built; the rows that its weights have are theirs to say, see `head_counts.infer_head_counts`.
        counts: One for all modules, or one for each, in the order of the network.

    Raises:
        SuiteError: If the network has no attention whose heads can be told apart, or these are not as many as `counts`.
    """
    layouts = attention_modules(network)
    if len(counts) not in (1, len(layouts)) or not layouts:
        raise SuiteError(
            f"num_heads: found {len(counts)} numbers, expected one, or one for each of the {len(layouts)} attention "
            "modules of the network whose heads can be told apart"
            + (f" ({first_few(layouts)})" if layouts else "")
        )
    numbers = counts if len(counts) == len(layouts) else [counts[0]] * len(layouts)
    for (name, layout), count in zip(layouts.items(), numbers, strict=True):
        rows, values = (layout.heads * width for width in layout.shape[1:])
        if rows % count == values % count == 0 and not layout.table:
            set_head_shape(network.get_submodule(name), layout, (count, rows // count, values // count))
        elif count <= layout.heads:
            keep_head_counts(network, {name: count})
        else:
            raise SuiteError(
                f"num_heads: found {count} for {name!r}, which is built with {layout.heads} heads of "
                f"{layout.queries.width}; expected a number up to that, or one that divides {rows} rows; an option "
                "such as options.num_heads builds the network with another"
            )


def why_no_heads(module: nn.Module) -> str:
    """Returns why the heads of a module that looks like attention cannot be removed; empty if it does not."""
    names = dict(module.named_children()).keys()
    looks = {"qkv", "proj"} <= names or any({*parts} <= names for parts in _SEPARATE)
    if not (looks or isinstance(module, nn.MultiheadAttention)) or head_layout(module) is not None:
        return ""
    return f"the forward pass of {type(module).__name__} is not known to work with fewer heads"


def _keep_first_heads(module: nn.Module, layout: HeadLayout, count: int) -> None:
    """Cuts the tensors of an attention module to those of its first heads."""
    rows: dict[str, list[int]] = {}
    for layer, start, width in layout.inputs:
        rows.setdefault(layer, []).extend(range(start, start + count * width))
    for layer, kept in rows.items():
        projection = module.get_submodule(layer)  # of an empty name the module itself
        for name, value in [*projection.named_parameters(recurse=False)]:
            setattr(projection, name, nn.Parameter(value.detach()[kept]))
        if isinstance(projection, nn.Linear):
            projection.out_features = len(kept)
    output: Any = module.get_submodule(layout.output)
    output.weight = nn.Parameter(output.weight.detach()[:, : count * layout.values.width])
    output.in_features = count * layout.values.width
    if layout.table:
        setattr(module, layout.table, nn.Parameter(module.get_parameter(layout.table).detach()[:, :count]))


def _multihead_layout(module: nn.MultiheadAttention) -> HeadLayout | None:
    plain = module.in_proj_weight is not None and module.bias_k is None and not module.add_zero_attn
    if (
        not plain
        or has_hooks(module)
        or has_hooks(module.out_proj)
        or "weight" not in module.out_proj._parameters
    ):
        return None
    rows = _joint_rows("", len(module.in_proj_weight), module.out_proj.weight.shape[1], module.num_heads)
    return rows and HeadLayout(module.num_heads, *rows, "out_proj", kind=HeadwiseMultiheadAttention)


def _joint_rows(layer: str, rows: int, values: int, heads: int) -> tuple[HeadRows, HeadRows, HeadRows] | None:
    """Rows of queries, keys and values, in this order in one projection; ``None`` if heads do not divide them."""
    queries = (rows - values) // 2
    if queries < heads or rows != 2 * queries + values or queries % heads or values % heads:
        return None
    starts, width = (0, queries, 2 * queries), queries // heads
    widths = (width, width, values // heads)
    one, two, three = (HeadRows(layer, *part) for part in zip(starts, widths, strict=True))
    return one, two, three


def _fused_layout(module: nn.Module, heads: int) -> HeadLayout | None:
    qkv, proj = module.get_submodule("qkv"), module.get_submodule("proj")
    if not isinstance(qkv, nn.Linear) or not isinstance(proj, nn.Linear) or not _are_plain(module, qkv, proj):
        return None
    rows = _joint_rows("qkv", qkv.out_features, proj.in_features, heads)
    if rows is None:
        return None
    own = [name for name, _ in module.named_parameters(recurse=False)]
    kind = type(module)
    if own == [_TABLE] and (kind is HeadwiseMaskedAttention or _is_of(module, "timm", "WindowAttention")):
        return HeadLayout(heads, *rows, "proj", table=_TABLE, narrow_kind=HeadwiseMaskedAttention)
    if own == [_TABLE] and kind.__name__ in ("ShiftedWindowAttention", HeadwiseWindowAttention.__name__):
        return HeadLayout(heads, *rows, "proj", table=_TABLE, kind=HeadwiseWindowAttention)
    if own or not _computes_as(module, HeadwiseAttention):
        return None
    normed = not isinstance(getattr(module, "q_norm", None), nn.Identity | None)
    fixed = "its queries and keys have a norm over the width of a head" if normed else ""
    return HeadLayout(heads, *rows, "proj", kind=HeadwiseAttention, fixed=fixed)


def _separate_layout(module: nn.Module, heads: int, names: list[str], output: str) -> HeadLayout | None:
    layers: list[Any] = [module.get_submodule(name) for name in (*names, output)]
    size = getattr(module, "head_dim", getattr(module, "attention_head_size", 0))
    parameters = {id(parameter) for layer in layers for parameter in layer.parameters()}
    if not _are_plain(module, *layers) or any(id(other) not in parameters for other in module.parameters()):
        return None
    widths = [layer.out_features // heads for layer in layers[:-1]]
    if [layer.out_features for layer in layers[:-1]] != [heads * width for width in widths]:
        return None
    headwise = isinstance(module, HeadwiseSeparateAttention)
    if widths[0] != widths[1] or not (
        headwise or (_is_of(module, "transformers") and widths[0] == widths[2] == size)
    ):
        return None
    queries, keys, values = (HeadRows(name, 0, width) for name, width in zip(names, widths, strict=True))
    layout = HeadLayout(heads, queries, keys, values, output)
    if headwise or _is_of(module, "transformers", "ViTAttention"):
        return replace(layout, narrow_kind=HeadwiseSeparateAttention)
    fixed = f"the forward pass of {type(module).__name__} is not known to work with narrower heads"
    return replace(layout, fixed=fixed, fixed_values=fixed)


def _is_of(module: nn.Module, library: str, name: str = "") -> bool:
    """Returns whether the class of a module is a library's, of that name if one is given."""
    kind = type(module)
    return kind.__module__.partition(".")[0] == library and name in ("", kind.__name__)


def _are_plain(*modules: nn.Module) -> bool:
    """Returns whether no other code runs before or after the modules, and layers have weights of their own."""
    return not any(has_hooks(module) for module in modules) and all(
        "weight" in module._parameters for module in modules if isinstance(module, nn.Linear)
    )


def _computes_as(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Returns whether a module's outputs for random tokens are those of another class with its tensors."""
    if isinstance(module, kind) or (
        _is_of(module, "timm", "Attention") and isinstance(getattr(module, "norm", None), nn.Identity | None)
    ):
        return True
    twin = copy.deepcopy(module).to("cpu", torch.float64).requires_grad_(False).eval()
    random = torch.Generator().manual_seed(0)
    width = twin.get_submodule("qkv").get_parameter("weight").shape[1]
    tokens = torch.randn((2, 5, width), generator=random, dtype=torch.float64)
    for layer in (twin.get_submodule("qkv"), twin.get_submodule("proj")):
        weight = layer.get_parameter("weight")
        weight.copy_(torch.randn(weight.shape, generator=random, dtype=torch.float64) * width**-0.5)
    try:
        before = twin(tokens)
        twin.__class__ = kind
        return isinstance(before, Tensor) and torch.allclose(before, twin(tokens), atol=1e-9)
    except Exception:  # code of other people may fail in any way
        return False
