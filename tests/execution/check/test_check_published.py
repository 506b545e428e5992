"""Every published checkpoint through the commands: the accuracy that its source states, to the digit."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from evalsuite import model_checks
from evalsuite.api import check
from evalsuite.cli import main as cli
from evalsuite.execution.check import CheckRequest
from evalsuite.models.architectures.base import unwrap_model
from evalsuite.models.architectures.uris import architecture_from_uri
from evalsuite.models.batch_norm import reestimate_batch_norms
from evalsuite.models.checkpoints.loading import load_candidate
from evalsuite.models.checkpoints.reading import read_weights
from evalsuite.types import ExternalCandidate

ROOT = os.environ.get("EVALSUITE_DATA", "")
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not ROOT, reason="EVALSUITE_DATA is not set: no real images and checkpoints"),
]
SUITE = """
name = "accuracy"
[data]
name = "cifar10"
[[evaluators]]
name = "accuracy"
[tolerances]
accuracy = 0.02
"""
IMAGENET = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
HALF = ("--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--setting", "shortcut=B", "--model", "resnet20")
CIFAR = ("--mean", "0.4914,0.4822,0.4465", "--std", "0.2471,0.2435,0.2616")

DENSE = "distiller/checkpoint_trained_dense.pth.tar"
PICKLED = "distiller/checkpoint_trained_channel_regularized_resnet20.pth.tar"
TUNED = "distiller/checkpoint_trained_channel_regularized_resnet20_finetuned.pth.tar"
REMADE = {
    PICKLED: "distiller/channel_regularized_resnet20_state_dict.pt",
    TUNED: "distiller/channel_regularized_resnet20_finetuned_state_dict.pt",
}
"""Files with a pickled class, and what somebody took out of them."""
DISTILLER = (
    ("distiller/checkpoint_trained_ch_regularized_dense.pth.tar", "", 90.82),
    ("distiller/checkpoint_trained_4D_regularized_5Lremoved.pth.tar", "", 90.73),
    ("distiller/checkpoint_trained_4D_regularized_5Lremoved_finetuned.pth.tar", "dead", 91.10),
    (PICKLED, "", 91.15),
    (TUNED, "", 91.54),
)
SEEDS = tuple(
    (f"seeds/resnet20_seed{seed}.th", "", accuracy)
    for seed, accuracy in ((1, 92.50), (2, 92.22), (3, 92.70), (4, 92.39))
)
SLOW = (
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("EVALSUITE_SLOW"), reason="EVALSUITE_SLOW is not set"),
)
Answer = tuple[int, str, str]
Command = Callable[..., Answer]


def checkpoint(name: str) -> Path:
    path = Path(ROOT) / "checkpoints" / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


@pytest.fixture(autouse=True)
def few_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the doubts about preprocessing, of which these tests want no more than silence, see fewer images."""
    monkeypatch.setattr(model_checks, "PREPROCESSING_PROBE", 32)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in this process: exit code, output, errors."""

    def run(*words: object) -> Answer:
        monkeypatch.setattr("sys.argv", ["evalsuite", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return run


def checked(command: Command, parent: Path, rows: Sequence[tuple[Path, str]], *words: str) -> pd.DataFrame:
    """Verdicts on accuracy, one row per candidate, named after its place in `rows`."""
    folder = Path.cwd()
    (folder / "accuracy.toml").write_text(SUITE, "utf-8")
    with (folder / "models.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file", "method", "bypass"))
        table.writerows((path, f"m{index}", bypass) for index, (path, bypass) in enumerate(rows))
    fixed = ("--manifest", "models.csv", "--suite", "accuracy.toml", "--out", "run", "--json")
    code, out, err = command("check", "--parent", parent, *fixed, *words)
    assert code in (0, 1), err
    found = (
        pd.DataFrame(json.loads(out)["checks"])
        .set_index("candidate")
        .loc[[f"m{i}" for i in range(len(rows))]]
    )
    assert code == (0 if found["passed"].all() else 1)
    return found


def right(accuracy: float) -> float:
    """Per cent with two digits as the fraction of 10,000 images."""
    return round(100 * accuracy) / 10_000


def converted(command: Command, file: Path, name: str) -> Path:
    """The weights that the lines in the refusal take out of a file with a pickled class."""
    code, _, err = command("inspect", file)
    assert code == 2
    assert "would run distiller.thinning.ThinningRecipe" in err
    recipe = err.partition("run none of its code:\n")[2]
    exec(compile(recipe, "recipe", "exec"), {})  # noqa: S102  # what the sentence tells the user to do
    return Path("weights.pt").rename(name).resolve()


@pytest.mark.extensive
def test_distillers_family(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = [(checkpoint(name), bypass) for name, bypass, _ in DISTILLER]
    code, _, err = command("check", "--parent", checkpoint(DENSE), "--candidate", checkpoint(PICKLED), *HALF)
    assert code == 2
    assert "would run distiller.thinning.ThinningRecipe" in err
    assert not (tmp_path / "reports" / "check" / "index.html").exists()
    ready = [
        (converted(command, path, f"{path.stem}.pt") if name in REMADE else path, bypass)
        for (path, bypass), (name, *_) in zip(files, DISTILLER, strict=True)
    ]
    for name, remade in REMADE.items():  # the same numbers: once through the network is enough for both
        theirs, ours = read_weights(checkpoint(remade)), read_weights(Path(f"{checkpoint(name).stem}.pt"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    found = checked(command, checkpoint(DENSE), ready, *HALF)
    assert set(found["parent"]) == {right(91.71)}
    assert found["value"].tolist() == [right(accuracy) for *_, accuracy in DISTILLER]
    notes = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))["notes"]
    assert {note["method"] for note in notes if "layers are skipped" in note["note"]} == {"m2"}
    assert {note["method"] for note in notes if "hold only zeros" in note["note"]} == {"m1"}
    assert found["macs"].tolist()[2] < 0.75 * found["macs"].tolist()[1]  # skipped layers cost nothing


@pytest.mark.extensive
@pytest.mark.parametrize(
    "seeds", [SEEDS[:2], pytest.param(SEEDS[2:], marks=SLOW)], ids=["1 and 2", "3 and 4"]
)
def test_akamasters_resnet20_and_its_other_seeds(
    seeds: tuple[tuple[str, str, float], ...],
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    files = [(checkpoint(name), bypass) for name, bypass, _ in seeds]
    found = checked(command, checkpoint("akamaster/resnet20-12fca82f.th"), files, *IMAGENET)  # guessed
    assert set(found["parent"]) == {right(91.73)}
    assert found["value"].tolist() == [right(accuracy) for *_, accuracy in seeds]
    assert set(found["ratio"]) == {0.0}


@pytest.mark.parametrize(("name", "accuracy"), [("resnet2b", 69.25), ("resnet4b", 77.20)])
def test_crowns_networks(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, accuracy: float
) -> None:
    monkeypatch.chdir(tmp_path)
    file = checkpoint(f"crown/{name}.pth")
    found = checked(command, file, [(file, "")], *CIFAR)
    assert (found["parent"].iloc[0], found["value"].iloc[0]) == (right(accuracy),) * 2


@pytest.mark.slow
@SLOW[1]
@pytest.mark.parametrize(
    ("name", "accuracy"),
    [("resnet32-d509ac18", 92.63), ("resnet44-014dd654", 93.11), ("resnet56-4bfd9763", 93.39)],
)
def test_akamasters_deeper_networks(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, accuracy: float
) -> None:
    monkeypatch.chdir(tmp_path)
    file = checkpoint(f"akamaster/{name}.th")
    found = checked(command, file, [(file, "")], *IMAGENET)
    assert (found["parent"].iloc[0], found["value"].iloc[0]) == (right(accuracy),) * 2


@pytest.mark.extensive
def test_a_slimmed_network_before_and_after_its_norms_are_estimated_again(tmp_path: Path) -> None:
    """Both numbers are those of the first 2,000 test images."""
    file = checkpoint("early_bird/pruned_50.pth.tar")
    settings: dict[str, Any] = {"depth": 101, "std": [0.2023, 0.1994, 0.2010]}
    model = load_candidate(file, architecture_from_uri("preresnet", **settings), image_shape=(3, 32, 32))
    model = model.to(memory_format=torch.channels_last)  # faster
    train = np.load(Path(ROOT) / "cifar10" / "train_images.npy", mmap_mode="r")[:2000].transpose(0, 3, 1, 2)
    torch.save(
        unwrap_model(reestimate_batch_norms(model, train, batch_size=200)).state_dict(), tmp_path / "again.pt"
    )
    (tmp_path / "accuracy.toml").write_text(SUITE, "utf-8")
    question = CheckRequest(
        parent=str(file),
        candidates=(ExternalCandidate(str(tmp_path / "again.pt"), "again"),),
        model="preresnet",
        settings=settings,
        data={"name": "cifar10", "test_limit": 2000},
        suite=str(tmp_path / "accuracy.toml"),
    )
    found, run = check(question, out=tmp_path / "run")
    assert set(run.measurements.query("metric == 'accuracy'")["n"]) == {2000}
    assert found["parent"].tolist() == [511 / 2000]  # 25.55 %
    assert found["value"].tolist() == [1607 / 2000]  # 80.35 %


@pytest.mark.parametrize(
    ("file", "fits", "smaller"),
    [
        (DENSE, "resnet20 (", False),
        *((name, "resnet20", False) for name, *_ in DISTILLER if name not in REMADE),
        *((name, "resnet20", True) for name in REMADE.values()),
        *((name, "resnet20 (", False) for name, *_ in SEEDS),
        ("akamaster/resnet20-12fca82f.th", "resnet20 (", False),
        ("akamaster/resnet32-d509ac18.th", "resnet32 (", False),
        ("akamaster/resnet44-014dd654.th", "resnet44 (", False),
        ("akamaster/resnet56-4bfd9763.th", "resnet56 (", False),
        ("crown/resnet2b.pth", "resnet2b (", False),
        ("crown/resnet4b.pth", "resnet4b (", False),
        ("early_bird/pruned_50.pth.tar", "preresnet with fewer channels", True),
    ],
)
def test_inspect_knows_every_checkpoint(command: Command, file: str, fits: str, smaller: bool) -> None:
    code, out, err = command("inspect", checkpoint(file), "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["fits"].startswith(fits)
    assert ("with fewer channels" in found["fits"]) == smaller
    assert found["image"] == [3, 32, 32]
    assert found["macs"] >= found["macs_nonzero"] > 1e5
    weights = read_weights(checkpoint(file))
    counted = [
        tensor
        for name, tensor in weights.items()
        if not re.search(r"running_|num_batches|indexes|mask", name)
    ]
    assert found["parameters"] == sum(tensor.numel() for tensor in counted)
    assert found["nonzero"] == sum(int(tensor.count_nonzero()) for tensor in counted)
