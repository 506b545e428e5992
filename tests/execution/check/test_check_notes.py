"""What a check says about the models themselves: skipped layers, preprocessing, programs; and what it refuses."""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import evalsuite
from evalsuite import api
from evalsuite.config.manifest import read_manifest
from evalsuite.datasets.base import Place, load_checked
from evalsuite.datasets.digits import Digits
from evalsuite.errors import DataError, SuiteError, UserError
from evalsuite.execution.check import CheckRequest, junit
from evalsuite.execution.external_candidates import ExternalCandidateLoader
from evalsuite.models.architectures.base import Normalized, build_model, unwrap_model
from evalsuite.models.architectures.resnet import ResNet20
from evalsuite.models.checkpoints import file_formats
from evalsuite.models.checkpoints.saving import load_model
from evalsuite.models.surgery.bypass import with_bypass
from evalsuite.plugin_config import PluginConfig
from evalsuite.types import ExternalCandidate

Answer = Callable[..., int]
SETTINGS = {"name": "small-cnn", "widths": [8, 12, 16, 16]}
DEAD = ("layer1.1.conv2", "layer1.1.bn2")


@pytest.fixture(scope="module")
def removed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a residual network in which a tool has set a convolution to zero."""
    torch.manual_seed(0)
    network = unwrap_model(build_model(ResNet20()))
    with torch.no_grad():
        network.get_parameter("layer1.1.conv2.weight").zero_()
        network.get_parameter("layer1.1.bn2.bias").fill_(0.5)
    path = tmp_path_factory.mktemp("removed") / "w.pt"
    torch.save(network.state_dict(), path)
    return path


def intake(**settings: Any) -> ExternalCandidateLoader:
    plugin = ResNet20(**settings)
    return ExternalCandidateLoader(PluginConfig("resnet20", "resnet20", {}, plugin), (3, 32, 32), trust=True)


def logits(model: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(torch.rand((4, 3, 32, 32), generator=torch.Generator().manual_seed(0)))
    return found


def test_dead_layers_are_skipped_if_the_manifest_says_so(removed: Path) -> None:
    kept = intake().loaded(ExternalCandidate("w.pt", "w"), removed, None)
    dead = intake().loaded(ExternalCandidate("w.pt", "w", bypass=("dead",)), removed, None)
    named = intake().loaded(ExternalCandidate("w.pt", "w", bypass=DEAD), removed, None)
    assert dead.settings["bypass"] == list(DEAD)
    assert torch.equal(logits(dead.model), logits(named.model))
    assert not torch.allclose(logits(dead.model), logits(kept.model))  # the bias of the norm is gone
    assert "skipped: layer1.1.conv2, layer1.1.bn2." in " ".join(dead.notes)
    (note,) = kept.notes
    assert "2 layers hold only zeros" in note
    assert "bypass = dead" in note


def test_dead_and_named_layers_are_skipped_together(removed: Path) -> None:
    loaded = intake().loaded(
        ExternalCandidate("w.pt", "w", bypass=("layer1.0.conv1", "layer1.0.bn1", "dead")), removed, None
    )
    assert set(loaded.settings["bypass"]) == {*DEAD, "layer1.0.conv1", "layer1.0.bn1"}


def test_layers_that_the_parent_skips_are_skipped_in_its_candidates(removed: Path) -> None:
    found = intake(bypass=DEAD).loaded(ExternalCandidate("w.pt", "w"), removed, None)
    alone = with_bypass(ResNet20(), DEAD)
    assert found.settings["bypass"] == list(alone.bypass)


def test_nothing_dead_is_nothing_skipped(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(unwrap_model(build_model(ResNet20())).state_dict(), tmp_path / "w.pt")
    loaded = intake().loaded(ExternalCandidate("w.pt", "w", bypass=("dead",)), tmp_path / "w.pt", None)
    assert loaded.settings["bypass"] == []
    assert loaded.notes == ()


MISFITS: dict[str, dict[str, Any]] = {
    "bypass": {"bypass": ("gone",)},
    "mean": {"mean": (0.1,)},
    "ratio": {"ratio": 0.7},
    "weights": {"weights": "ema"},
    "masks": {"masks": "other.pt"},
    "model": {"model": "resnet2000"},
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_every_refusal_names_the_file_that_it_is_about(misfit: str, removed: Path, tmp_path: Path) -> None:
    weights = torch.load(removed)
    torch.save({"a.weight": torch.ones(3)}, tmp_path / "other.pt")
    for name in ("parent", "first", "second"):
        torch.save(weights, tmp_path / f"{name}.pt")
    changes = {**MISFITS[misfit]}
    if "masks" in changes:
        changes["masks"] = str(tmp_path / "other.pt")
    second = ExternalCandidate(str(tmp_path / "second.pt"), "second", **changes)
    candidates = (ExternalCandidate(str(tmp_path / "first.pt"), "first"), second)
    request = CheckRequest(parent=str(tmp_path / "parent.pt"), candidates=candidates, data="digits")
    with pytest.raises(UserError, match=r"second\.pt"):
        api.check_dry_run(request, out=tmp_path / "out")


def test_a_candidate_may_have_its_own_preprocessing(removed: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("file,mean,std\nw.pt,0.5 0.5 0.5,0.2 0.2 0.2\n", "utf-8")
    (one,) = read_manifest(tmp_path / "m.csv")
    assert (one.mean, one.std) == ((0.5,) * 3, (0.2,) * 3)
    loaded = intake().loaded(one, removed, None)
    assert isinstance(loaded.model, Normalized)
    assert loaded.model.mean.flatten().tolist() == [0.5] * 3
    assert (loaded.settings["mean"], loaded.settings["std"]) == ([0.5] * 3, [0.2] * 3)
    for bad, sentence in (((0.5,), "1 numbers in mean"), ((0.5, 0.5, float("inf")), "finite")):
        with pytest.raises(SuiteError, match=f"candidate w.pt: .*{sentence}"):
            intake().loaded(ExternalCandidate("w.pt", "w", mean=bad), removed, None)
    (tmp_path / "m.csv").write_text("file,mean\nw.pt,half\n", "utf-8")
    with pytest.raises(SuiteError, match="key 'mean'"):
        read_manifest(tmp_path / "m.csv")


def program(network: nn.Module, path: Path) -> Path:
    images = torch.rand(4, 3, 32, 32)
    exported = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    torch.export.save(exported, path)
    return path


def test_masks_and_bypass_are_not_for_programs(tmp_path: Path) -> None:
    path = program(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).eval(), tmp_path / "p.pt2")
    with pytest.raises(SuiteError, match="is a whole program, which takes no bypass; leave out"):
        intake().loaded(ExternalCandidate("p.pt2", "p", bypass=("dead",)), path, None)


@pytest.mark.extensive
def test_what_is_known_of_a_program_is_in_record_and_report(
    answer: Answer, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that normalises by itself, as most exports do, is not what its accuracy says."""
    network = load_model(SETTINGS, shelf / "light.safetensors")  # with its preprocessing
    program(network, tmp_path / "whole.pt2")
    words = ["--trust-program", "--metric", "accuracy", "--json"]
    twice = [*words, "--candidate", str(tmp_path / "whole.pt2"), "--out", str(tmp_path / "twice")]
    answer(*twice)
    capsys.readouterr()
    notes = {note["note"] for note in record(tmp_path / "twice")["notes"] if note["method"] == "whole"}
    assert any(
        "is a torch.export program, loaded because the user declared it as trusted" in note for note in notes
    )
    page = (tmp_path / "twice" / "index.html").read_text("utf-8")
    assert "loaded because the user declared it as trusted" in page
    assert "Preprocessing of images in [0, 1]" in page
    listed = tmp_path / "models.csv"
    listed.write_text("file,method,mean,std\nwhole.pt2,whole,0 0 0,1 1 1\n", "utf-8")
    right = [*words, "--manifest", str(listed), "--candidate", str(shelf / "light.safetensors")]
    assert answer(*right, "--out", str(tmp_path / "right")) == 0
    found = pd.DataFrame(json.loads(capsys.readouterr().out)["checks"])
    values = found.pivot_table(index="condition", columns="candidate", values="value")
    assert (values["whole"] - values["light"]).abs().max() < 1e-6
    page = (tmp_path / "right" / "index.html").read_text("utf-8")
    assert "none here: the network takes images in [0, 1]" in page


def test_a_parent_behind_wrong_preprocessing_is_doubted_wherever_verdicts_are_read(
    answer: Answer, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--candidate", str(shelf / "light.safetensors"), "--metric", "accuracy"]
    wrong = [*words, "--mean", "0.9,0.9,0.9", "--std", "0.05,0.05,0.05", "--out", str(tmp_path / "wrong")]
    answer(*wrong)
    assert "Warning: the parent is right on " in capsys.readouterr().out
    assert answer(*words, "--out", str(tmp_path / "right")) == 0
    assert "Warning: the parent" not in capsys.readouterr().out
    (note,) = (note for note in record(tmp_path / "wrong")["notes"] if note["method"] == "dense")
    assert "check --mean and --std" in note["note"]
    assert "check --mean and --std" in (tmp_path / "wrong" / "index.html").read_text("utf-8")
    assert record(tmp_path / "right")["notes"] == []


@pytest.mark.parametrize("exchanged", [4, 10], ids=["some", "all"])
def test_a_parent_of_classes_in_another_order_is_told_which(
    exchanged: int, answer: Answer, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where most labels are wrong the check is refused; where few are, the verdicts stand beside a warning."""
    images = load_checked(Digits(), "test", Place())
    assert images.labels is not None
    order = np.arange(10)
    order[:exchanged] = np.roll(order[:exchanged], 1)
    (tmp_path / "mine").mkdir()
    np.save(tmp_path / "mine" / "test_images.npy", images.images.transpose(0, 2, 3, 1))
    np.save(tmp_path / "mine" / "test_labels.npy", order[images.labels])
    words = [
        "--candidate",
        str(shelf / "light.safetensors"),
        "--data",
        str(tmp_path / "mine"),
        "--metric",
        "accuracy",
    ]
    code = answer(*words, "--out", str(tmp_path / "run"))
    said = capsys.readouterr()
    assert (code == 2) == (exchanged == 10)
    text = said.err if exchanged == 10 else said.out
    names = f"0 class {exchanged - 1}, 1 class 0, 2 class 1"
    assert re.search(rf"as the classes are numbered, but on 9\d\.\d% with the order {names}", text)


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text("utf-8"))
    return found


class Bait:
    """Would make a file if it were unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return open, (str(self.proof), "w")


def broken(kind: str, good: dict[str, torch.Tensor], path: Path) -> None:
    name = next(iter(good))
    if kind == "directory":
        path.mkdir()
    elif kind == "unreadable":
        torch.save(good, path)
        path.chmod(0)
    elif kind == "truncated":
        torch.save(good, path)
        path.write_bytes(path.read_bytes()[:-400])
    elif kind == "bait":
        torch.save({"state_dict": good, "x": Bait(path.with_name("proof"))}, path)
    elif kind == "bomb":
        torch.save({**good, "more": torch.zeros(2**20)}, path)
        with zipfile.ZipFile(path) as archive:
            entries = {entry: archive.read(entry) for entry in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry, content in entries.items():
                archive.writestr(entry, content)
    elif kind == "classes":
        cut = {key: value[:7] for key, value in good.items() if value.dim() and len(value) == 10}
        torch.save(good | cut, path)
    else:
        change: Callable[[torch.Tensor], torch.Tensor] = {
            "NaN": lambda tensor: tensor * float("nan"),
            "Inf": lambda tensor: tensor / 0,
            "type": lambda tensor: tensor.long(),
            "shape": lambda tensor: tensor[:, :, :1],
        }[kind]
        torch.save({**good, name: change(good[name])}, path)


@pytest.mark.parametrize("command", ["check", "inspect"])
@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("directory", "found a directory"),
        ("unreadable", "cannot be read"),
        ("truncated", "truncated"),
        ("bait", "would run _?io.open, .* no checkpoint needs that"),
        ("bomb", "would unpack to"),
        ("NaN", "NaN or infinite values"),
        ("Inf", "NaN or infinite values"),
        ("type", "of another kind of number"),
        ("shape", "do not fit|does not fit"),
        ("classes", "has 7 classes, the model has 10"),
    ],
)
def test_each_broken_file_is_one_sentence_and_writes_nothing(
    command: str,
    kind: str,
    sentence: str,
    answer: Answer,
    shelf: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kind == "unreadable" and os.geteuid() == 0:
        pytest.skip(
            "root may read everything; tests/models/checkpoints/test_reading_mistaken.py has the sentence"
        )
    good = torch.load(shelf / "dense.pt", weights_only=True)["state_dict"]
    path = tmp_path / "candidate.pt"
    broken(kind, good, path)
    monkeypatch.setattr(file_formats, "MAX_UNPACKED_BYTES", 2**20)
    before = sorted(tmp_path.iterdir())
    if command == "check":
        assert answer("--candidate", str(path), "--out", str(tmp_path / "run")) == 2
        said = capsys.readouterr().err
        assert pd.Series([said]).str.contains(sentence).all(), said
        assert said.count("evalsuite:") == 1
        assert not list(tmp_path.glob("run/*.csv")) + list(tmp_path.glob("run/*.html"))
    elif kind not in ("type", "shape", "classes"):  # what does not fit is still worth a look
        inspected(path, monkeypatch)
        said = capsys.readouterr().err
        assert pd.Series([said]).str.contains(sentence).all(), said
        assert sorted(tmp_path.iterdir()) == before
    assert not (tmp_path / "proof").exists()


def inspected(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evalsuite.cli import main as cli

    monkeypatch.setattr("sys.argv", ["evalsuite", "inspect", str(path)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2


def test_a_guessed_architecture_must_have_the_accuracy_that_its_file_records(
    shelf: Path, tmp_path: Path
) -> None:
    content = torch.load(shelf / "dense.pt")
    suite = tmp_path / "accuracy.toml"
    suite.write_text('[[evaluators]]\nname = "accuracy"\n[tolerances]\naccuracy = 0.05\n')

    def notes(name: str, recorded: float, **more: Any) -> str:
        torch.save({**content, "best_prec1": recorded, "best_robust_acc": 1.0}, tmp_path / "dense.pt")
        candidates = (ExternalCandidate(str(shelf / "light.safetensors"), "light"),)
        request = CheckRequest(str(tmp_path / "dense.pt"), candidates, "digits", suite=str(suite), **more)
        run = next(
            part for part in evalsuite.check(request, out=tmp_path / name) if isinstance(part, evalsuite.Run)
        )
        return str(run.notes)

    with pytest.raises(
        DataError, match=r"its file records best_prec1 = 5\.0%, and the architecture was guessed \(small"
    ):
        notes("far", 5.0)
    ignored = notes("ignored", 5.0, ignore_recorded_accuracy=True)
    assert "The architecture is small-cnn, guessed from names and shapes of the tensors" in ignored
    assert "its file records best_prec1 = 5.0%." in ignored
    assert "records best_prec1" in notes("named", 5.0, model="small-cnn")
    with pytest.raises(SuiteError, match="of use for a guessed architecture alone"):
        notes("no effect", 5.0, model="small-cnn", ignore_recorded_accuracy=True)


def test_a_manifest_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    lines = "file;method;ratio;mean\nw.pt;a;0,5;0,1 0,2 0,3\n"
    (tmp_path / "m.csv").write_text(lines, "utf-8-sig")
    (candidate,) = read_manifest(tmp_path / "m.csv")
    expected = ExternalCandidate("w.pt", "a", ratio=0.5, mean=(0.1, 0.2, 0.3))
    assert candidate == expected
    for content in (lines.encode("utf-16"), lines.replace(";", "\t").replace("\n", "\r\n").encode("utf-16")):
        (tmp_path / "m.csv").write_bytes(content)  # what is called Unicode text there
        assert read_manifest(tmp_path / "m.csv") == (expected,)
    (tmp_path / "m.csv").write_text("\ufefffile,method\nw.pt,a;b\n", "utf-8")
    assert read_manifest(tmp_path / "m.csv") == (ExternalCandidate("w.pt", "a;b"),)


def test_junit_is_xml_whatever_a_name_holds() -> None:
    row = {
        "candidate": "a\x1b[2J",
        "metric": "accuracy",
        "condition": "c\x00",
        "passed": True,
        "value": float("nan"),
        "reason": "\x07",
        "flags": "",
        "sample": "",
    }
    root = ET.fromstring(junit(pd.DataFrame([row])))  # noqa: S314  # our own
    assert root[0].get("name") == r"a\x1b[2J"
