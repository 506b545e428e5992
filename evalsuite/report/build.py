"""The data of a report, built from one run or from several, without torch and without the models.

Beside the tables that a run exports there are the robust accuracy over the radius of attacks, histograms of detector
scores, and which methods may be compared; they come from the evidence in the cells of a run. In a report of several
runs their methods stand side by side, and each is compared with the parent of its own run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from evalsuite.cost_axes import AXES
from evalsuite.errors import UserError
from evalsuite.report.comparability import SETUPS, TOTALS, Comparability, comparability
from evalsuite.report.data import ReportData, unique
from evalsuite.report.example_images import load_examples
from evalsuite.report.run_tables import tables
from evalsuite.results.check_verdicts import verdict_table
from evalsuite.results.ratios import axes_of_methods
from evalsuite.types import DENSE

if TYPE_CHECKING:
    from evalsuite.results.run import Run
    from evalsuite.runs.store import Key
    from evalsuite.types import Array, Candidate, Floats, Metric, Score

BINS = 24
"""Bins of a histogram of detector scores."""
DETECTORS = 2
"""Detectors that get histograms: the first ones of the suite."""
_PERCENTILES = (0.5, 99.5)
"""Percentiles of all scores between which the bins lie; scores beyond them count in the outermost bins."""
_AUROC = "_auroc"
_ROBUST_ACCURACY = "robust_accuracy"
_RADIUS = re.compile(r"(?P<attack>.*)/(?P<radius>[\d.]+(?:e-?\d+)?)(?P<unit>:255)?")
_METHOD_COLUMNS = ("method", "first", "second")
_RECORD_OF_EACH_RUN = ("command", "versions", "git_revision", "hardware", "seconds")
_IN_SINGLE_REPORTS = "the pictures are in the reports of the single runs"


def report_data(run: Run) -> ReportData:
    """Returns the data of the report of one run.

    Raises:
        StoreError: If the run holds no finished cell.
    """
    pictures, missing = load_examples(run.path)
    labels = method_labels(run)
    evidence_tables = {
        "robust": robust_accuracy(run),
        "histograms": score_histograms(run),
        "comparability": comparability_table(run),
    }
    axis = {"ratios counted in": AXES[run.axis].noun} if run.axis else {}
    return ReportData(
        **{name: _with_labels(table, labels) for name, table in {**tables(run), **evidence_tables}.items()},
        metrics=run.metrics,
        controls=tuple(labels.get(name, name) for name in run.controls),
        checked=checked_models(run),
        record={**run.record, "notes": run.notes, **axis},
        pictures=pictures,
        no_pictures=missing,
        data_sets={},
        runs={},
    )


def checked_models(run: Run) -> pd.DataFrame:
    """Returns the verdicts of a check of finished models; an empty table for any other run."""
    about = run.record["suite"].get("check")
    if not about:
        return pd.DataFrame()
    return verdict_table(run, undecided=about["undecided"], controls=about["controls"])


def method_labels(run: Run) -> dict[str, str]:
    """Returns the labels of methods whose ratios are on a cost axis of their own: their names with the cost.

    One axis for all methods is named once in the report instead.
    """
    axes = {} if run.axis else axes_of_methods(run.record["suite"])
    return {method: f"{method} ({AXES[axis].noun})" for method, axis in axes.items()}


def _with_labels(table: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """The table with labels in place of the names of methods."""
    columns = [column for column in _METHOD_COLUMNS if column in table]
    return table.assign(
        **{column: [labels.get(str(name), name) for name in table[column]] for column in columns}
    )


def robust_accuracy(run: Run) -> pd.DataFrame:
    """Returns robust accuracy by attack and radius, with radius 0 from the clean outputs of the same images.

    Attacks use the first images of the test set, so that the accuracy at radius 0 is that of these.
    """
    rows = [
        row for (key, _, _), score in run.comparison.scores.items() for row in _robust_rows(run, key, score)
    ]
    columns = ["method", "seed", "target_ratio", "ratio", "norm", "attack", "epsilon", "value", "n"]
    return pd.DataFrame(rows, columns=columns).drop_duplicates(columns[:7], ignore_index=True)


def _robust_rows(run: Run, key: Key, score: Score) -> Iterator[dict[str, Any]]:
    match = _RADIUS.fullmatch(score.condition)
    if score.metric != _ROBUST_ACCURACY or match is None or score.value is None:
        return
    norm = "Linf" if match["unit"] else "L2"
    labels = {**_candidate(run, key), "norm": norm, "attack": match["attack"].removesuffix(" l2")}
    yield {**labels, "epsilon": float(match["radius"]), "value": score.value, "n": score.n}
    clean = run.comparison.on_all_images.get((key, "accuracy", "clean"))
    if clean is not None and clean.evidence and score.n:
        (correct,) = clean.evidence.values()
        yield {**labels, "epsilon": 0.0, "value": float(np.mean(correct[: score.n])), "n": score.n}


def score_histograms(run: Run) -> pd.DataFrame:
    """Returns the detector scores of in- and out-of-distribution images in common bins, of the first seed."""
    rows = []
    for detector, samples in list(_detector_scores(run).items())[:DETECTORS]:
        edges = _bin_edges(list(samples.values()))
        for (key, sample, group), scores in samples.items():
            labels = {**_candidate(run, key), "detector": detector, "sample": sample, "group": group}
            rows += [{**labels, **bin_of_scores} for bin_of_scores in _bins(scores, edges)]
    columns = [
        *("method", "seed", "target_ratio", "ratio", "detector", "sample", "group"),
        *("low", "high", "count"),
    ]
    return pd.DataFrame(rows, columns=columns)


def _detector_scores(run: Run) -> dict[str, dict[tuple[Key, str, str], Floats]]:
    """By detector, the scores of each candidate, sample (``test`` or a set of outliers) and group."""
    seed = run.record["suite"]["seeds"][0]
    detectors: dict[str, dict[tuple[Key, str, str], Floats]] = {}
    for (key, metric, condition), score in run.comparison.scores.items():
        if metric.endswith(_AUROC) and key.seed == seed and len(score.evidence) == 2 and score.group:
            samples = detectors.setdefault(metric.removesuffix(_AUROC), {})
            inside, outside = score.evidence.values()
            samples[key, "test", ""] = _flat(inside)
            samples[key, condition, score.group] = _flat(outside)
    return detectors


def _candidate(run: Run, key: Key) -> dict[str, Any]:
    ratio = 0.0 if key.method == DENSE else run.candidates[key].ratio
    return {"method": key.method, "seed": key.seed, "target_ratio": key.target_ratio, "ratio": ratio}


def _flat(scores: Array) -> Floats:
    return np.asarray(scores, dtype=np.float64).ravel()


def _bin_edges(scores: list[Floats]) -> Floats:
    low, high = np.percentile(np.concatenate(scores), _PERCENTILES)
    return np.linspace(low, high if high > low else low + 1, BINS + 1)


def _bins(scores: Floats, edges: Floats) -> Iterator[Mapping[str, Any]]:
    counts, _ = np.histogram(scores.clip(edges[0], edges[-1]), edges)
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        yield {"low": float(low), "high": float(high), "count": int(count)}


def comparability_table(run: Run) -> pd.DataFrame:
    """Returns which comparison setups hold between each two methods; see `evalsuite.report.comparability`."""
    produced = [producer["label"] for producer in run.record["suite"]["producers"]]
    return _table_of_pairs(comparability(run.candidates.values(), produced=produced))


def _table_of_pairs(pairs: Sequence[Comparability]) -> pd.DataFrame:
    """One row for each two methods, with a column for each setup."""
    columns = ["first", "second", "pairs", "setup", "fair", "why"]
    rows = [{name: getattr(pair, name) for name in columns} | dict(pair.holds) for pair in pairs]
    return pd.DataFrame(rows, columns=[*columns, *SETUPS, *TOTALS])


def combined_report_data(runs: Sequence[Run]) -> ReportData:
    """Returns the data of a report of several runs.

    A method that several runs have is called ``method (run)``. Each candidate stays compared with the parent of its
    own run: seeds are called ``seed in run``, and no line of a parent is drawn where parents differ. Score
    histograms and pictures stay in the reports of the runs.

    Args:
        runs: At least two; runs of one name are numbered.

    Raises:
        UserError: If there are fewer, or one metric has two definitions.
        StoreError: If a run holds no finished cell.
    """
    if len(runs) < 2:
        raise UserError(f"found {len(runs)} run to compare, expected at least two run folders")
    run_labels = _run_labels(runs)
    labels = _labels_of_each_run(runs, run_labels)
    parts: dict[str, list[pd.DataFrame]] = {}
    for run, run_label, names in zip(runs, run_labels, labels, strict=True):
        for name, table in {**tables(run), "robust": robust_accuracy(run)}.items():
            parts.setdefault(name, []).append(
                _relabelled(table, run_label, names, label_parent=name == "robust")
            )
    joined: dict[str, Any] = {
        name: pd.concat(_not_empty(part), ignore_index=True) for name, part in parts.items()
    }
    return ReportData(
        **joined,
        comparability=_comparability_across(runs, labels),
        metrics=_common_metrics(runs, run_labels),
        record=_combined_record(runs, run_labels),
        no_pictures=dict.fromkeys(("misclassified", "corruption", "attack"), _IN_SINGLE_REPORTS),
        controls=tuple(
            names[control]
            for run, names in zip(runs, labels, strict=True)
            for control in run.controls
            if control in names
        ),
        data_sets=_data_sets(runs, run_labels, labels),
        runs={
            method: label
            for label, names in zip(run_labels, labels, strict=True)
            for method in names.values()
        },
    )


def _data_sets(
    runs: Sequence[Run], run_labels: Sequence[str], labels: Sequence[Mapping[str, str]]
) -> dict[str, str]:
    """The data set of each method; with the name of the run where different ones are called alike."""
    tables = [dict(run.record["suite"]["data"]) for run in runs]
    names = [str(table.get("name")) for table in tables]
    different = [
        name for name in names if len({str(t) for t, n in zip(tables, names, strict=True) if n == name}) > 1
    ]
    shown = [
        f"{name} of {label}" if name in different else name
        for name, label in zip(names, run_labels, strict=True)
    ]
    return {method: name for name, of_run in zip(shown, labels, strict=True) for method in of_run.values()}


def _run_labels(runs: Sequence[Run]) -> list[str]:
    """The names of the suites; of the folders if suites have the same name, numbered if folders have too."""
    for names in (
        [str(run.record["suite"]["name"]) for run in runs],
        [run.path.resolve().name for run in runs],
    ):
        if len(set(names)) == len(names):
            return names
    return [f"{name} {number}" for number, name in enumerate(names, 1)]


def _labels_of_each_run(runs: Sequence[Run], run_labels: Sequence[str]) -> list[dict[str, str]]:
    """The labels of the methods of each run."""
    methods = [unique(c.method for c in run.candidates.values() if c.method != DENSE) for run in runs]
    counts = Counter(name for names in methods for name in names)
    return [
        {name: axis_labels.get(name, name) + (f" ({label})" if counts[name] > 1 else "") for name in names}
        for names, axis_labels, label in zip(methods, map(method_labels, runs), run_labels, strict=True)
    ]


def _relabelled(
    table: pd.DataFrame, run_label: str, labels: Mapping[str, str], *, label_parent: bool
) -> pd.DataFrame:
    if table.empty:
        return table
    names = {**labels, DENSE: f"{DENSE} ({run_label})"} if label_parent else labels
    renamed = table.assign(method=[names.get(str(name), name) for name in table["method"]])
    if "seed" not in table:
        return renamed
    seeds = [seed if str(seed) == "all" else f"{seed} in {run_label}" for seed in table["seed"]]
    return renamed.assign(seed=seeds)


def _not_empty(parts: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """The tables that have rows, since pandas warns about empty ones; the first one if none has."""
    return [table for table in parts if not table.empty] or list(parts[:1])


def _common_metrics(runs: Sequence[Run], run_labels: Sequence[str]) -> dict[str, Metric]:
    definitions: dict[str, tuple[Metric, str]] = {}
    for run, label in zip(runs, run_labels, strict=True):
        for name, metric in run.metrics.items():
            other, first = definitions.setdefault(name, (metric, label))
            if other.functional != metric.functional or other.higher_is_better != metric.higher_is_better:
                raise UserError(
                    f"runs {first} and {label} have different definitions of the metric {name!r}; "
                    "run one of them again with the version of evalsuite of the other"
                )
    return {name: metric for name, (metric, _) in definitions.items()}


def _comparability_across(runs: Sequence[Run], labels: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """Comparability of methods of all runs: candidates of one data set, parent and target ratio make a pair."""
    bases: dict[tuple[str, str], int] = {}
    candidates: list[Candidate] = []
    produced: list[str] = []
    for run, names in zip(runs, labels, strict=True):
        suite = run.record["suite"]
        produced += [names[table["label"]] for table in suite["producers"] if table["label"] in names]
        parents = {c.seed: c.weights for c in run.candidates.values() if c.method == DENSE}
        for candidate in run.candidates.values():
            base = (str(suite["data"]), parents.get(candidate.seed, ""))
            number = bases.setdefault(base, len(bases))
            name = names.get(candidate.method, candidate.method)
            candidates.append(replace(candidate, method=name, seed=number))
    return _table_of_pairs(comparability(candidates, produced=produced))


def _combined_record(runs: Sequence[Run], run_labels: Sequence[str]) -> dict[str, Any]:
    """The record of a report of several runs: what was run, run by run."""
    data = [str(run.record["suite"]["data"].get("name")) for run in runs]
    records = {
        label: {"data": run.record["suite"]["data"]}
        | {key: run.record.get(key) for key in _RECORD_OF_EACH_RUN}
        for run, label in zip(runs, run_labels, strict=True)
    }
    notes = [note for run in runs for note in run.notes]
    if len(set(data)) > 1:
        notes += [
            {
                "method": label,
                "seed": "all",
                "note": f"Measured on {name}: not comparable with other data sets.",
            }
            for label, name in zip(run_labels, data, strict=True)
        ]
    suite = {"name": ", ".join(run_labels), "description": f"A comparison of {len(runs)} runs."}
    return {"suite": suite, "notes": notes, **records}
