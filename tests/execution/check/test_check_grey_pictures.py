"""A folder of grey pictures and a network of one channel, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, Grayscale, PILToTensor, Resize

from evalsuite import evaluate
from evalsuite.cli import main as cli

SIDE = 16
CLASSES = 3
NETWORK = """
from torch import nn

def small():
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(392, 3))
"""
SUITE = """
[[evaluators]]
name = "accuracy"
[tolerances]
accuracy = 0.9
nll = 9.0
"""


def scan(label: int, draws: np.random.Generator) -> Image.Image:
    """Stripes whose width is that of the class, on noise; one picture in ten is in colour."""
    stripes = (np.arange(20) // (label + 1) % 2 * 120)[:, None]
    values = draws.integers(0, 130, (20, 24)) + stripes
    picture = Image.fromarray(values.astype(np.uint8))
    if draws.random() < 0.1:
        tint = draws.integers(0, 40, (20, 24), dtype=np.uint8)
        return Image.merge("RGB", (picture, Image.fromarray(tint), picture))
    return picture


def plain_logits(network: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([network((batch.float() / 255 - 0.5) / 0.5) for batch in torch.split(images, 32)])


class Scaled(nn.Module):
    """A bare network behind a normalisation of its own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - 0.5) / 0.5)  # type: ignore[no-any-return]  # of a module


def fitted(images: Tensor, labels: Tensor) -> nn.Sequential:
    """The network of `NETWORK`, whose last layer is fitted to the labels."""
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(NETWORK, names)  # noqa: S102  # the file that the command reads
    network: nn.Sequential = names["small"]()  # type: ignore[operator]
    head = network[3]
    assert isinstance(head, nn.Linear)
    features = plain_logits(network[:3], images).double()
    features = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    ridge = 1e-1 * torch.eye(features.shape[1], dtype=torch.float64)
    targets = nn.functional.one_hot(labels, CLASSES).double()
    weights = torch.linalg.solve(features.T @ features + ridge, features.T @ targets).float() * 8
    head.weight.data, head.bias.data = weights[:-1].T.contiguous(), weights[-1].contiguous()
    return network


@pytest.mark.extensive
def test_verdicts_on_grey_pictures_are_those_of_a_plain_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draws = np.random.default_rng(0)
    for number in range(60):
        folder = tmp_path / "scans" / "abc"[number % CLASSES]
        folder.mkdir(parents=True, exist_ok=True)
        scan(number % CLASSES, draws).save(folder / f"{number:02}.png")
    transform = Compose([Grayscale(), Resize(SIDE), CenterCrop(SIDE), PILToTensor()])
    pictures, targets = zip(*ImageFolder(str(tmp_path / "scans"), transform), strict=True)
    images, labels = torch.stack(pictures), torch.tensor(targets)
    network = fitted(images, labels)
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "suite.toml").write_text(SUITE)
    torch.save(network.state_dict(), tmp_path / "dense.pt")
    expected = {"parent": plain_logits(network, images)}
    first = network[0]
    assert isinstance(first, nn.Conv2d)
    first.weight.data[first.weight.abs() < first.weight.abs().quantile(0.3)] = 0
    torch.save(network.state_dict(), tmp_path / "pruned.pt")
    expected["value"] = plain_logits(network, images)
    words = "check --parent dense.pt --candidate pruned.pt --model net.py:small --setting classes=3 --suite suite.toml"
    words += f" --mean 0.5 --std 0.5 --data scans:side={SIDE} --out run --json"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["evalsuite", *words.split()])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output = capsys.readouterr()
    assert end.value.code == 0, output.err
    rows: dict[str, dict[str, float]] = {row["metric"]: row for row in json.loads(output.out)["checks"]}
    for column, logits in expected.items():
        assert rows["accuracy"][column] == float((logits.argmax(1) == labels).double().mean())
        loss = float(nn.functional.cross_entropy(logits.double(), labels))
        assert rows["nll"][column] == pytest.approx(loss, abs=1e-5)
    assert rows["accuracy"]["parent"] > 0.9
    frame = evaluate(Scaled(network), data=f"scans:side={SIDE}").set_index("metric")
    assert (
        frame.loc["accuracy", "value"] == rows["accuracy"]["value"]
    )  # grey for a module of one channel, unasked


def test_one_number_as_mean_of_a_network_of_colours_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mean of one number makes the pictures grey, which the error of torch alone does not tell."""
    draws = np.random.default_rng(0)
    for number in range(6):
        folder = tmp_path / "scans" / "abc"[number % CLASSES]
        folder.mkdir(parents=True, exist_ok=True)
        scan(number % CLASSES, draws).save(folder / f"{number:02}.png")
    (tmp_path / "net.py").write_text(NETWORK.replace("Conv2d(1,", "Conv2d(3,"))
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(392, 3))
    torch.save(layers.state_dict(), tmp_path / "dense.pt")
    words = "check --parent dense.pt --candidate dense.pt --model net.py:small --mean 0.5 --std 0.5 --out run"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["evalsuite", *words.split(), "--data", f"scans:side={SIDE}"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    sentence = capsys.readouterr().err
    assert (
        "a mean of one number reads pictures as grey: give three for colour (--mean 0.5,0.5,0.5" in sentence
    )
