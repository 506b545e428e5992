"""Attention for any number of heads of any width: forward passes with the tensors of their libraries' modules.

Most forward passes of libraries take the width of their input for heads times width of a head, and that of values for
that of queries. These take both from the shapes of the projections.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import UserError


class HeadwiseAttention(nn.Module):
    """Attention with one layer ``qkv``, as in timm's vision transformers."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns tokens (N, T, D) of tokens (N, T, D)."""
        this: Any = self
        queries, keys, values = _heads(this, this.qkv(tokens))
        if hasattr(this, "q_norm"):
            queries, keys = this.q_norm(queries), this.k_norm(keys)
        dropout = this.attn_drop.p if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(
            queries, keys, values, dropout_p=dropout, scale=this.scale
        )
        output: Tensor = this.proj_drop(this.proj(mixed.transpose(1, 2).flatten(2)))
        return output


class HeadwiseMultiheadAttention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` whose heads together may be narrower than its input; it calls ``out_proj``.

    ``head_dim`` is the width of queries and keys.
    """

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
        rows = _rows(len(self.in_proj_weight), self.out_proj.in_features)
        weights = torch.split(self.in_proj_weight, rows)
        biases = (None,) * 3 if self.in_proj_bias is None else torch.split(self.in_proj_bias, rows)
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
    """torchvision's attention in shifted windows (Swin); it calls ``qkv`` and ``proj``.

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
        queries, keys, values = _heads(this, this.qkv(windows))
        scores = queries @ keys.mT * queries.shape[-1] ** -0.5 + _position_bias(self, area)
        if any(shift):
            scores = scores + _window_mask(scores, sides, this.window_size, shift)
        shares = functional.dropout(scores.softmax(-1), this.attention_dropout, self.training)
        mixed = this.proj((shares @ values).transpose(2, 3).flatten(3))
        return functional.dropout(mixed, this.dropout, self.training)


class HeadwiseMaskedAttention(nn.Module):
    """timm's attention inside of windows (Swin), whose caller shifts them and gives the mask.

    References:
        Liu et al. 2021, arXiv 2103.14030; timm, ``swin_transformer.WindowAttention``.
    """

    def forward(self, windows: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns tokens (N * windows, T, D) of such tokens; `mask` is added to scores, (windows, T, T)."""
        this: Any = self
        queries, keys, values = _heads(this, this.qkv(windows))
        scores = queries @ keys.mT * this.scale + _position_bias(self, windows.shape[1])
        if mask is not None:
            by_image = torch.unflatten(scores, 0, (-1, len(mask)))
            scores = (by_image + mask[None, :, None]).flatten(0, 1)
        shares = this.attn_drop(scores.softmax(-1))
        output: Tensor = this.proj_drop(this.proj((shares @ values).transpose(1, 2).flatten(2)))
        return output


class HeadwiseSeparateAttention(nn.Module):
    """transformers' attention with layers ``q_proj``, ``k_proj``, ``v_proj`` and ``o_proj``, as in its ViT."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: object
    ) -> tuple[Tensor, None]:
        """Returns tokens (N, T, D) of tokens (N, T, D), and no attention weights."""
        this: Any = self
        queries, keys, values = (
            torch.unflatten(layer(hidden_states), -1, (this.num_attention_heads, -1)).transpose(1, 2)
            for layer in (this.q_proj, this.k_proj, this.v_proj)
        )
        dropout = this.attention_dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=attention_mask, dropout_p=dropout, scale=this.scaling
        )
        return this.o_proj(mixed.transpose(1, 2).flatten(2)), None


def _rows(rows: int, values: int) -> list[int]:
    """Numbers of rows of queries, keys and values among `rows`, of which `values` are those of values."""
    return [(rows - values) // 2, (rows - values) // 2, values]


def _heads(module: Any, joint: Tensor) -> list[Tensor]:
    """Queries, keys and values (..., heads, T, width) of what a module's ``qkv`` returns for all, (..., T, rows)."""
    parts = torch.split(joint, _rows(module.qkv.out_features, module.proj.in_features), -1)
    return [torch.unflatten(part, -1, (module.num_heads, -1)).transpose(-3, -2) for part in parts]


def _position_bias(module: Any, area: int) -> Tensor:
    """What is added to the scores of each pair of places in a window, (heads, area, area)."""
    table: Tensor = module.relative_position_bias_table
    return table[module.relative_position_index.flatten()].view(area, area, -1).permute(2, 0, 1)


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
