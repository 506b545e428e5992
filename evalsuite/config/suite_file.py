"""A TOML file to a `Suite`: every mistake is named with file, table, key and near miss."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalsuite.condition_splits import ConditionSplits
from evalsuite.config.constraints import (
    check_suite,
    valid_accuracy,
    valid_name,
    valid_ratios,
    valid_seeds,
    valid_threads,
)
from evalsuite.config.data import resolve_data
from evalsuite.config.depths import depth_tables
from evalsuite.config.ratio_ladders import RatioLadder
from evalsuite.config.retraining import RETRAINING, build_recipe, build_retrainings, control_tables
from evalsuite.config.settings import placed_model
from evalsuite.config.suite import DATA_VARIABLE, RESERVED, Resources, Suite
from evalsuite.config.toml import decoded_text, toml_tables
from evalsuite.datasets import DATASETS
from evalsuite.errors import SuiteError
from evalsuite.evaluators import EVALUATORS
from evalsuite.legacy_names import RENAMED_METRICS, current_tolerances
from evalsuite.models import MODELS
from evalsuite.models.uri_tables import settings_of_uri
from evalsuite.plugin_config import PluginConfig, build, from_table, from_tables
from evalsuite.producers import PRODUCERS
from evalsuite.registry import import_plugin_file, unknown_name
from evalsuite.tolerances import Tolerance
from evalsuite.training.published_recipes import merge_recipe
from evalsuite.types import SYNTHETIC_FROST, ExternalCandidate, WeightSet

if TYPE_CHECKING:
    from evalsuite.producers.base import Producer

log = logging.getLogger(__name__)
AUTOMATIC = "auto"
WITH_ARCHIVES = ("corruptions", "calibration")
"""Tests whose key ``source`` may be `AUTOMATIC`."""


@dataclass(frozen=True)
class _SuiteTables:
    """The top level of a suite file."""

    name: str
    data: str | dict[str, Any]
    model: dict[str, Any]
    evaluators: tuple[dict[str, Any], ...] = ()
    depth: str = ""
    ratios: tuple[float, ...] = ()
    producers: tuple[dict[str, Any], ...] = ()
    candidates: tuple[dict[str, Any], ...] = ()
    description: str = ""
    seeds: tuple[int, ...] = (0,)
    checkpoint: str = ""
    checkpoint_weights: WeightSet = ""
    checkpoint_entry: int | str = ""
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    retraining: dict[str, Any] = dataclasses.field(default_factory=dict)
    tolerances: dict[str, float | str | dict[str, float | str]] = dataclasses.field(default_factory=dict)
    threads: int = 1
    data_root: str = ""
    plugins: tuple[str, ...] = ()
    resources: dict[str, Any] = dataclasses.field(default_factory=dict)
    conditions: dict[str, Any] = dataclasses.field(default_factory=dict)
    parent_accuracy: float | None = None
    control: bool | None = None
    sequential: bool = False


KEYS = tuple(field.name for field in dataclasses.fields(_SuiteTables))
"""Keys and tables of a suite file."""


def shipped_suites() -> dict[str, Path]:
    """Returns the suites that travel with the package, by name."""
    here = Path(__file__).parents[1]
    folders = (here / "suites", here.parent / "suites")  # inside the wheel; beside the package in a checkout
    paths = {path.stem: path for folder in folders for path in folder.glob("*.toml")}
    return dict(sorted(paths.items()))


def find_suite(suite: str | Path) -> Path:
    """Returns the file of a suite given by path or by the name of one that ships with the package.

    Raises:
        SuiteError: If there is neither.
    """
    path = Path(suite)
    if path.is_file():
        return path
    shipped = shipped_suites()
    if str(suite) in shipped:
        return shipped[str(suite)]
    if path.suffix == ".toml" or path.is_dir():
        raise SuiteError(
            f"suite {suite}: no such file; give the path of a TOML file or one of {', '.join(shipped)}"
            f"{_near_file(path)}"
        )
    raise SuiteError(f"{unknown_name('suite', str(suite), shipped)}{_near_file(path)}")


def _near_file(path: Path) -> str:
    """A question after the suite file with the nearest name; empty if none is near."""
    files = [file.name for file in path.parent.glob("*.toml")]
    near = difflib.get_close_matches(path.name, files, n=1, cutoff=0.65)
    return f"; or did you mean the file {path.parent / near[0]}?" if near else ""


def load_suite(suite: str | Path) -> Suite:
    """Reads and checks a suite.

    Args:
        suite: Path of a TOML file, or the name of a suite that ships with the package.

    Raises:
        SuiteError: At the first mistake, in one sentence with file, table and key.
    """
    path = find_suite(suite)
    return parse_suite(_text_of(path), source=path)


def parse_suite(text: str, *, source: Path) -> Suite:
    """Returns the suite that `text` describes; see `load_suite`."""
    return dataclasses.replace(
        suite_from_tables(toml_tables(text, where=f"{source}"), source=source), text=text
    )


def read_suite_tables(path: Path) -> dict[str, Any]:
    """Returns the tables of a suite file, of which a command may use only some.

    Raises:
        SuiteError: If it cannot be read, or has a key that no suite has.
    """
    raw = toml_tables(_text_of(path), where=f"{path}")
    for key in raw:
        if key not in KEYS:
            raise SuiteError(f"{path}: {unknown_name('key', key, KEYS)}")
    return raw


def _text_of(path: Path) -> str:
    try:
        return decoded_text(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"suite {path} cannot be read: {error}") from error


def suite_from_tables(raw: Mapping[str, Any], *, source: Path) -> Suite:
    """Returns the suite that a dictionary of tables describes.

    Args:
        raw: As TOML reads a suite file.
        source: What error messages call it; its folder is where relative paths start.

    Raises:
        SuiteError: At the first mistake, in one sentence.
    """
    raw, pruned_only = _with_ladder(raw, f"{source}")
    tables = build(_SuiteTables, raw, where=f"{source}")
    for plugin in tables.plugins:
        import_plugin_file(source.parent / plugin)
    suite = dataclasses.replace(_suite_of(tables, source), pruned_only=pruned_only)
    check_suite(suite, f"{source}")
    return suite


def _suite_of(tables: _SuiteTables, source: Path) -> Suite:
    where = f"{source}"
    tables = _with_controls(tables, where)
    recipe = merge_recipe(tables.recipe)
    data = resolve_data(tables.data, where=f"{where}, [data]", root=_named_root(tables, source))
    if data.warning:
        log.warning("%s: %s", where, data.warning)
    places = {name: f"{where}, [[{name}]]" for name in ("producers", "candidates", "evaluators")}
    tests, automatic = _without_automatic(_battery(tables, data.table, where))
    return Suite(
        name=valid_name(tables.name, where),
        description=tables.description,
        seeds=valid_seeds(tables.seeds, where),
        ratios=valid_ratios(tables.ratios, where, needed=bool(tables.producers) or not tables.candidates),
        data=from_table(DATASETS, data.table, where=f"{where}, [data]"),
        model=from_table(MODELS, model_table(tables.model, source), where=f"{where}, [model]"),
        checkpoint=tables.checkpoint,
        checkpoint_weights=tables.checkpoint_weights,
        checkpoint_entry=tables.checkpoint_entry,
        recipe=build_recipe(tables.recipe, {}, f"{where}, [recipe]"),
        retraining=build_recipe(tables.retraining, recipe, f"{where}, [retraining]"),
        producers=_build_producers(tables.producers, places["producers"]),
        candidates=tuple(_candidate(table, source) for table in tables.candidates),
        evaluators=from_tables(EVALUATORS, tests, where=places["evaluators"], reserved=RESERVED),
        tolerances=_current_names(tables.tolerances, where),
        threads=valid_threads(tables.threads, where),
        data_root=tables.data_root or ("" if data.root is None else str(data.root)),
        plugins=tables.plugins,
        source=source,
        resources=build(Resources, tables.resources, where=f"{where}, [resources]"),
        retrainings=build_retrainings(
            tables.producers, merge_recipe(tables.retraining, recipe), places["producers"]
        ),
        parent_accuracy=valid_accuracy(tables.parent_accuracy, where),
        control=tables.control is not False,
        conditions=_conditions(tables.conditions, f"{where}, [conditions]"),
        classes_stated="classes" in tables.model,
        automatic=automatic,
        sequential=tables.sequential,
    )


def _conditions(table: Mapping[str, Any], where: str) -> ConditionSplits | None:
    return build(ConditionSplits, table, where=where) if table else None


def _candidate(table: Mapping[str, Any], source: Path) -> ExternalCandidate:
    candidate = build(ExternalCandidate, table, where=f"{source}, [[candidates]]")
    return dataclasses.replace(candidate, model=placed_model(candidate.model, source.parent))


def model_table(table: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Returns the table ``[model]`` with name and target in the place of a URI such as ``timm:resnet18``.

    Args:
        table: As a suite has it.
        source: The suite's file; relative paths start beside it.

    Raises:
        SuiteError: If the table states the target once more.
    """
    name = table.get("name")
    if not isinstance(name, str) or name in MODELS:
        return dict(table)
    try:
        named = settings_of_uri(name, base=source.parent)
    except SuiteError as error:
        raise SuiteError(f"{source}, [model]: {error}") from error
    for key in named.keys() & table.keys() - {"name"}:
        raise SuiteError(
            f"{source}, [model]: found {key} beside name = {name!r}, which says it; leave it out"
        )
    return {**table, **named}


def _named_root(tables: _SuiteTables, source: Path) -> Path | None:
    """The data root, as far as it is known before the options of a run."""
    if environment := os.environ.get(DATA_VARIABLE):
        return Path(environment).expanduser()
    return source.parent / Path(tables.data_root).expanduser() if tables.data_root else None


def _build_producers(tables: Iterable[Mapping[str, Any]], where: str) -> tuple[PluginConfig[Producer], ...]:
    """Returns the producers of tables, without what the suite reads itself."""
    plugin_tables = [{key: value for key, value in table.items() if key != RETRAINING} for table in tables]
    return from_tables(PRODUCERS, plugin_tables, where=where, reserved=RESERVED)


def _with_controls(tables: _SuiteTables, where: str) -> _SuiteTables:
    producers = _build_producers(tables.producers, f"{where}, [[producers]]")
    added = control_tables(producers, tables.producers, tables.control, where)
    return dataclasses.replace(tables, producers=(*tables.producers, *added))


def _battery(tables: _SuiteTables, data: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    try:
        name = str(data.get("name", ""))
        return depth_tables(tables.depth, tables.evaluators, data=name, trained=not tables.checkpoint)
    except SuiteError as error:
        raise SuiteError(f"{where}: {error}") from None


def _without_automatic(
    tests: Iterable[Mapping[str, Any]],
) -> tuple[list[Mapping[str, Any]], dict[str, Mapping[str, Any]]]:
    """Tables of tests, those with an open source as generated ones, and these as they were, by label."""
    plain: list[Mapping[str, Any]] = []
    automatic: dict[str, Mapping[str, Any]] = {}
    for table in tests:
        if table.get("source") == AUTOMATIC and table.get("name") in WITH_ARCHIVES:
            automatic[str(table.get("label", table["name"]))] = table
            plain.append({key: value for key, value in table.items() if key not in ("source", "folder")})
        else:
            plain.append(table)
    return plain, automatic


def _current_names(tolerances: Mapping[str, Tolerance], where: str) -> dict[str, Tolerance]:
    """Tolerances with today's names of metrics and conditions."""
    current = current_tolerances(tolerances)
    if current != tolerances:
        renamed = {**RENAMED_METRICS, "frost*": SYNTHETIC_FROST}
        warnings.warn(
            f"{where}, [tolerances]: old names of metrics or conditions; use "
            f"{', '.join(f'{new} for {old}' for old, new in renamed.items())}",
            DeprecationWarning,
            stacklevel=2,
        )
    return current


def _with_ladder(raw: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], tuple[float, ...]]:
    """The tables with the ratios of a rule in its place, and those between at which methods only prune."""
    if not isinstance(raw.get("ratios"), Mapping):
        return raw, ()
    ladder = build(RatioLadder, raw["ratios"], where=f"{where}, ratios")
    between = tuple(ratio for ratio in ladder.all_ratios if ratio not in ladder.retrained)
    return {**raw, "ratios": list(ladder.retrained)}, between
