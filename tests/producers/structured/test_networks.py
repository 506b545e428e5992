"""Structured methods on small versions of the networks that people prune: the table of `list models --prunable`."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from evalsuite.errors import SkippedError, UserError
from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.settings import to_settings
from evalsuite.models.architectures.small_networks import SMALL_NETWORKS
from evalsuite.models.checkpoints.saving import load_model, save_model
from evalsuite.models.cost import cost, count_nonzero, count_parameters, prunable_parameters
from evalsuite.models.surgery.channel_removal import ChannelGroup, remove_channels
from evalsuite.models.surgery.coupled_channels import coupled_groups, with_random_weights
from evalsuite.models.surgery.head_counts import with_head_counts
from evalsuite.producers import PRODUCERS
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.structured.base import unit_groups
from evalsuite.producers.structured.fit import prunable_units_of
from evalsuite.training.loop import train
from evalsuite.training.origin import Origin
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet

METHODS = ("filter-l1", "filter-l2", "fpgm", "taylor", "pfp", "filter-random")
SCALED = ("torchvision resnet18", "torchvision resnet50", "torchvision densenet")
COUPLED = ("timm efficientnet_b0", "timm mobilenetv3_small", "torchvision regnet_y_400mf")
"""Most of their channels are shared, with depthwise or grouped convolutions."""
EMBEDDED = [
    *("timm vit_tiny", "timm deit_tiny_distilled", "timm swin_tiny", "timm convnext_tiny (linear MLPs)"),
    *("torchvision vit", "torchvision convnext", "transformers ViT", "transformers ConvNext"),
]
RECIPE = Recipe(epochs=1, batch_size=8, learning_rate=1e-3)
RATIO = 0.2


@pytest.fixture
def made(request: pytest.FixtureRequest) -> tuple[nn.Module, Context, dict[str, Any]]:
    """A small network, a context of eight random images of its size, and its settings."""
    small = SMALL_NETWORKS[request.param]
    if request.param.startswith("transformers"):
        pytest.importorskip("transformers")
    architecture = small.architecture()
    origin = Origin(architecture, 0, RECIPE)
    random = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (8, 3, small.side, small.side), generator=random, dtype=torch.uint8
    ).numpy()
    data = ImageSet("noise", images, torch.arange(8).numpy() % 10, 10)
    return origin.initial().eval(), Context(data, RECIPE, 0, origin=origin), to_settings(architecture)


def producer(method: str, **settings: Any) -> Producer:
    kind: Any = PRODUCERS.get(method)
    made: Producer = kind(**settings)
    return made


def scope_of(name: str) -> str:
    return "coupled" if name in COUPLED else "inside"


def produced(name: str, method: str, parent: nn.Module, context: Context, **settings: Any) -> nn.Module:
    table = {"images": 4} if method in ("taylor", "pfp") else {}
    pruner = producer(method, **{"scope": scope_of(name), **table, **settings})
    return next(iter(pruner.produce(parent, (RATIO,), context)))


@pytest.mark.extensive
@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize(("made", "name"), [(name, name) for name in SMALL_NETWORKS], indirect=["made"])
def test_every_score_prunes_every_network(
    made: tuple[nn.Module, Context, dict[str, Any]], name: str, tmp_path: Path
) -> None:
    parent, context, settings = made
    shape, images = context.train.images.shape[1:], torch.rand(2, *context.train.images.shape[1:])
    methods = (
        METHODS[2::2] if name in COUPLED else METHODS
    )  # each of these is traced and verified for seconds
    for method in (*methods, *(("bn-scale",) if name in SCALED else ())):
        model = produced(name, method, parent, context)
        assert 1 - count_nonzero(model) / count_nonzero(parent) == pytest.approx(RATIO, abs=0.03), method
        assert count_parameters(model) < count_parameters(parent)
        assert model(images).shape == (2, 10)
    recorded = with_head_counts(settings, model)
    save_model(model, recorded, tmp_path / "model.safetensors")
    again = load_model(recorded, tmp_path / "model.safetensors")
    assert torch.equal(again(images), model(images))
    counted = cost(again, shape)
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), counter:
        again(images[:1])
    assert (
        counted.macs == counter.get_total_flops() // 2
    )  # convolutions, matrices, both products of attention
    before = copy.deepcopy(again.state_dict())
    train(again, context.train, RECIPE, seed=0)
    assert any(not torch.equal(before[key], value) for key, value in again.state_dict().items())


@pytest.mark.parametrize(("made", "name"), [(name, name) for name in SMALL_NETWORKS], indirect=["made"])
def test_removing_dead_units_changes_no_output(
    made: tuple[nn.Module, Context, dict[str, Any]], name: str
) -> None:
    """Every third unit of each kind: filters, hidden units, heads."""
    parent, context, _ = made
    dead, groups = with_random_weights(parent), unit_groups(parent)
    keep = {
        key: torch.tensor([unit for unit in range(group.channels) if unit % 3 or group.channels < 2])
        for key, group in groups.items()
    }
    for key, group in groups.items():
        kill(dead, group, {*range(group.channels)} - {*keep[key].tolist()})
    smaller = remove_channels(dead, keep, groups)
    images = torch.rand(2, *context.train.images.shape[1:], dtype=torch.float64)
    with torch.inference_mode():
        before, after = dead(images), smaller(images)
    assert float((before[0] - before[1]).abs().max()) > 0
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9 * float(before.abs().max()))
    kinds = {group.kind for group in groups.values()}
    if "vit" in name.lower() or "swin" in name or "deit" in name:
        assert kinds == {"hidden units", "heads"}
    assert count_parameters(smaller) < count_parameters(dead)


def kill(model: nn.Module, group: ChannelGroup, units: set[int]) -> None:
    for part in (*group.filters, *group.norms):
        layer = model.get_submodule(part.name)
        for key, parameter in layer.named_parameters(recurse=False):
            if key in ("weight", "bias", "in_proj_weight", "in_proj_bias"):
                for unit in units:
                    first = part.start + unit * part.columns
                    parameter.data[first : first + part.columns] = 0


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize("made", EMBEDDED, indirect=True)
def test_the_embedding_loses_channels_too(
    made: tuple[nn.Module, Context, dict[str, Any]], tmp_path: Path
) -> None:
    parent, context, settings = made
    model = next(iter(producer("filter-l2", scope="coupled").produce(parent, (0.5,), context)))
    assert 1 - count_nonzero(model) / count_nonzero(parent) == pytest.approx(0.5, abs=0.05)
    images = torch.rand(2, *context.train.images.shape[1:])
    recorded = with_head_counts(settings, model)
    save_model(model, recorded, tmp_path / "model.safetensors")
    assert torch.equal(load_model(recorded, tmp_path / "model.safetensors")(images), model(images))
    again = {group.conv: group for group in coupled_groups(parent, images.shape[1:])}
    odd = {key: torch.arange(group.channels - 1) for key, group in again.items() if group.kind == "embedding"}
    smaller = remove_channels(parent, odd, again)
    assert {group.channels for group in coupled_groups(smaller, images.shape[1:]) if group.conv in odd} == {
        len(channels) for channels in odd.values()
    }
    thin = next(iter(producer("thin").produce(parent, (0.5,), context)))
    assert 1 - count_parameters(thin) / count_parameters(parent) == pytest.approx(0.5, abs=0.08)
    assert thin(images).shape == (2, 10)


@pytest.mark.parametrize("made", ["timm vit_tiny"], indirect=True)
def test_new_weights_are_those_that_the_architecture_draws(
    made: tuple[nn.Module, Context, dict[str, Any]], fits: list[dict[str, Any]]
) -> None:
    """Tokens and position tables included; timm draws weights with a deviation of 0.02 and biases of zero."""
    parent, context, _ = made
    model = next(iter(producer("scratch-e", of="filter-l1").produce(parent, (0.4,), context)))
    table, own = model.get_parameter("network.pos_embed"), parent.get_parameter("network.pos_embed")
    assert table.shape == own.shape
    assert not torch.equal(table, own)
    assert float(table.detach().std()) == pytest.approx(0.02, rel=0.1)
    hidden = model.get_submodule("network.blocks.0.mlp.fc1")
    assert hidden.get_parameter("weight").shape[0] < 64
    assert float(hidden.get_parameter("weight").detach().std()) == pytest.approx(0.02, rel=0.15)
    assert not hidden.get_parameter("bias").any()
    assert fits


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize("made", ["timm vit_tiny"], indirect=True)
def test_one_kind_of_units_alone(made: tuple[nn.Module, Context, dict[str, Any]]) -> None:
    """Heads only, which Torch-Pruning has no setting for; and a global threshold takes equal shares of each kind."""
    parent, context, _ = made
    heads = produced("", "taylor", parent, context, units="heads")
    assert heads.get_submodule("network.blocks.0.mlp.fc1").get_parameter("weight").shape == (64, 32)
    both = produced("", "taylor", parent, context)
    left = {kind: [0, 0] for kind in ("heads", "hidden units")}
    for key, group in unit_groups(parent).items():
        left[group.kind][0] += unit_groups(both)[key].channels
        left[group.kind][1] += group.channels
    shares = [few / many for few, many in left.values()]
    assert shares[0] == pytest.approx(shares[1], abs=1 / 8)


@pytest.mark.parametrize("made", ["timm vit_tiny"], indirect=True)
def test_what_does_not_fit_names_layer_and_reason(made: tuple[nn.Module, Context, dict[str, Any]]) -> None:
    parent, context, _ = made
    with pytest.raises(UserError, match=r"'blocks.0.mlp.fc1' has no batch norm .* hidden units"):
        next(iter(producer("bn-scale").produce(parent, (0.2,), context)))
    swin = build_model(SMALL_NETWORKS["torchvision swin"].architecture())
    units = prunable_units_of(swin, (3, 64, 64))
    assert units.inside == {"hidden units": 384, "heads": 12}
    assert "does not come to an end with torchvision's attention" in units.problem
    assert ("features.0.0", "its output reaches an operation 'permute'") in {
        (layer.name, layer.reason) for layer in units.left_out
    }


@pytest.mark.extensive
@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize(
    "made",
    [
        *("timm vit_tiny", "timm swin_tiny", "timm convnext_atto", "torchvision swin"),
        *("transformers ViT", "transformers ConvNext"),
    ],
    indirect=True,
)
def test_baselines_of_new_weights_fit_transformers_and_convnext(
    made: tuple[nn.Module, Context, dict[str, Any]],
) -> None:
    """Of a mask and of a smaller network; every weight that is left is a new one, and all numbers are finite."""
    parent, context, _ = made
    images = torch.rand(2, *context.train.images.shape[1:])
    for method, of in (
        ("scratch-e", "filter-l1"),
        ("scratch-b", "filter-l1"),
        ("scratch-e", "magnitude"),
        ("reinitialised", "magnitude"),
        ("thin", ""),
    ):
        model = next(iter(producer(method, **({"of": of} if of else {})).produce(parent, (RATIO,), context)))
        step = 0.06 if method == "thin" else 0.04  # a unit of every layer at once
        assert 1 - count_nonzero(model) / count_nonzero(parent) == pytest.approx(RATIO, abs=step), method
        assert (count_parameters(model) < count_parameters(parent)) == (of != "magnitude"), method
        assert bool(model(images).isfinite().all())
        own, new = prunable_parameters(parent), prunable_parameters(model)
        for name, weight in new.items():
            left = weight[weight != 0].detach()
            kept = torch.isin(left, own[name].detach()).float().mean()
            assert float(kept) < 0.01, (method, name)


@pytest.mark.extensive
@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize(("made", "name"), [(name, name) for name in SMALL_NETWORKS], indirect=["made"])
def test_masks_and_factors_fit_every_network(
    made: tuple[nn.Module, Context, dict[str, Any]], name: str
) -> None:
    """Weights, patterns of weights and low rank; attention that only reads its weights takes no factors."""
    parent, context, _ = made
    images = torch.rand(2, *context.train.images.shape[1:])
    for method, table in {
        "magnitude": {},
        "sipp": {"images": 4},
        "n-m": {"m": 4},
        "svd": {},
        "alds": {},
    }.items():
        reads = name in ("torchvision vit", "torchvision swin") and method not in ("magnitude", "n-m")
        with (
            pytest.raises(SkippedError, match="the attention around it reads its weight")
            if reads
            else contextlib.nullcontext()
        ):
            # A pattern takes a quarter of the weights in layers of such inputs: 0.18 to 0.25 of all parameters.
            ratio = 0.22 if method == "n-m" else 0.25
            model = next(iter(producer(method, **table).produce(parent, (ratio,), context)))
            share = 1 - count_nonzero(model) / count_nonzero(parent)
            assert share == pytest.approx(ratio, abs=0.05), method
            assert bool(model(images).isfinite().all())
