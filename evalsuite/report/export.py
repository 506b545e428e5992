"""The tables of a run for other programs: CSV, Parquet, LaTeX, or an MLflow tracking store."""

from __future__ import annotations

import importlib
import io
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from evalsuite.atomic_files import write_atomically
from evalsuite.errors import UserError
from evalsuite.registry import unknown_name
from evalsuite.report.build import report_data
from evalsuite.report.latex import latex_tables
from evalsuite.report.run_tables import tables

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    import pandas as pd

    from evalsuite.results.run import Run

Form = Literal["csv", "parquet", "latex", "mlflow"]
FORMS: tuple[Form, ...] = get_args(Form)
CANDIDATE = ["method", "seed", "target_ratio"]
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of what spreadsheets compute."""
BATCH = 500
"""Numbers per request to MLflow, which takes at most 1,000."""
_NOT_IN_NAMES = re.compile(r"[^\w\-. /:]")
"""Characters that MLflow does not allow in names of metrics."""


def as_csv(table: pd.DataFrame) -> bytes:
    """Returns a table as CSV, the same bytes for the same table everywhere.

    A text that a spreadsheet would take for a formula (OWASP, "CSV injection") has an apostrophe before it.
    """
    texts = {name: table[name].map(_no_formula) for name in table.columns if table[name].dtype.kind == "O"}
    return table.assign(**texts).to_csv(index=False, lineterminator="\n").encode()


def _no_formula(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value  # a number with its sign


def export(run: Run, form: str, folder: Path) -> Path:
    """Writes the tables of a run into `folder`, each completely or not at all.

    Args:
        run: The run.
        form: ``csv``, ``parquet`` (needs the extra ``parquet``), ``latex`` (verdicts and accuracies
            for a paper, with the package booktabs), or ``mlflow`` (needs the extra ``mlflow``): `folder` is then a
            local tracking store with one run per candidate.
        folder: Created if it does not exist.

    Returns:
        `folder`.

    Raises:
        UserError: If the form is unknown, or a package that it needs is not installed.
        StoreError: If the folder cannot be written to, or the run holds no finished cell.
    """
    if form not in FORMS:
        raise UserError(unknown_name("export format", form, FORMS))
    if form == "latex":
        for name, text in latex_tables(report_data(run)).items():
            write_atomically(folder / f"{name}.tex", text.encode())
        return folder
    by_name = tables(run)
    if form == "mlflow":
        _log(by_name, str(run.record["suite"]["name"]), folder)
        return folder
    for name, table in by_name.items():
        write_atomically(folder / f"{name}.{form}", as_csv(table) if form == "csv" else _as_parquet(table))
    return folder


def _as_parquet(table: pd.DataFrame) -> bytes:
    _extra("pyarrow", "parquet")
    data = io.BytesIO()
    seeds = {"seed": table["seed"].astype(str)} if "seed" in table else {}  # numbers and the word "all"
    typed = table.assign(**seeds)
    if "underpowered" in typed:
        typed["underpowered"] = typed["underpowered"].astype("boolean")
    typed.to_parquet(data, engine="pyarrow", index=False)
    return data.getvalue()


def _log(tables_by_name: dict[str, pd.DataFrame], suite: str, folder: Path) -> None:
    """Logs one MLflow run per candidate with its numbers, and one per method with its thresholds."""
    tracking = _extra("mlflow.tracking", "mlflow")
    folder.mkdir(parents=True, exist_ok=True)
    client = tracking.MlflowClient(tracking_uri=f"sqlite:///{folder.resolve()}/mlflow.db")
    existing = client.get_experiment_by_name(suite)
    artifacts = (folder.resolve() / "artifacts").as_uri()
    experiment = client.create_experiment(suite, artifacts) if existing is None else existing.experiment_id
    for (method, seed, target), rows in tables_by_name["measurements"].groupby(CANDIDATE, sort=False):
        measured = rows[rows["status"] == "ok"]
        labels = measured["metric"] + "/" + measured["condition"]
        params = {"method": method, "seed": seed, "target_ratio": target, "ratio": rows["ratio"].iloc[0]}
        numbers = dict(zip(labels, measured["value"], strict=True))
        _log_run(client, experiment, f"{method!s} {target:g} seed {seed!s}", params, numbers)
    headline = tables_by_name["thresholds"].query("seed == 'all' and aggregate == 'single'")
    for method, rows in headline.groupby("method", sort=False):
        labels = "potential/" + rows["metric"] + "/" + rows["condition"]
        numbers = dict(zip(labels, rows["potential"], strict=True))
        _log_run(client, experiment, f"thresholds of {method!s}", {"method": method}, numbers)


def _log_run(
    client: Any, experiment: str, name: str, params: Mapping[str, Any], numbers: Mapping[str, float]
) -> None:
    entities = _extra("mlflow.entities", "mlflow")
    run = client.create_run(experiment, run_name=name).info.run_id
    now = int(time.time() * 1000)
    logged = [
        entities.Metric(_NOT_IN_NAMES.sub("_", label), float(x), now, 0) for label, x in numbers.items()
    ]
    client.log_batch(run, params=[entities.Param(key, str(value)) for key, value in params.items()])
    for start in range(0, len(logged), BATCH):
        client.log_batch(run, metrics=logged[start : start + BATCH])
    client.set_terminated(run)


def _extra(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(
            f"this needs the package {module.split('.')[0]}, which is not installed: pip install 'evalsuite[{extra}]'"
        ) from None
