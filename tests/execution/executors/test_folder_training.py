"""Training from a folder of JPEGs: two workers write the bytes that one after the other writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalsuite.config.options import Options
from evalsuite.execution import scheduler as runner

COLOURS = {"leaf": (40, 160, 40), "sea": (30, 60, 190), "stone": (120, 120, 120), "sun": (210, 180, 30)}
SUITE = """
name = "photos"
control = false
seeds = [0]
ratios = [0.5]
[data]
name = "photos"
side = 64
[model]
name = "small-cnn"
classes = 4
widths = [8, 12, 16, 16]
[recipe]
epochs = 1
batch_size = 8
learning_rate = 0.05
[[producers]]
name = "magnitude"
[[evaluators]]
name = "accuracy"
[[evaluators]]
name = "calibration"
"""


def contents(path: Path) -> dict[str, bytes]:
    """Every cell and candidate of a run folder."""
    files = [*path.rglob("*.cell"), *path.rglob("candidates/*/*/*.*")]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def write_photos(folder: Path, splits: dict[str, int]) -> None:
    """So many noisy JPEGs of 64 to 80 pixels in each split, in folders of four classes, a fifth in a random one."""
    draws = np.random.default_rng(0)
    for split, count in splits.items():
        for number in range(count):
            name = sorted(COLOURS)[number % len(COLOURS)]
            home = folder / split / name
            home.mkdir(parents=True, exist_ok=True)
            height, width = draws.integers(64, 81, 2)
            shown = name if draws.random() < 0.8 else str(draws.choice([*COLOURS]))
            pixels = draws.normal(COLOURS[shown], 40, (height, width, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(home / f"{number:03}.jpg")


@pytest.mark.extensive
def test_two_workers_train_and_measure_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photos(tmp_path / "photos", {"train": 160, "val": 40})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("evalsuite.datasets.picture_cache.SMALL", 0)  # all sets are mapped, as large ones are
    (tmp_path / "photos.toml").write_text(SUITE)
    one = runner.run("photos.toml", out="one")
    two = runner.run("photos.toml", out="two", options=Options(workers=2))
    assert one.failures.empty, one.failures["reason"].unique()
    assert two.failures.empty
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    sizes = one.measurements.query("metric == 'accuracy' and condition == 'clean'")["n"]
    assert set(sizes) == {40}
    parent = one.measurements.query("method == 'dense' and metric == 'accuracy' and condition == 'clean'")
    assert parent["value"].item() > 0.5
