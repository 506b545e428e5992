"""Run folders of earlier versions: what they hold, with today's names of metrics and conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evalsuite.legacy_names import current_condition, current_metric, current_tolerances
from evalsuite.runs.store import Cell
from evalsuite.types import Metric, Score


def current_cell(cell: Cell) -> Cell:
    """Returns a cell with today's names of its metrics and conditions."""
    scores, parent = (tuple(map(_score, scores)) for scores in (cell.scores, cell.parent))
    return replace(cell, metrics=tuple(map(_metric, cell.metrics)), scores=scores, parent=parent)


def current_record(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the content of a ``run.json`` of any version with today's names of metrics and conditions."""
    suite = record.get("suite")
    if not isinstance(suite, Mapping) or not isinstance(suite.get("tolerances"), Mapping):
        return record
    return {**record, "suite": {**suite, "tolerances": current_tolerances(suite["tolerances"])}}


def _metric(metric: Metric) -> Metric:
    return replace(metric, name=current_metric(metric.name))


def _score(score: Score) -> Score:
    metric, condition = current_metric(score.metric), current_condition(score.condition)
    return replace(score, metric=metric, condition=condition)
