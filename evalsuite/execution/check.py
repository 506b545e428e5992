"""The check of finished models: which pruned models are as good as their dense parent, and may ship?"""

from __future__ import annotations

import dataclasses
import logging
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from evalsuite.config.data import resolve_data
from evalsuite.config.manifest import candidates_of_paths
from evalsuite.config.settings import placed_model
from evalsuite.config.suite import Suite, find_suite, model_table, read_suite_tables, suite_from_tables
from evalsuite.errors import SuiteError
from evalsuite.registry import import_plugin_file, unknown_name
from evalsuite.results.run import Run
from evalsuite.runs.store import write_atomically
from evalsuite.thresholds.curves import ULPS
from evalsuite.thresholds.verdicts import INFERIOR, NONINFERIOR, UNDECIDED
from evalsuite.tolerances import Limit, Tolerance, limit_for, parse_limits
from evalsuite.types import DENSE, ExternalCandidate, WeightSet

if TYPE_CHECKING:
    from evalsuite.models.architectures.base import Architecture

log = logging.getLogger(__name__)

BATTERY: Mapping[str, Any] = {
    "evaluators": [
        {"name": "accuracy"},
        {"name": "corruptions", "severities": [3]},
        {"name": "ood", "far": ["photographs", "uniform-noise"]},
        {"name": "noise", "epsilons": [8, 16]},
        {"name": "attack", "epsilons": [0.5, 1], "steps": 10, "images": 200},
        {"name": "attack", "label": "black-box", "attacks": ["linf-noise"], "epsilons": [4], "images": 200},
        {"name": "calibration", "held_out": "cross-fit"},
    ],
    "tolerances": {
        "accuracy": 0.005,
        "robust_accuracy": 0.02,
        "msp_auroc": 0.01,
        "energy_auroc": 0.01,
        "ece_equal_width": {"clean": 0.01},
    },
}
"""Tests and tolerances where no suite is named; they need no data beside the data set."""

COLUMNS = (
    *("candidate", "seed", "ratio", "parameters", "macs", "packed", "metric", "condition"),
    *("value", "parent", "drop", "drop_low", "drop_high", "tolerance", "verdict", "verdict_level"),
    *("shown", "passed", "controls", "controls_inferior", "controls_failed"),
    *("reason", "flags", "sample"),
)
YES, NO, OPEN = "commensurate", "not commensurate", "open"
"""What the verdicts were called in the column ``shown`` up to evalsuite 0.2, which stays for one release."""
EARLIER = {NONINFERIOR: YES, INFERIOR: NO, UNDECIDED: OPEN}


@dataclass(frozen=True)
class CheckRequest:
    """A dense network, pruned models of it, and how they are to be compared.

    Attributes:
        parent: Weights of the dense network; empty for the suite's ``checkpoint``.
        candidates: The pruned models; empty for the suite's ``[[candidates]]``.
        model: Reference of the architecture, see `evalsuite.models.architectures.uris`; empty: that of
            the suite's ``[model]``, else it is detected from the parent's tensors.
        settings: Settings of the architecture: ``mean``, ``std``, ``classes``, ``shortcut`` ...
        data: Name, path or table of the data set, see `evalsuite.config.data.resolve_data`; empty for the suite's
            ``[data]``, else CIFAR-10.
        suite: Path or name of the suite with the tests and tolerances; empty for `BATTERY`. Its data, model, plug-ins,
            limits and so on count too.
        tolerances: Metric to tolerance, where it differs; see `evalsuite.tolerances`.
        metrics: Only these decide; empty for all that have a tolerance.
        parent_accuracy: The parent's published accuracy on the clean test images; ``None`` for the suite's.
        proof: Whether only what is non-inferior passes; otherwise what was measured decides.
        weights: Which set of weights of files that hold two, ``ema`` or ``raw``; a candidate may have its own choice.
        controls: Dense networks, retrained as the candidates were or trained independently: what they fail as well is
            not due to pruning.
    """

    parent: str
    candidates: tuple[ExternalCandidate, ...]
    data: str | Mapping[str, Any]
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    suite: str = ""
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    proof: bool = False
    weights: WeightSet = ""
    parent_accuracy: float | None = None
    controls: tuple[ExternalCandidate, ...] = ()


MAKING = ("producers", "ratios", "recipe", "retraining", "control")
"""Keys of a suite that say how candidates are made, which `check` does not do."""
PASSED_ON = ("depth", "evaluators", "threads", "resources", "data_root", "parent_accuracy")
"""Keys of a suite that mean in `check` what they mean in `run`."""
DEFAULT_DATA = "cifar10"


def suite_for(request: CheckRequest, *, folder: Path) -> Suite:
    """Returns the suite that answers a request.

    Args:
        request: The models to check.
        folder: Where relative paths start.

    Raises:
        SuiteError: If the request has a mistake.
    """
    return check_suite_of(request, folder=folder)[0]


def check_suite_of(
    request: CheckRequest, *, folder: Path, root: Path | None = None
) -> tuple[Suite, Path | None]:
    """Returns the suite that answers a request, and the data root where ``data`` named one.

    Args:
        request: The models to check.
        folder: Where relative paths start.
        root: Data root that the user named, if any.

    Raises:
        SuiteError: If the request has a mistake.
    """
    battery, source = _battery(request)
    request = dataclasses.replace(
        request,
        parent=request.parent or _beside(source, str(battery.get("checkpoint", ""))),
        weights=request.weights or battery.get("checkpoint_weights", ""),
    )
    candidates = [_table(model) for model in request.candidates] or _listed(battery, source)
    candidates = [{**table, "weights": _choice(table, request)} for table in candidates]
    if not candidates:
        raise SuiteError(
            "found no candidates, expected at least one: give --candidate FILE or --manifest FILE"
        )
    if not request.parent:
        raise SuiteError("found no parent, expected its weights: give --parent FILE")
    data = resolve_data(request.data, where="--data", root=root) if request.data else None
    seeds = sorted({int(table.get("seed", 0)) for table in candidates})
    claim = {} if request.parent_accuracy is None else {"parent_accuracy": request.parent_accuracy}
    raw = {
        **{key: battery[key] for key in PASSED_ON if key in battery},
        "name": "check",
        "description": f"finished models beside {Path(request.parent).name}",
        "checkpoint": request.parent,
        "checkpoint_weights": request.weights,
        "seeds": seeds,
        "data": battery.get("data", {"name": DEFAULT_DATA}) if data is None else data.table,
        "plugins": [str((source / plugin).resolve()) for plugin in battery.get("plugins", ())],
        "candidates": [*candidates, *map(_table, request.controls)],
        "tolerances": _tolerances(request, battery),
        **claim,
    }
    for plugin in raw["plugins"]:
        import_plugin_file(Path(plugin))  # it may register the architecture
    raw["model"] = _model_table(request, battery, seeds[0], source)
    if "data_root" in raw:
        raw["data_root"] = str((source / Path(raw["data_root"]).expanduser()).resolve())
    if data is not None and data.warning:
        log.warning("--data: %s", data.warning)
    return suite_from_tables(raw, source=folder / "check"), None if data is None else data.root


def _battery(request: CheckRequest) -> tuple[Mapping[str, Any], Path]:
    """The tables of the suite that a request names, and the folder where its relative paths start."""
    if not request.suite:
        return BATTERY, Path.cwd()
    path = find_suite(request.suite)
    battery = read_suite_tables(path)
    if unused := [key for key in MAKING if key in battery]:
        log.warning("%s: check takes finished models, so it does not use %s", path, ", ".join(unused))
    return battery, path.parent.resolve()


def _tolerances(request: CheckRequest, battery: Mapping[str, Any]) -> dict[str, Tolerance]:
    tolerances = {**battery.get("tolerances", {}), **request.tolerances}
    for name in request.metrics:
        if name not in tolerances:
            raise SuiteError(f"--metric {name}: {unknown_name('metric with a tolerance', name, tolerances)}")
    return {k: v for k, v in tolerances.items() if not request.metrics or k in request.metrics}


def _listed(battery: Mapping[str, Any], source: Path) -> list[dict[str, Any]]:
    """The finished models of a suite, with their paths beside it."""
    return [
        {
            **table,
            **{key: _beside(source, str(table[key])) for key in ("file", "masks") if table.get(key)},
            **({"model": placed_model(str(table["model"]), source)} if table.get("model") else {}),
        }
        for table in battery.get("candidates", ())
    ]


def _beside(folder: Path, name: str) -> str:
    """A path of a suite that starts at its folder; as it is where there is nothing: it may be in the data root."""
    path = folder / Path(name).expanduser()
    first = Path(str(path).replace("{seed}", "0"))
    return str(path) if name and (path.exists() or first.exists()) else name


def _model_table(
    request: CheckRequest, battery: Mapping[str, Any], seed: int, source: Path
) -> dict[str, Any]:
    """The architecture as a table of a suite: the one that is named, that of the suite, or the one that fits."""
    from evalsuite.models.architectures.settings import to_settings  # imports torch

    if not request.model and "model" in battery:
        return {**model_table(battery["model"], source / "suite"), **request.settings}
    parent = request.parent.replace("{seed}", str(seed))
    return dict(to_settings(_architecture(dataclasses.replace(request, parent=parent))))


def controls_of_paths(paths: Iterable[str]) -> tuple[ExternalCandidate, ...]:
    """Returns one control per path, named after the file."""
    return tuple(
        dataclasses.replace(model, method=f"control {model.method}") for model in candidates_of_paths(paths)
    )


def verdict_table(
    run: Run, *, proof: bool = False, controls: Iterable[ExternalCandidate] = ()
) -> pd.DataFrame:
    """Returns one row per candidate, metric and condition: value, parent's value, drop, interval, verdict.

    ``verdict`` is ``non-inferior``, ``inferior`` or ``undecided``, at the level in ``verdict_level``
    (`evalsuite.thresholds.verdicts`); for all rows of a candidate at once *non-inferior* needs no correction (an
    intersection-union test), and of the rows that are *inferior* any is wrong in at most 2.5 % of samples. Metrics that
    have no bounds are always undecided. ``shown`` has the same in the words of earlier versions.

    ``controls`` is the number of dense networks that were measured in the same way, ``controls_inferior`` and
    ``controls_failed`` how many of them are inferior there, and how many are measured to lose more than the tolerance.

    A condition that is not defined for the data (a corruption of colours on images of two channels) has a reason for
    the parent and the same for the candidate: there is nothing to compare, and no candidate fails by it, as long as the
    metric is measured elsewhere.

    ``flags`` are warnings about the candidate's number: a masked gradient makes an attack look withstood. ``sample``
    says which part of the test images was looked at; it is empty for all.

    Args:
        run: The measurements.
        proof: Whether ``passed`` means non-inferior; otherwise a measured drop within the tolerance passes.
        controls: Dense networks among the candidates of the run, which have no rows of their own.
    """
    table = run.measurements
    rules = {name: parse_limits(tolerance) for name, tolerance in run.tolerances.items()}
    judged = table[table["metric"].isin(list(rules))]
    keys = ["seed", "metric", "condition"]
    parents = judged[judged["method"] == DENSE].set_index(keys)[["value", "reason"]]
    rows = judged[judged["method"] != DENSE].join(
        parents.set_axis(["parent", "parent_reason"], axis=1), on=keys
    )
    rows["tolerance"] = [_tolerated(rules[row["metric"]], row) for _, row in rows.iterrows()]
    rows = rows[rows["tolerance"].notna()]
    slack = (
        ULPS * np.finfo(np.float64).eps * rows["tolerance"].clip(lower=1.0)
    )  # equality passes, as in thresholds
    within = rows["drop"] <= rows["tolerance"] + slack
    rows["verdict"] = rows["verdict"].where(rows["verdict"] != "", UNDECIDED)
    rows["shown"] = rows["verdict"].map(EARLIER)
    rows["passed"] = ((rows["verdict"] == NONINFERIOR) if proof else within) | _incomparable(rows)
    rows["sample"] = str((run.record.get("sample") or {}).get("text", ""))
    is_control = rows["method"].isin([control.method for control in controls])
    rows = _with_controls(rows[~is_control], rows[is_control].assign(failed=~within[is_control]))
    return rows.rename(columns={"method": "candidate"})[list(COLUMNS)].reset_index(drop=True)


def _with_controls(rows: pd.DataFrame, controls: pd.DataFrame) -> pd.DataFrame:
    """The rows of candidates with how many controls of their seed were measured, are inferior, and failed."""
    measured = controls[controls["status"] == "ok"].assign(inferior=controls["verdict"] == INFERIOR)
    counts = measured.groupby(["seed", "metric", "condition"])[["inferior", "failed"]].agg("sum")
    counts["controls"] = measured.groupby(["seed", "metric", "condition"]).size()
    names = {"inferior": "controls_inferior", "failed": "controls_failed"}
    joined = rows.join(counts.rename(columns=names), on=["seed", "metric", "condition"])
    columns = ["controls", *names.values()]
    return joined.assign(**joined[columns].fillna(0).astype(int))


def _tolerated(rules: Mapping[str, Limit], row: pd.Series[Any]) -> float:
    """Largest drop that is commensurate in one row; NaN where there is no tolerance."""
    limit = limit_for(rules, row["condition"], row["group"])
    return np.nan if limit is None else limit.at(float(row["parent"]))


def junit(verdicts: pd.DataFrame) -> bytes:
    """Returns verdicts as JUnit XML: a test suite per candidate, a test case per metric and condition."""
    root = ET.Element("testsuites", name="evalsuite check")
    for candidate, rows in verdicts.groupby("candidate", sort=False):
        failures = str(int((~rows["passed"]).sum()))
        suite = ET.SubElement(root, "testsuite", name=str(candidate), tests=str(len(rows)), failures=failures)
        if text := sample_of(rows):
            properties = ET.SubElement(suite, "properties")
            ET.SubElement(properties, "property", name="sample", value=text)
        for row in _records(rows):
            case = ET.SubElement(
                suite, "testcase", classname=str(candidate), name=f"{row['metric']} on {row['condition']}"
            )
            if not row["passed"]:
                ET.SubElement(case, "failure", message=sentence(row))
            elif isinstance(row["reason"], str) and row["reason"]:
                ET.SubElement(case, "skipped", message=row["reason"])
            if row["flags"]:
                ET.SubElement(case, "system-out").text = f"Warning: {row['flags']}"
    ET.indent(root)
    data: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return data


def write_junit(verdicts: pd.DataFrame, path: Path) -> None:
    """Writes verdicts as JUnit XML.

    Raises:
        StoreError: If the file cannot be written.
    """
    write_atomically(path, junit(verdicts))


def sentence(row: Mapping[str, Any]) -> str:
    """Returns one verdict in words."""
    if row["reason"]:
        return f"{row['metric']} on {row['condition']} could not be measured: {row['reason']}"
    within = row["drop"] <= row["tolerance"] and not row["passed"]
    return (
        f"{row['metric']} on {row['condition']} is {row['value']:.4f}, the parent's {row['parent']:.4f}: "
        f"a drop of {row['drop']:.4f}, tolerated are {row['tolerance']:g}"
        + (", which the images leave undecided" if within else "")
        + controls_phrase(row)
    )


def controls_phrase(row: Mapping[str, Any]) -> str:
    """Returns what the controls of a row show, as the end of a sentence; nothing without controls.

    >>> controls_phrase({"controls": 2, "controls_failed": 1, "controls_inferior": 0})
    '; of 2 dense controls 1 loses more than that as well, 0 inferior'
    """
    count, failed = row.get("controls", 0), row.get("controls_failed", 0)
    if not count > 0:
        return ""
    verb = "loses" if failed == 1 else "lose"
    return (
        f"; of {count} dense control{'s' * (count > 1)} {failed} {verb} more than that as well, "
        f"{row['controls_inferior']} inferior"
    )


def _architecture(request: CheckRequest) -> Architecture:
    from evalsuite.models.architectures.uris import architecture_from_uri
    from evalsuite.models.checkpoints.architecture_detection import (
        detect_architecture,  # both import torch
        published_entry,
    )

    parent = Path(request.parent)
    if request.model:
        entry = published_entry(request.model, parent)
        stated = {"weights": entry} if entry else {}
        return architecture_from_uri(request.model, **{**stated, **request.settings})
    fit = detect_architecture(_weights(parent, request.weights), file=parent)
    return architecture_from_uri(fit.uri, **{**fit.settings, **request.settings})


def _weights(path: Path, choice: WeightSet) -> Mapping[str, Any]:
    from evalsuite.models.checkpoints.reading import read_weights  # imports torch

    return read_weights(path, choice=choice)


def _choice(table: Mapping[str, Any], request: CheckRequest) -> WeightSet:
    """A candidate's own choice, or that of the request for weights alone: a whole program has one set."""
    from evalsuite.models.exported.inspection import is_program  # imports torch

    own: WeightSet = table.get("weights", "")
    if own or not request.weights or is_program(Path(str(table["file"]))):
        return own
    return request.weights


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]


def _table(candidate: ExternalCandidate) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(candidate).items() if value is not None}


def _incomparable(rows: pd.DataFrame) -> pd.Series[Any]:
    """Whether neither parent nor candidate has a number, for the same reason, and the metric has others."""
    without = rows["value"].isna() & rows["parent"].isna() & (rows["reason"] != "")
    measured = rows["value"].notna().groupby([rows["method"], rows["metric"]]).transform("any")
    return without & (rows["reason"] == rows["parent_reason"]) & measured


def sample_of(verdicts: pd.DataFrame) -> str:
    """Returns which part of the test images verdicts are about; empty for all."""
    return next((text for text in verdicts["sample"] if isinstance(text, str) and text), "")
