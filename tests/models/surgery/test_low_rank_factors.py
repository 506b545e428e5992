from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evalsuite.errors import CheckpointError
from evalsuite.models.architectures.base import Architecture, unwrap_model
from evalsuite.models.architectures.uris import architecture_from_uri
from evalsuite.models.checkpoints.architecture_detection import detect_architecture
from evalsuite.models.checkpoints.loading import load_candidate
from evalsuite.models.checkpoints.reading import read_weights
from evalsuite.models.checkpoints.saving import load_model, save_model
from evalsuite.models.cost import cost, prunable_layers, weights_digest
from evalsuite.models.surgery.channel_removal import channel_groups, remove_channels
from evalsuite.models.surgery.low_rank_factors import (
    factor_pairs,
    factored_weight,
    factorize_layer,
    factorize_like,
    merge_factors,
)
from evalsuite.producers.low_rank.decomposition import decompose, factorise

Build = Callable[..., nn.Module]
SHAPE = (3, 32, 32)
FAMILIES = ("small-cnn", "resnet20")


def images(count: int = 2, channels: int = 3) -> Tensor:
    return torch.rand((count, channels, 32, 32), generator=torch.Generator().manual_seed(1))


def in_factors(model: nn.Module) -> nn.Module:
    """All layers that get smaller by it, with groups of channels where they divide."""
    shape = {}
    for place, (name, layer) in enumerate(prunable_layers(model).items()):
        weight = layer.get_parameter("weight")
        groups = 2 if weight.dim() == 4 and weight.shape[1] % 2 == 0 and place % 2 else 1
        shape[name] = (groups, 2)
    return decompose(model, shape)


LAYERS: dict[str, nn.Module] = {
    "plain": nn.Conv2d(4, 6, 3, padding=1),
    "strided": nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(0, 2), bias=False),
    "dilated": nn.Conv2d(4, 6, 3, dilation=2, padding=2, padding_mode="circular"),
    "same": nn.Conv2d(4, 6, 3, padding="same"),
    "pointwise": nn.Conv2d(4, 6, 1),
    "linear": nn.Linear(8, 5),
}


@pytest.mark.parametrize("name", LAYERS)
def test_factors_of_full_rank_compute_what_the_layer_computes(name: str) -> None:
    layer = LAYERS[name].double()
    shown = torch.rand((2, 8) if name == "linear" else (2, 4, 9, 9), dtype=torch.float64)
    weight = layer.get_parameter("weight").detach()
    for groups in (1,) if name == "linear" else (1, 2, 4):
        rank = min(len(weight), weight[0].numel() // groups)
        pair = factorize_layer(layer, *factorise(weight, groups, rank))
        torch.testing.assert_close(pair(shown), layer(shown))
        torch.testing.assert_close(factored_weight(pair), weight)


def test_a_pair_of_groups_follows_the_worked_example() -> None:
    """Two groups of one channel: the first is counted twice, the second three times."""
    layer = nn.Conv2d(2, 1, 1, bias=False)
    reduce = torch.tensor([2.0, 3.0]).view(2, 1, 1, 1)
    pair = factorize_layer(layer, reduce, torch.ones(1, 2, 1, 1))
    assert factored_weight(pair).flatten().tolist() == [2, 3]
    assert pair(torch.tensor([5.0, 7.0]).view(1, 2, 1, 1)).item() == 31


@pytest.mark.parametrize("name", FAMILIES)
def test_multiplying_out_gives_the_network_back(build: Build, name: str) -> None:
    parent = build(name)
    before = weights_digest(parent)
    model = in_factors(parent)
    merged = merge_factors(model, parent)
    assert len(factor_pairs(model)) > 3
    assert not factor_pairs(merged)
    assert [*merged.state_dict()] == [*parent.state_dict()]
    with torch.inference_mode():
        torch.testing.assert_close(merged(images()), model(images()), rtol=1e-3, atol=1e-4)
        assert not torch.allclose(merged(images()), parent(images()), atol=1e-2)
    assert weights_digest(parent) == before
    shapes = [sum(one.numel() for one in net.parameters()) for net in (model, parent)]
    assert shapes[0] < shapes[1] == cost(parent, SHAPE).parameters


@pytest.mark.parametrize("name", FAMILIES)
def test_saved_factors_load_to_the_same_bits(build: Build, tmp_path: Path, name: str) -> None:
    model, path = in_factors(build(name)), tmp_path / "candidate.safetensors"
    save_model(model, {"name": name}, path)
    again = load_model({"name": name}, path)
    assert weights_digest(again) == weights_digest(model)
    names = {f"network.{one}" for one in factorize_like(build(name), unwrap_model(model).state_dict())}
    assert names == factor_pairs(model).keys()
    with torch.inference_mode():
        assert torch.equal(again(images()), model(images()))


WAYS: dict[str, Callable[[Mapping[str, Tensor]], object]] = {
    "bare": dict,
    "parallel": lambda weights: {
        "state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}
    },
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("name", "settings"),
    [("small-cnn", {}), ("resnet20", {}), ("wide-resnet", {"depth": 16, "width": 1, "classes": 11})],
)
def test_a_file_with_factors_is_detected_and_loaded(
    build: Build, tmp_path: Path, name: str, settings: dict[str, Any], way: str
) -> None:
    model, path = in_factors(build(name, **settings)), tmp_path / "theirs.pth"
    torch.save(WAYS[way](unwrap_model(model).state_dict()), path)
    fit = detect_architecture(read_weights(path))
    assert fit.uri == name
    for chosen in (fit.architecture, architecture_from_uri(name, **settings)):
        again = load_candidate(path, chosen, image_shape=SHAPE)
        assert len(factor_pairs(again)) == len(factor_pairs(model))
        with torch.inference_mode():
            assert torch.equal(unwrap_model(again)(images()), unwrap_model(model)(images()))


def test_fewer_channels_and_factors_at_once_are_refused_before_the_file_is_written(
    build: Build, tmp_path: Path
) -> None:
    """Half of the inputs may mean two groups or a layer of half the width: the weights do not say."""
    model = in_factors(build("small-cnn"))
    group = next(group for group in channel_groups(model) if group.conv.endswith("expand"))
    smaller = remove_channels(model, {group.conv: torch.arange(0, group.channels, 2)})
    path = tmp_path / "candidate.safetensors"
    with pytest.raises(CheckpointError, match=r"missing: .*conv\.weight; unexpected: .*\.reduce\.weight"):
        save_model(smaller, {"name": "small-cnn"}, path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("part", "shape"),
    [
        ("reduce", (4, 5, 3, 3)),  # 5 does not divide 24 channels
        ("reduce", (5, 12, 3, 3)),  # two groups of rank 2.5
        ("reduce", (4, 24, 1, 1)),
        ("expand", (48, 3, 1, 1)),
        ("expand", (48, 4, 3, 3)),
    ],
    ids=str,
)
def test_factors_that_fit_no_layer_are_refused(build: Build, part: str, shape: tuple[int, ...]) -> None:
    model = build("small-cnn")
    pair = decompose(model, {"network.layer1.conv": (1, 4)})
    weights = {**unwrap_model(pair).state_dict(), f"layer1.conv.{part}.weight": torch.zeros(shape)}
    chosen: Architecture = architecture_from_uri("small-cnn")
    with pytest.raises(CheckpointError):
        load_candidate(weights, chosen, image_shape=SHAPE)
    fresh = copy.deepcopy(model)
    assert factorize_like(fresh, weights) == ()
    assert weights_digest(fresh) == weights_digest(model)


def test_a_rank_that_the_groups_do_not_share_evenly_is_refused(build: Build) -> None:
    weights = unwrap_model(decompose(build("small-cnn"), {"network.layer1.conv": (2, 2)})).state_dict()
    uneven = {
        "layer1.conv.reduce.weight": torch.zeros(5, 12, 3, 3),
        "layer1.conv.expand.weight": torch.zeros(48, 5, 1, 1),
    }
    assert factorize_like(build("small-cnn"), weights) == ("layer1.conv",)
    with pytest.raises(CheckpointError, match=r"missing: layer1\.conv\.weight"):
        load_candidate({**weights, **uneven}, architecture_from_uri("small-cnn"), image_shape=SHAPE)
