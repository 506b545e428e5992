"""The engineer's own pictures: class folders, a network that was fitted to them, and a pruned copy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torchvision import models
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

from evalsuite import api
from evalsuite.cli import main as cli
from evalsuite.errors import UserError
from evalsuite.execution.check import CheckRequest
from evalsuite.execution.dry_run import DryRun
from evalsuite.execution.planning import prepare
from evalsuite.models.architectures.base import IMAGENET_MEAN, IMAGENET_STD
from evalsuite.types import ExternalCandidate

NAMES = ("apple", "bus", "cup", "door", "egg", "fern", "glove", "hat", "ink", "jar")
SIDE = 32
ACCURACY = """
{more}
[[evaluators]]
name = "accuracy"
[tolerances]
accuracy = 0.5
nll = 5.0
"""
Check = Callable[..., tuple[int, str]]


def photo(label: int, draws: np.random.Generator) -> Image.Image:
    """A shape of a colour of its class on noise, of a size of its own."""
    width, height = (int(draws.integers(36, 60)) for _ in range(2))
    canvas = Image.fromarray(draws.integers(0, 80, (height, width, 3), dtype=np.uint8))
    left, top = (int(draws.integers(2, 12)) for _ in range(2))
    colour = ((label * 83) % 256, (label * 151) % 256, (label * 37 + 90) % 256)
    shape = ImageDraw.Draw(canvas).ellipse if label % 2 else ImageDraw.Draw(canvas).rectangle
    shape((left, top, left + 22, top + 22), fill=colour)
    return canvas


def tensors(folder: Path) -> tuple[Tensor, Tensor]:
    """The pictures as torchvision reads them, uint8, and their labels."""
    transform = Compose([Resize(SIDE), CenterCrop(SIDE), PILToTensor()])
    images, labels = zip(*ImageFolder(str(folder), transform), strict=True)
    return torch.stack(images), torch.tensor(labels)


def logits(network: nn.Module, images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.inference_mode():
        return torch.cat([network((batch.float() / 255 - mean) / std) for batch in torch.split(images, 32)])


@pytest.fixture(scope="module", name="home")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``photos`` with 120 JPEGs in ten folders, ``dense.pt`` whose head was fitted to them, and ``pruned.pt``."""
    home, draws = tmp_path_factory.mktemp("home"), np.random.default_rng(0)
    for number in range(120):
        folder = home / "photos" / NAMES[number % 10]
        folder.mkdir(parents=True, exist_ok=True)
        photo(number % 10, draws).save(folder / f"{number:03}.jpg", quality=92)
    torch.manual_seed(0)
    network = models.resnet18(num_classes=10).eval()
    images, labels = tensors(home / "photos")
    head, network.fc = network.fc, nn.Identity()
    features = logits(network, images)
    features = torch.cat([features, torch.ones(len(features), 1)], dim=1).double()
    ridge = 1e-4 * torch.eye(features.shape[1], dtype=torch.float64)
    targets = nn.functional.one_hot(labels, 10).double()
    weights = torch.linalg.solve(features.T @ features + ridge, features.T @ targets).float() * 8
    head.weight.data, head.bias.data = weights[:-1].T.contiguous(), weights[-1].contiguous()
    network.fc = head
    torch.save(network.state_dict(), home / "dense.pt")
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data[layer.weight.abs() < layer.weight.abs().quantile(0.2)] = 0
    torch.save(network.state_dict(), home / "pruned.pt")
    (home / "accuracy.toml").write_text(ACCURACY.format(more=""))
    return home


@pytest.fixture(name="check")
def _check(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Calls ``check`` on the pruned copy in the home folder, and returns exit code and output."""

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.chdir(home)
        fixed = [
            "check",
            "--parent",
            "dense.pt",
            "--candidate",
            "pruned.pt",
            "--model",
            "torchvision:resnet18",
        ]
        monkeypatch.setattr("sys.argv", ["evalsuite", *fixed, *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        output = capsys.readouterr()
        return int(end.value.code or 0), output.out + output.err

    return call


def save_with_datasets(home: Path) -> None:
    """Writes the photos as the library `datasets` of Hugging Face does, into ``saved``."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=sorted(NAMES))}
    )
    files, labels = zip(*ImageFolder(str(home / "photos")).samples, strict=True)
    table = datasets.Dataset.from_dict({"image": list(files), "label": list(labels)}, features=features)
    table.save_to_disk(home / "saved")


@pytest.mark.parametrize("form", ["photos", "saved"])
def test_verdicts_are_those_of_a_plain_loop(check: Check, home: Path, tmp_path: Path, form: str) -> None:
    if form == "saved":
        save_with_datasets(home)
    words = (
        "--data",
        f"{form}:side={SIDE}",
        "--suite",
        "accuracy.toml",
        "--out",
        str(tmp_path / "run"),
        "--json",
    )
    code, output = check(*words)
    assert code == 0, output
    found = json.JSONDecoder().raw_decode(output)[0]["checks"]
    rows: dict[str, dict[str, float]] = {row["metric"]: row for row in found}
    images, labels = tensors(home / "photos")
    for column, file in (("parent", "dense.pt"), ("value", "pruned.pt")):
        network = models.resnet18(num_classes=10).eval()
        network.load_state_dict(torch.load(home / file))
        outputs = logits(network, images)
        assert rows["accuracy"][column] == float((outputs.argmax(1) == labels).double().mean())
        expected = float(nn.functional.cross_entropy(outputs.double(), labels))
        assert rows["nll"][column] == pytest.approx(expected, abs=1e-5)
    assert rows["accuracy"]["parent"] > 0.9
    record = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    pixels = f"resized to shorter edge {SIDE} px (bilinear), then the middle {SIDE}x{SIDE}"
    assert record["data"]["pictures"] == pixels
    assert pixels in (tmp_path / "run" / "index.html").read_text("utf-8")
    rule = {"photos": "numbered in sorted order", "saved": "as the table names them"}[form]
    assert record["data"]["labelling"].startswith(f"10 classes, {rule}: 0 apple, 1 bus")


def seven(folder: Path, kind: str) -> nn.Module:
    """Photos of seven of the classes, and the weights of a network of seven classes for them."""
    torch.manual_seed(0)
    if kind == "timm":
        network: nn.Module = pytest.importorskip("timm").create_model("resnet10t", num_classes=7)
    else:
        network = models.resnet18(num_classes=7)
    torch.save(network.state_dict(), folder / f"{kind}.pt")
    return network


@pytest.mark.parametrize("kind", ["torchvision", "timm"])
def test_a_library_s_network_has_the_classes_of_its_head_or_of_the_data(
    kind: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES[:7]:
        shutil.copytree(home / "photos" / name, tmp_path / "photos" / name)
    seven(tmp_path, kind)
    monkeypatch.chdir(tmp_path)
    uri = f"{kind}:{'resnet10t' if kind == 'timm' else 'resnet18'}"
    weights = str(tmp_path / f"{kind}.pt")

    def asked(data: str, **settings: int) -> DryRun:
        candidate = ExternalCandidate(weights, "pruned")
        request = CheckRequest(weights, (candidate,), f"{data}:side={SIDE}", model=uri, settings=settings)
        return api.check_dry_run(request, out=tmp_path / "run")

    assert asked("photos").classes == 7
    with pytest.raises(UserError, match=r"found classes = 7, but the data set .* has 10 classes"):
        asked(str(home / "photos"))
    with pytest.raises(UserError, match=r"found classes = 10, but the data set .* has 7 classes"):
        asked("photos", classes=10)


@pytest.mark.parametrize("signature", ["", "num_classes=3"], ids=["data", "head"])
@pytest.mark.extensive
def test_a_network_of_the_users_own_has_the_classes_of_its_head_or_of_the_data(
    signature: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        f"def build({signature}):\n"
        "    pool = nn.AdaptiveAvgPool2d(1)\n"
        f"    return nn.Sequential(pool, nn.Flatten(), nn.Linear(3, {'num_classes' if signature else 7}))\n"
    )
    layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 7))
    torch.save(layers.state_dict(), "own.pt")
    for name in NAMES[:7]:
        shutil.copytree(home / "photos" / name, tmp_path / "photos" / name)
    candidates = (ExternalCandidate("own.pt", "pruned"),)
    request = CheckRequest("own.pt", candidates, f"photos:side={SIDE}", model="own.py:build")
    assert api.check_dry_run(request, out=tmp_path / "run").classes == 7
    if signature:  # the weights say seven, whatever the data have
        elsewhere = CheckRequest("own.pt", candidates, f"{home / 'photos'}:side={SIDE}", model="own.py:build")
        names = r"has 10 classes; .* \(classes of the data: .*, .* and 2 more\)$"
        with pytest.raises(UserError, match=rf"found classes = 7, but the data set .* {names}"):
            api.check_dry_run(elsewhere, out=tmp_path / "run")


OWN = """
import torch
from torch import nn


class Means(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(3, num_classes)
        self.head.weight.data = torch.arange(3.0 * num_classes).reshape(num_classes, 3)

    def forward(self, images):
        return self.head(images.mean((2, 3)))


def build({signature}):
    return Means({classes})
"""


@pytest.mark.parametrize(
    ("signature", "classes"), [("", "14"), ("num_classes=3", "num_classes")], ids=["fixed", "computes"]
)
@pytest.mark.extensive
def test_numbers_of_folders_are_below_the_classes_of_a_network_of_the_users_own(
    signature: str, classes: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN.format(signature=signature, classes=classes))
    torch.save({"head.weight": torch.rand(14, 3), "head.bias": torch.rand(14)}, "own.pt")
    for label, name in enumerate(NAMES[:5]):
        shutil.copytree(home / "photos" / name, tmp_path / "photos" / f"{3 * label}")
    candidates = (ExternalCandidate("own.pt", "pruned"),)
    request = CheckRequest("own.pt", candidates, f"photos:side={SIDE}", model="own.py:build")
    plan = api.check_dry_run(request, out=tmp_path / "run")
    assert plan.classes == 14
    assert any("14 classes, the numbers of the folders: 0 0, 3 3" in line for line in plan.found)
    (tmp_path / "photos" / "12").rename(tmp_path / "photos" / "14")
    with pytest.raises(
        UserError, match=r"'14' is label 14 .*, expected 0 to 13 for the 14 classes of the network"
    ):
        api.check_dry_run(request, out=tmp_path / "run")


@pytest.mark.parametrize("more", ["", 'checkpoint = "torchvision.pt"'], ids=["data", "head"])
def test_a_suite_need_not_say_how_many_classes_a_library_s_network_has(
    more: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in NAMES[:7]:
        shutil.copytree(home / "photos" / name, tmp_path / "photos" / name)
    seven(tmp_path, "torchvision")
    tables = f"""
name = "seven"
ratios = [0.5]
control = false
data = "photos:side={SIDE},test_share=0.5"
[[producers]]
name = "magnitude"
[model]
name = "torchvision:resnet18"
"""
    suite = tmp_path / "suite.toml"
    suite.write_text(more + tables + ACCURACY.format(more=""))
    assert prepare(suite, out=tmp_path / "run").suite.model.table["classes"] == 7
    suite.write_text(suite.read_text().replace("[model]", "[model]\nclasses = 10"))
    with pytest.raises(UserError, match=r"found classes = 10, but the data set .* has 7 classes"):
        prepare(suite, out=tmp_path / "run")


@pytest.mark.extensive
def test_a_suite_gives_data_model_and_checkpoint(check: Check, home: Path, tmp_path: Path) -> None:
    more = f'checkpoint = "dense.pt"\n[data]\nname = "photos"\nside = {SIDE}\nlimit = 30'
    (home / "whole.toml").write_text(ACCURACY.format(more=more))
    code, output = check("--suite", "whole.toml", "--out", str(tmp_path / "run"))
    assert code == 0, output
    record = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert record["data"]["images"] == 30


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("--data", "digits", "--skip-unreadable"),
            "--skip-unreadable: no data set of this run reads picture files",
        ),
        (("--data", f"photos:side={SIDE}", "--parent-accuracy", "1.5"), "expected a share of images in"),
        (("--data", f"photos:side={SIDE},class_map=nine.json"), "has no class for 1 of 10 folders"),
        (("--data", f"photos/apple:side={SIDE}"), "is in no folder of a class|found no folders of classes"),
        (
            ("--data", f"photos:side={SIDE},class_map=turned.json"),
            "which is not shown to be more than chance",
        ),
        (("--suite", "typo.toml"), "unknown key 'tolerence': did you mean 'tolerances'"),
        (("--data", "photos:sides=32"), "^evalsuite: --data photos:sides=32, folder: unknown key 'sides'"),
        (
            ("--data", f"photos:side={SIDE}", "--mean", "0.5", "--std", "0.5"),
            "expected 3: torchvision's networks take colour",
        ),
        (
            ("--data", f"photos:side={SIDE}", "--setting", "classes=9"),
            "^evalsuite: --model torchvision:resnet18: found classes = 9, but the data set",
        ),
        (
            ("--data", f"photos:side={SIDE}", "--model", "torchvision:resnet_18"),
            "unknown torchvision model 'resnet_18': did you mean 'resnet18'",
        ),
        (
            ("--data", f"photos:side={SIDE}", "--tolerance", "accuracyy=0.1"),
            r"^evalsuite: --tolerance, or accuracy.toml, \[tolerances\]: no evaluator of this suite",
        ),
        (
            ("--data", f"photos:side={SIDE}", "--mean", "127,127,127", "--std", "128,128,128"),
            "^evalsuite: --model torchvision:resnet18: found mean = 127, but pixels are from 0 to 1; divide",
        ),
        ((), "found no --data, and cifar10, which is tested on without one, has no folder; give your images"),
    ],
    ids=[
        *(
            "no pictures",
            "claim",
            "class map",
            "one class",
            "wrong order",
            "unknown key",
            "setting of the data",
        ),
        *("channels", "classes", "unknown network", "tolerance", "bytes", "no data"),
    ],
)
def test_mistakes_are_one_sentence(
    words: tuple[str, ...],
    sentence: str,
    check: Check,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (home / "nine.json").write_text(json.dumps(NAMES[:9]))
    (home / "turned.json").write_text(json.dumps(NAMES[1:] + NAMES[:1]))
    (home / "typo.toml").write_text("[tolerence]\n")
    monkeypatch.delenv("EVALSUITE_DATA", raising=False)
    suite = () if "--suite" in words else ("--suite", "accuracy.toml")
    code, output = check(*words, *suite, "--out", str(tmp_path / "run"))
    assert code == 2
    assert pd.Series([output]).str.contains(sentence).all(), output
    assert not (tmp_path / "run" / "measurements.csv").exists()
