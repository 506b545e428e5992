"""The tables of a run in the forms that other programs read."""

from __future__ import annotations

import csv
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evalsuite import Run, api
from evalsuite.errors import UserError
from evalsuite.report.export import as_csv, export
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
@pytest.mark.extensive
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


def test_no_cell_is_a_formula() -> None:
    texts = ["=1+1", "+A1", "-2", "-x", "@SUM(A1)", "\t=1", "plain", None, 3]
    table = pd.DataFrame({"text": pd.Series(texts, dtype=object), "number": np.arange(9) - 4.5})
    before = table.copy()
    rows = list(csv.reader(as_csv(table).decode().splitlines()))
    assert [row[0] for row in rows[1:]] == [
        "'=1+1",
        "'+A1",
        "-2",
        "'-x",
        "'@SUM(A1)",
        "'\t=1",
        "plain",
        "",
        "3",
    ]
    assert rows[1][1] == "-4.5"
    assert table.equals(before)


def test_rows_do_not_depend_on_the_order_of_tests_and_methods(
    done: Run, suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    first, *middle, last = re.split(r"(?=\[\[evaluators\]\]|\[tolerances\])", suite_file().read_text("utf-8"))
    turned = suite_file(text=first + "".join(reversed(middle)) + last)
    shutil.copytree(done.path / "candidates", tmp_path / "run" / "candidates")
    shutil.copytree(done.path / "cells", tmp_path / "run" / "cells")
    results = api.run(turned, out=tmp_path / "run")
    assert results.record["computed"] == 0
    assert list(dict.fromkeys(results.measurements["evaluator"])) != list(
        dict.fromkeys(done.measurements["evaluator"])
    )
    for name in ("measurements", "thresholds", "reliability", "verdicts"):
        assert (results.path / f"{name}.csv").read_bytes() == (done.path / f"{name}.csv").read_bytes(), name
