"""A TOML file to a `Suite`: every mistake is named with file, table, key and near miss."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from evalsuite.config import values
from evalsuite.config.depths import depth_tables
from evalsuite.config.values import Resources
from evalsuite.datasets import DATASETS
from evalsuite.errors import SuiteError, UserError
from evalsuite.evaluators import EVALUATORS
from evalsuite.models import MODELS
from evalsuite.plugin_config import PluginConfig, build, from_table, from_tables
from evalsuite.producers import PRODUCERS
from evalsuite.registry import import_file, unknown
from evalsuite.tolerances import Tolerance, limits
from evalsuite.training.published_recipes import merge_recipe
from evalsuite.training.recipe import Recipe
from evalsuite.types import ExternalCandidate, Metric

if TYPE_CHECKING:  # the contracts import torch, and listing suites must not
    from evalsuite.datasets.base import DataSet
    from evalsuite.evaluators.base import Evaluator
    from evalsuite.models.architectures.base import Architecture
    from evalsuite.producers.base import Producer

DENSE = "dense"
"""Method name of the parent."""
PRODUCTION = "production"
"""Name of the cell that says why a candidate could not be made."""
RESERVED = MappingProxyType({DENSE: "the parent", PRODUCTION: "the making of a candidate"})


@dataclass(frozen=True)
class Suite:
    """Is everything that a run depends on; build it with `load_suite`.

    Attributes:
        name: Also the name of the report's folder.
        description: One line for listings.
        seeds: One parent and one set of candidates per seed; the first also addresses all changes of images.
        ratios: Target ratios, rising, in (0, 1).
        data: The labelled data set.
        model: The parent's architecture, with its preprocessing.
        checkpoint: The parent's weights, ``{seed}`` stands for the seed; empty: it is trained with `recipe`.
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
        resources: What one cell may take; no number depends on it.
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

    def retraining_of(self, producer: str) -> Recipe:
        """Returns how the candidates of a producer are retrained."""
        return self.retrainings.get(producer, self.retraining)

    @property
    def metrics(self) -> dict[str, Metric]:
        """Every metric that an evaluator of the suite may report, by name."""
        return {metric.name: metric for choice in self.evaluators for metric in choice.plugin.metrics}


@dataclass(frozen=True)
class _SuiteTables:
    """The top level of a suite file."""

    name: str
    data: dict[str, Any]
    model: dict[str, Any]
    evaluators: tuple[dict[str, Any], ...] = ()
    depth: str = ""
    ratios: tuple[float, ...] = ()
    producers: tuple[dict[str, Any], ...] = ()
    candidates: tuple[dict[str, Any], ...] = ()
    description: str = ""
    seeds: tuple[int, ...] = (0,)
    checkpoint: str = ""
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    retraining: dict[str, Any] = dataclasses.field(default_factory=dict)
    tolerances: dict[str, float | str | dict[str, float | str]] = dataclasses.field(default_factory=dict)
    threads: int = 1
    data_root: str = ""
    plugins: tuple[str, ...] = ()
    resources: dict[str, Any] = dataclasses.field(default_factory=dict)


def shipped_suites() -> dict[str, Path]:
    """Returns the suites that travel with the package, by name."""
    here = Path(__file__).parents[1]
    folders = (here / "suites", here.parent / "suites")  # inside the wheel; beside the package in a checkout
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


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
    raise SuiteError(unknown("suite", str(suite), known))


def load_suite(suite: str | Path) -> Suite:
    """Reads and checks a suite.

    Args:
        suite: Path of a TOML file, or the name of a suite that ships with the package.

    Raises:
        SuiteError: At the first mistake, in one sentence with file, table and key.
    """
    path = find_suite(suite)
    try:
        return parse_suite(path.read_text("utf-8"), source=path)
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"suite {path} cannot be read: {error}") from error


def parse_suite(text: str, *, source: Path) -> Suite:
    """Returns the suite that `text` describes; see `load_suite`."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SuiteError(f"{source}: not valid TOML: {error}") from error
    return suite_from_tables(raw, source=source)


def suite_from_tables(raw: Mapping[str, Any], *, source: Path) -> Suite:
    """Returns the suite that a dictionary of tables describes.

    Args:
        raw: As TOML reads a suite file.
        source: What error messages call it; its folder is where relative paths start.

    Raises:
        SuiteError: At the first mistake, in one sentence.
    """
    page = build(_SuiteTables, raw, where=f"{source}")
    for plugin in page.plugins:
        import_file(source.parent / plugin)
    suite = Suite(
        name=values.valid_name(page.name, f"{source}"),
        description=page.description,
        seeds=values.valid_seeds(page.seeds, f"{source}"),
        ratios=values.valid_ratios(
            page.ratios, f"{source}", needed=bool(page.producers) or not page.candidates
        ),
        data=from_table(DATASETS, page.data, where=f"{source}, [data]"),
        model=from_table(MODELS, page.model, where=f"{source}, [model]"),
        checkpoint=page.checkpoint,
        recipe=values.build_recipe(page.recipe, {}, f"{source}, [recipe]"),
        retraining=values.build_recipe(page.retraining, merge_recipe(page.recipe), f"{source}, [retraining]"),
        producers=from_tables(
            PRODUCERS,
            [{key: value for key, value in table.items() if key != values.OWN} for table in page.producers],
            where=f"{source}, [[producers]]",
            reserved=RESERVED,
        ),
        candidates=tuple(
            build(ExternalCandidate, one, where=f"{source}, [[candidates]]") for one in page.candidates
        ),
        evaluators=from_tables(
            EVALUATORS, _battery(page, f"{source}"), where=f"{source}, [[evaluators]]", reserved=RESERVED
        ),
        tolerances=page.tolerances,
        threads=values.valid_threads(page.threads, f"{source}"),
        data_root=page.data_root,
        plugins=page.plugins,
        source=source,
        resources=build(Resources, page.resources, where=f"{source}, [resources]"),
        retrainings=values.build_retrainings(
            page.producers,
            merge_recipe(page.retraining, merge_recipe(page.recipe)),
            f"{source}, [[producers]]",
        ),
    )
    _check_some(suite)
    _check_candidates(suite, f"{source}, [[candidates]]")
    _check_tolerances(suite, f"{source}, [tolerances]")
    _check_metrics(suite.evaluators, f"{source}, [[evaluators]]")
    return suite


def _battery(page: _SuiteTables, where: str) -> list[Mapping[str, Any]]:
    try:
        data = str(page.data.get("name", ""))
        return depth_tables(page.depth, page.evaluators, data=data, trained=not page.checkpoint)
    except SuiteError as error:
        raise SuiteError(f"{where}: {error}") from None


def _check_some(suite: Suite) -> None:
    if not suite.producers and not suite.candidates:
        raise SuiteError(
            f"{suite.source}, [[producers]]: found none, and no [[candidates]]; "
            "expected at least one producer or finished model"
        )
    if not suite.evaluators:
        raise SuiteError(f"{suite.source}, [[evaluators]]: found none, expected at least one evaluator")


def _check_candidates(suite: Suite, where: str) -> None:
    taken = {*RESERVED, *(choice.label for choice in suite.producers)}
    for one in suite.candidates:
        if one.method in taken or not one.method.strip():
            raise SuiteError(
                f"{where}, {one.file}: the method {one.method!r} is taken or empty; name another"
            )
        if one.seed not in suite.seeds:
            raise SuiteError(
                f"{where}, {one.file}: found seed {one.seed}, expected one of {list(suite.seeds)}"
            )
        if one.ratio is not None and not 0 <= one.ratio < 1:
            raise SuiteError(
                f"{where}, {one.file}: found ratio {one.ratio}, expected the share removed, in [0, 1)"
            )


def _check_tolerances(suite: Suite, where: str) -> None:
    known = suite.metrics
    for name, tolerance in suite.tolerances.items():
        if name not in known:
            raise SuiteError(f"{where}: nobody measures {name!r}: {unknown('metric', name, known)}")
        try:
            limits(tolerance)
        except UserError as error:
            raise SuiteError(f"{where}: {name}: {error}") from None
        if known[name].higher_is_better is None:
            raise SuiteError(f"{where}: {name} has no direction, so no tolerance; leave it out")


def _check_metrics(evaluators: tuple[PluginConfig[Evaluator], ...], where: str) -> None:
    """Two evaluators may share a metric (accuracy under noise is accuracy) but must mean the same by it."""
    seen: dict[str, Metric] = {}
    for choice in evaluators:
        for metric in choice.plugin.metrics:
            if seen.setdefault(metric.name, metric) != metric:
                raise SuiteError(
                    f"{where}, {choice.name}: another evaluator means something else by {metric.name!r}"
                )
