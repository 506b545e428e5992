"""The tables of a run in the forms that other programs read."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import pandas as pd
import pytest

from evalsuite import Run
from evalsuite.errors import UserError
from evalsuite.report.export import export
from evalsuite.report.run_tables import tables


def test_parquet_holds_the_same_tables(done: Run, tmp_path: Path) -> None:
    export(done, "parquet", tmp_path)
    for name, table in tables(done).items():
        read = pd.read_parquet(tmp_path / f"{name}.parquet")
        assert list(read.columns) == list(table.columns)
        for column in ("value", "potential", "slope"):
            if column in table:
                assert read[column].to_numpy() == pytest.approx(table[column].to_numpy(), abs=0, nan_ok=True)


def test_csv_is_what_the_run_folder_holds(done: Run, tmp_path: Path) -> None:
    export(done, "csv", tmp_path / "new")
    for name in tables(done):
        assert (tmp_path / "new" / f"{name}.csv").read_bytes() == (done.path / f"{name}.csv").read_bytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_mlflow_gets_a_run_per_candidate(done: Run, tmp_path: Path) -> None:
    export(done, "mlflow", tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        runs = dict(store.execute("select name, run_uuid from runs"))
        logged = dict(
            store.execute("select key, value from metrics where run_uuid = ?", [runs["magnitude 0.5 seed 0"]])
        )
        stated = dict(
            store.execute("select key, value from params where run_uuid = ?", [runs["magnitude 0.5 seed 0"]])
        )
    mine = done.measurements.query("method == 'magnitude' and target_ratio == 0.5")
    assert len(runs) == len(done.measurements[["method", "target_ratio"]].drop_duplicates()) + 2
    assert logged["robust_accuracy/linf-pgd/8:255"] == pytest.approx(
        mine.query("condition == 'linf-pgd/8:255'")["value"].item()
    )
    assert len(logged) == len(mine)
    assert float(stated["ratio"]) == pytest.approx(mine["ratio"].iloc[0])


def test_unknown_formats_and_missing_packages_are_refused(
    done: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="unknown export format 'excel'"):
        export(done, "excel", tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)  # as where it is not installed
    with pytest.raises(UserError, match=r"pip install 'evalsuite\[mlflow\]'"):
        export(done, "mlflow", tmp_path)
