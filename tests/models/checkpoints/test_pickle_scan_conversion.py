"""The conversion that an error describes: carried out literally, without the missing package."""

from __future__ import annotations

import argparse
import enum
import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_pruning
from torch import Tensor, nn

from evalsuite.errors import CheckpointError
from evalsuite.models.checkpoints.reading import read_weights

ROOT = os.environ.get("EVALSUITE_DATA", "")
WEIGHTS = {"conv.weight": torch.arange(8.0).view(2, 1, 2, 2), "conv.bias": torch.ones(2)}


def converted(path: Path, folder: Path) -> dict[str, Tensor]:
    """Follows the error for `path` in a process of its own, and reads the converted file."""
    with pytest.raises(CheckpointError) as caught:
        read_weights(path)
    sentence, _, lines = str(caught.value).partition(":\n")
    assert sentence.endswith("these lines extract its tensors and run none of its code")
    subprocess.run([sys.executable, "-I", "-W", "error", "-c", lines], cwd=folder, check=True, timeout=120)
    return read_weights(folder / "weights.pt")


LOST = """
import collections, pathlib
Recipe = collections.namedtuple("Recipe", ["modules", "parameters"])  # as distiller's own
class Scheduler:
    def __init__(self, value):
        self.value = value
    def __setstate__(self, state):  # leaves a proof when it runs
        pathlib.Path(__file__).with_name("proof").touch()
    def run(self):
        pass
class Settings(dict):
    pass
class Weights(collections.OrderedDict):
    pass
"""


@pytest.fixture
def lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that exists where checkpoints are written, and nowhere else."""
    (tmp_path / "lost.py").write_text(LOST)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield importlib.import_module("lost")
    del sys.modules["lost"]


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_beside_objects_of_lost_classes_come_out(tmp_path: Path, lost: Any, legacy: bool) -> None:
    path = tmp_path / "it's a.pth"
    content = {
        "args": argparse.Namespace(lr=0.1, path=Path("/x")),
        "best": np.float64(0.9),
        "history": np.arange(3.0),
        "model": {"state_dict": {f"module.{name}": tensor for name, tensor in WEIGHTS.items()}},
        "object": lost.Scheduler({"a": lost.Scheduler([1, 2])}),
        "recipe": lost.Recipe({"a": 1}, {"b": torch.ones(2)}),
    }
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    weights = converted(path, tmp_path)
    assert weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(weights[name], WEIGHTS[name]) for name in weights)
    assert not (tmp_path / "proof").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "proof").exists()


def test_a_state_dict_with_an_object_in_it_comes_out(tmp_path: Path) -> None:
    torch.save({**WEIGHTS, "args": argparse.Namespace(lr=0.1)}, tmp_path / "w.pt")
    assert converted(tmp_path / "w.pt", tmp_path).keys() == WEIGHTS.keys()


class Config:
    """A nested class, which pickle finds by looking an attribute up."""

    class Kind(enum.Enum):
        A = 1

    class Schedule:
        """An object of a nested class, with a method to be called later."""

        def step(self) -> None:
            """Does nothing."""


KINDS: dict[str, Callable[[Any], object]] = {
    "filled like a dictionary": lambda lost: {"model": WEIGHTS, "args": lost.Settings(lr=1)},
    "numpy": lambda _: {name: tensor.numpy() for name, tensor in WEIGHTS.items()},
    "function of torch": lambda _: {"state_dict": WEIGHTS, "hyper_parameters": {"activation": torch.relu}},
    "nested enum": lambda _: {"state_dict": WEIGHTS, "kind": Config.Kind.A},
    "object of a nested class": lambda _: {"state_dict": WEIGHTS, "object": Config.Schedule()},
    "bound method": lambda lost: {"state_dict": WEIGHTS, "call": lost.Scheduler(1).run},
    "method of an object of a nested class": lambda _: {
        "state_dict": WEIGHTS,
        "call": Config.Schedule().step,
    },
    "method of a text": lambda _: {"state_dict": WEIGHTS, "call": ", ".join},
    "method of a dictionary": lambda _: {"state_dict": WEIGHTS, "call": {"a": 1}.get},
    "dictionary of a class of its own": lambda lost: lost.Weights(WEIGHTS),
    "such a dictionary under a key": lambda lost: {"state_dict": lost.Weights(WEIGHTS), "epoch": 3},
    "numpy in a list": lambda _: [{name: tensor.numpy() for name, tensor in WEIGHTS.items()}],
    "a tuple beside an object": lambda lost: ({"model": WEIGHTS}, lost.Scheduler(1)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_recipe_writes_every_tensor(tmp_path: Path, lost: Any, kind: str) -> None:
    torch.save(KINDS[kind](lost), tmp_path / "w.pt")
    weights = converted(tmp_path / "w.pt", tmp_path)
    assert weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(weights[name], WEIGHTS[name]) for name in weights)


def test_of_several_networks_the_first_comes_out(tmp_path: Path, lost: Any) -> None:
    networks = [{name: tensor * factor for name, tensor in WEIGHTS.items()} for factor in (1, 2)]
    torch.save([*networks, lost.Scheduler(1)], tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="these lines extract the tensors of entry 0 of 2 and run none"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("wrapped", [False, True])
def test_torch_prunings_own_state_dict_comes_out(tmp_path: Path, wrapped: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Linear(4, 2)))
    content = torch_pruning.state_dict(network)
    torch.save({"model": content, "epoch": 3} if wrapped else content, tmp_path / "w.pt")
    weights = converted(tmp_path / "w.pt", tmp_path)
    assert weights.keys() == network.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())


def test_looking_up_what_runs_commands_stays_an_attack(tmp_path: Path) -> None:
    class Look:
        def __init__(self, *values: object) -> None:
            self.values = values

        def __reduce__(self) -> Any:
            return getattr, self.values

    inner = Look(torch.nn.Linear, "forward")
    for owner, name in ((torch.nn.Linear, "__init__"), (os._Environ, "get"), (inner, "__globals__")):
        torch.save({"state_dict": WEIGHTS, "x": Look(owner, name)}, tmp_path / "w.pt")
        with pytest.raises(CheckpointError, match="no checkpoint needs that"):
            read_weights(tmp_path / "w.pt")


@pytest.mark.data
@pytest.mark.skipif(not ROOT, reason="EVALSUITE_DATA is not set: no real images and checkpoints")
@pytest.mark.parametrize("suffix", ["", "_finetuned"])
def test_published_checkpoints_with_a_pickled_class_load_after_conversion(
    tmp_path: Path, suffix: str
) -> None:
    """Their accuracy is found in tests/execution/check/test_check_published.py."""
    folder = Path(ROOT) / "checkpoints" / "distiller"
    name = f"channel_regularized_resnet20{suffix}"
    assert importlib.util.find_spec("distiller") is None
    weights = converted(folder / f"checkpoint_trained_{name}.pth.tar", tmp_path)
    expected = read_weights(folder / f"{name}_state_dict.pt")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[key], expected[key]) for key in weights)
