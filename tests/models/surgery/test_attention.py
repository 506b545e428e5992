"""Attention by heads: as its library computes it, with fewer heads, and rebuilt from what a file tells."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evalsuite.errors import CheckpointError, SuiteError
from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.settings import from_settings, to_settings
from evalsuite.models.architectures.uris import architecture_from_uri
from evalsuite.models.checkpoints.inspection import inspect_checkpoint
from evalsuite.models.checkpoints.loading import build_with_weights
from evalsuite.models.checkpoints.saving import load_model, save_model
from evalsuite.models.cost import cost, network_weights
from evalsuite.models.surgery.attention import (
    attention_modules,
    head_counts,
    head_layout,
    with_called_projections,
)
from evalsuite.models.surgery.channel_removal import head_groups, heads_left_out, remove_channels
from evalsuite.models.surgery.head_counts import head_note, with_head_counts
from evalsuite.models.surgery.headwise_attention import HeadwiseMultiheadAttention

VIT = {"img_size": 32, "patch_size": 8, "depth": 2, "num_heads": 4, "embed_dim": 32, "mlp_ratio": 2.0}


class Dino(nn.Module):
    """Attention that takes the width of its input for that of all heads, as much published code does."""

    def __init__(self, *, scale: float = 8**-0.5) -> None:
        super().__init__()
        self.num_heads, self.scale = 4, scale
        self.qkv, self.proj = nn.Linear(32, 96), nn.Linear(32, 32)
        self.attn_drop, self.proj_drop = nn.Dropout(0.0), nn.Dropout(0.0)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        joint = self.qkv(tokens).reshape(batch, count, 3, self.num_heads, width // self.num_heads)
        queries, keys, values = joint.permute(2, 0, 3, 1, 4)
        shares = (queries @ keys.mT * self.scale).softmax(-1)
        mixed = (shares @ values).transpose(1, 2).reshape(batch, count, width)
        output: Tensor = self.proj_drop(self.proj(mixed))
        return output


class Gated(Dino):
    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) * tokens.sigmoid()


def vit(**options: int) -> nn.Module:
    torch.manual_seed(0)
    architecture = architecture_from_uri("timm:vit_tiny_patch16_224", classes=10, options={**VIT, **options})
    return build_model(architecture).eval()


@pytest.mark.parametrize("batch_first", [True, False])
def test_torchs_attention_computes_the_same_by_heads(batch_first: bool) -> None:
    torch.manual_seed(0)
    dense = nn.MultiheadAttention(32, 4, batch_first=batch_first).double().eval()
    tokens = torch.randn(3, 5, 32, dtype=torch.float64)
    called = with_called_projections(dense)
    assert isinstance(called, HeadwiseMultiheadAttention)
    for weights in (True, False):
        before, after = (module(tokens, tokens, tokens, need_weights=weights) for module in (dense, called))
        torch.testing.assert_close(after[0], before[0], rtol=0, atol=1e-12)
        if weights:
            torch.testing.assert_close(after[1], before[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("side", "window"), [(8, 4), (10, 4), (3, 4)], ids=str)
def test_torchvisions_shifted_windows_compute_the_same_by_heads(side: int, window: int) -> None:
    from torchvision.models.swin_transformer import ShiftedWindowAttention

    torch.manual_seed(0)
    for shift in (0, window // 2):
        dense = ShiftedWindowAttention(16, [window, window], [shift, shift], 2).double().eval()
        maps = torch.randn(2, side, side, 16, dtype=torch.float64)
        torch.testing.assert_close(with_called_projections(dense)(maps), dense(maps), rtol=0, atol=1e-12)


def test_attention_of_peoples_own_code_is_compared_before_it_is_replaced() -> None:
    layout = head_layout(Dino())
    assert layout is not None
    assert layout.shape == (4, 8, 8)
    assert head_layout(Gated()) is None
    assert [(left.name, left.reason) for left in heads_left_out(nn.Sequential(Gated()))] == [
        ("0", "the forward pass of Gated is not known to work with fewer heads")
    ]


def test_a_removed_head_carries_the_scale_along() -> None:
    """The size of a head stays, so its scale does; one of its own is kept, too."""
    torch.manual_seed(0)
    model = nn.Sequential(Dino(scale=0.7)).double()
    groups = {group.conv: group for group in head_groups(model)}
    dead = copy.deepcopy(model)
    with torch.no_grad():
        for third in range(3):
            dead[0].get_submodule("qkv").get_parameter("weight")[32 * third + 8 : 32 * third + 16] = 0
            dead[0].get_submodule("qkv").get_parameter("bias")[32 * third + 8 : 32 * third + 16] = 0
    smaller = remove_channels(dead, {"0": torch.tensor([0, 2, 3])}, groups)
    tokens = torch.randn(2, 5, 32, dtype=torch.float64)
    torch.testing.assert_close(smaller(tokens), dead(tokens), rtol=0, atol=1e-12)
    assert head_counts(smaller) == {"0": 3}


def test_macs_of_heads_are_counted_by_hand() -> None:
    """17 tokens, D = 32, d = 8: qkv and proj 4 N D H d, both products of attention 2 N^2 H d, of each block."""
    model = vit()
    groups = {group.conv: group for group in head_groups(model)}
    smaller = remove_channels(model, {name: torch.arange(1, 4) for name in groups}, groups)
    per_head = 4 * 17 * 32 * 8 + 2 * 17 * 17 * 8
    dense, pruned = (cost(network, (3, 32, 32)).macs or 0 for network in (model, smaller))
    assert dense - pruned == 2 * per_head


def test_a_saved_network_rebuilds_with_its_heads(tmp_path: Any) -> None:
    model, images = vit(), torch.rand(2, 3, 32, 32)
    settings = to_settings(architecture_from_uri("timm:vit_tiny_patch16_224", classes=10, options=VIT))
    assert with_head_counts(settings, model) is settings
    groups = {group.conv: group for group in head_groups(model)}
    keep = dict(zip(groups, (torch.tensor([1, 3]), torch.arange(4)), strict=True))
    smaller = remove_channels(model, keep, groups)
    with pytest.raises(
        CheckpointError,
        match=r"blocks.0.attn: its projections .* fewer heads or narrower .* heads.blocks.0.attn=4",
    ):
        build_with_weights(from_settings(settings), network_weights(smaller))
    recorded = with_head_counts(settings, smaller)
    assert recorded["heads"] == {"blocks.0.attn": 2}
    save_model(smaller, recorded, tmp_path / "small.safetensors")
    again = load_model(recorded, tmp_path / "small.safetensors")
    assert torch.equal(again(images), smaller(images))
    assert [layout.heads for layout in attention_modules(again).values()] == [2, 4]


def test_heads_that_only_fewer_heads_explain_need_no_setting() -> None:
    three = {"num_heads": 3, "embed_dim": 48}
    model = vit(**three)
    groups = {group.conv: group for group in head_groups(model)}
    smaller = remove_channels(model, {name: torch.arange(2) for name in groups}, groups)
    architecture = architecture_from_uri("timm:vit_tiny_patch16_224", classes=10, options={**VIT, **three})
    again = build_with_weights(architecture, network_weights(smaller))
    assert {*head_counts(again).values()} == {2}


def test_wrong_head_counts_are_refused() -> None:
    def built(heads: dict[str, int]) -> nn.Module:
        options = {**VIT}
        return build_model(
            architecture_from_uri("timm:vit_tiny_patch16_224", classes=10, options=options, heads=heads)
        )

    with pytest.raises(SuiteError, match=r"unknown attention module 'blocks.0.atn'.*blocks.0.attn"):
        built({"blocks.0.atn": 2})
    with pytest.raises(SuiteError, match=r"found 5 for 'blocks.0.attn', expected 1 to the 4"):
        built({"blocks.0.attn": 5})
    assert built({"blocks.0.attn": 2})(torch.rand(1, 3, 32, 32)).shape == (1, 10)


def pruned_vit(keep: list[int]) -> tuple[Any, nn.Module]:
    """A vision transformer of four heads, and the same with some of them in each block."""
    model = vit()
    groups = {group.conv: group for group in head_groups(model)}
    architecture = architecture_from_uri("timm:vit_tiny_patch16_224", classes=10, options=VIT)
    return architecture, remove_channels(model, {name: torch.tensor(keep) for name in groups}, groups).eval()


@pytest.mark.parametrize("num_heads", [2, (2, 2)], ids=str)
def test_num_heads_states_what_weights_do_not_record(num_heads: Any) -> None:
    architecture, smaller = pruned_vit([0, 2])
    weights, images = network_weights(smaller), torch.rand(2, 3, 32, 32)
    with pytest.raises(
        CheckpointError, match=r"16 rows for queries .* may be fewer heads or .* --setting num_heads=4"
    ):
        build_with_weights(architecture, weights)
    stated = replace(architecture, num_heads=num_heads)
    again = build_with_weights(stated, weights)
    assert torch.equal(again(images), smaller(images))
    assert head_note(stated, again).endswith(
        "(blocks.0.attn: 2 of 8 rows, built with 4 of 8), as num_heads says."
    )
    narrower = build_with_weights(replace(architecture, num_heads=4), weights)
    assert not torch.allclose(
        narrower(images), smaller(images)
    )  # four heads of four rows are another network


def test_num_heads_of_weights_as_wide_as_the_network() -> None:
    """Eight heads of four rows have the shapes of four heads of eight, which nothing but the setting tells."""
    torch.manual_seed(0)
    eight = vit(num_heads=8)
    architecture = architecture_from_uri("timm:vit_tiny_patch16_224", classes=10, options=VIT)
    images = torch.rand(2, 3, 32, 32)
    for num_heads, is_equal in ((8, True), ((), False)):
        stated = replace(architecture, num_heads=num_heads)
        built = build_with_weights(stated, network_weights(eight))
        assert torch.allclose(built(images), eight(images), atol=1e-6) == is_equal
        assert bool(head_note(stated, built)) == is_equal


def test_shapes_that_decide_the_heads_have_a_note() -> None:
    three = {"num_heads": 3, "embed_dim": 48}
    model = vit(**three)
    architecture = architecture_from_uri("timm:vit_tiny_patch16_224", classes=10, options={**VIT, **three})
    assert head_note(architecture, model) == ""
    groups = {group.conv: group for group in head_groups(model)}
    smaller = remove_channels(model, {name: torch.arange(2) for name in groups}, groups)
    note = head_note(architecture, build_with_weights(architecture, network_weights(smaller)))
    assert "2 attention modules have other heads" in note
    assert "2 of 16 rows, built with 3 of 16" in note
    assert "--setting num_heads=N" in note


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        (
            "timm:swin_tiny_patch4_window7_224",  # its table of biases has a column for each head
            {"embed_dim": 32, "depths": (1,), "num_heads": (4,), "window_size": 4, "img_size": 32},
        ),
        ("timm:vit_tiny_patch16_224", {**VIT, "qk_norm": True}),  # the norm of queries is as long as a head
    ],
    ids=["table of biases", "norm of queries"],
)
def test_another_tensor_tells_fewer_heads_from_narrower_ones(uri: str, options: dict[str, Any]) -> None:
    """16 rows of four heads of eight could be two heads or narrower ones."""
    architecture = architecture_from_uri(uri, classes=10, options=options)
    torch.manual_seed(0)
    model = build_model(architecture).eval()
    groups = {group.conv: group for group in head_groups(model)}
    smaller = remove_channels(model, {name: torch.tensor([1, 3]) for name in groups}, groups).eval()
    images = torch.rand(2, 3, 32, 32)
    again = build_with_weights(architecture, network_weights(smaller))
    assert torch.equal(again(images), smaller(images))


def test_wrong_numbers_of_heads_are_refused() -> None:
    architecture, smaller = pruned_vit([0, 2])
    for wrong, sentence in {
        3: "16 rows for queries and 16 for values, which are no whole number of heads",
        (2, 2, 2): "found 3 numbers, expected one, or one for each of the 2 attention modules",
        5: "num_heads: found 5 for 'blocks.0.attn', which is built with 4 heads of 8",
        0: r"found num_heads = \[0\], expected numbers from 1 on",
    }.items():
        with pytest.raises((CheckpointError, SuiteError), match=sentence):
            build_with_weights(replace(architecture, num_heads=wrong), network_weights(smaller))
    with pytest.raises(SuiteError, match="one for each of the 0 attention modules"):
        build_model(architecture_from_uri("resnet20", num_heads=2))


def test_inspection_sees_that_heads_are_gone(tmp_path: Any) -> None:
    _, smaller = pruned_vit([0, 2])
    torch.save(network_weights(vit()), tmp_path / "dense.pt")
    torch.save(network_weights(smaller), tmp_path / "small.pt")
    for parent in (None, tmp_path / "dense.pt"):
        note = inspect_checkpoint(tmp_path / "small.pt", parent=parent).note
        assert "removed or narrowed in 2 modules: queries of blocks.0.attn have 16 of 32 rows" in note
        assert "--setting num_heads=N" in note
        assert inspect_checkpoint(tmp_path / "dense.pt", parent=parent).note == ""
