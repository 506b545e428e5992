"""Run folders of version 0.1.0: read with today's names, and with the numbers that it printed."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import evalsuite
from evalsuite import Run
from evalsuite.runs.status import status

ARCHIVE = Path(__file__).parents[1] / "golden" / "run-of-0.1.0.tar.gz"
RENAMED = {"broken": "negative_flip_rate", "fixed": "positive_flip_rate", "frost*/3": "frost-synthetic/3"}
COLUMNS = {
    "drop_upper": "drop_upper_95",
    "drop_floor": "drop_lower_simultaneous",
    "drop_p": "noninferiority_p",
}


@pytest.fixture(name="old", scope="session")
def _old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two seeds and two ratios, as version 0.1.0 left it, without weights and page."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "run-of-0.1.0"


def written(path: Path) -> pd.DataFrame:
    """A table of the old folder with today's names."""
    return pd.read_csv(path).rename(columns=COLUMNS).replace(RENAMED)


@pytest.mark.parametrize(
    "name", ["thresholds", "measurements", "exemplars", "retraining", "reliability", "excess"]
)
def test_a_report_of_an_old_folder_has_the_numbers_that_were_written(
    name: str, old: Path, tmp_path: Path
) -> None:
    before = written(old / f"{name}.csv")
    results = Run(old)
    after: dict[str, Callable[[], pd.DataFrame]] = {
        "thresholds": results.thresholds,
        "measurements": lambda: results.measurements,
        "exemplars": lambda: results.exemplars,
        "retraining": lambda: results.retraining,
        "reliability": lambda: results.reliability,
        "excess": lambda: results.excess,
    }
    path = tmp_path / "table.csv"
    after[name]().to_csv(path, index=False)
    read = pd.read_csv(path)[list(before)]  # later versions have more columns
    if "underpowered" in read:  # no longer where the images decide
        assert (read["underpowered"] <= before["underpowered"]).all()
        read["underpowered"] = before["underpowered"]
    pd.testing.assert_frame_equal(read, before, check_dtype=False, rtol=1e-12)


def test_publishing_an_old_folder_needs_neither_weights_nor_data(old: Path) -> None:
    assert not list(old.rglob("*.safetensors"))
    page = evalsuite.publish(old)
    text = page.read_text("utf-8")
    assert "negative flip" in text.lower()
    assert "frost*" not in text


def test_other_tolerances_take_the_names_of_today(old: Path) -> None:
    rows = Run(old, tolerances={"negative_flip_rate": 0.5}).thresholds()
    assert set(rows["metric"]) == {"negative_flip_rate"}
    assert np.isfinite(rows["potential"]).all()


def test_the_status_of_an_old_folder_counts_its_cells(old: Path) -> None:
    counts = status(old).counts
    assert list(counts) == ["production", "accuracy", "similarity", "corruptions"]
    assert {label: count.done for label, count in counts.items() if label != "production"} == {
        "accuracy": 6,
        "similarity": 6,
        "corruptions": 6,
    }
    assert counts["production"].missing == 6  # its weights are not there: a run would make them again


def test_an_old_search_reads_which_ratios_it_tested(old: Path) -> None:
    record = json.loads((old / "run.json").read_text())
    record["tested"] = {"magnitude": [0.5]}
    results = Run(old, record=record)
    assert results.tested("magnitude") == (0.5,)
    assert results.plan.searched_methods() == {"magnitude"}
    assert Run(old).tested("magnitude") == (0.5, 0.9)
    assert not Run(old).plan.searched_methods()
