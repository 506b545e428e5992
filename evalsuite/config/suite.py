"""A TOML file to a `Suite`: every mistake is named with file, table, key and near miss."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from evalsuite.condition_splits import ConditionSplits
from evalsuite.config.data import resolve_data
from evalsuite.config.depths import depth_tables
from evalsuite.config.ratio_ladders import RatioLadder
from evalsuite.config.settings import placed_model
from evalsuite.config.toml import toml_tables
from evalsuite.datasets import DATASETS
from evalsuite.errors import SuiteError, UserError, first_few
from evalsuite.evaluators import EVALUATORS
from evalsuite.legacy_names import RENAMED_METRICS, current_tolerances
from evalsuite.models import MODELS
from evalsuite.models.uri_tables import settings_of_uri
from evalsuite.plugin_config import PluginConfig, build, from_table, from_tables
from evalsuite.producers import PRODUCERS
from evalsuite.registry import import_plugin_file, unknown_name
from evalsuite.tolerances import Tolerance, parse_limits
from evalsuite.training.published_recipes import merge_recipe
from evalsuite.training.recipe import Recipe
from evalsuite.types import DENSE, PRODUCTION, SYNTHETIC_FROST, ExternalCandidate, Metric, WeightSet

if TYPE_CHECKING:  # the contracts import torch, and listing suites must not
    from evalsuite.datasets.base import DataSet
    from evalsuite.evaluators.base import Evaluator
    from evalsuite.models.architectures.base import Architecture
    from evalsuite.producers.base import Producer

RESERVED = MappingProxyType({DENSE: "the parent", PRODUCTION: "the making of a candidate"})


log = logging.getLogger(__name__)

DATA_VARIABLE = "EVALSUITE_DATA"
"""Environment variable with the folder of data."""
RETRAINING = "retraining"
"""Key of a producer's table that the suite reads itself: how the candidates are retrained."""
CONTROL = "dense-retrained"
"""The producer that retrains and prunes nothing."""
AUTOMATIC = "auto"
WITH_ARCHIVES = ("corruptions", "calibration")
"""Tests whose key ``source`` may be `AUTOMATIC`."""
MAX_RATIOS = 2_000
MAX_CANDIDATES = 100_000
"""Numbers up to which a plan takes seconds; a run of a suite near them takes years."""
WITHOUT_RETRAINING = tuple(
    f"evalsuite.producers.{module}"
    for module in ("at_init.", "baselines.scratch", "baselines.thin", "baselines.lottery_tickets")
)
"""Modules of methods that train by the parent's recipe: retraining the parent is no control of theirs."""


@dataclass(frozen=True)
class Resources:
    """The table ``[resources]`` of a suite: what one cell may take; no number depends on it beyond its last digits.

    Attributes:
        time_limit: Seconds that one test of one candidate may take; ``None`` for any number.
        production_limit: Seconds that making one candidate may take; ``None`` for any number.
        cpus: Processors that Ray keeps for one task; 0 for the suite's number of threads.
        gpus: Graphics cards that Ray keeps for one task; a fraction lets several tasks share one.
        batch_size: Images per forward pass; 0 for the usual number on a processor, and on a graphics card for the one
            that a short probe finds fastest. Numbers may depend on it in their last digits, as on ``threads``.
        engine: What computes forward passes on a processor: ``eager`` (PyTorch), ``openvino``, or ``auto``: OpenVINO
            where it is installed and a short probe shows that it pays. Kept in the run folder once it is chosen.
    """

    time_limit: float | None = None
    production_limit: float | None = None
    cpus: float = 0.0
    gpus: float = 0.0
    batch_size: int = 0
    engine: Literal["auto", "eager", "openvino"] = "auto"

    def __post_init__(self) -> None:
        for name in ("time_limit", "production_limit"):
            limit = getattr(self, name)
            if limit is not None and not (math.isfinite(limit) and limit > 0):
                raise SuiteError(f"found {name} = {limit}, expected seconds above 0, or leave it out")
        for name in ("cpus", "gpus"):
            share = getattr(self, name)
            if not (math.isfinite(share) and share >= 0):
                raise SuiteError(f"found {name} = {share}, expected a number from 0 on")
        if self.batch_size < 0:
            raise SuiteError(
                f"found batch_size = {self.batch_size}, expected images per forward pass, or leave it out"
            )


@dataclass(frozen=True)
class Suite:
    """Everything that a run depends on; build it with `load_suite`.

    Attributes:
        name: Also the name of the report's folder.
        description: One line for listings.
        seeds: One parent and one set of candidates per seed; the first also addresses all changes of images.
        ratios: Target ratios, rising, in (0, 1).
        data: The labelled data set.
        model: The parent's architecture, with its preprocessing.
        checkpoint: The parent's weights, ``{seed}`` stands for the seed; empty: it is trained with `recipe`.
        checkpoint_weights: Which set of weights of a checkpoint that holds two: ``ema`` or ``raw``; empty for averaged
            ones where there are both.
        checkpoint_entry: Which network of a checkpoint that holds several: its place in the list, or its key.
        recipe: How the parent is trained.
        retraining: How candidates are retrained; `recipe`, but for the keys of ``[retraining]``.
        retrainings: The same by producer's label, where its own table says ``retraining``.
        producers: Pruning methods.
        candidates: Finished models made elsewhere.
        evaluators: Tests: those of the depth, as the suite's own tables change them, and its own.
        tolerances: Metric name to tolerance: a number in the metric's unit, ``5%`` of the parent's value, or such
            rules by condition or group (``*`` for the rest); what has none gets no thresholds.
        threads: Threads of each computation; results may depend on it in the last digits.
        data_root: Folder with data; empty for none.
        plugins: Python files with further plug-ins.
        source: Where the suite was read from.
        resources: What one cell may take; no number depends on it beyond its last digits.
        text: The TOML text that it was read from; empty where it was not read from a file.
        limit: Size of a sample of every test set, an option of the command and no key of the suite; 0 for all images.
        parent_accuracy: The parent's accuracy on the clean test images, where it was published; ``None`` for no claim.
        check: What a check of finished models asked beside its tests, ``undecided`` and ``controls``; empty of a run.
        automatic: Tables, by label, of the tests that leave the source of corrupted images open (``source = "auto"``):
            official where the archive is there, else generated.
        notes: Sentences on what was chosen for this suite.
        classes_stated: Whether the suite says how many classes its network has.
        control: Whether a dense network is retrained beside the methods, for each way in which they retrain; the
            controls are among `producers`.
        pruned_only: Ratios between those of `ratios` at which methods prune and do not retrain; see `steps_of`.
        conditions: Which conditions networks were trained on and which are held out; ``None`` where the suite does not
            keep them apart.
    """

    name: str
    description: str
    seeds: tuple[int, ...]
    ratios: tuple[float, ...]
    data: PluginConfig[DataSet]
    model: PluginConfig[Architecture]
    checkpoint: str
    recipe: Recipe
    retraining: Recipe
    producers: tuple[PluginConfig[Producer], ...]
    candidates: tuple[ExternalCandidate, ...]
    evaluators: tuple[PluginConfig[Evaluator], ...]
    tolerances: Mapping[str, Tolerance]
    threads: int
    data_root: str
    plugins: tuple[str, ...]
    source: Path
    resources: Resources = dataclasses.field(default_factory=Resources)
    retrainings: Mapping[str, Recipe] = dataclasses.field(default_factory=dict)
    text: str = ""
    limit: int = 0
    parent_accuracy: float | None = None
    checkpoint_weights: WeightSet = ""
    checkpoint_entry: int | str = ""
    control: bool = True
    conditions: ConditionSplits | None = None
    pruned_only: tuple[float, ...] = ()
    check: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    classes_stated: bool = True
    automatic: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def retraining_of(self, producer: str) -> Recipe:
        """Returns how the candidates of a producer are retrained."""
        return self.retrainings.get(producer, self.retraining)

    def steps_of(self, config: PluginConfig[Producer]) -> tuple[float, ...]:
        """Returns the ratios that a producer prunes to, rising: `ratios`, and those between where it only prunes.

        A method that starts each ratio from first or earlier weights has no steps between.
        """
        anew = type(config.plugin).__module__.startswith(WITHOUT_RETRAINING)
        return self.ratios if anew else tuple(sorted({*self.ratios, *self.pruned_only}))

    @property
    def metrics(self) -> dict[str, Metric]:
        """Every metric that an evaluator of the suite may report, by name."""
        return {metric.name: metric for config in self.evaluators for metric in config.plugin.metrics}


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
    known = shipped_suites()
    if str(suite) in known:
        return known[str(suite)]
    if path.suffix == ".toml" or path.is_dir():
        raise SuiteError(
            f"suite {suite}: no such file; give the path of a TOML file or one of {', '.join(known)}"
        )
    raise SuiteError(unknown_name("suite", str(suite), known))


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
        return path.read_text("utf-8")
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
    _check_some(suite)
    _check_size(suite)
    _check_candidates(suite, f"{source}, [[candidates]]")
    for key in ("checkpoint_weights", "checkpoint_entry"):
        if getattr(suite, key) != "" and not suite.checkpoint:
            raise SuiteError(f"{source}: found {key} without checkpoint; leave it out")
    _check_tolerances(suite, f"{source}, [tolerances]")
    _check_metrics(suite.evaluators, f"{source}, [[evaluators]]")
    _check_held_out(suite, f"{source}, [conditions]")
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
        name=_valid_name(tables.name, where),
        description=tables.description,
        seeds=_valid_seeds(tables.seeds, where),
        ratios=_valid_ratios(tables.ratios, where, needed=bool(tables.producers) or not tables.candidates),
        data=from_table(DATASETS, data.table, where=f"{where}, [data]"),
        model=from_table(MODELS, model_table(tables.model, source), where=f"{where}, [model]"),
        checkpoint=tables.checkpoint,
        checkpoint_weights=tables.checkpoint_weights,
        checkpoint_entry=tables.checkpoint_entry,
        recipe=_build_recipe(tables.recipe, {}, f"{where}, [recipe]"),
        retraining=_build_recipe(tables.retraining, recipe, f"{where}, [retraining]"),
        producers=_build_producers(tables.producers, places["producers"]),
        candidates=tuple(_candidate(table, source) for table in tables.candidates),
        evaluators=from_tables(EVALUATORS, tests, where=places["evaluators"], reserved=RESERVED),
        tolerances=_current_names(tables.tolerances, where),
        threads=_valid_threads(tables.threads, where),
        data_root=tables.data_root or ("" if data.root is None else str(data.root)),
        plugins=tables.plugins,
        source=source,
        resources=build(Resources, tables.resources, where=f"{where}, [resources]"),
        retrainings=_build_retrainings(
            tables.producers, merge_recipe(tables.retraining, recipe), places["producers"]
        ),
        parent_accuracy=_valid_accuracy(tables.parent_accuracy, where),
        control=tables.control is not False,
        conditions=build(ConditionSplits, tables.conditions, where=f"{where}, [conditions]")
        if tables.conditions
        else None,
        classes_stated="classes" in tables.model,
        automatic=automatic,
    )


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
    own = [{key: value for key, value in table.items() if key != RETRAINING} for table in tables]
    return from_tables(PRODUCERS, own, where=where, reserved=RESERVED)


def _with_controls(tables: _SuiteTables, where: str) -> _SuiteTables:
    """The tables with a control for each way of retraining that has none, unless the suite leaves them out.

    Raises:
        SuiteError: If the suite says that it has or has no control where it makes no difference.
    """
    producers = _build_producers(tables.producers, f"{where}, [[producers]]")
    ways: dict[str, dict[str, Any]] = {}
    for config, table in zip(producers, tables.producers, strict=True):
        if type(config.plugin).__module__.startswith(WITHOUT_RETRAINING):
            continue
        settings = {key: table[key] for key in (RETRAINING,) if key in table}
        if getattr(config.plugin, "schedule", "") == "one-shot":
            settings["schedule"] = "one-shot"
        way = ways.setdefault(json.dumps(settings, sort_keys=True, default=str), {"settings": settings})
        way.setdefault("control" if config.plugin.dense else "method", config.label)
    missing = [way for way in ways.values() if "control" not in way]
    if tables.control is not None and not missing:
        found = f"found control = {str(tables.control).lower()}, which has no effect"
        raise SuiteError(
            f"{where}: {found}: no method here is retrained without a control in [[producers]]; leave it out"
        )
    if tables.control is False:
        return tables
    labels = {config.label for config in producers}
    added = []
    for way in missing:
        label = CONTROL if CONTROL not in labels else f"{CONTROL}, as {way['method']}"
        labels.add(label)
        added.append({"name": CONTROL, "label": label, **way["settings"]})
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


def _check_some(suite: Suite) -> None:
    if not suite.producers and not suite.candidates:
        raise SuiteError(
            f"{suite.source}, [[producers]]: found none, and no [[candidates]]; "
            "expected at least one producer or finished model"
        )
    if not suite.evaluators:
        raise SuiteError(f"{suite.source}, [[evaluators]]: found none, expected at least one evaluator")


def _check_held_out(suite: Suite, where: str) -> None:
    """No training may see what is held out: then it would not be."""
    recipes = (suite.recipe, suite.retraining, *suite.retrainings.values())
    for kind in dict.fromkeys(kind for recipe in recipes for kind in recipe.all_corruptions):
        if suite.conditions and suite.conditions.holds_out(kind):
            raise SuiteError(
                f"{where}: found {kind} in held_out, but a recipe trains on it (corruptions); name it in train"
            )


def _check_size(suite: Suite) -> None:
    """Refuses sizes that are mistakes: their plan alone would take minutes and gigabytes."""
    ratios, methods, seeds = len(suite.ratios), len(suite.producers), len(suite.seeds)
    if ratios > MAX_RATIOS:
        raise SuiteError(
            f"{suite.source}: found {ratios:,} ratios, expected at most {MAX_RATIOS:,}; leave some out: models "
            "that differ by a few weights cannot be distinguished"
        )
    models = seeds * (1 + methods * ratios) + len(suite.candidates)
    if models > MAX_CANDIDATES:
        raise SuiteError(
            f"{suite.source}: found {models:,} models ({seeds:,} seeds, {methods} methods, {ratios:,} ratios), "
            f"expected at most {MAX_CANDIDATES:,}; leave some out, or make several suites of it"
        )


def _check_candidates(suite: Suite, where: str) -> None:
    taken = {*RESERVED, *(config.label for config in suite.producers)}
    for candidate in suite.candidates:
        if candidate.method in taken or not candidate.method.strip():
            raise SuiteError(
                f"{where}, {candidate.file}: the method {candidate.method!r} is taken or empty; name another"
            )
        if candidate.seed not in suite.seeds:
            raise SuiteError(
                f"{where}, {candidate.file}: found seed {candidate.seed}, expected one of {first_few(suite.seeds, 8)}"
            )
        if candidate.ratio is not None and not 0 <= candidate.ratio < 1:
            raise SuiteError(
                f"{where}, {candidate.file}: found ratio {candidate.ratio}, expected the share removed, in [0, 1)"
            )


def _check_tolerances(suite: Suite, where: str) -> None:
    known = suite.metrics
    for name, tolerance in suite.tolerances.items():
        if name not in known:
            raise SuiteError(
                f"{where}: no evaluator of this suite reports metric {name!r}: {unknown_name('metric', name, known)}"
            )
        try:
            parse_limits(tolerance)
        except UserError as error:
            raise SuiteError(f"{where}: {name}: {error}") from None
        if known[name].higher_is_better is None:
            raise SuiteError(f"{where}: {name} has no direction, so no tolerance; leave it out")


def _check_metrics(evaluators: tuple[PluginConfig[Evaluator], ...], where: str) -> None:
    """Two evaluators may share a metric (accuracy under noise is accuracy) but must mean the same by it."""
    seen: dict[str, Metric] = {}
    for config in evaluators:
        for metric in config.plugin.metrics:
            if seen.setdefault(metric.name, metric) != metric:
                raise SuiteError(
                    f"{where}, {config.name}: another evaluator means something else by {metric.name!r}"
                )


def _valid_accuracy(accuracy: float | None, where: str) -> float | None:
    if accuracy is not None and not 0 < accuracy <= 1:
        raise SuiteError(f"{where}: found parent_accuracy = {accuracy}, expected a share of images in (0, 1]")
    return accuracy


def _valid_name(name: str, where: str) -> str:
    """Returns the name of a suite, which also names a folder.

    Raises:
        SuiteError: If no folder can be called so.
    """
    if not name or not all(part.isalnum() or part in "-_." for part in name) or name.startswith("."):
        raise SuiteError(
            f"{where}: found name = {name!r}, expected letters, digits, '-', '_' or '.': it names a folder"
        )
    return name


def _with_ladder(raw: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], tuple[float, ...]]:
    """The tables with the ratios of a rule in its place, and those between at which methods only prune."""
    if not isinstance(raw.get("ratios"), Mapping):
        return raw, ()
    ladder = build(RatioLadder, raw["ratios"], where=f"{where}, ratios")
    between = tuple(ratio for ratio in ladder.all_ratios if ratio not in ladder.retrained)
    return {**raw, "ratios": list(ladder.retrained)}, between


def _valid_ratios(ratios: tuple[float, ...], where: str, *, needed: bool) -> tuple[float, ...]:
    """Returns the target ratios of a suite; they may be missing where nothing is pruned here.

    Raises:
        SuiteError: If they do not rise inside (0, 1).
    """
    if not ratios and not needed:
        return ratios
    if not ratios:
        raise SuiteError(f"{where}: found ratios = [], expected at least one number in (0, 1)")
    for ratio in ratios:
        if not (math.isfinite(ratio) and 0 < ratio < 1):
            raise SuiteError(f"{where}: found the ratio {ratio}, expected the share to remove, in (0, 1)")
    if list(ratios) != sorted(set(ratios)):
        raise SuiteError(
            f"{where}: found ratios = [{first_few(ratios, 8)}], expected rising numbers without repeats"
        )
    return ratios


def _valid_seeds(seeds: tuple[int, ...], where: str) -> tuple[int, ...]:
    """Returns the seeds of a suite.

    Raises:
        SuiteError: If they are not different integers from 0 on.
    """
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise SuiteError(
            f"{where}: found seeds = [{first_few(seeds, 8)}], expected different integers from 0 on"
        )
    return seeds


def _valid_threads(threads: int, where: str) -> int:
    """Returns the number of threads of each computation.

    Raises:
        SuiteError: If it is below 1.
    """
    if threads < 1:
        raise SuiteError(f"{where}: found threads = {threads}, expected at least 1")
    return threads


def _build_recipe(table: Mapping[str, Any], under: Mapping[str, Any], where: str) -> Recipe:
    """Returns the recipe of a table, which may name one and leave out what holds otherwise.

    Raises:
        SuiteError: If no recipe has the name, or a key or value is none of a recipe.
    """
    try:
        keys = merge_recipe(table, under)
    except SuiteError as error:
        raise SuiteError(f"{where}: {error}") from error
    return build(Recipe, keys, where=where)


def _build_retrainings(
    producers: Iterable[Mapping[str, Any]], under: Mapping[str, Any], where: str
) -> dict[str, Recipe]:
    """Returns the recipes of the producers that have one of their own, by label.

    Args:
        producers: Tables of producers; the key `RETRAINING` is a recipe's name, or a table.
        under: Keys that hold where such a table says nothing else.
        where: Place in a file, for error messages.

    Raises:
        SuiteError: If one is no recipe.
    """
    recipes = {}
    for table in producers:
        recipe, label = table.get(RETRAINING), str(table.get("label", table.get("name")))
        if recipe is not None and not isinstance(recipe, str | dict):
            raise SuiteError(
                f"{where}, {label}: found {RETRAINING} = {recipe!r}, expected a recipe's name or a table"
            )
        if recipe is not None:
            keys = {"name": recipe} if isinstance(recipe, str) else recipe
            recipes[label] = _build_recipe(keys, under, f"{where}, {label}")
    return recipes
