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
from evalsuite.models.checkpoints import parent_weights
from evalsuite.models.checkpoints.reading import read_checkpoint

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


@pytest.mark.extensive
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


def test_networks_of_a_list_are_candidates_and_parent(place: Path) -> None:
    dense = torch.load(place / "dense.pt")
    worse = {**dense, "linear.bias": 9 * torch.arange(10.0)}
    torch.save([worse, dense], place / "all.pt")
    with pytest.raises(UserError, match=r"all.pt: found a list of 2 networks \(0, 1\); --entry 0 takes one"):
        checked(place, "file,method\nall.pt,all\n")
    run = checked(place, "file,method,entry\nall.pt,second,1\nall.pt,first,0\n")
    values = run.measurements.query("metric == 'accuracy'").set_index("method")["value"]
    assert values["second"] == values["dense"] != values["first"]
    assert "all.pt is a list of 2 networks: entry 1 was taken." in notes(run)
    assert checked(place, "file,method,entry\nall.pt,second,1\nall.pt,first,0\n").record["computed"] == 0
    with pytest.raises(
        UserError, match=r"dense.pt: found no entry '0' but one network, which needs no entry"
    ):
        checked(place, "file,method,entry\ndense.pt,dense again,0\n")


def test_the_entry_of_a_command_counts_for_files_with_several_networks(place: Path) -> None:
    dense = torch.load(place / "dense.pt")
    torch.save([dense, {**dense, "linear.bias": 9 * torch.arange(10.0)}], place / "all.pt")
    for parent, manifest in (("dense.pt", "all.pt,listed"), ("all.pt", "dense.pt,listed")):
        run = checked(place, f"file,method\n{manifest}\n", parent=str(place / parent), entry="0")
        values = run.measurements.query("metric == 'accuracy'").set_index("method")["value"]
        assert values["listed"] == values["dense"]
    with pytest.raises(SuiteError, match="--entry 5: no file holds several networks and one of them there"):
        checked(place, "file,method\nall.pt,listed\n", entry="5")
    with pytest.raises(SuiteError, match="--entry 0: no file holds several networks"):
        checked(place, "file,method\ndense.pt,again\n", entry="0")


def test_heads_that_a_tool_removed_are_stated_for_one_candidate(place: Path, head_fitter: Fitter) -> None:
    """Four heads of eight rows and two of them left: sixteen rows, which are four heads of four as well."""
    options = {"img_size": 32, "patch_size": 8, "depth": 1, "num_heads": 4, "embed_dim": 32, "mlp_ratio": 2.0}
    architecture = architecture_from_uri("timm:vit_tiny_patch16_224", classes=10, options=options)
    save(architecture, place / "vit.pt", head_fitter)
    weights = torch.load(place / "vit.pt")
    kept = [*range(8), *range(16, 24)]
    for name in ("weight", "bias"):
        weights[f"blocks.0.attn.qkv.{name}"] = (
            weights[f"blocks.0.attn.qkv.{name}"].reshape(3, 32, -1)[:, kept].flatten(0, 1)
        )
    weights["blocks.0.attn.qkv.bias"] = weights["blocks.0.attn.qkv.bias"].flatten()
    weights["blocks.0.attn.proj.weight"] = weights["blocks.0.attn.proj.weight"][:, kept]
    torch.save(weights, place / "fewer.pt")
    model: dict[str, Any] = {"model": "timm:vit_tiny_patch16_224", "settings": {"options": options}}
    with pytest.raises(UserError, match=r"fewer.pt: blocks.0.attn: .* the key or column num_heads"):
        checked(place, "file,method\nfewer.pt,fewer\n", parent=str(place / "vit.pt"), **model)
    listed = "file,method,num_heads\nfewer.pt,two,2\nfewer.pt,four,4\n"
    run = checked(place, listed, parent=str(place / "vit.pt"), **model)
    values = run.measurements.query("metric == 'accuracy'").set_index("method")["value"]
    assert values["two"] != values["four"]
    assert "blocks.0.attn: 2 of 8 rows, built with 4 of 8), as num_heads says." in notes(run)
    again = checked(place, listed, parent=str(place / "vit.pt"), **model)
    assert again.record["computed"] == 0


def test_a_number_of_heads_that_spoils_the_parent_is_reported(place: Path, head_fitter: Fitter) -> None:
    options = {"img_size": 32, "patch_size": 8, "depth": 2, "num_heads": 4, "embed_dim": 32, "mlp_ratio": 2.0}
    architecture = architecture_from_uri("timm:vit_tiny_patch16_224", classes=10, options=options)
    torch.manual_seed(0)
    model = build_model(architecture)
    with torch.no_grad():  # attention looks at single tokens, so that it matters which rows are a head
        for name, weight in model.named_parameters():
            weight.mul_(50 if "qkv.weight" in name else 1)
    head_fitter(model)
    torch.save(unwrap_model(model).state_dict(), place / "vit.pt")
    settings: dict[str, Any] = {"options": options, "num_heads": 1}
    parent: dict[str, Any] = {"parent": str(place / "vit.pt"), "model": "timm:vit_tiny_patch16_224"}
    for num_heads in (1, ()):
        changed = {**settings, "num_heads": num_heads}
        run = checked(place, "file,method\nvit.pt,same\n", **parent, settings=changed)
        spoils = "with num_heads as stated, but on" in notes(run)
        assert spoils == bool(num_heads)


@pytest.mark.extensive
def test_the_weights_of_a_parent_of_ones_own_code_are_read_once(
    place: Path, head_fitter: Fitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = f"{place / 'net.py'}:small"
    save(architecture_from_uri(target), place / "own.pt", head_fitter)
    read: list[Path] = []

    def counted(path: Path, **choices: Any) -> Any:
        read.append(path)
        return read_checkpoint(path, **choices)

    monkeypatch.setattr(parent_weights, "read_checkpoint", counted)
    checked(place, "file,method\nown.pt,same\n", parent=str(place / "own.pt"), model=target, settings={})
    assert read == [place / "own.pt"]
