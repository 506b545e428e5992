"""Raw and averaged weights in one file: which are taken, what is said of it, and how to choose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evalsuite.errors import CheckpointError
from evalsuite.models.checkpoints.inspection import inspect_checkpoint
from evalsuite.models.checkpoints.reading import read_checkpoint, read_weights

RAW = {"conv.weight": torch.ones(2, 3, 1, 1), "conv.bias": torch.ones(2)}
AVERAGED = {name: 2 * tensor for name, tensor in RAW.items()}


def under(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in weights.items()}


MODULE = under("module", AVERAGED)

FILES: dict[str, tuple[dict[str, Any], str, str]] = {
    "timm": ({"state_dict": RAW, "state_dict_ema": AVERAGED}, "state_dict", "state_dict_ema"),
    "torchvision": (
        {"model": RAW, "model_ema": {"n_averaged": torch.tensor(5), **MODULE}, "epoch": 3},
        "model",
        "model_ema",
    ),
    "plain": ({"model_state_dict": RAW, "ema_state_dict": AVERAGED}, "model_state_dict", "ema_state_dict"),
    "nested": ({"model": RAW, "ema": {"module": AVERAGED}}, "model", "ema.module"),
    "lightning": (
        {
            "state_dict": {
                **under("net", RAW),
                **under("net_ema", AVERAGED),
                "criterion.weight": torch.ones(2),
            }
        },
        "state_dict",
        "state_dict.net_ema",
    ),
    "ema-pytorch": (
        {
            **under("online_model", RAW),
            **under("ema_model", AVERAGED),
            "initted": torch.tensor(1),
            "step": torch.tensor(9),
        },
        "online_model",
        "ema_model",
    ),
    "bare": ({**RAW, **under("swa_model.module", AVERAGED)}, "its top level", "swa_model"),
}


def saved(path: Path, content: dict[str, Any]) -> Path:
    torch.save(content, path)
    return path


def value(weights: dict[str, Tensor]) -> float:
    assert weights.keys() == RAW.keys()
    return float(weights["conv.bias"][0])


@pytest.mark.parametrize("kind", FILES)
def test_averaged_weights_are_taken_and_the_others_can_be_chosen(kind: str, tmp_path: Path) -> None:
    content, raw_name, averaged_name = FILES[kind]
    file = saved(tmp_path / "last.pt", content)
    by_default = read_checkpoint(file)
    assert (value(by_default.weights), by_default.wrapper) == (2.0, averaged_name)
    assert f"raw weights ({raw_name}) and averaged ones ({averaged_name})" in by_default.note
    assert "--weights raw takes the others" in by_default.note
    assert value(read_weights(file, choice="ema")) == 2.0
    raw = read_checkpoint(file, choice="raw")
    assert (value(raw.weights), raw.wrapper) == (1.0, "" if raw_name == "its top level" else raw_name)
    assert inspect_checkpoint(file, choice="raw").note == raw.note


def test_averages_of_some_weights_only_are_no_second_set(tmp_path: Path) -> None:
    """An average of the trained weights lacks the running statistics; it would not load."""
    file = saved(tmp_path / "last.pt", {"state_dict": RAW, "ema": {"conv.bias": AVERAGED["conv.bias"]}})
    assert read_checkpoint(file).note == ""
    assert value(read_weights(file)) == 1.0
    file = saved(tmp_path / "inside.pt", {**under("net", RAW), "net_ema.conv.bias": AVERAGED["conv.bias"]})
    assert read_checkpoint(file).note == ""
    assert set(read_weights(file)) == {"net.conv.weight", "net.conv.bias", "net_ema.conv.bias"}


def test_a_choice_that_a_file_does_not_have_is_an_error(tmp_path: Path) -> None:
    alone = saved(tmp_path / "raw.pt", {"state_dict": RAW})
    with pytest.raises(CheckpointError, match=r"found no averaged weights \(ema\) beside state_dict"):
        read_weights(alone, choice="ema")
    assert value(read_weights(alone, choice="raw")) == 1.0
    averaged = saved(tmp_path / "ema.pt", {"model_ema": AVERAGED})
    with pytest.raises(CheckpointError, match=r"found no raw weights \(raw\) beside model_ema"):
        read_weights(averaged, choice="raw")
    assert value(read_weights(averaged, choice="ema")) == 2.0
