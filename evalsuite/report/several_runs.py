"""Several runs in one report: their methods side by side, their parents kept apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from evalsuite.config.suite import DENSE
from evalsuite.errors import UserError
from evalsuite.report.exhibits import fairness_rows, robust
from evalsuite.report.export import tables
from evalsuite.report.fairness import fairness
from evalsuite.report.findings import Findings
from evalsuite.report.labels import labels as axis_labels

if TYPE_CHECKING:
    from evalsuite.results.run import Run
    from evalsuite.types import Candidate, Metric

_TOLD = ("command", "versions", "git_revision", "hardware", "seconds")
_ELSEWHERE = "the pictures are in the reports of the single runs"


def comparison(runs: Sequence[Run]) -> Findings:
    """Returns the findings of several runs as if they were one.

    A method that several runs have is called ``method (run)``. Each candidate stays compared with the parent of its
    own run: seeds are called ``seed in run``, and no line of a parent is drawn where parents differ. Score
    histograms and pictures stay with the reports of the runs.

    Args:
        runs: At least two; runs of one name are numbered.

    Raises:
        UserError: If there are fewer, or one metric has two definitions.
        StoreError: If a run holds no finished cell.
    """
    if len(runs) < 2:
        raise UserError(f"found {len(runs)} run to compare, expected at least two run folders")
    labels = _labels(runs)
    names = _names(runs, labels)
    parts: dict[str, list[pd.DataFrame]] = {}
    for run, label, known in zip(runs, labels, names, strict=True):
        for name, table in {**tables(run), "robust": robust(run)}.items():
            parts.setdefault(name, []).append(_relabelled(table, label, known, apart=name == "robust"))
    joined = {name: pd.concat(_filled(found), ignore_index=True) for name, found in parts.items()}
    return Findings(
        measurements=joined["measurements"],
        thresholds=joined["thresholds"],
        reliability=joined["reliability"],
        excess=joined.get("excess", pd.DataFrame()),
        exemplars=joined.get("exemplars", pd.DataFrame()),
        retraining=joined.get("retraining", pd.DataFrame()),
        robust=joined["robust"],
        fairness=_fairness(runs, names),
        metrics=_metrics(runs, labels),
        record=_record(runs, labels),
        no_pictures=dict.fromkeys(("broken", "corruption", "attack"), _ELSEWHERE),
    )


def _labels(runs: Sequence[Run]) -> list[str]:
    """The names of the suites; of the folders where these are not enough, numbered where those are not either."""
    for names in (
        [str(run.record["suite"]["name"]) for run in runs],
        [run.path.resolve().name for run in runs],
    ):
        if len(set(names)) == len(names):
            return names
    return [f"{name} {place}" for place, name in enumerate(names, 1)]


def _names(runs: Sequence[Run], labels: Sequence[str]) -> list[dict[str, str]]:
    """What the methods of each run are called."""
    each = [_methods(run.candidates.values()) for run in runs]
    seen = Counter(name for found in each for name in found)
    return [
        {name: own.get(name, name) + (f" ({label})" if seen[name] > 1 else "") for name in found}
        for found, own, label in zip(each, map(axis_labels, runs), labels, strict=True)
    ]


def _methods(candidates: Iterable[Candidate]) -> list[str]:
    return list(dict.fromkeys(one.method for one in candidates if one.method != DENSE))


def _relabelled(table: pd.DataFrame, label: str, names: Mapping[str, str], *, apart: bool) -> pd.DataFrame:
    if table.empty:
        return table
    known = {**names, DENSE: f"{DENSE} ({label})"} if apart else names
    renamed = table.assign(method=[known.get(str(name), name) for name in table["method"]])
    if "seed" not in table:
        return renamed
    return renamed.assign(seed=[s if str(s) == "all" else f"{s} in {label}" for s in table["seed"]])


def _filled(found: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """The tables that have rows: pandas warns of empty ones."""
    return [table for table in found if not table.empty] or list(found[:1])


def _metrics(runs: Sequence[Run], labels: Sequence[str]) -> dict[str, Metric]:
    known: dict[str, tuple[Metric, str]] = {}
    for run, label in zip(runs, labels, strict=True):
        for name, metric in run.metrics.items():
            other, first = known.setdefault(name, (metric, label))
            if other.functional != metric.functional or other.higher_is_better != metric.higher_is_better:
                raise UserError(
                    f"runs {first} and {label} mean different things by the metric {name!r}; "
                    "run one of them again with the evalsuite of the other"
                )
    return {name: metric for name, (metric, _) in known.items()}


def _fairness(runs: Sequence[Run], names: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """Who may be compared with whom: candidates of one data set, parent and target ratio meet, whatever their run."""
    bases: dict[tuple[str, str], int] = {}
    found: list[Candidate] = []
    made: list[str] = []
    for run, known in zip(runs, names, strict=True):
        made += [known[one["label"]] for one in run.record["suite"]["producers"] if one["label"] in known]
        parents = {one.seed: one.weights for one in run.candidates.values() if one.method == DENSE}
        for one in run.candidates.values():
            base = (str(run.record["suite"]["data"]), parents.get(one.seed, ""))
            place = bases.setdefault(base, len(bases))
            found.append(replace(one, method=known.get(one.method, one.method), seed=place))
    return fairness_rows(fairness(found, made=made))


def _record(runs: Sequence[Run], labels: Sequence[str]) -> dict[str, Any]:
    """What was run, run by run."""
    data = [str(run.record["suite"]["data"].get("name")) for run in runs]
    about = {
        label: {"data": run.record["suite"]["data"], **{key: run.record.get(key) for key in _TOLD}}
        for run, label in zip(runs, labels, strict=True)
    }
    notes = [one for run in runs for one in run.notes]
    if len(set(data)) > 1:
        notes += [
            {
                "method": label,
                "seed": "all",
                "note": f"Measured on {name}: not comparable with other data sets.",
            }
            for label, name in zip(labels, data, strict=True)
        ]
    suite = {"name": ", ".join(labels), "description": f"A comparison of {len(runs)} runs."}
    return {"suite": suite, "notes": notes, **about}
