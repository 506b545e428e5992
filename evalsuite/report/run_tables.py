"""Every table of a run by name, with its rows in canonical order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalsuite.errors import StoreError
from evalsuite.types import DENSE

if TYPE_CHECKING:
    import pandas as pd

    from evalsuite.results.run import Run

ORDER = (
    "method", "seed", "target_ratio", "evaluator", "metric", "condition", "group", "aggregate", "scope", "ratio",
)  # fmt: skip
"""Columns that name a row, in the order by which the rows of a table are sorted."""


def tables(run: Run) -> dict[str, pd.DataFrame]:
    """Returns every table of a run by name: measurements, thresholds, reliability, excess, exemplars, retraining.

    And verdicts (each check at each ratio in each scope), groups (intervals of the potential), counts (checks by
    verdict), and splits (potentials over training and over held-out conditions) where the suite keeps these apart. Rows
    have a canonical order: the dense networks first, then by what names a row, whatever the order of methods and tests
    in the suite.

    Raises:
        StoreError: If no cell is finished yet.
    """
    if run.measurements.empty or not run.metrics:
        raise StoreError(f"{run.path} holds no finished cell yet; run the suite first")
    by_name = {
        "measurements": run.measurements,
        "thresholds": run.thresholds(),
        "reliability": run.reliability,
        "excess": run.excess,
        "exemplars": run.exemplars,
        "retraining": run.retraining,
        "verdicts": run.verdicts,
        "groups": run.groups,
        "counts": run.counts,
        **({} if run.splits.empty else {"splits": run.splits}),
    }
    return {name: _in_order(table) for name, table in by_name.items()}


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """The rows in canonical order; those that nothing in `ORDER` tells apart stay as they are."""
    columns = [name for name in ORDER if name in table]
    return table.sort_values(columns, key=_rank, kind="stable", ignore_index=True) if columns else table


def _rank(column: pd.Series[Any]) -> pd.Series[Any]:
    """What a column is sorted by: numbers before words, the dense network before all methods."""
    if column.dtype.kind != "O":
        return column
    ranked = sorted(
        column.dropna().unique(), key=lambda value: (value != DENSE, isinstance(value, str), value)
    )
    return column.map({value: place for place, value in enumerate(ranked)})
