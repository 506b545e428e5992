"""What the commands do, for notebooks and scripts: a few typed functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from evalsuite.data import DATASETS
from evalsuite.errors import StoreError
from evalsuite.provenance import Options, data_root
from evalsuite.records import ImageSet
from evalsuite.report import write
from evalsuite.report.findings import Findings
from evalsuite.results import Run
from evalsuite.store import write_atomically
from evalsuite.suite import Suite, choose

if TYPE_CHECKING:
    from torch import nn

    from evalsuite.data.dataset import DataSet
    from evalsuite.evaluators.contract import Evaluator
    from evalsuite.runner import Progress

Table = Mapping[str, Any]
"""A plug-in's name and settings, as a table of a suite."""


def run(
    suite: Suite | str | Path,
    *,
    out: Path | str | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Run:
    """Runs a suite and writes its report; what an earlier run finished is not computed again.

    Args:
        suite: A suite, the path of one, or the name of one that ships with the package.
        out: Run folder; ``reports/<suite>`` under the current folder by default.
        options: Seed, device and data, where they differ from the suite's.
        progress: Called after each cell.

    Returns:
        The results; ``run.measurements`` and ``run.thresholds()`` are tables.

    Raises:
        UserError: If the suite, its data or its checkpoint is not as it must be; nothing has been computed
            then.
    """
    from evalsuite.runner import run as computed  # torch takes seconds to import

    found = computed(suite, out=out, options=options, progress=progress)
    publish(found)
    return found


def publish(found: Run | Path | str) -> Path:
    """Writes the tables and the page of a run from its cells, without torch and without the models.

    Args:
        found: A run, or its folder.

    Returns:
        The path of ``index.html``; ``measurements.csv``, ``thresholds.csv`` and ``reliability.csv`` lie
        beside it.

    Raises:
        StoreError: If the folder is no run, holds no finished cell, or cannot be written.
    """
    results = found if isinstance(found, Run) else Run(found)
    if results.measurements.empty or not results.metrics:
        raise StoreError(f"{results.path} holds no finished cell yet; run the suite first")
    tables = {
        "measurements": results.measurements,
        "thresholds": results.thresholds(),
        "reliability": results.reliability,
    }
    for name, table in tables.items():
        write_atomically(
            results.path / f"{name}.csv", table.to_csv(index=False, lineterminator="\n").encode()
        )
    return write(Findings(**tables, metrics=results.metrics, record=results.record), results.path)


def evaluate(
    model: nn.Module,
    *,
    data: str | Table | ImageSet | DataSet = "digits",
    evaluators: Iterable[str | Table | Evaluator] = ("accuracy",),
    parent: nn.Module | None = None,
    options: Options | None = None,
) -> pd.DataFrame:
    """Returns the scores of one model that is in memory.

    Args:
        model: Takes float images in [0, 1], (B, C, H, W), and returns logits (B, K); it normalises by itself.
        data: A data set's name, table or instance, or labelled test images.
        evaluators: Names, tables or instances.
        parent: The unpruned network, for agreement; the model itself by default.
        options: Seed of the changes of images, and the data root.

    Returns:
        Columns evaluator, metric, condition, group, value, n, unit, higher_is_better.

    Raises:
        UserError: If data or evaluators are not as they must be.
        CellError: If the model or a plug-in breaks its contract.
    """
    from evalsuite.bench import Bench
    from evalsuite.data.dataset import Place
    from evalsuite.data.views import Gallery
    from evalsuite.measuring import scored

    options = options or Options()
    place = Place(data_root(None, options), options.download, options.seed or 0)
    gallery = Gallery(_source(data), place)
    bench = Bench(model, gallery, parent=Bench(parent, gallery) if parent is not None else None)
    rows = []
    for label, evaluator in map(_evaluator, evaluators):
        metrics = {metric.name: metric for metric in evaluator.metrics}
        for score in scored(evaluator, bench):
            metric = metrics[score.metric]
            named = {
                "evaluator": label,
                "metric": score.metric,
                "condition": score.condition,
                "group": score.group,
            }
            known = {"unit": metric.unit, "higher_is_better": metric.higher_is_better}
            rows.append({**named, "value": score.value, "n": score.n, **known})
    return pd.DataFrame(rows)


def _source(data: str | Table | ImageSet | DataSet) -> DataSet | ImageSet:
    return choose(DATASETS, data, where="data").plugin if isinstance(data, str | Mapping) else data


def _evaluator(evaluator: str | Table | Evaluator) -> tuple[str, Evaluator]:
    from evalsuite.evaluators import EVALUATORS

    if isinstance(evaluator, str | Mapping):
        choice = choose(EVALUATORS, evaluator, where="evaluators")
        return choice.label, choice.plugin
    return type(evaluator).__name__.lower(), evaluator
