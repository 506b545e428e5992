"""Files that hold several networks: one of them is taken, by its place or key, and nothing else is guessed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evalsuite.errors import CheckpointError
from evalsuite.models.checkpoints.inspection import inspect_checkpoint
from evalsuite.models.checkpoints.reading import may_hold_entry, read_checkpoint, read_weights
from evalsuite.models.checkpoints.state_dict_keys import find_state_dict


def network(value: float) -> dict[str, Tensor]:
    return {"fc.weight": torch.full((2, 3), value), "fc.bias": torch.zeros(2)}


THREE = [network(0.0), network(1.0), network(2.0)]
FILES: dict[str, tuple[Any, list[str]]] = {
    "list": (THREE, ["0", "1", "2"]),
    "tuple": (tuple(THREE), ["0", "1", "2"]),
    "list of checkpoints": ([{"epoch": 3, "state_dict": part} for part in THREE], ["0", "1", "2"]),
    "list beside other things": ({"models": THREE, "epoch": 3}, ["0", "1", "2"]),
    "dictionary": ({"a": THREE[0], "b": {"state_dict": THREE[1]}, "c": THREE[2]}, ["a", "b", "c"]),
}


@pytest.fixture(params=FILES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_an_entry_of_several_networks_is_taken(kind: str, tmp_path: Path) -> None:
    content, names = FILES[kind]
    torch.save(content, tmp_path / "w.pt")
    for value, name in enumerate(names):
        for entry in {name, int(name) if name.isdecimal() else name}:
            checkpoint = read_checkpoint(tmp_path / "w.pt", entry=entry)
            assert float(checkpoint.weights["fc.weight"].mean()) == value
            assert f"3 networks: entry {name} was taken" in checkpoint.note
        assert may_hold_entry(tmp_path / "w.pt", name)
    assert not may_hold_entry(tmp_path / "w.pt", "3")


def test_several_networks_without_an_entry_are_a_question(kind: str, tmp_path: Path) -> None:
    content, names = FILES[kind]
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(
        CheckpointError, match=rf"of 3 networks \({', '.join(names)}\); --entry {names[0]} takes one"
    ):
        read_weights(tmp_path / "w.pt")
    with pytest.raises(
        CheckpointError, match=rf"no entry '7' but a .* of 3 networks, expected one of {names[0]}"
    ):
        read_weights(tmp_path / "w.pt", entry=7)


def test_one_network_needs_no_entry(tmp_path: Path) -> None:
    torch.save([network(1.0)], tmp_path / "list.pt")
    torch.save(network(1.0), tmp_path / "plain.pt")
    for entry in ("", 0):
        assert float(read_weights(tmp_path / "list.pt", entry=entry)["fc.weight"].mean()) == 1.0
    assert read_checkpoint(tmp_path / "list.pt", entry=0).note == ""
    with pytest.raises(
        CheckpointError, match=r"no entry '0' but one network, which needs no entry: leave it out"
    ):
        read_weights(tmp_path / "plain.pt", entry=0)


def test_a_place_counts_what_is_no_network_too(tmp_path: Path) -> None:
    torch.save([{"lr": 0.1}, network(1.0), network(2.0)], tmp_path / "w.pt")
    assert float(read_weights(tmp_path / "w.pt", entry=2)["fc.weight"].mean()) == 2.0
    with pytest.raises(CheckpointError, match=r"list of 2 networks \(1, 2\); --entry 1 takes one"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.extensive
def test_inspect_takes_an_entry(tmp_path: Path) -> None:
    torch.save([network(0.0), network(2.0)], tmp_path / "w.pt")
    assert inspect_checkpoint(tmp_path / "w.pt", entry=1).prunable_nonzero == 6
    words = [sys.executable, "-m", "evalsuite", "inspect", str(tmp_path / "w.pt")]
    refused = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (refused.returncode, "a list of 2 networks (0, 1); --entry 0 takes one" in refused.stderr) == (
        2,
        True,
    )
    taken = subprocess.run([*words, "--entry", "1"], capture_output=True, text=True, check=False)
    assert taken.returncode == 0
    assert "list of 2 networks: entry 1 was taken." in taken.stdout


WRAPPED = {
    "a layer of DataParallel": (
        {"features.module.0.weight": torch.ones(2, 3), "features.module.0.bias": torch.ones(2)},
        "2 tensors were renamed (features.module.0.weight is features.0.weight ...).",
    ),
    "NNI": (
        {
            "conv1.module.weight": torch.ones(2, 3),
            "conv1.weight_mask": torch.tensor([[0.0, 1, 1], [1, 1, 0]]),
        },
        "1 tensor was renamed (conv1.module.weight is conv1.weight).",
    ),
    "a layer of torch.compile behind DataParallel": (
        {"module.block._orig_mod.weight": torch.ones(2, 3), "module.head.weight": torch.ones(2, 3)},
        "1 tensor was renamed (module.block._orig_mod.weight is block.weight).",
    ),
    "a distilled student": (
        {"student.a.weight": torch.ones(2, 3), "student.b.weight": torch.ones(2)},
        "The weights were taken from student.*.",
    ),
    "mmpretrain behind DataParallel": (
        {"module.backbone.a.weight": torch.ones(2, 3), "module.backbone.b.weight": torch.ones(2)},
        "The weights were taken from module.backbone.*.",
    ),
    "DataParallel around all": ({"module.a.weight": torch.ones(2, 3), "module.b.weight": torch.ones(2)}, ""),
}


@pytest.mark.parametrize("tool", WRAPPED)
def test_inner_renames_have_a_note(tool: str, tmp_path: Path) -> None:
    content, note = WRAPPED[tool]
    torch.save(content, tmp_path / "w.pt")
    assert read_checkpoint(tmp_path / "w.pt").note == note
    assert inspect_checkpoint(tmp_path / "w.pt").note == note


def test_one_network_is_found_under_keys_of_any_names(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "checkpoint": {"state": {"model": network(1.0)}}}, tmp_path / "w.pt")
    checkpoint = read_checkpoint(tmp_path / "w.pt")
    assert checkpoint.wrapper == "checkpoint.state.model"
    assert float(checkpoint.weights["fc.weight"].mean()) == 1.0


def test_dictionaries_that_contain_each_other_are_searched_once() -> None:
    """Some hundred keys on five levels lead to one dictionary each, 10^10 times if each way were gone."""
    inner: dict[str, Any] = {"last": 1}
    for _ in range(5):
        inner = {f"key {number}": inner for number in range(100)}
    assert find_state_dict(inner) == ((), {})
