"""Whole programs as candidates: taken on trust, counted where they show their weights, claimed where they do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from evalsuite.models.architectures.base import unwrap_model
from evalsuite.models.checkpoints.saving import load_model
from evalsuite.results.run import Run

Answer = Callable[..., int]
SETTINGS = {"name": "small-cnn", "widths": [8, 12, 16, 16]}


@pytest.fixture(scope="module")
def network(shelf: Path) -> nn.Module:
    return unwrap_model(load_model(SETTINGS, shelf / "light.safetensors"))


def rows(out: str) -> pd.DataFrame:
    return pd.DataFrame(json.loads(out)["checks"])


@pytest.mark.extensive
def test_an_exported_program_needs_trust_and_then_is_what_its_weights_are(
    answer: Answer, network: nn.Module, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = torch.rand(4, 3, 32, 32)
    program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    torch.export.save(program, tmp_path / "program.pt2")
    words = ["--candidate", str(tmp_path / "program.pt2"), "--candidate", str(shelf / "light.safetensors")]
    assert answer(*words, "--out", str(tmp_path / "run")) == 2
    assert "--trust-program" in capsys.readouterr().err
    assert not (tmp_path / "run").exists() or not (tmp_path / "run" / "measurements.csv").exists()
    assert answer(*words, "--trust-program", "--json", "--out", str(tmp_path / "run")) == 0
    found = rows(capsys.readouterr().out).pivot_table(index="condition", columns="candidate", values="value")
    assert (found["program"] - found["light"]).abs().max() < 1e-6
    table = Run(tmp_path / "run").measurements.groupby("method").first()
    assert table.loc["program", "ratio"] == pytest.approx(table.loc["light", "ratio"], abs=1e-9)
    assert table["macs"].isna()["program"]


def test_onnx_is_data_and_says_its_ratio_where_it_shows_no_weights(
    answer: Answer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = pytest.importorskip("onnx")
    weight = torch.randn(3 * 32 * 32, 10, generator=torch.Generator().manual_seed(0)).numpy()
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Flatten", ["x"], ["f"]),
            onnx.helper.make_node("MatMul", ["f", "w"], ["z"]),
            onnx.helper.make_node("Det", ["square"], ["d"]),  # which nobody can convert
            onnx.helper.make_node("Mul", ["z", "d"], ["y"]),
        ],
        "linear",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 32, 32])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 10])],
        [
            onnx.numpy_helper.from_array(weight, "w"),
            onnx.numpy_helper.from_array(torch.eye(2).numpy(), "square"),
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, str(tmp_path / "linear.onnx"))
    listed = tmp_path / "models.csv"
    listed.write_text("file,method\nlinear.onnx,linear\n", "utf-8")
    words = ("--manifest", str(listed), "--json", "--out", str(tmp_path / "run"))
    assert answer(*words) == 2
    assert "shows none of its weights" in capsys.readouterr().err
    listed.write_text("file,method,ratio\nlinear.onnx,linear,0.5\n", "utf-8")
    assert answer(*words) == 1  # it knows nothing about digits
    found = rows(capsys.readouterr().out)
    assert set(found["ratio"]) == {0.5}
    assert not found["passed"].any()
