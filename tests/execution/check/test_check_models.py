"""Candidates of another class than their parent, model folders, and files with two sets of weights, through a check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import evalsuite
from evalsuite.cli.main import main
from evalsuite.config.manifest import read_manifest
from evalsuite.errors import SuiteError, UserError
from evalsuite.execution.check import CheckRequest, suite_for
from evalsuite.models.architectures.base import Architecture, build_model, unwrap_model
from evalsuite.models.architectures.uris import architecture_from_uri

SUITE = "[[evaluators]]\nname = 'accuracy'\n[tolerances]\naccuracy = 0.05\n"
NETWORK = """
from torch import nn


def small(num_classes=10, width=6):
    layers = [nn.Conv2d(3, width, 8, stride=8), nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, num_classes)]
    return nn.Sequential(*layers)
"""


Fitter = Callable[[nn.Module], None]


def save(architecture: Architecture, path: Path, fit: Fitter) -> None:
    torch.manual_seed(0)
    model = build_model(architecture)
    fit(model)
    torch.save(unwrap_model(model).state_dict(), path)


@pytest.fixture
def place(tmp_path: Path, head_fitter: Fitter) -> Path:
    """A folder with a dense network, a smaller one of another class, and a manifest that lists it."""
    (tmp_path / "suite.toml").write_text(SUITE)
    (tmp_path / "net.py").write_text(NETWORK)
    save(architecture_from_uri("small-cnn", widths=[8, 12, 16, 16]), tmp_path / "dense.pt", head_fitter)
    save(
        architecture_from_uri(f"{tmp_path / 'net.py'}:small", options={"width": 4}),
        tmp_path / "other.pt",
        head_fitter,
    )
    return tmp_path


def checked(place: Path, manifest: str, **changes: Any) -> evalsuite.Run:
    (place / "models.csv").write_text(manifest)
    request = CheckRequest(
        **{
            "parent": str(place / "dense.pt"),
            "candidates": read_manifest(place / "models.csv"),
            "model": "small-cnn",
            "settings": {"widths": [8, 12, 16, 16]},
            "data": {"name": "digits"},
            "suite": str(place / "suite.toml"),
            **changes,
        }
    )
    return evalsuite.run(suite_for(request, folder=place), out=place / "run")


def notes(run: evalsuite.Run) -> str:
    return " ".join(note["note"] for note in run.record["notes"])


def test_a_candidate_may_be_another_class_than_its_parent(place: Path) -> None:
    run = checked(place, "file,method,model\nother.pt,other,net.py:small options.width=4\n")
    [candidate] = [candidate for key, candidate in run.candidates.items() if key.method == "other"]
    assert candidate.cost.parameters == 4 * 3 * 64 + 4 + 64 * 10 + 10
    assert "other" in set(run.measurements["method"])
    again = checked(place, "file,method,model\nother.pt,other,net.py:small options.width=4\n")
    assert again.record["computed"] == 0


def test_a_candidate_that_does_not_fit_its_class_is_named(place: Path) -> None:
    with pytest.raises(UserError, match=r"other.pt.*the weights do not fit"):
        checked(place, "file,method,model\nother.pt,other,small-cnn\n")
    with pytest.raises(UserError, match=r"other.pt: unknown model 'smal-cnn'"):
        checked(place, "file,method,model\nother.pt,other,smal-cnn\n")


def test_a_model_folder_is_parent_and_candidate(place: Path, vit_folder: Path) -> None:
    run = checked(place, f"file,method\n{vit_folder},folder\n", parent=str(vit_folder), model="", settings={})
    assert "ImageClassifierOutput" in notes(run)
    values = run.measurements.query("metric == 'accuracy'").set_index("method")["value"]
    assert values["folder"] == values["dense"]


def test_a_model_folder_beside_a_parent_of_another_library(place: Path, vit_folder: Path) -> None:
    run = checked(place, f"file,method\n{vit_folder},folder\n")
    assert len(run.measurements.query("method == 'folder'"))


def test_a_folder_that_is_no_model_is_one_sentence(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["check", "--data", "digits", "--suite", str(place / "suite.toml"), "--out", str(place / "run")]
    for parent, candidate in ((place, place / "dense.pt"), (place / "dense.pt", place)):
        for model in ([], ["--model", "small-cnn", "--setting", "widths=8,12,16,16"]):
            paths = ["--parent", str(parent), "--candidate", str(candidate)]
            monkeypatch.setattr("sys.argv", ["evalsuite", *words, *paths, *model])
            with pytest.raises(SystemExit) as stopped:
                main()
            assert stopped.value.code == 2
            assert "config.json" in capsys.readouterr().err


def test_both_sets_of_weights_of_a_file_can_be_checked(place: Path) -> None:
    dense = torch.load(place / "dense.pt")
    raw = {name: torch.zeros_like(tensor) for name, tensor in dense.items()}
    raw["linear.bias"] = torch.arange(10.0)
    torch.save({"state_dict": raw, "state_dict_ema": dense}, place / "last.pt")
    run = checked(place, "file,method,weights\nlast.pt,averaged,\nlast.pt,raw,raw\n")
    values = run.measurements.query("metric == 'accuracy'").set_index("method")["value"]
    assert values["averaged"] == values["dense"]
    assert values["raw"] != values["dense"]
    assert "last.pt holds raw weights (state_dict) and averaged ones (state_dict_ema)" in notes(run)


def test_the_name_of_a_suites_model_may_be_a_reference(place: Path) -> None:
    from evalsuite.config.suite_file import suite_from_tables

    tables: dict[str, Any] = {"name": "x", "data": {"name": "digits"}, "ratios": [0.5]}
    tables |= {"producers": [{"name": "magnitude"}], "evaluators": [{"name": "accuracy"}]}

    def model(**table: Any) -> dict[str, Any]:
        return suite_from_tables({**tables, "model": table}, source=place / "x.toml").model.table

    assert model(name="torchvision:resnet18") == model(name="torchvision", model="resnet18")
    assert model(name="timm:resnet18", classes=3) == model(name="timm", model="resnet18", classes=3)
    assert model(name="net.py:small")["target"] == f"{place / 'net.py'}:small"
    with pytest.raises(SuiteError, match="found model beside name = 'timm:resnet18'"):
        model(name="timm:resnet18", model="resnet34")
