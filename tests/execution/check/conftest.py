"""A dense network that has learned, what a tool made of it, and a battery to put them through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from evalsuite.cli import main as cli
from evalsuite.models.architectures.base import build_model, unwrap_model
from evalsuite.models.architectures.cnn import SmallCNN
from evalsuite.producers.unstructured.base import masks_for_budget

WIDTHS = (8, 12, 16, 16)


@pytest.fixture(scope="session")
def shelf(small_suite: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense network that has learned, an honest candidate, a broken one, and a battery."""
    from evalsuite.datasets.base import Place
    from evalsuite.datasets.digits import Digits
    from evalsuite.training.loop import train
    from evalsuite.training.recipe import Recipe

    folder = tmp_path_factory.mktemp("shelf of models")
    torch.manual_seed(0)
    model = build_model(SmallCNN(widths=WIDTHS))
    train(model, Digits().load("train", Place()), Recipe(epochs=4, batch_size=32), seed=0)
    torch.save({"state_dict": unwrap_model(model).state_dict(), "epoch": 4}, folder / "dense.pt")
    total = sum(int(p.count_nonzero()) for p in model.parameters())
    for share, name in ((0.2, "light.safetensors"), (0.97, "heavy.safetensors")):
        weights = {key: layer.abs() for key, layer in _weights(model).items()}
        masks = masks_for_budget(model, weights, total - round(share * total))
        state = {key: value.clone() for key, value in unwrap_model(model).state_dict().items()}
        for key, mask in masks.items():
            state[key.removeprefix("network.")] *= mask
        save_file(state, folder / name)
    battery = small_suite(
        "battery",
        producers=('name = "random"',),
        evaluators=('name = "accuracy"', 'name = "noise"\nepsilons = [32]'),
        tolerances="accuracy = 0.02",
    )
    (folder / "battery.toml").write_text(battery, "utf-8")
    return folder


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: layer.weight.detach()
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }


Answer = Callable[..., int]


@pytest.fixture
def answer(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Calls ``check`` with the shelf's parent and battery and more words, and returns its exit code."""

    def code(*more: str) -> int:
        words = [
            "check", "--parent", str(shelf / "dense.pt"), "--model", "small-cnn", "--data", "digits",
            "--setting", "widths=8,12,16,16", "--suite", str(shelf / "battery.toml"), *more,
        ]  # fmt: skip
        monkeypatch.setattr("sys.argv", ["evalsuite", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0)

    return code
