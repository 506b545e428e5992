"""From a suite, its data and a run folder to the plan of a run; whatever can be known before the first cell is checked.

``run``, ``run --dry-run`` and ``check`` all make their plan here, so that they refuse the same mistakes in the same
words before anything is trained or written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from evalsuite.cache_folder import OUTPUTS
from evalsuite.config.options import Options, data_root
from evalsuite.config.suite import Suite
from evalsuite.config.suite_file import load_suite
from evalsuite.datasets.stages import StageSource
from evalsuite.datasets.views import View
from evalsuite.errors import DataError, StoreError, UserError
from evalsuite.evaluation import Bench
from evalsuite.execution import executors
from evalsuite.execution.automatic_settings import with_automatic_settings
from evalsuite.execution.devices import card, devices, threads
from evalsuite.execution.parent_cache import CacheSettings
from evalsuite.execution.run_bench import can_be_screened, screened_views
from evalsuite.execution.stages import Stages, planned_stages, scores_in_stages
from evalsuite.execution.suite_advice import check_with_advice
from evalsuite.execution.tasks import RunContext
from evalsuite.execution.worker import TaskRunner
from evalsuite.metrics.functionals import FUNCTIONALS
from evalsuite.models.architectures.base import build_model
from evalsuite.models.cost import count_version
from evalsuite.models.engines import (
    CUDA_GRAPHS,
    EAGER,
    OPENVINO,
    Engine,
    choose_engine,
    openvino_version,
    with_precision,
)
from evalsuite.models.inference import BATCH_SIZE
from evalsuite.models.screening import EXACT, screen
from evalsuite.registry import unknown_name
from evalsuite.runs.code_digest import Entry, code_digest, third_party
from evalsuite.runs.digests import digest_of, file_digest
from evalsuite.runs.plan import PlannedCandidate, PlannedTest, RunPlan
from evalsuite.runs.provenance import hardware, versions
from evalsuite.runs.store import Key, Store
from evalsuite.training.loop import train
from evalsuite.training.origin import Origin
from evalsuite.types import DENSE

if TYPE_CHECKING:
    from evalsuite.datasets.source import ImageSource
    from evalsuite.evaluators.base import Evaluator
    from evalsuite.execution.production import Production
    from evalsuite.plugin_config import PluginConfig
    from evalsuite.producers.base import Producer

SCRATCH = "scratch"
"""Folder of a run folder for what workers share while a run goes on."""
BACKWARD = 3
"""Cost of a training step on an image, in forward passes: one forward, and two for the backward pass."""
VERSIONED: Mapping[str, str] = MappingProxyType(
    {
        "foolbox": "foolbox",
        "pyautoattack": "pyautoattack",
        "robustbench": "robustbench",
        "torch_pruning": "torch-pruning",
    }
)
"""Imported package to distribution: libraries whose algorithms are part of what a number means. A new version of
numerical libraries (torch, NumPy, SciPy) changes last digits and makes nothing stale; ``run.json`` records it."""

NETWORK_LIBRARIES = ("timm", "transformers", "onnxruntime", "safetensors")
"""Libraries of networks, beside those that ``run.json`` records: what parents computed is kept for equal versions."""


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to start: nothing is computed or written yet.

    Attributes:
        suite: The suite, with the seed and recipe of the options.
        options: How the run was asked for.
        plan: All cells.
        runner: Does tasks in this process.
        devices: Where tasks are computed, in turn.
        executor: Name of the executor.
        workers: How many tasks are done at once.
        engine: What computes forward passes.
    """

    suite: Suite
    options: Options
    plan: RunPlan
    runner: TaskRunner
    devices: tuple[str, ...]
    executor: str
    workers: int
    engine: Engine = field(default_factory=Engine)

    @property
    def stages(self) -> Stages | None:
        """What a sequential check measures in stages; ``None`` otherwise."""
        return self.runner.context.stages

    @property
    def root(self) -> Path:
        """The run folder."""
        return self.runner.store.root

    @property
    def image_source(self) -> ImageSource:
        """The image sets of the run."""
        return self.runner.image_source

    @property
    def data_record(self) -> dict[str, Any]:
        """What ``run.json`` holds about test images of the user's own: how many, and which class each folder is."""
        images = self.image_source.images(View())
        if not images.labelling:
            return {}
        facts = {"name": images.name, "images": len(images.images), "labelling": images.labelling}
        if geometry := self.image_source.geometry:
            facts["pictures"] = geometry
        return {"data": facts | ({"notes": list(images.notes)} if images.notes else {})}


def prepare(
    suite: Suite | str | Path, *, out: Path | str | None = None, options: Options | None = None
) -> PreparedRun:
    """Reads a suite once, checks it, and plans its run.

    Args:
        suite: A suite, the path of one, or the name of one that ships with the package.
        out: Run folder; ``reports/<suite>`` under the current folder by default.
        options: Seed, device, data and workers, where they differ from the suite's.

    Raises:
        UserError: If the suite, its data, its checkpoints or the options are not as they must be.
    """
    options = options or Options()
    chosen = options.applied(suite if isinstance(suite, Suite) else load_suite(suite))
    _refuse_stages_of_methods(chosen)
    root = _run_folder(chosen, out)
    places = devices(options.device)
    workers = executors.count(options, chosen, places)
    name = options.executor or ("serial" if workers == 1 else "local")
    executors.check(name, workers=workers)
    context = _context(chosen, options, root.absolute(), device=places[0])
    Store(root).refuse_newer()
    with threads(chosen.threads):
        runner = with_automatic_settings(TaskRunner(context))
        engine = run_precision(runner, run_engine(runner))
        planner = Planner(runner.suite, options, runner.production, runner.image_source, engine)
        plan = planner.plan()
        cache = _cache_settings(runner.suite, options, runner.device, engine)
        runner.context = replace(
            runner.context,
            engine=engine.name,
            precision=engine.precision,
            stages=planner.stages,
            cache=cache,
        )
    _check_picture_options(options, runner.image_source)
    return PreparedRun(runner.suite, options, plan, runner, tuple(places), name, workers, engine)


def _refuse_stages_of_methods(suite: Suite) -> None:
    if suite.sequential and not suite.check:
        raise UserError(
            f"{suite.source}: found sequential = true, which is for finished models: 'evalsuite check --suite' "
            "measures in stages, and a run of methods measures all ratios on the same images; leave it out"
        )


def _run_folder(suite: Suite, out: Path | str | None) -> Path:
    if out == "":
        raise UserError("found out = '', expected the path of a run folder; name one")
    return Path(out) if out is not None else Path("reports") / suite.name


def _context(suite: Suite, options: Options, root: Path, *, device: str) -> RunContext:
    """What every worker is told of a run in the folder `root`, before its engine and stages are chosen."""
    return RunContext(
        suite=suite,
        root=root,
        data=data_root(suite, options),
        device=device,
        download=options.download,
        trust=options.trust_program,
        skip_unreadable=options.skip_unreadable,
        verify=options.verify,
        scratch=root / SCRATCH,
    )


def _cache_settings(suite: Suite, options: Options, device: torch.device, engine: Engine) -> CacheSettings:
    """Where later runs find what parents compute, and a digest of what it depends on beside models and images.

    Raises:
        DataError: If the size that the user chose is no number from 0 on.
    """
    most = OUTPUTS.most()
    content = {
        "versions": {**versions(), **{name: _version(name) for name in NETWORK_LIBRARIES}},
        "hardware": hardware(device.type)["processor"] if device.type == "cpu" else card(device),
        "threads": suite.threads,
        "engine": {"name": engine.name, "version": engine.version},
        "code": code_digest((Bench, _module_of(choose_engine))),
    }
    folder = OUTPUTS.path if options.cache and most else None
    return CacheSettings(folder, most, digest_of(content))


def run_engine(runner: TaskRunner) -> Engine:
    """Returns the engine of a run: that of its folder, else the suite's or the one that a probe chooses.

    A folder that says none was computed by PyTorch, as all were before there was a choice.

    Raises:
        UserError: If the folder or the suite names one that is not installed, or that no graphics card has.
    """
    suite, kind = runner.suite, runner.device.type
    known = {"cpu": (EAGER, OPENVINO), "cuda": (EAGER, CUDA_GRAPHS)}.get(kind, (EAGER,))
    if suite.resources.engine not in ("auto", *known):
        raise UserError(
            f"found engine = {suite.resources.engine!r} in [resources] and --device {runner.device}, whose engines are "
            f"{' and '.join(known)}; leave out one of them"
        )
    if known == (EAGER,):
        return Engine(reason=f"PyTorch computes on {kind}")
    try:
        kept = runner.store.record().get("engine", {"name": EAGER})
    except StoreError:
        kept = None
    wanted = suite.resources.engine
    if kept is not None and wanted in ("auto", kept["name"]):
        if kept["name"] != OPENVINO or openvino_version() == kept["version"]:
            return Engine(**kept)
        wanted = kept["name"]
    if wanted == EAGER or (wanted == "auto" and kind == "cpu" and not openvino_version()):
        return Engine(reason="OpenVINO is not installed" if wanted == "auto" else "the suite chose it")
    images = runner.image_source.images(View()).images
    with torch.random.fork_rng(devices=[]):
        model = build_model(suite.model.plugin).eval()
    passes = _passes(suite, runner.image_source)
    return choose_engine(wanted, model, images, passes=passes, device=runner.device)


def run_precision(runner: TaskRunner, engine: Engine) -> Engine:
    """Returns the engine of a run with its precision: the suite's, where a probe shows that it pays.

    What a probe found is kept in the folder of the run.

    Raises:
        UserError: If the suite wants predictions to be screened, and every image set needs more than these.
    """
    suite = runner.suite
    if suite.resources.precision == EXACT:
        return replace(engine, precision=EXACT, precision_gain=0.0, precision_reason="")
    if suite.sequential:
        raise UserError(
            "found precision = 'screened' and sequential = true, whose stages are passed in single precision: leave "
            "one of them out"
        )
    if not can_be_screened(suite):
        raise UserError(
            "found precision = 'screened', but every image set of these tests needs likelihoods or features, and no "
            "attack is PGD; leave it out, or leave out the tests that need them on corrupted images"
        )
    try:
        kept = runner.store.record().get("engine", {})
    except StoreError:
        kept = {}
    if kept.get("precision_reason"):
        probed = ("precision", "precision_gain", "precision_reason")
        return replace(engine, **{name: kept[name] for name in probed})
    images = runner.image_source.images(View()).images
    with torch.random.fork_rng(devices=[]):
        model = build_model(suite.model.plugin).eval()
    return with_precision(engine, model, images, runner.device)


def _passes(suite: Suite, image_source: ImageSource) -> int:
    """Forward passes of single images that the tests of one candidate take, attacks and the like aside."""
    views = {view for config in suite.evaluators for view in config.plugin.needs}
    return sum(len(image_source.images(replace(view, transform=None)).images) for view in views)


def _check_picture_options(options: Options, image_source: ImageSource) -> None:
    """Refuses options about pictures where a run reads none."""
    chosen = {"--skip-unreadable": options.skip_unreadable, "--verify": options.verify}
    for name, is_set in chosen.items():
        if is_set and not image_source.reads_pictures:
            raise UserError(f"{name}: no data set of this run reads picture files; leave it out")


class Planner:
    """Plans the run of one suite.

    Args:
        suite: The suite, with the seed and recipe of the options.
        options: What is selected, and what is computed again.
        production: Reads checkpoints; nothing is trained here.
        image_source: Image sets.
        engine: What computes forward passes.
    """

    def __init__(
        self,
        suite: Suite,
        options: Options,
        production: Production,
        image_source: ImageSource,
        engine: Engine = Engine(),  # noqa: B008  # a frozen record
    ) -> None:
        self.suite, self.options, self.engine = suite, options, engine
        self.production, self.image_source = production, image_source
        self.stages: Stages | None = None  # known when it is planned

    def plan(self) -> RunPlan:
        """Returns the plan of all cells after checking everything that can be checked.

        Raises:
            UserError: At the first mistake.
        """
        self._check_selected_names()
        check_with_advice(self.suite, self.image_source)
        self.stages = planned_stages(self.suite, self.image_source) if self.suite.sequential else None
        plan = RunPlan(
            seeds=self.suite.seeds,
            candidates=tuple(candidate for seed in self.suite.seeds for candidate in self._made_here(seed)),
            tests=tuple(self._test(config) for config in self.suite.evaluators),
            retried=frozenset({"error", "invalid", "skipped"} if self.options.retry_failed else {"error"}),
        )
        for seed in self.suite.seeds:
            plan = self._with_external(plan, seed)
        return plan

    def _with_external(self, plan: RunPlan, seed: int) -> RunPlan:
        """The plan with the external models of a seed; beside a parent to be trained their ratios are not known yet."""
        models = [model for model in self.suite.candidates if model.seed == seed]
        if not models:
            return plan
        parent = self.production.parent_record(seed, plan.by_key[Key(DENSE, seed, 0.0)].inputs)
        if parent is None:
            self.production.check_external(seed)
            selected = sum(self._selects_method(model.method) for model in models)
            return replace(plan, unresolved={**plan.unresolved, seed: selected})
        rows = self.production.planned_external(seed, parent)
        return plan.with_external(
            seed, [replace(row, selected=self._selects_method(row.key.method)) for row in rows]
        )

    def _made_here(self, seed: int) -> list[PlannedCandidate]:
        """The parent of a seed, and the candidates of every producer."""
        parent = PlannedCandidate(
            Key(DENSE, seed, 0.0),
            "parent",
            self._parent_inputs(seed),
            self._network_code,
            training=0 if self.suite.checkpoint else self._training_cost(DENSE),
        )
        return [parent, *(row for config in self.suite.producers for row in self._chain(config, seed))]

    def _chain(self, config: PluginConfig[Producer], seed: int) -> list[PlannedCandidate]:
        inputs, steps = self._producer_inputs[config.label], self.suite.steps_of(config)
        return [
            PlannedCandidate(
                Key(config.label, seed, ratio),
                "produced",
                inputs,
                self._network_code,
                path=tuple(step for step in steps if step <= ratio),
                training=self._training_cost(config.label),
                selected=self._selects_method(config.label),
            )
            for ratio in self.suite.ratios
        ]

    def _test(self, config: PluginConfig[Evaluator]) -> PlannedTest:
        plugin = config.plugin
        images = {self._set_name(view): self._count(view) for view in plugin.needs}
        return PlannedTest(
            config.label,
            self._test_inputs(config),
            uses_control=plugin.uses_control,
            uses_history=plugin.uses_history,
            images=images,
            extra_images=plugin.extra_images,
            selected=self._selects_test(config.label),
        )

    def _parent_inputs(self, seed: int) -> str:
        """Digest of what the parent of one seed depends on: its training, or its checkpoint."""
        path = self.production.checkpoint(seed)
        code: tuple[Entry, ...] = (type(self.suite.model.plugin),)
        if path is None:
            origin = {"seed": seed, **self.production.trainings.inputs(self.suite.recipe)}
            code += (_module_of(train), Origin)
        else:
            origin = {"checkpoint": file_digest(path)}
            if self.suite.checkpoint_weights:
                origin["weights"] = self.suite.checkpoint_weights
            if self.suite.checkpoint_entry != "":
                origin["entry"] = str(self.suite.checkpoint_entry)
            code += self.production.loading_code
        content = {"model": self.suite.model.table, **origin, "cost": self._count_version}
        return digest_of({**content, "code": code_digest(code)})

    @cached_property
    def _count_version(self) -> int:
        """Version of what is counted of a network of the suite's architecture."""
        with torch.random.fork_rng(devices=[]):
            model = build_model(self.suite.model.plugin)
        return count_version(model, self.image_source.images(View()).images.shape[1:])

    @cached_property
    def _producer_inputs(self) -> dict[str, str]:
        """Digest of each method and of how it retrains, by label."""
        return {config.label: self._inputs_of(config) for config in self.suite.producers}

    def _inputs_of(self, config: PluginConfig[Producer]) -> str:
        plugin = config.plugin
        inner: tuple[Entry, ...] = (*map(type, plugin.inner_producers), *plugin.code_entries)
        code = (type(plugin), *inner, type(self.suite.model.plugin))
        # a method that rewinds follows the parent's own training
        parent_recipe = None if self.suite.checkpoint else asdict(self.suite.recipe)
        training = self.production.trainings.inputs(self.suite.retraining_of(config.label))
        content = {"producer": config.table, **training, "parent": parent_recipe, "cost": self._count_version}
        return digest_of({**content, "code": code_digest(code), "libraries": _libraries(code)})

    def _test_inputs(self, config: PluginConfig[Evaluator]) -> str:
        """Digest of what a measurement depends on beside the networks."""
        plugin, device = config.plugin, self.production.device
        machine = {"machine": {**hardware(device.type), "card": card(device)}} if plugin.measures_time else {}
        functionals = {FUNCTIONALS[metric.functional].module for metric in plugin.metrics}
        staged = {} if self.stages is None else self.stages.inputs(config.label)
        in_stages = (scores_in_stages.__module__, StageSource) if staged else ()
        code: tuple[Entry, ...] = (type(plugin), Bench, *in_stages, *sorted(functionals))
        return digest_of(
            {
                **machine,
                "evaluator": config.table,
                "version": plugin.version,
                "images": [self.image_source.digest(view) for view in plugin.needs],
                "features": [self._optional_digest(view) for view in plugin.features],
                "threads": self.suite.threads,
                "device": device.type,
                **self._batch_size,
                **self._engine,
                **self._precision(plugin),
                **staged,
                "code": code_digest(code),
                "libraries": _libraries(code),
            }
        )

    @property
    def _batch_size(self) -> dict[str, int]:
        """The number of images per forward pass where the suite chose one: sums depend on it in the last digits."""
        size, usual = self.suite.resources.batch_size, self.production.device.type == "cpu"
        return {} if not size or (usual and size == BATCH_SIZE) else {"batch_size": size}

    @property
    def _engine(self) -> dict[str, Any]:
        """The engine where it is not PyTorch: results of different engines never share a digest."""
        if self.engine.name == EAGER:
            return {}
        engine = {"name": self.engine.name, "version": self.engine.version}
        return {"engine": {**engine, "code": code_digest((_module_of(choose_engine),))}}

    def _precision(self, plugin: Evaluator) -> dict[str, Any]:
        """The precision of a test of which some image sets are screened: its results share no digest with others."""
        screened = bool(screened_views(self.suite) & {*plugin.predictions}) or plugin.takes_gradient_steps
        if self.engine.precision == EXACT or not screened:
            return {}
        return {"precision": {"name": self.engine.precision, "code": code_digest((_module_of(screen),))}}

    def _optional_digest(self, view: View) -> str:
        """The digest of images that an evaluator can do without."""
        try:
            return self.image_source.digest(view)
        except DataError:
            return "absent"

    @cached_property
    def _network_code(self) -> str:
        """Digest of the code that rebuilds a network of the suite's architecture from its weights."""
        return code_digest((type(self.suite.model.plugin),))

    def _training_cost(self, label: str) -> int:
        """Cost of training one candidate, in forward passes of one image."""
        recipe = self.suite.recipe if label == DENSE else self.suite.retraining_of(label)
        return int(BACKWARD * recipe.epochs * len(self.production.trainings.images.images))

    def _set_name(self, view: View) -> str:
        """A name for an image set that no other has."""
        name = self.image_source.condition(view)
        name = name if view.split == "test" else f"{name} ({view.split})"
        return f"{name}, first {view.first}" if view.first else name

    def _count(self, view: View) -> int:
        return len(self.image_source.images(replace(view, transform=None)).images)

    def _selects_method(self, label: str) -> bool:
        methods = self._methods
        return not self._asked & methods or label in self._asked or label == DENSE

    def _selects_test(self, label: str) -> bool:
        return not self._asked & self._labels or label in self._asked

    def _check_selected_names(self) -> None:
        for name in self.options.only:
            if name not in self._labels | self._methods:
                names = self._labels | self._methods - {DENSE}
                raise UserError(f"--only {name}: {unknown_name('test or method', name, names)}")

    @property
    def _asked(self) -> set[str]:
        return set(self.options.only)

    @property
    def _labels(self) -> set[str]:
        return {config.label for config in self.suite.evaluators}

    @property
    def _methods(self) -> set[str]:
        produced = {config.label for config in self.suite.producers}
        return {DENSE, *produced, *(model.method for model in self.suite.candidates)}


def _libraries(code: tuple[Entry, ...]) -> dict[str, str]:
    """Versions of the libraries whose algorithms the code calls."""
    versions_of = {}
    for package in sorted(third_party(code) & set(VERSIONED)):
        versions_of[package] = _version(VERSIONED[package])
    return versions_of


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"


def _module_of(function: Any) -> str:
    name: str = function.__module__
    return name
