"""Narrower heads: widths of queries and keys, and of values, on the networks of three libraries."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evalsuite.errors import CheckpointError, SuiteError, UserError
from evalsuite.models.architectures.base import Architecture, build_model
from evalsuite.models.architectures.settings import from_settings, to_settings
from evalsuite.models.architectures.small_networks import SMALL_NETWORKS
from evalsuite.models.architectures.uris import architecture_from_uri
from evalsuite.models.checkpoints.loading import build_with_weights
from evalsuite.models.checkpoints.saving import load_model, save_model
from evalsuite.models.cost import cost, network_weights
from evalsuite.models.surgery.attention import attention_modules, head_shapes
from evalsuite.models.surgery.channel_removal import (
    ChannelGroup,
    head_dimension_groups,
    head_dimensions_left_out,
    head_groups,
    remove_channels,
)
from evalsuite.models.surgery.coupled_channels import coupled_groups, with_random_weights
from evalsuite.models.surgery.head_counts import with_head_counts
from evalsuite.producers import PRODUCERS
from evalsuite.producers.base import Context
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet

VITS = ["timm vit_tiny", "timm deit_tiny_distilled", "torchvision vit", "transformers ViT"]
ATTENTION = [*VITS, "timm swin_tiny", "torchvision swin"]
RECIPE = Recipe(epochs=1, batch_size=8, learning_rate=1e-3)


def small(name: str) -> tuple[Architecture, nn.Module, Tensor]:
    """An architecture, a network with random weights in double precision, and two images."""
    if name.startswith("transformers"):
        pytest.importorskip("transformers")
    architecture, side = SMALL_NETWORKS[name].architecture(), SMALL_NETWORKS[name].side
    torch.manual_seed(0)
    return architecture, with_random_weights(build_model(architecture)), torch.rand(2, 3, side, side).double()


def kill(model: nn.Module, group: ChannelGroup, units: list[int]) -> None:
    """Sets to zero what computes some units of a group, biases too."""
    for part in group.filters:
        entries = part.entries(torch.tensor(units))
        for name, parameter in model.get_submodule(part.name).named_parameters(recurse=False):
            if name in ("weight", "bias", "in_proj_weight", "in_proj_bias"):
                parameter.data[entries] = 0


def narrowed(model: nn.Module, *, dead: list[int], parts: tuple[str, ...] = ("qk", "v")) -> nn.Module:
    """A copy without the entries `dead` of every head."""
    groups = {group.conv: group for group in head_dimension_groups(model)}
    keep = {
        name: torch.tensor([unit for unit in range(group.channels) if unit not in dead])
        for name, group in groups.items()
        if name.rpartition(":")[2] in parts
    }
    return remove_channels(model, keep, groups)


@pytest.mark.parametrize("parts", [("qk",), ("v",), ("qk", "v")], ids=str)
@pytest.mark.parametrize("name", ATTENTION)
def test_removing_dead_entries_changes_no_output(name: str, parts: tuple[str, ...]) -> None:
    _, model, images = small(name)
    for group in head_dimension_groups(model):
        if group.conv.rpartition(":")[2] in parts:
            kill(model, group, [1, 4])
    smaller = narrowed(model, dead=[1, 4], parts=parts)
    with torch.inference_mode():
        before, after = model(images), smaller(images)
    assert float((before[0] - before[1]).abs().max()) > 0
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9 * float(before.abs().max()))
    shapes = {*head_shapes(smaller).values()}
    widths = {(8 - 2 * ("qk" in parts), 8 - 2 * ("v" in parts))}
    assert {shape[1:] for shape in shapes} == widths
    for key in attention_modules(smaller):
        module: Any = smaller.get_submodule(key)
        width = 8 - 2 * ("qk" in parts)
        for attribute in ("scale", "scaling"):
            assert getattr(module, attribute, width**-0.5) == pytest.approx(width**-0.5)
        assert getattr(module, "head_dim", width) == width


@pytest.mark.parametrize("name", ATTENTION)
def test_narrower_heads_are_rebuilt_from_a_saved_file(name: str, tmp_path: Path) -> None:
    """Also with fewer heads, and each part narrower than the other."""
    architecture, model, images = small(name)
    groups = {group.conv: group for group in (*head_dimension_groups(model), *head_groups(model))}
    units = {"qk dimensions": 5, "v dimensions": 6, "heads": 1}
    keep = {key: torch.arange(units[group.kind]) for key, group in groups.items()}
    smaller = remove_channels(model, keep, groups).float()
    settings = with_head_counts(to_settings(architecture), smaller)
    assert {*settings["heads"].values()} == {1}
    save_model(smaller, settings, tmp_path / "small.safetensors")
    again = load_model(settings, tmp_path / "small.safetensors")
    assert {*head_shapes(again).values()} == {(1, 5, 6)}
    with torch.inference_mode():
        torch.testing.assert_close(
            again(images.float()), smaller.eval()(images.float()), rtol=1e-5, atol=1e-5
        )


def test_widths_without_a_number_of_heads_are_ambiguous() -> None:
    """24 rows of heads that are built with 8: three heads, or four of 6."""
    architecture, model, _ = small("timm vit_tiny")
    smaller = narrowed(model, dead=[0, 1])
    with pytest.raises(
        CheckpointError, match=r"24 rows for queries and 24 for values, .* heads.blocks.0.attn=4"
    ):
        build_with_weights(architecture, network_weights(smaller))
    unequal = narrowed(model, dead=[0, 1], parts=("qk",))
    again = build_with_weights(architecture, network_weights(unequal))
    assert {*head_shapes(again).values()} == {(4, 6, 8)}
    stated = from_settings({**to_settings(architecture), "heads": {"blocks.0.attn": 4, "blocks.1.attn": 4}})
    assert {*head_shapes(build_with_weights(stated, network_weights(smaller))).values()} == {(4, 6, 6)}


def test_macs_of_narrower_heads_are_counted_by_hand() -> None:
    """17 tokens, D = 32, 4 heads: an entry of queries and keys costs 2 N D H + N^2 H, one of values as much."""
    _, model, _ = small("timm vit_tiny")
    dense = cost(model, (3, 32, 32)).macs or 0
    for parts in (("qk",), ("v",)):
        pruned = cost(narrowed(model, dead=[7], parts=parts), (3, 32, 32)).macs or 0
        assert dense - pruned == 2 * (2 * 17 * 32 * 4 + 17 * 17 * 4)


def test_the_embedding_of_narrowed_heads_is_followed() -> None:
    _, model, _ = small("timm vit_tiny")
    smaller = narrowed(model, dead=[1, 4], parts=("qk",)).float()
    (embedding,) = (group for group in coupled_groups(smaller, (3, 32, 32)) if group.kind == "embedding")
    assert embedding.channels == 32


def test_what_cannot_be_narrower_names_layer_and_reason() -> None:
    from tests.models.surgery.test_attention import VIT, Dino, Gated

    architecture = architecture_from_uri(
        "timm:vit_tiny_patch16_224", classes=10, options={**VIT, "qk_norm": True}
    )
    normed = build_model(architecture).eval()
    reason = "its queries and keys have a norm over the width of a head"
    assert {(left.name, left.reason) for left in head_dimensions_left_out(normed)} == {
        (f"network.blocks.{block}.attn:qk", reason) for block in range(2)
    }
    assert {group.kind for group in head_dimension_groups(normed)} == {"v dimensions"}
    kind: Any = PRODUCERS.get("filter-l1")
    data = ImageSet(
        "noise", torch.zeros(4, 3, 32, 32, dtype=torch.uint8).numpy(), torch.arange(4).numpy(), 10
    )
    context = Context(data, RECIPE, 0)
    with pytest.raises(UserError, match=rf"has no qk dimensions .*blocks.0.attn:qk: {reason}"):
        next(iter(kind(units="qk dimensions").produce(normed, (0.05,), context)))
    with pytest.raises(UserError, match=r"has no v dimensions .*it has no attention"):
        next(iter(kind(units="v dimensions").produce(nn.Sequential(nn.Conv2d(3, 4, 3)), (0.05,), context)))
    with pytest.raises(SuiteError, match=r"'v dimensions' with scope = 'coupled'"):
        kind(units="v dimensions", scope="coupled")
    assert {left.reason for left in head_dimensions_left_out(nn.Sequential(Gated()))} == {
        "the forward pass of Gated is not known to work with fewer heads"
    }
    own = nn.Sequential(Dino(scale=0.7)).double()
    dead = copy.deepcopy(own)
    for group in head_dimension_groups(dead):
        kill(dead, group, [2])
    smaller = narrowed(dead, dead=[2])
    tokens = torch.randn(2, 5, 32, dtype=torch.float64)
    torch.testing.assert_close(smaller(tokens), dead(tokens), rtol=0, atol=1e-12)
    assert smaller.get_submodule("0").scale == 0.7  # a scale of its own does not depend on the width
