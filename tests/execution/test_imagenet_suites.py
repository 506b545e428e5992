"""The suites for ImageNet, on a tiny tree in the official layouts, with a small network in the place of theirs.

Pictures are labelled by the network's own predictions, so that it is right: the tree tests the plumbing.
"""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import evalsuite
from evalsuite.config.options import Options
from evalsuite.config.suite_file import load_suite, shipped_suites, suite_from_tables
from evalsuite.datasets.wordnet_ids import listed_wnids, wnids
from evalsuite.errors import DataError
from evalsuite.execution.dry_run import describe_run
from evalsuite.execution.planning import prepare
from evalsuite.models.architectures.base import build_model, unwrap_model
from evalsuite.models.architectures.uris import architecture_from_uri

SUITES = ("imagenet-resnet50", "imagenet-vit")
SIDE = 32
SETTINGS: dict[str, Any] = {"classes": 1000, "crop": SIDE, "resize": SIDE}
MODEL = {"name": "torchvision:mobilenet_v3_small", **SETTINGS}
PICTURES = 24


def picture(number: int) -> Image.Image:
    """A gradient between two colours with noise, of an odd size; no two alike."""
    draws = np.random.default_rng([5, number + 1000])
    ends = draws.integers(0, 256, (2, 2, 3)).astype(np.uint8)
    wide = np.asarray(Image.fromarray(ends).resize((44, 38), Image.Resampling.BICUBIC)).astype(np.int16)
    return Image.fromarray((wide + draws.integers(-20, 21, wide.shape)).clip(0, 255).astype(np.uint8))


def shown(pictures: list[Image.Image]) -> torch.Tensor:
    """Pictures as the suite shows them to a network, float (N, 3, SIDE, SIDE)."""
    geometry = architecture_from_uri(MODEL["name"], **SETTINGS).preprocessing
    assert geometry is not None
    return torch.tensor(np.stack([geometry.pixels(each) for each in pictures])) / 255


def predicted(network: torch.nn.Module, pictures: list[Image.Image], among: list[int]) -> list[str]:
    """The WordNet id that the network answers of those of a set, for each picture."""
    with torch.inference_mode():
        answers = network(shown(pictures))[:, among].argmax(1)
    return [wnids()[among[answer]] for answer in answers]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root: a checkpoint, and every set that the suites name, of a few pictures each."""
    root = tmp_path_factory.mktemp("data")
    architecture = architecture_from_uri(MODEL["name"], **SETTINGS)
    torch.manual_seed(0)
    model = build_model(architecture).eval()
    (root / "checkpoints").mkdir()
    network = unwrap_model(model)
    for parameter in network.parameters():
        if not parameter.any():  # biases begin at zero, and ratios count what is not zero
            torch.nn.init.normal_(parameter, std=0.1)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1
    with torch.no_grad():  # statistics of such pictures, without which all would look alike
        model.train()(shown([picture(-1 - number) for number in range(64)]))
    model.eval()
    torch.save(network.state_dict(), root / "checkpoints" / "stand-in.pth")
    everything = list(range(1000))
    a, r = (list(map(wnids().index, listed_wnids(f"imagenet_{letter}_synsets"))) for letter in "ar")
    sets = {
        "imagenet/val": (everything, "JPEG"), "imagenet/train": (everything, "JPEG"), "imagenet-a": (a, "jpg"),
        "imagenet-r": (r, "jpg"), "sketch": (everything, "JPEG"), "imagenet-o": (everything, "JPEG"),
        "imagenetv2-matched-frequency-format-val": (everything, "jpeg"), "dtd/images": (everything, "jpg"),
    }  # fmt: skip
    for start, (name, (among, suffix)) in enumerate(sets.items()):
        pictures = [picture(100 * start + number) for number in range(PICTURES)]
        for number, (each, wnid) in enumerate(zip(pictures, predicted(model, pictures, among), strict=True)):
            folder = str(wnids().index(wnid)) if name.startswith("imagenetv2") else wnid
            (root / name / folder).mkdir(parents=True, exist_ok=True)
            each.save(root / name / folder / f"{number:08}.{suffix}", "PNG")
    return root


def small(name: str) -> dict[str, Any]:
    """The tables of a suite with the stand-in, one ratio, and little training and few attacks."""
    tables = tomllib.loads(shipped_suites()[name].read_text("utf-8"))
    tables |= {"ratios": [0.3], "checkpoint": "checkpoints/stand-in.pth", "model": MODEL}
    tables["recipe"] |= {"epochs": 1, "batch_size": 8}
    for table in tables["evaluators"]:
        if table["name"] == "attack":
            table |= {"images": 8, "steps": 2, "probe": 4}
    return tables


@pytest.mark.parametrize("name", shipped_suites())
def test_every_shipped_suite_parses(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == name
    assert set(suite.tolerances) <= set(suite.metrics)


@pytest.mark.parametrize("name", SUITES)
def test_a_dry_run_states_the_cost(name: str, root: Path, tmp_path: Path) -> None:
    tables = small(name) | {"ratios": list(load_suite(name).ratios)}
    suite = suite_from_tables(tables, source=shipped_suites()[name])
    plan = describe_run(prepare(suite, out=tmp_path / "run", options=Options(data_root=root)))
    assert (plan.images, plan.classes, plan.shape) == (PICTURES, 1000, (3, SIDE, SIDE))
    lines = {line.what: line for line in plan.lines}
    assert {*lines} == {"production", *(table["name"] for table in small(name)["evaluators"])}
    assert (lines["production"].left, lines["production"].of_controls) == (
        1 + 12 + 4,
        4,
    )  # as its header says
    for test in ("shift", "corruptions", "ood", "noise"):
        assert lines[test].images > lines[test].left > 0
        assert lines[test].seconds > 0


@pytest.mark.extensive
def test_a_suite_runs_on_the_official_layout_to_its_end(root: Path, tmp_path: Path) -> None:
    tables = small("imagenet-resnet50")
    tables["producers"] = tables["producers"][:1]
    suite = suite_from_tables(tables, source=shipped_suites()["imagenet-resnet50"])
    run = evalsuite.run(suite, out=tmp_path / "run", options=Options(data_root=root))
    failures = run.failures
    assert not {*failures["status"]} & {"error", "invalid"}, failures["reason"].unique()
    rows = run.measurements
    parent = rows[(rows["method"] == "dense") & (rows["metric"] == "accuracy")].set_index("condition")[
        "value"
    ]
    shifted = tables["evaluators"][3]["sets"]
    assert [parent[condition] for condition in ("clean", *shifted)] == [1] * 5  # by the rule of each set
    assert {*rows["method"]} == {"dense", "magnitude", "dense-retrained"}
    assert {"fog/3", "imagenet-o", "textures"} <= {*rows["condition"]}
    judged = {(row["metric"], row["condition"]) for _, row in run.thresholds().iterrows()}
    assert {("accuracy", "clean"), ("accuracy", "imagenet-r"), ("msp_auroc", "imagenet-o")} <= judged


def test_a_finished_model_needs_no_training_images(root: Path, tmp_path: Path) -> None:
    """As `check` uses the suite: with a candidate in the place of its producers."""
    without = tmp_path / "data"
    shutil.copytree(root, without, ignore=shutil.ignore_patterns("train"))
    tables = small("imagenet-vit")
    with pytest.raises(DataError, match=r"data set 'imagenet' has no split 'train'"):
        prepare(suite_from_tables(tables, source=tmp_path / "s.toml"), options=Options(data_root=without))
    del tables["producers"], tables["recipe"]
    tables |= {"candidates": [{"file": "checkpoints/stand-in.pth", "method": "copy"}]}
    suite = suite_from_tables(tables, source=tmp_path / "s.toml")
    assert prepare(suite, options=Options(data_root=without)).plan.labels
