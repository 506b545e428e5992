"""Attention by heads: modules of libraries whose number of heads can change while the size of a head stays.

Most forward passes take the width of their input for heads times size of a head, and fail once a head is gone. Such a
module becomes one of the classes here: the same tensors under the same names, the same numbers, and as many heads as
its projections have rows for.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import SuiteError, UserError, first_few
from evalsuite.models.surgery.fx_graph import has_hooks
from evalsuite.registry import unknown_name

_SEPARATE = (("q_proj", "k_proj", "v_proj", "o_proj"), ("query", "key", "value", "dense"))
"""Names of separate projections, that of the output last."""
_TABLE = "relative_position_bias_table"


class HeadwiseAttention(nn.Module):
    """Attention with one layer ``qkv``, as in timm's vision transformers, for any number of heads."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns tokens (N, T, D) of tokens (N, T, D)."""
        this: Any = self
        joint = torch.unflatten(this.qkv(tokens), -1, (3, this.num_heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = joint.unbind(0)
        if hasattr(this, "q_norm"):
            queries, keys = this.q_norm(queries), this.k_norm(keys)
        dropout = this.attn_drop.p if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(
            queries, keys, values, dropout_p=dropout, scale=this.scale
        )
        output: Tensor = this.proj_drop(this.proj(mixed.transpose(1, 2).flatten(2)))
        return output


class HeadwiseMultiheadAttention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` whose heads together may be narrower than its input; it calls ``out_proj``."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,  # the signature of torch
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,  # the same
        is_causal: bool = False,  # the same
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the output, and the attention weights where they are asked for."""
        if key_padding_mask is not None or attn_mask is not None or is_causal:
            raise UserError("attention whose heads were removed takes no masks, as images need none")
        inputs = (
            (query, key, value)
            if self.batch_first
            else [part.transpose(0, 1) for part in (query, key, value)]
        )
        weights = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        queries, keys, values = (
            torch.unflatten(functional.linear(part, weight, bias), -1, (self.num_heads, -1)).transpose(1, 2)
            for part, weight, bias in zip(inputs, weights, biases, strict=True)
        )
        dropout = self.dropout if self.training else 0.0
        mixed, shares = queries, None
        if need_weights:
            shares = functional.softmax(queries @ keys.mT * self.head_dim**-0.5, -1)
            mixed = functional.dropout(shares, dropout) @ values
            shares = shares.mean(1) if average_attn_weights else shares
        else:
            mixed = functional.scaled_dot_product_attention(
                queries, keys, values, dropout_p=dropout, scale=self.head_dim**-0.5
            )
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return (output if self.batch_first else output.transpose(0, 1)), shares


class HeadwiseWindowAttention(nn.Module):
    """torchvision's attention in shifted windows (Swin), for any number of heads; it calls ``qkv`` and ``proj``.

    References:
        Liu et al. 2021, arXiv 2103.14030; torchvision, ``shifted_window_attention``.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Returns maps (N, H, W, D) of maps (N, H, W, D)."""
        this: Any = self
        rows, columns = this.window_size
        height, width = maps.shape[1:3]
        padded = functional.pad(maps, (0, 0, 0, -width % columns, 0, -height % rows))
        sides = padded.shape[1:3]
        shift = [
            0 if window >= side else s
            for window, side, s in zip((rows, columns), sides, this.shift_size, strict=True)
        ]
        shifted = torch.roll(padded, shifts=(-shift[0], -shift[1]), dims=(1, 2))
        mixed = _from_windows(
            self._attention(_windows(shifted, rows, columns), sides, shift), sides, (rows, columns)
        )
        return torch.roll(mixed, shifts=(shift[0], shift[1]), dims=(1, 2))[:, :height, :width].contiguous()

    def _attention(self, windows: Tensor, sides: torch.Size, shift: list[int]) -> Tensor:
        """Attention inside of each window, (N, windows, T, D)."""
        this: Any = self
        area = windows.shape[2]
        joint = torch.unflatten(this.qkv(windows), -1, (3, this.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        queries, keys, values = joint.unbind(0)
        bias = this.relative_position_bias_table[this.relative_position_index].view(area, area, -1)
        scores = queries @ keys.mT * queries.shape[-1] ** -0.5 + bias.permute(2, 0, 1)
        if any(shift):
            scores = scores + _window_mask(scores, sides, this.window_size, shift)
        shares = functional.dropout(scores.softmax(-1), this.attention_dropout, self.training)
        mixed = this.proj((shares @ values).transpose(2, 3).flatten(3))
        return functional.dropout(mixed, this.dropout, self.training)


@dataclass(frozen=True)
class HeadLayout:
    """Where the heads of an attention module are.

    Attributes:
        heads: Number of heads.
        size: Rows of a projection that belong to one head.
        inputs: Layers of the projections with the entry where each begins; a module's own projections have its name,
            which is empty here.
        output: The layer that reads the heads.
        table: Name of a parameter (entries, heads) of the module, or empty.
        kind: Class that the module becomes; ``None`` if its own forward pass takes any number of heads.
    """

    heads: int
    size: int
    inputs: tuple[tuple[str, int], ...]
    output: str
    table: str = ""
    kind: type[nn.Module] | None = None


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


def set_head_count(module: nn.Module, layout: HeadLayout, heads: int, size: int | None = None) -> None:
    """Sets the numbers of an attention module to `heads`, whose tensors have been cut or will be.

    Args:
        module: Changed in place; it becomes the class that its layout names.
        layout: Before.
        heads: After.
        size: Of one head after; by default as before. If it changes, attention is scaled by its inverse root.
    """
    if layout.kind is not None:
        module.__class__ = layout.kind
    this: Any = module
    for name in ("num_heads", "num_attention_heads"):
        if hasattr(module, name):
            setattr(module, name, heads)
    if isinstance(module, HeadwiseMultiheadAttention):
        module._qkv_same_embed_dim = False  # no fused kernel around it takes it for the dense one
    for name in ("attn_dim", "all_head_size"):
        if hasattr(module, name):
            setattr(module, name, heads * (size or layout.size))
    if size is not None and size != layout.size:
        for name in ("head_dim", "attention_head_size"):
            if hasattr(module, name):
                setattr(module, name, size)
        for name in ("scale", "scaling"):
            if hasattr(module, name):
                setattr(this, name, size**-0.5)


def with_called_projections(model: nn.Module) -> nn.Module:
    """Returns a copy whose attention calls its layers: some libraries' attention reads their weights, past hooks."""
    called = copy.deepcopy(model)
    for name, layout in attention_modules(called).items():
        set_head_count(called.get_submodule(name), layout, layout.heads)
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
        set_head_count(network.get_submodule(name), layouts[name], count)


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
        rows = layout.heads * layout.size
        if rows % count == 0 and not layout.table:
            set_head_count(network.get_submodule(name), layout, count, rows // count)
        elif count <= layout.heads:
            keep_head_counts(network, {name: count})
        else:
            raise SuiteError(
                f"num_heads: found {count} for {name!r}, which is built with {layout.heads} heads of {layout.size}; "
                f"expected a number up to that, or one that divides {rows} rows; a setting such as options.num_heads "
                "builds the network with another"
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
    for layer, start in layout.inputs:
        rows.setdefault(layer, []).extend(range(start, start + count * layout.size))
    for layer, kept in rows.items():
        projection = module.get_submodule(layer)  # of an empty name the module itself
        for name, value in [*projection.named_parameters(recurse=False)]:
            setattr(projection, name, nn.Parameter(value.detach()[kept]))
        if isinstance(projection, nn.Linear):
            projection.out_features = len(kept)
    output: Any = module.get_submodule(layout.output)
    output.weight = nn.Parameter(output.weight.detach()[:, : count * layout.size])
    output.in_features = count * layout.size
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
    rows = module.num_heads * module.head_dim
    return HeadLayout(
        module.num_heads,
        module.head_dim,
        (("", 0), ("", rows), ("", 2 * rows)),
        "out_proj",
        kind=HeadwiseMultiheadAttention,
    )


def _fused_layout(module: nn.Module, heads: int) -> HeadLayout | None:
    qkv, proj = module.get_submodule("qkv"), module.get_submodule("proj")
    if not isinstance(qkv, nn.Linear) or not isinstance(proj, nn.Linear) or not _are_plain(module, qkv, proj):
        return None
    size = proj.in_features // heads
    inputs = tuple(("qkv", place * size * heads) for place in range(3))
    layout = HeadLayout(heads, size, inputs, "proj")
    if qkv.out_features != 3 * heads * size or size * heads != proj.in_features:
        return None
    own = [name for name, _ in module.named_parameters(recurse=False)]
    kind = type(module)
    if own == [_TABLE] and (kind.__name__, kind.__module__.partition(".")[0]) == ("WindowAttention", "timm"):
        return HeadLayout(heads, size, inputs, "proj", table=_TABLE)
    if own == [_TABLE] and kind.__name__ in ("ShiftedWindowAttention", HeadwiseWindowAttention.__name__):
        return HeadLayout(heads, size, inputs, "proj", table=_TABLE, kind=HeadwiseWindowAttention)
    if own or not _computes_as(module, HeadwiseAttention):
        return None
    return HeadLayout(heads, size, layout.inputs, "proj", kind=HeadwiseAttention)


def _separate_layout(module: nn.Module, heads: int, names: list[str], output: str) -> HeadLayout | None:
    layers = [module.get_submodule(name) for name in (*names, output)]
    size = getattr(module, "head_dim", getattr(module, "attention_head_size", 0))
    parameters = {id(parameter) for layer in layers for parameter in layer.parameters()}
    if not _are_plain(module, *layers) or any(id(other) not in parameters for other in module.parameters()):
        return None
    widths = {layer.out_features for layer in layers[:-1] if isinstance(layer, nn.Linear)}
    if widths != {heads * size} or type(module).__module__.partition(".")[0] != "transformers":
        return None
    return HeadLayout(heads, size, tuple((name, 0) for name in names), output)


def _are_plain(*modules: nn.Module) -> bool:
    """Returns whether no other code runs before or after the modules, and layers have weights of their own."""
    return not any(has_hooks(module) for module in modules) and all(
        "weight" in module._parameters for module in modules if isinstance(module, nn.Linear)
    )


def _computes_as(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Returns whether a module's outputs for random tokens are those of another class with its tensors."""
    trusted = (type(module).__name__, type(module).__module__.partition(".")[0]) == ("Attention", "timm")
    if isinstance(module, kind) or (
        trusted and isinstance(getattr(module, "norm", None), nn.Identity | None)
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


def _windows(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Maps (N, H, W, D) as windows (N, windows, rows * columns, D)."""
    parts = torch.unflatten(torch.unflatten(maps, 1, (-1, rows)), 3, (-1, columns))
    return parts.transpose(2, 3).flatten(1, 2).flatten(2, 3)


def _from_windows(windows: Tensor, sides: torch.Size, window: tuple[int, int]) -> Tensor:
    """The reverse of `_windows`."""
    rows, columns = window
    parts = torch.unflatten(windows, 2, (rows, columns))
    parts = torch.unflatten(parts, 1, (sides[0] // rows, sides[1] // columns))
    return parts.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _window_mask(scores: Tensor, sides: torch.Size, window: tuple[int, int], shift: list[int]) -> Tensor:
    """-100 between places that were not neighbours before the shift, (windows, 1, T, T)."""
    regions = scores.new_zeros(sides)
    spans = [_spans(side, size, step) for side, size, step in zip(sides, window, shift, strict=True)]
    for number, (top, left) in enumerate((top, left) for top in spans[0] for left in spans[1]):
        regions[top, left] = number
    flat = _windows(regions[None, :, :, None], *window)[0, :, :, 0]
    return torch.where(flat[:, None] == flat[:, :, None], 0.0, -100.0).to(scores)[:, None]


def _spans(side: int, size: int, step: int) -> Iterator[slice] | list[slice]:
    """The parts of a side that the shift keeps together."""
    return [slice(0, side - size), slice(side - size, side - step), slice(side - step, side)]
