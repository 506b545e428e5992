"""Only the splits that a plan needs are opened: finished models need test images alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import evalsuite
from evalsuite.models.architectures.base import build_model, unwrap_model
from evalsuite.models.architectures.cnn import SmallCNN

SUITE = """
name = "finished"
checkpoint = "dense.pt"
{data}
[model]
name = "small-cnn"
widths = [8, 8, 8, 8]
classes = 2
[[candidates]]
file = "pruned.pt"
method = "tool"
[[evaluators]]
name = "accuracy"
[tolerances]
accuracy = 0.5
"""
ARRAYS = '[data]\nname = "arrays"\nfolder = "arrays"'


@pytest.fixture(name="home")
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images of two classes, dark and bright, as a folder and as arrays, and a network that tells them apart."""
    images = np.repeat(np.array([40, 200] * 20, np.uint8), 32 * 32 * 3).reshape(40, 32, 32, 3)
    images[:, :, :, 0] += np.arange(40, dtype=np.uint8)[:, None, None]
    for index, image in enumerate(images):
        folder = tmp_path / "photos" / ("dark", "bright")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "test_images.npy", images)
    np.save(tmp_path / "arrays" / "test_labels.npy", np.arange(40) % 2)
    torch.manual_seed(0)
    model = build_model(SmallCNN(widths=(8, 8, 8, 8), classes=2)).eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(images.transpose(0, 3, 1, 2) / np.float32(255)))
        gaps = logits[:, 1] - logits[:, 0]
        dark, bright = gaps[0::2].mean(), gaps[1::2].mean()
        linear = unwrap_model(model).get_submodule("linear")
        assert isinstance(linear, nn.Linear)
        linear.weight *= 1 if bright > dark else -1
        linear.bias.zero_()
        gaps = torch.diff(model(torch.from_numpy(images.transpose(0, 3, 1, 2) / np.float32(255))))[:, 0]
        linear.bias[1] -= (gaps[0::2].mean() + gaps[1::2].mean()) / 2
    state = unwrap_model(model).state_dict()
    torch.save(state, tmp_path / "dense.pt")
    state["linear.weight"] = torch.where(state["linear.weight"].abs() < 0.02, 0, state["linear.weight"])
    torch.save(state, tmp_path / "pruned.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "data",
    ['[data]\nname = "folder"\npath = "photos"\nclass_map = "order.txt"', ARRAYS, 'data = "./arrays"'],
    ids=["folder", "arrays", "path"],
)
def test_a_run_of_finished_models_reads_no_training_split(home: Path, data: str) -> None:
    (home / "order.txt").write_text("dark 0\nbright 1\n")
    (home / "suite.toml").write_text(SUITE.format(data=data))
    run = evalsuite.run(home / "suite.toml", out=home / "run")
    values = run.measurements.query("metric == 'accuracy'")["value"]
    assert len(values) == 2
    assert values.min() > 0.9
