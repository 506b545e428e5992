"""The check of finished models: which pruned models are as good as their dense parent, and may ship?"""

from __future__ import annotations

import dataclasses
import filecmp
import logging
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from evalsuite.config.data import resolve_data
from evalsuite.config.manifest import candidates_of_paths
from evalsuite.config.settings import placed_model
from evalsuite.config.suite import COUNTED_LATER, Suite
from evalsuite.config.suite_file import find_suite, model_table, read_suite_tables, suite_from_tables
from evalsuite.errors import SuiteError, printable
from evalsuite.execution.check_places import NAME
from evalsuite.models.uri_tables import settings_of_uri
from evalsuite.registry import import_plugin_file, unknown_name
from evalsuite.results.check_verdicts import UNDECIDED_RULES, UndecidedRule, case_text, sample_of, sentence
from evalsuite.runs.store import Store, write_atomically
from evalsuite.runs.timings import RunTimings
from evalsuite.tolerances import Tolerance
from evalsuite.types import ExternalCandidate, WeightSet

if TYPE_CHECKING:
    import pandas as pd

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

PROGRAM_TESTS: tuple[Mapping[str, Any], ...] = (
    {"name": "transfer", "epsilons": [0.5, 1], "steps": 10},
    {
        "name": "attack", "label": "black-box queries", "attacks": ["square"], "epsilons": [1], "images": 100,
        "queries": 100,
    },
)  # fmt: skip
"""What is added to them where a candidate is a whole program, which may have no gradients: quantised ones have none."""


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
        undecided: What becomes of checks that the images leave undecided: ``measured`` (the measured drop decides),
            ``pass`` or ``fail``.
        weights: Which set of weights of files that hold two, ``ema`` or ``raw``; a candidate may have its own choice.
        entry: Which network of files that hold several, by its place or key; a candidate may have its own, and files of
            one network need none.
        ignore_recorded_accuracy: Go on where the accuracy of a guessed architecture is not what the file records.
        controls: Dense networks, retrained as the candidates were or trained independently: what they fail as well is
            not due to pruning.
        sequential: Measure in stages and stop each check when its verdict is decided; so does a suite that says so.
        proof: Old name of ``undecided="fail"``.
    """

    parent: str
    candidates: tuple[ExternalCandidate, ...]
    data: str | Mapping[str, Any]
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    suite: str = ""
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    undecided: UndecidedRule = "measured"
    weights: WeightSet = ""
    entry: int | str = ""
    parent_accuracy: float | None = None
    controls: tuple[ExternalCandidate, ...] = ()
    ignore_recorded_accuracy: bool = False
    sequential: bool = False
    proof: dataclasses.InitVar[bool | None] = None

    def __post_init__(self, proof: bool | None) -> None:
        if proof is not None:
            sentence = "CheckRequest(proof=True) is now CheckRequest(undecided='fail')"
            warnings.warn(sentence, DeprecationWarning, stacklevel=3)
            object.__setattr__(self, "undecided", "fail" if proof else self.undecided)
        if self.undecided not in UNDECIDED_RULES:
            raise SuiteError(f"undecided: {unknown_name('rule', self.undecided, UNDECIDED_RULES)}")


WITHOUT_EFFECT = ("seeds", "producers", "ratios", "recipe", "retraining", "control", "conditions")
"""Keys of a suite that say how candidates are made, which `check` does not do; finished models have their own seeds."""
PASSED_ON = ("depth", "evaluators", "threads", "resources", "data_root", "parent_accuracy", "sequential")
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
    candidates = _candidate_tables(request, battery, source)
    request, candidates, controls = _with_entries(request, battery, candidates)
    _check_controls(request)
    if not request.parent:
        raise SuiteError("found no parent, expected its weights: give --parent FILE")
    if not request.data and "data" not in battery and root is None:
        raise SuiteError(
            f"found no --data, and {DEFAULT_DATA}, which is tested on without one, has no folder; give your images "
            "(--data FOLDER), or the folder with that data set (--data-root)"
        )
    data = resolve_data(request.data, where="--data", root=root) if request.data else None
    raw = _suite_tables(request, battery, source, candidates, controls)
    if not request.suite:
        raw["evaluators"] = _tests_of(candidates, folder)
    if data is not None:
        raw["data"] = data.table
    for plugin in raw["plugins"]:
        import_plugin_file(Path(plugin))  # it may register the architecture
    raw["model"], guessed = _model_table(request, battery, raw["seeds"][0], source)
    if data is not None and data.warning:
        log.warning("--data: %s", data.warning)
    suite = suite_from_tables(raw, source=folder / NAME)
    about = _beside_tests(request, guessed)
    return dataclasses.replace(suite, check=about), None if data is None else data.root


def places_of(request: CheckRequest, folder: Path) -> dict[str, str]:
    """Returns what messages call the tables of the suite that answers a request: options, or those of its own suite.

    Args:
        request: The models to check.
        folder: Where relative paths start.
    """
    source, suite = f"{folder / NAME}", request.suite or NAME
    data = f" {request.data}" if isinstance(request.data, str) else ""
    model = f" {request.model}" if request.model else ""
    tolerances = f"--tolerance, or {suite}, [tolerances]" if request.tolerances else ""
    options = {
        "[data]": f"--data{data}" if request.data else "",
        "[model]": f"--model{model}" if request.model or not request.suite else "",
        "[tolerances]": tolerances if request.suite else "--tolerance",
        "[[candidates]]": "--candidate" if request.candidates else "",
    }
    named = {f"{source}, {table}": option for table, option in options.items() if option}
    return {**named, source: suite}


def _candidate_tables(
    request: CheckRequest, battery: Mapping[str, Any], source: Path
) -> list[dict[str, Any]]:
    """The finished models of the request, else of its suite, as tables of a suite."""
    candidates = [_table(model) for model in request.candidates] or _listed(battery, source)
    if not candidates:
        raise SuiteError(
            "found no candidates, expected at least one: give --candidate FILE or --manifest FILE"
        )
    return [{**table, "weights": _choice(table, request)} for table in candidates]


def _suite_tables(
    request: CheckRequest,
    battery: Mapping[str, Any],
    source: Path,
    candidates: Sequence[Mapping[str, Any]],
    controls: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The tables of the suite that answers a request, but for its model; paths are absolute or as they were given."""
    tables = {
        **{key: battery[key] for key in PASSED_ON if key in battery},
        "name": NAME,  # the folder's name, not the suite's: another check by the same suite may stand beside it
        "description": _description(request, battery),
        "checkpoint": request.parent,
        "checkpoint_weights": request.weights,
        "checkpoint_entry": request.entry,
        "seeds": sorted({int(table.get("seed", 0)) for table in candidates}),
        "data": battery.get("data", {"name": DEFAULT_DATA}),
        "plugins": [str((source / plugin).resolve()) for plugin in battery.get("plugins", ())],
        "candidates": [*candidates, *controls],
        "tolerances": _tolerances(request, battery),
    }
    if request.sequential:
        tables["sequential"] = True
    if request.parent_accuracy is not None:
        tables["parent_accuracy"] = request.parent_accuracy
    if "data_root" in tables:
        tables["data_root"] = str((source / Path(tables["data_root"]).expanduser()).resolve())
    return tables


def _beside_tests(request: CheckRequest, guessed: str) -> dict[str, Any]:
    """What the request asks beside the tests of its suite, as in `Suite.check`."""
    about: dict[str, Any] = {
        "undecided": request.undecided,
        "controls": [control.method for control in request.controls],
    }
    if guessed:
        about["guessed"] = guessed
        about["ignore_recorded_accuracy"] = request.ignore_recorded_accuracy
    elif request.ignore_recorded_accuracy:
        raise SuiteError(
            "--ignore-recorded-accuracy is of use for a guessed architecture alone: leave it out"
        )
    return about


def _battery(request: CheckRequest) -> tuple[Mapping[str, Any], Path]:
    """The tables of the suite that a request names, and the folder where its relative paths start."""
    if not request.suite:
        return BATTERY, Path.cwd()
    path = find_suite(request.suite)
    battery = read_suite_tables(path)
    if unused := [key for key in WITHOUT_EFFECT if key in battery]:
        log.warning("%s: check takes finished models, so it does not use %s", path, ", ".join(unused))
    return battery, path.parent.resolve()


def _tests_of(candidates: Sequence[Mapping[str, Any]], folder: Path) -> list[Mapping[str, Any]]:
    """The tests of `BATTERY`, and `PROGRAM_TESTS` where a candidate is a whole program."""
    from evalsuite.models.exported.loading import program_format  # imports torch

    files = [folder / Path(str(table["file"])).expanduser() for table in candidates]
    is_program = any(file.is_file() and program_format(file) is not None for file in files)
    return [*BATTERY["evaluators"], *(PROGRAM_TESTS if is_program else ())]


def _description(request: CheckRequest, battery: Mapping[str, Any]) -> str:
    """What is checked, in words, with the name of the suite whose tests these are, and its own description."""
    tests = f", by the tests of the suite {battery['name']}" if battery.get("name") else ""
    text = str(battery.get("description", "")).strip()
    return f"finished models beside {Path(request.parent).name}{tests}" + (f": {text}" if text else "")


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
) -> tuple[dict[str, Any], str]:
    """The architecture as a table of a suite (named, the suite's, or the one that fits), and whether it was guessed."""
    from evalsuite.models.architectures.settings import to_settings  # imports torch

    if not request.model and "model" in battery:
        return {**model_table(battery["model"], source / "suite"), **request.settings}, ""
    parent = request.parent.replace("{seed}", str(seed))
    architecture, guessed = _architecture(dataclasses.replace(request, parent=parent))
    table = {**to_settings(architecture), "classes": architecture.classes}
    if table["name"] == "python" and "classes" not in request.settings:
        del table[
            "classes"
        ]  # counted again when there are images: a function need not have an argument for it
    return table, guessed


def _check_controls(request: CheckRequest) -> None:
    """A copy of the parent is no control: it cannot fail, so that nothing would seem to be due to training."""
    parent = Path(request.parent)
    for control in request.controls:
        file = Path(control.file)
        if parent.is_file() and file.is_file() and filecmp.cmp(parent, file, shallow=False):
            raise SuiteError(
                f"--control {file}: found the parent's own weights, expected a dense network that was trained again; "
                "leave it out"
            )


def controls_of_paths(paths: Iterable[str]) -> tuple[ExternalCandidate, ...]:
    """Returns one control per path, named after the file."""
    return tuple(
        dataclasses.replace(model, method=f"control {model.method}") for model in candidates_of_paths(paths)
    )


def junit(verdicts: pd.DataFrame, seconds: Mapping[str, float] = MappingProxyType({})) -> bytes:
    """Returns verdicts as JUnit XML: a test suite per candidate, a test case per metric and condition.

    Every case has its numbers as text. Its time is an equal share of what the test that reports it takes on one
    network, so that the times of a suite add up to that of measuring the candidate.

    Args:
        verdicts: See `evalsuite.results.check_verdicts.verdict_table`.
        seconds: By test, as a mean over the networks; empty where they are not known.
    """
    root = ET.Element("testsuites", name="evalsuite check")
    for candidate, rows in verdicts.groupby("candidate", sort=False):
        failures = str(int((~rows["passed"]).sum()))
        times = [_seconds(row, rows, seconds) for row in rows.to_dict("records")]
        about = {"name": str(candidate), "tests": str(len(rows)), "failures": failures}
        suite = ET.SubElement(root, "testsuite", about | {"time": f"{sum(times):.3f}"})
        if text := sample_of(rows):
            properties = ET.SubElement(suite, "properties")
            ET.SubElement(properties, "property", name="sample", value=text)
        for record, time in zip(rows.to_dict("records"), times, strict=True):
            _add_case(suite, {str(name): value for name, value in record.items()}, time)
    _make_printable(root)
    ET.indent(root)
    data: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return data


def _make_printable(root: ET.Element) -> None:
    """Replaces control characters, which XML does not allow, in names and texts from files."""
    for element in root.iter():
        element.attrib.update({name: printable(value) for name, value in element.attrib.items()})
        if element.text:
            element.text = printable(element.text)


def _seconds(row: Mapping[Any, Any], rows: pd.DataFrame, seconds: Mapping[str, float]) -> float:
    """The share of one check in the time of its test."""
    test = row.get("evaluator", "")
    return seconds[test] / int((rows["evaluator"] == test).sum()) if test in seconds else 0.0


def _add_case(suite: ET.Element, row: Mapping[str, Any], seconds: float) -> None:
    name = f"{row['metric']} on {row['condition']}"
    about = {"classname": suite.attrib["name"], "name": name, "time": f"{seconds:.3f}"}
    case = ET.SubElement(suite, "testcase", about)
    texts = [f"Warning: {row['flags']}"] if row["flags"] else []
    if not row["passed"]:
        failure = ET.SubElement(case, "failure", message=sentence(row), type=str(row.get("verdict", "")))
        failure.text = case_text(row)
    elif isinstance(row["reason"], str) and row["reason"]:
        ET.SubElement(case, "skipped", message=row["reason"])
    else:
        texts.insert(0, case_text(row))
    if texts:
        ET.SubElement(case, "system-out").text = "\n".join(texts)


def write_junit(verdicts: pd.DataFrame, path: Path, *, run: Path | None = None) -> None:
    """Writes verdicts as JUnit XML.

    Args:
        verdicts: See `junit`.
        path: The file.
        run: The run folder, which knows how long each test took.

    Raises:
        StoreError: If the file cannot be written.
    """
    spent = {} if run is None else RunTimings(Store(run), workers=1).spent
    seconds = {test: of["seconds"] / of["cells"] for test, of in spent.items() if of["cells"]}
    write_atomically(path, junit(verdicts, seconds))


def _architecture(request: CheckRequest) -> tuple[Architecture, str]:
    """The architecture, and in words that it was guessed; empty where it was named, or the file states it."""
    from evalsuite.models.architectures.uris import architecture_from_uri
    from evalsuite.models.checkpoints.architecture_detection import (
        detect_architecture,  # both import torch
        published_entry,
    )

    parent = Path(request.parent)
    if request.model:
        entry = published_entry(request.model, parent)
        stated = {"weights": entry} if entry else {}
        settings = {**stated, **request.settings}
        uri_settings = {**_head(request, parent, settings), **settings}
        return architecture_from_uri(request.model, **uri_settings), ""
    fit = detect_architecture(_weights(parent, request), file=parent)
    architecture = architecture_from_uri(fit.uri, **{**fit.settings, **request.settings})
    return architecture, f"{fit.uri}, {fit.doubt}" if fit.doubt else ""


def _head(request: CheckRequest, parent: Path, settings: Mapping[str, Any]) -> dict[str, int]:
    """The number of classes of the parent's head, where the network is not ours and no setting says it."""
    from evalsuite.execution.automatic_settings import classes_of_weights  # imports torch
    from evalsuite.models.exported.inspection import is_program

    table = settings_of_uri(request.model)
    if (
        table["name"] not in COUNTED_LATER
        or "classes" in settings
        or not parent.is_file()
        or is_program(parent)
    ):
        return {}
    classes = classes_of_weights(_weights(parent, request), {**table, **settings})
    return {} if classes is None else {"classes": classes}


def _weights(path: Path, request: CheckRequest) -> Mapping[str, Any]:
    from evalsuite.models.checkpoints.parent_weights import parent_checkpoint  # imports torch

    return parent_checkpoint(path, choice=request.weights, entry=request.entry).weights


_Tables = list[dict[str, Any]]


def _with_entries(
    request: CheckRequest, battery: Mapping[str, Any], candidates: _Tables
) -> tuple[CheckRequest, _Tables, _Tables]:
    """A request whose ``entry`` is that of its parent, and tables of candidates and controls with theirs.

    What the command names counts for each file that holds several networks; what a suite or a manifest names counts for
    the one file, and must be there.

    Raises:
        SuiteError: If the command names one, and no file holds it.
    """
    controls = [_table(control) for control in request.controls]
    if request.entry == "":
        return dataclasses.replace(request, entry=battery.get("checkpoint_entry", "")), candidates, controls
    parent = {"file": request.parent}
    tables = [parent, *candidates, *controls]
    named = [
        table for table in tables if table.get("entry", "") == "" and _holds(table["file"], request.entry)
    ]
    if not named:
        raise SuiteError(
            f"--entry {request.entry}: no file holds several networks and one of them there; leave it out, or name "
            "another"
        )
    for table in named:
        table["entry"] = request.entry
    return dataclasses.replace(request, entry=parent.get("entry", "")), candidates, controls


def _holds(file: str, entry: int | str) -> bool:
    from evalsuite.models.checkpoints.reading import may_hold_entry  # imports torch
    from evalsuite.models.exported.inspection import is_program

    path = Path(file)
    return path.is_file() and not is_program(path) and may_hold_entry(path, entry)


def _choice(table: Mapping[str, Any], request: CheckRequest) -> WeightSet:
    """A candidate's own choice, or that of the request for weights alone: a whole program has one set."""
    from evalsuite.models.exported.inspection import is_program  # imports torch

    choice: WeightSet = table.get("weights", "")
    if choice or not request.weights or is_program(Path(str(table["file"]))):
        return choice
    return request.weights


def _table(candidate: ExternalCandidate) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(candidate).items() if value is not None}
