"""The tables of a run for other programs: CSV, Parquet, or an MLflow tracking store."""

from __future__ import annotations

import importlib
import io
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from evalsuite.errors import StoreError, UserError
from evalsuite.registry import unknown
from evalsuite.runs.store import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    import pandas as pd

    from evalsuite.results.run import Run

Form = Literal["csv", "parquet", "mlflow"]
FORMS: tuple[Form, ...] = get_args(Form)
CANDIDATE = ["method", "seed", "target_ratio"]
BATCH = 500  # MLflow takes at most 1,000 numbers at once
_KEPT = re.compile(r"[^\w\-. /:]")  # what MLflow allows in the name of a metric


def tables(run: Run) -> dict[str, pd.DataFrame]:
    """Returns every table of a run by name: measurements, thresholds, reliability, excess, exemplars, retraining.

    Raises:
        StoreError: If no cell is finished yet.
    """
    if run.measurements.empty or not run.metrics:
        raise StoreError(f"{run.path} holds no finished cell yet; run the suite first")
    return {
        "measurements": run.measurements,
        "thresholds": run.thresholds(),
        "reliability": run.reliability,
        "excess": run.excess,
        "exemplars": run.exemplars,
        "retraining": run.retraining,
    }


def as_csv(table: pd.DataFrame) -> bytes:
    """Returns a table as CSV, the same bytes for the same table everywhere."""
    return table.to_csv(index=False, lineterminator="\n").encode()


def export(run: Run, form: str, folder: Path) -> Path:
    """Writes the tables of a run into `folder`, each whole or not at all.

    Args:
        run: What to write.
        form: ``csv``, ``parquet`` (needs the extra ``parquet``), or ``mlflow`` (needs the extra ``mlflow``):
            `folder` is then a local tracking store with one run per candidate.
        folder: Made if it is not there.

    Returns:
        `folder`.

    Raises:
        UserError: If the form is unknown, or a package that it needs is not installed.
        StoreError: If the folder cannot be written to, or the run holds no finished cell.
    """
    if form not in FORMS:
        raise UserError(unknown("export format", form, FORMS))
    found = tables(run)
    if form == "mlflow":
        _log(found, str(run.record["suite"]["name"]), folder)
        return folder
    for name, table in found.items():
        write_atomically(folder / f"{name}.{form}", as_csv(table) if form == "csv" else _as_parquet(table))
    return folder


def _as_parquet(table: pd.DataFrame) -> bytes:
    _extra("pyarrow", "parquet")
    data = io.BytesIO()
    seeds = {"seed": table["seed"].astype(str)} if "seed" in table else {}  # numbers and the word "all"
    plain = table.assign(**seeds)
    if "underpowered" in plain:
        plain["underpowered"] = plain["underpowered"].astype("boolean")
    plain.to_parquet(data, engine="pyarrow", index=False)
    return data.getvalue()


def _log(found: dict[str, pd.DataFrame], suite: str, folder: Path) -> None:
    """One MLflow run per candidate, with a metric for each of its numbers and one for each threshold of its method."""
    tracking = _extra("mlflow.tracking", "mlflow")
    folder.mkdir(parents=True, exist_ok=True)
    client = tracking.MlflowClient(tracking_uri=f"sqlite:///{folder.resolve()}/mlflow.db")
    known = client.get_experiment_by_name(suite)
    place = (folder.resolve() / "artifacts").as_uri()
    experiment = client.create_experiment(suite, place) if known is None else known.experiment_id
    for (method, seed, target), rows in found["measurements"].groupby(CANDIDATE, sort=False):
        values = rows[rows["status"] == "ok"]
        labels = values["metric"] + "/" + values["condition"]
        params = {"method": method, "seed": seed, "target_ratio": target, "ratio": rows["ratio"].iloc[0]}
        numbers = dict(zip(labels, values["value"], strict=True))
        _log_run(client, experiment, f"{method!s} {target:g} seed {seed!s}", params, numbers)
    headline = found["thresholds"].query("seed == 'all' and aggregate == 'single'")
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
    logged = [entities.Metric(_KEPT.sub("_", label), float(x), now, 0) for label, x in numbers.items()]
    stated = [entities.Param(key, str(value)) for key, value in params.items()]
    client.log_batch(run, params=stated)
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
