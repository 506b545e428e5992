from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from evalsuite.errors import CheckpointError, ContractError, StoreError, SuiteError
from evalsuite.models.checkpoints.saving import load_model, save_model
from evalsuite.models.cost import prunable_layers, weights_digest
from evalsuite.models.inference import logits
from evalsuite.models.surgery.channel_removal import channel_groups, remove_channels

if TYPE_CHECKING:
    from pathlib import Path

Build = Callable[..., nn.Module]
NETWORKS: list[dict[str, Any]] = [
    {"name": "small-cnn", "widths": [8, 12, 16, 16], "classes": 4},
    {"name": "resnet20", "shortcut": "A", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    {"name": "resnet20", "shortcut": "B"},
    {"name": "resnet2b"},
]


def masked(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for layer in prunable_layers(model).values():
            weight = layer.get_parameter("weight")
            weight[weight.abs() < weight.abs().median()] = 0
    return model


def shrunk(model: nn.Module) -> nn.Module:
    keep = {group.conv: torch.arange(0, group.channels, 3) for group in channel_groups(model)}
    return remove_channels(model, keep)


@pytest.mark.parametrize("prune", [masked, shrunk], ids=["masked", "shrunk"])
@pytest.mark.parametrize("settings", NETWORKS, ids=lambda table: "-".join(map(str, list(table.values())[:2])))
def test_a_saved_model_loads_bit_for_bit(
    build: Build, tmp_path: Path, settings: dict[str, Any], prune: Callable[[nn.Module], nn.Module]
) -> None:
    model = prune(build(**settings))
    path = tmp_path / "weights.safetensors"
    save_model(model, settings, path)
    random_state = torch.random.get_rng_state()
    again = load_model(settings, path)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert not any(module.training for module in again.modules())
    images = np.random.default_rng(0).integers(0, 256, (70, 3, 32, 32), dtype=np.uint8)
    assert np.array_equal(logits(again, images), logits(model, images))
    floats = torch.from_numpy(images).float() / 255
    with torch.inference_mode():
        assert torch.equal(again(floats), model(floats))
    assert weights_digest(again) == weights_digest(model)


def test_the_file_holds_the_network_alone_and_nothing_is_left_beside_it(build: Build, tmp_path: Path) -> None:
    model = build("small-cnn").to(memory_format=torch.channels_last)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"an older file")
    with path.open("rb") as reader:  # a process that reads the older file meanwhile reads it to its end
        save_model(model, {"name": "small-cnn"}, path)
        assert reader.read() == b"an older file"
    assert list(tmp_path.iterdir()) == [path]
    tensors = load_file(path)
    assert "stem.conv.weight" in tensors
    assert not {"mean", "std"} & {name.rpartition(".")[2] for name in tensors}
    assert torch.equal(tensors["stem.conv.weight"], model.get_parameter("network.stem.conv.weight"))


def test_an_interrupted_write_leaves_the_old_file(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.safetensors"
    save_model(build("small-cnn"), {"name": "small-cnn"}, path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        save_model(build("small-cnn", seed=1), {"name": "small-cnn"}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_refused(build: Build, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written to"):
        save_model(build("small-cnn"), {"name": "small-cnn"}, tmp_path / "no" / "weights.safetensors")


def test_what_could_not_be_loaded_again_is_not_saved(build: Build, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(CheckpointError, match="do not fit"):
        save_model(build("resnet20"), {"name": "resnet20", "shortcut": "B"}, path)
    with pytest.raises(ContractError, match=r"mean is \[0.5\d*, .* but that of its settings is \[0.49"):
        save_model(build("small-cnn", mean=[0.5] * 3), {"name": "small-cnn"}, path)
    with pytest.raises(
        ContractError, match="a Sequential cannot be saved: expected a model that `assemble` built"
    ):
        save_model(build("small-cnn").get_submodule("network"), {"name": "small-cnn"}, path)
    assert not path.exists()


def test_loading_with_other_settings_is_refused(build: Build, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_model(build("resnet20"), {"name": "resnet20"}, path)
    with pytest.raises(CheckpointError, match=r"missing: .*unexpected: "):
        load_model({"name": "small-cnn"}, path)
    with pytest.raises(SuiteError, match="did you mean 'shortcut'"):
        load_model({"name": "resnet20", "short-cut": "A"}, path)
    with pytest.raises(CheckpointError, match="no such file"):
        load_model({"name": "resnet20"}, tmp_path / "other.safetensors")
