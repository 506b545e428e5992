"""The whole default battery on grey images, on two channels, and on images that are not square."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

from evalsuite import CheckRequest, Options, Run, check
from evalsuite.config.manifest import candidates_of_paths
from evalsuite.datasets.digits import enlarged
from evalsuite.models.architectures.base import build_model, unwrap_model
from evalsuite.models.architectures.cnn import SmallCNN
from evalsuite.producers.unstructured.base import masks_for_budget
from evalsuite.report.example_images import FILE
from evalsuite.training.loop import train
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet

TESTED = 120


@dataclass(frozen=True)
class Checked:
    """One battery: its verdicts and its run."""

    shape: tuple[int, int, int]
    verdicts: pd.DataFrame
    run: Run


def digits_of(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Digits with other channels than RGB: the second one is the negative."""
    data = load_digits()
    images = enlarged(data.images, shape)
    images[:, 1::2] = 255 - images[:, 1::2]
    return images, data.target.astype(np.int64)


@pytest.fixture(
    scope="module", params=[(1, 24, 40), (2, 32, 32)], ids=["grey, 24 x 40", "two channels"], name="checked"
)
def _checked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checked:
    shape: tuple[int, int, int] = request.param
    folder = tmp_path_factory.mktemp("channels")
    images, labels = digits_of(shape)
    home = folder / "data" / "scans"
    home.mkdir(parents=True)
    for split, rows in (("test", slice(0, TESTED)), ("train", slice(TESTED, 1200))):
        np.save(home / f"{split}_images.npy", images[rows].transpose(0, 2, 3, 1))
        np.save(home / f"{split}_labels.npy", labels[rows])
    mean = (0.5,) * shape[0]
    torch.manual_seed(0)
    model = build_model(SmallCNN(widths=(8, 12, 16, 16), mean=mean, std=mean))
    train(
        model,
        ImageSet("scans", images[TESTED:1200], labels[TESTED:1200], 10),
        Recipe(epochs=4, batch_size=32),
        seed=0,
    )
    save_files(model, folder)
    request_ = CheckRequest(
        parent=str(folder / "dense.safetensors"),
        candidates=candidates_of_paths([str(folder / "pruned.safetensors")]),
        model="small-cnn",
        settings={"widths": [8, 12, 16, 16], "mean": list(mean), "std": list(mean)},
        data={"name": "arrays", "folder": "scans", "classes": 10},
    )
    verdicts, run = check(request_, out=folder / "check", options=Options(data_root=folder / "data"))
    return Checked(shape, verdicts, run)


def save_files(model: nn.Module, folder: Path) -> None:
    """The network, and the same with a fifth of its weights removed."""
    weights = {
        name: layer.weight.detach().abs()
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    total = sum(int(parameter.count_nonzero()) for parameter in model.parameters())
    masks = masks_for_budget(model, weights, total - round(0.2 * total))
    state = {key: value.clone() for key, value in unwrap_model(model).state_dict().items()}
    save_file(state, folder / "dense.safetensors")
    for key, mask in masks.items():
        state[key.removeprefix("network.")] *= mask
    save_file(state, folder / "pruned.safetensors")


@pytest.mark.extensive
def test_every_test_of_the_battery_has_numbers(checked: Checked) -> None:
    measured = checked.run.measurements
    assert set(measured["status"]) <= {"ok", "skipped"}
    ok = measured[measured["status"] == "ok"]
    assert {"accuracy", "corruptions", "ood", "noise", "attack", "black-box", "calibration"} == set(
        ok["evaluator"]
    )
    accuracy = ok.query("metric == 'accuracy' and condition == 'clean' and method == 'dense'")["value"]
    assert accuracy.iloc[0] > 0.8
    outliers = {name for name in ok["condition"] if name in ("photographs", "uniform-noise")}
    assert outliers == {"photographs", "uniform-noise"}


def test_a_corruption_that_is_not_defined_is_skipped_with_its_reason_and_fails_nobody(
    checked: Checked,
) -> None:
    measured = checked.run.measurements.query("evaluator == 'corruptions'")
    skipped = measured[measured["status"] == "skipped"]
    undefined = {condition for condition in skipped["condition"] if condition.endswith("/3")}
    if checked.shape[0] == 1:
        assert not undefined
        return
    assert undefined == {"snow/3", "frost-synthetic/3", "brightness/3", "jpeg_compression/3"}
    assert "these have 2" in skipped.query("condition == 'snow/3'")["reason"].iloc[0]
    assert len(measured.query("condition == 'fog/3' and status == 'ok'")) == 2 * 4
    rows = checked.verdicts[checked.verdicts["condition"].isin(undefined)]
    assert rows["passed"].all()
    assert rows["value"].isna().all()
    assert set(checked.verdicts.query("condition == 'fog/3'")["metric"]) == {"accuracy"}


def test_the_page_has_pictures_of_corrupted_and_attacked_images(checked: Checked) -> None:
    page = (checked.run.path / "index.html").read_text("utf-8")
    pictures = json.loads((checked.run.path / FILE).read_bytes())["pictures"]
    kinds = {picture["kind"] for picture in pictures}
    assert kinds >= {"corruption", "attack"}
    assert page.count("data:image/png;base64,") >= len(pictures) > 10
