"""The conversion that an error describes: carried out literally, without the missing package."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

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
class Settings(dict):
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


def test_an_object_that_is_filled_like_a_dictionary_has_another_way_out(tmp_path: Path, lost: Any) -> None:
    path = tmp_path / "w.pt"
    torch.save({"model": WEIGHTS, "args": lost.Settings(lr=1)}, path)
    with pytest.raises(CheckpointError, match=r"where you trust it and can import that") as caught:
        read_weights(path)
    assert str(caught.value).endswith("then torch.save(checkpoint['model'], 'weights.pt')")
    checkpoint = torch.load(path, weights_only=False)
    torch.save(checkpoint["model"], path)
    assert read_weights(path).keys() == WEIGHTS.keys()


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
