"""Tables that a run keeps are those that it computes, and nothing that changed is believed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from evalsuite.api import publish
from evalsuite.results import kept_tables
from evalsuite.results.kept_tables import NAME, KeptTables
from evalsuite.results.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable

TABLES = ("measurements", "verdicts", "groups", "counts")
TABLE = pd.DataFrame(
    {
        "method": ["a", "b", "c"],
        "seed": pd.Series([0, "all", 1], dtype=object),
        "value": [0.1 + 0.2, np.nan, np.inf],
        "n": pd.array([3, None, 5], dtype="Int64"),
        "better": pd.Series([True, None, np.nan], dtype=object),
        "shown": [True, False, True],
        "test": [1, 2, 3],
    }
)


def never() -> pd.DataFrame:
    raise AssertionError("computed again")


def keep(path: Path, content: Any) -> None:
    kept = KeptTables(path, content)
    kept.table("some", lambda: TABLE)
    kept.table("none", lambda: None)
    kept.write()


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    cell = tmp_path / "cells" / "a" / "accuracy.cell"
    cell.parent.mkdir(parents=True)
    cell.write_bytes(b"evidence")
    keep(tmp_path, {"tolerance": 0.1})
    return tmp_path


def test_what_is_kept_comes_back_as_it_was(folder: Path) -> None:
    kept = KeptTables(folder, {"tolerance": 0.1})
    found = kept.table("some", never)
    assert found is not None
    pd.testing.assert_frame_equal(found, TABLE, check_exact=True)
    assert found["better"].tolist()[1] is None
    assert kept.table("none", never) is None
    written = (folder / NAME).read_bytes()
    keep(folder, {"tolerance": 0.1})
    assert (folder / NAME).read_bytes() == written


def touched(folder: Path, _: pytest.MonkeyPatch) -> None:
    (folder / "cells" / "a" / "accuracy.cell").write_bytes(b"another")


def added(folder: Path, _: pytest.MonkeyPatch) -> None:
    (folder / "candidates").mkdir()
    (folder / "candidates" / "0.5.json").write_text("{}")


def damaged(folder: Path, _: pytest.MonkeyPatch) -> None:
    (folder / NAME).write_bytes((folder / NAME).read_bytes()[:-20])


def edited(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_tables, "_code_digest", lambda: b"other code")


@pytest.mark.parametrize("change", [touched, added, damaged, edited])
def test_what_changed_is_computed_anew(
    change: Callable[[Path, pytest.MonkeyPatch], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(folder, monkeypatch)
    with pytest.raises(AssertionError, match="computed again"):
        KeptTables(folder, {"tolerance": 0.1}).table("some", never)


def test_other_tolerances_are_another_question(folder: Path) -> None:
    for content in ({"tolerance": 0.2}, None):
        with pytest.raises(AssertionError, match="computed again"):
            KeptTables(folder, content).table("some", never)


@pytest.mark.extensive
def test_a_report_of_a_finished_run_computes_no_bounds_again(
    golden_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(golden_run.path, tmp_path / "run")
    publish(tmp_path / "run")
    fresh = Run(tmp_path / "run", tolerances=golden_run.tolerances)  # other objects: nothing kept is asked
    monkeypatch.setattr("evalsuite.results.comparison.bounds_of_many", never)
    kept = Run(tmp_path / "run")
    found = [getattr(kept, name) for name in TABLES] + [kept.thresholds()]
    monkeypatch.undo()
    for table, name in zip(found, (*TABLES, ""), strict=True):
        pd.testing.assert_frame_equal(table, getattr(fresh, name) if name else fresh.thresholds())
    assert len(Run(tmp_path / "run").thresholds(tolerance={"accuracy": 0.5})) > 0
