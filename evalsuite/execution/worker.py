"""The tasks of a run, done in this process: candidates are made and measured, and events report the results."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from evalsuite.atomic_files import wait_for_file
from evalsuite.config.suite import Suite
from evalsuite.datasets.base import Place
from evalsuite.datasets.overlap import count_shared
from evalsuite.datasets.shared_cache import SharedArrayCache
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.stages import StageSource
from evalsuite.datasets.views import FOLDER_SUFFIX, View
from evalsuite.errors import CellError, CheckpointError, InvalidModelError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.accuracy import ACCURACY, Accuracy
from evalsuite.evaluators.base import Evaluator
from evalsuite.execution.external_candidates import current_weights
from evalsuite.execution.limits import limited
from evalsuite.execution.measuring import Attempt, attempted, tried
from evalsuite.execution.parent_cache import FOLDER, ParentCache
from evalsuite.execution.parent_checks import check_class_order, check_parent, check_recorded, is_constant
from evalsuite.execution.production import Production
from evalsuite.execution.run_bench import RunBench, StageBench, screened_views
from evalsuite.execution.stages import scores_in_stages
from evalsuite.execution.tasks import (
    CandidatesReady,
    CellFinished,
    CellStarted,
    Event,
    LoadParent,
    MeasureCandidate,
    ParentReady,
    ProduceCandidate,
    ProductionResult,
    RunAborted,
    RunContext,
    Task,
    WeightsLost,
    WeightsLostError,
)
from evalsuite.model_checks import check_preprocessing, check_stated_heads
from evalsuite.models.architectures.base import output_note
from evalsuite.models.checkpoints.loading import load_candidate
from evalsuite.models.checkpoints.parent_weights import forget_parent
from evalsuite.models.checkpoints.reading import key_note
from evalsuite.models.inference import BATCH_SIZE, fastest_batch_size, keep_large_blocks
from evalsuite.models.screening import SCREENED
from evalsuite.models.surgery.head_counts import head_note
from evalsuite.plugin_config import PluginConfig
from evalsuite.random_streams import address
from evalsuite.runs.digests import digest_of
from evalsuite.runs.store import Cell, Key, Store
from evalsuite.types import DENSE, PROGRAM, Candidate, CellStatus

log = logging.getLogger(__name__)


@dataclass
class _Chain:
    """A producer at work, kept so that its next step need not start from disk."""

    name: tuple[str, int]
    step: int
    results: Iterator[ProductionResult]


def _place(context: RunContext) -> Place:
    """Where the data of a run is, and how its pictures become what the parent's architecture takes."""
    architecture = context.suite.model.plugin
    return Place(
        context.data,
        context.download,
        context.suite.seeds[0],
        preprocessing=getattr(architecture, "preprocessing", None),
        classes=context.suite.known_classes,
        channels=len(architecture.mean),
        skip_unreadable=context.skip_unreadable,
        verify=context.verify,
    )


class TaskRunner:
    """Does the tasks of one run in this process.

    Args:
        context: What is run, and where.
        image_source: Image sets that are there already; loaded as they are needed by default.
    """

    def __init__(self, context: RunContext, image_source: ImageSource | None = None) -> None:
        suite = context.suite
        place = _place(context)
        self.context = context
        self.suite: Suite = suite
        self.store = Store(context.root)
        cache = None if context.scratch is None else SharedArrayCache(context.scratch)
        self.image_source = image_source or ImageSource(
            suite.data.plugin, place, cache=cache, limit=suite.limit
        )
        self.device = torch.device(context.device)
        self.production = Production(
            suite, self.store, self.image_source, device=self.device, trust=context.trust
        )
        self._evaluators: dict[str, PluginConfig[Evaluator]] = {
            config.label: config for config in suite.evaluators
        }
        self._dense: dict[tuple[int, str], Bench] = {}
        self._stage_parents: dict[tuple[int, str, int], Bench] = {}
        self._stage_sources: dict[int, StageSource] = {}
        self._chain: _Chain | None = None
        self._outputs: ParentCache | None = None
        self._probed: int | None = None  # images per forward pass
        keep_large_blocks()

    def events(self, task: Task) -> Iterator[Event]:
        """Does a task, and yields each event when it happens; every result is on disk by then."""
        try:
            if isinstance(task, LoadParent):
                yield self._parent_ready(task)
            elif isinstance(task, ProduceCandidate):
                yield self._candidates_ready(task)
            else:
                yield from self._cells(task)
        except WeightsLostError as error:
            yield WeightsLost(error.key, str(error))
        except Exception as error:
            log.debug("%s failed", task.name, exc_info=True)
            yield RunAborted(error)

    def _parent_ready(self, task: LoadParent) -> ParentReady:
        started = time.monotonic()
        parent, computed = self.production.parent(task.seed, task.digest)
        notes: list[tuple[Key, str]] = []
        if self.suite.checkpoint:  # trained elsewhere, on images that are not known here
            notes += self._preprocessing_notes(task.key, parent, "the parent")
            notes += self._stated_heads_notes(task.key, parent)
        hint = " ".join(note for _, note in notes)
        notes += [(task.key, note) for note in self._check_parent(task.key, parent, hint)]
        notes += self._network_notes(task.key, parent)
        notes += [(task.key, note) for note in self._check_recorded(task.key, parent)]
        forget_parent()
        external = tuple(self.production.external(task.seed, parent))
        notes = [(result.key, note) for result in external for note in result.notes] + notes
        if task.seed == self.suite.seeds[0]:
            notes += [(task.key, note) for note in self._data_notes()]
        for result in external:
            candidate = result.candidate
            if candidate is not None and candidate.model["name"] == PROGRAM:  # may have its own preprocessing
                notes += self._preprocessing_notes(result.key, candidate, result.key.method)
        return ParentReady(parent, computed, external, tuple(notes), time.monotonic() - started)

    def _check_parent(self, key: Key, parent: Candidate, hint: str) -> tuple[str, ...]:
        """Refuses a parent that does not classify, before any candidate of it is made or measured."""
        images = self.image_source.images(View())
        answers = None if images.labels is None else self._answers(key, parent)
        if answers is None:
            return ()
        right, constant = answers
        filtered = getattr(self.image_source.data, "filtered", False)
        return check_parent(
            right,
            images,
            constant=constant,
            claim=self.suite.parent_accuracy,
            filtered=filtered,
            hint=hint.rstrip(". "),
        )

    def _answers(self, key: Key, parent: Candidate) -> tuple[int, bool] | None:
        """Clean test images that a parent gets right, from its cell or a pass, and whether it gives all one class.

        A parent that does has no cell. ``None`` if it breaks its contract: its cells say so.
        """
        for label, config in self._evaluators.items():
            if isinstance(config.plugin, Accuracy) and self.context.plan is not None:
                digest = self.context.plan.cell_digest(key, label, {key: parent})
                cell = self.store.wanted_cell(key, label, digest)
                for score in () if cell is None or cell.looks else cell.scores:
                    if score.metric == ACCURACY.name and score.value is not None and score.n is not None:
                        return round(score.value * score.n), False
        try:
            outputs = self._bench_of_parent(parent).outputs(View())
        except CellError:
            return None
        return int(outputs.correct.sum()), is_constant(outputs.predictions)

    def _data_notes(self) -> list[str]:
        """Notes on the images: what was left out of the user's folders, and test images that are trained on."""
        needs = [view for config in self.suite.evaluators for view in config.plugin.needs]
        folders = [
            replace(view, first=0)
            for view in needs
            if view.data.endswith(FOLDER_SUFFIX) and view.transform is None
        ]
        notes = [note for view in (View(), *folders) for note in self.image_source.images(view).notes]
        if self.suite.producers or not self.suite.checkpoint:
            test, train = (self.image_source.images(View(split=split)) for split in ("test", "train"))
            if shared := count_shared(test.images, train.images):
                notes.append(
                    f"{shared} of {len(test.images)} test images of {test.name!r} are training images too (equal "
                    "pixels)."
                )
        return list(dict.fromkeys(notes))

    def _network_notes(self, key: Key, parent: Candidate) -> list[tuple[Key, str]]:
        """What the parent's network does beside what its settings show."""
        module = self.production.module(key, parent)
        image = torch.tensor(self.image_source.images(View()).images[:1]).to(self.device) / 255
        notes = [*self.suite.model.plugin.notes(), output_note(module, image)]
        if path := self.production.checkpoint(key.seed):
            checkpoint = self.production.parent_checkpoint(path)
            notes += [checkpoint.note, key_note(checkpoint.weights, module)]
            notes += [head_note(self.suite.model.plugin, module)]
        return [(key, note) for note in notes if note]

    def _check_recorded(self, key: Key, parent: Candidate) -> tuple[str, ...]:
        """Says what a guessed architecture is, and compares the parent's accuracy with what its file records."""
        path, images = self.production.checkpoint(key.seed), self.image_source.images(View())
        if path is None:
            return ()
        guessed = self.suite.check.get("guessed", "")
        said = (f"The architecture is {guessed}.",) if guessed else ()
        recorded = self.production.parent_checkpoint(path).recorded
        if recorded is None or images.labels is None or getattr(self.image_source.data, "filtered", False):
            return said
        answers = self._answers(key, parent)
        if answers is None:
            return said
        ignored = bool(self.suite.check.get("ignore_recorded_accuracy"))
        accuracy = answers[0] / len(images.images)
        return (*said, *check_recorded(accuracy, recorded, guessed=guessed, ignored=ignored))

    def _preprocessing_notes(self, key: Key, candidate: Candidate, name: str) -> list[tuple[Key, str]]:
        images = self.image_source.images(View())
        if images.labels is None:
            return []
        module = self.production.module(key, candidate)
        try:
            notes = check_class_order(module, images) if key.method == DENSE else ()
            notes = notes or check_preprocessing(module, images.images, images.labels, name=name)
        except InvalidModelError as error:  # of a file that was given, so a mistake in the question
            file = candidate.model.get("file") or self.production.checkpoint(key.seed)
            raise CheckpointError(f"{name}, {file}: {error}") from error
        return [(key, note) for note in notes]

    def _stated_heads_notes(self, key: Key, parent: Candidate) -> list[tuple[Key, str]]:
        """A warning where a number of heads that is stated for pruned candidates spoils their dense parent."""
        images, path = self.image_source.images(View()), self.production.checkpoint(key.seed)
        architecture = self.suite.model.plugin
        if not architecture.num_heads or images.labels is None or path is None:
            return []
        built = replace(architecture, num_heads=())
        weights = current_weights(built, self.production.parent_checkpoint(path).weights)
        try:
            other = load_candidate(weights, built, image_shape=images.images.shape[1:])
        except CheckpointError:  # the parent needs the setting
            return []
        stated = self.production.module(key, parent)
        notes = check_stated_heads(stated, other.to(self.device), images.images, images.labels)
        return [(key, note) for note in notes]

    def _candidates_ready(self, task: ProduceCandidate) -> CandidatesReady:
        """One step of a chain; a failure is the last of its chain, and gives the rest their reason."""
        started = time.monotonic()
        with limited(self.suite.resources.production_limit):
            result = self._step(task)
        if result.candidate is None and result.retryable:
            self._chain = None  # from what is on disk
            with limited(self.suite.resources.production_limit):
                result = self._step(task)
        if result.candidate is not None:
            return CandidatesReady((result,), time.monotonic() - started)
        rest = tuple(self._chain.results) if self._chain is not None else ()
        self._chain = None
        return CandidatesReady((result, *rest), time.monotonic() - started)

    def _step(self, task: ProduceCandidate) -> ProductionResult:
        chain = self._chain
        if chain is None or chain.name != task.chain or chain.step != task.step:
            config = next(config for config in self.suite.producers if config.label == task.key.method)
            module = self._bench_of_parent(task.parent).network
            results = self.production.candidates(config, task.parent, module, inputs=task.inputs)
            self._chain = chain = _Chain(task.chain, 0, results)
        for result in chain.results:
            chain.step += 1
            if result.key == task.key or result.candidate is None:
                return result
        raise RuntimeError(f"the chain of {task.key.method} ended before {task.key}")

    def _cells(self, task: MeasureCandidate) -> Iterator[Event]:
        """Fills cells in the order of the suite, those in stages first; a cell that fails is tried once more."""
        bench: Bench | None = None
        for label, digest in self._cheapest_first(task.cells):
            yield CellStarted(label)
            started = time.monotonic()
            if (kept := self._kept_cell(task, label, digest)) is not None:
                yield CellFinished(label, kept, time.monotonic() - started)
                continue
            bench = bench or self._bench(task, task.batch_share)
            attempt = self._attempt(label, bench, digest, task)
            if attempt.retryable:
                share = task.batch_share / 2 if attempt.out_of_memory else task.batch_share
                bench = None  # what it computed goes first, so that there is room
                bench = self._bench(task, share)
                attempt = self._attempt(label, bench, digest, task)
            self.store.write_cell(task.key, label, attempt.cell)
            self._keep(task, label, attempt.cell)
            yield CellFinished(label, attempt.cell.status, time.monotonic() - started)

    def _kept_cell(self, task: MeasureCandidate, label: str, digest: str) -> CellStatus | None:
        """The status of a parent's cell that an earlier run measured, and which this run now has; ``None`` if none."""
        cache = self._parent_cache if self._is_kept(task, label) else None
        data = None if cache is None else cache.cell(digest)
        cell = None if data is None else self.store.take_cell(task.key, label, digest, data)
        return None if cell is None else cell.status

    def _keep(self, task: MeasureCandidate, label: str, cell: Cell) -> None:
        if self._parent_cache is not None and cell.status == "ok" and self._is_kept(task, label):
            self._parent_cache.keep_cell(cell)

    def _is_kept(self, task: MeasureCandidate, label: str) -> bool:
        """Whether later runs may have a cell: of a parent, and without times."""
        return task.key.method == DENSE and not self._evaluators[label].plugin.measures_time

    @property
    def _parent_cache(self) -> ParentCache | None:
        """What parents computed; ``None`` while the run is planned, and where workers share no folder."""
        context = self.context
        if context.plan is None or context.scratch is None or context.cache is None:
            return None
        if self._outputs is None:
            self._outputs = ParentCache(context.scratch / FOLDER, context.cache)
        return self._outputs

    def _cheapest_first(self, cells: Mapping[str, str]) -> list[tuple[str, str]]:
        """Label and digest of cells; of a sequential check those first whose stages pass the fewest image sets."""
        stages = self.context.stages
        if stages is None:
            return list(cells.items())
        views = {label: len(self._evaluators[label].plugin.needs) for label in stages.tests}
        return sorted(cells.items(), key=lambda cell: views.get(cell[0], math.inf))

    def _attempt(self, label: str, bench: Bench, digest: str, task: MeasureCandidate) -> Attempt:
        limit, evaluator = self.suite.resources.time_limit, self._evaluators[label].plugin
        for network in (bench, bench.parent, bench.control):
            if isinstance(network, RunBench) and self.context.plan is not None:
                network.test = self.context.plan.by_label[label].inputs
        stages = self.context.stages
        if stages is None or label not in stages.tests:
            return attempted(evaluator, bench, digest=digest, limit=limit)

        def measure() -> Cell:
            scores = scores_in_stages(
                evaluator,
                label,
                stages,
                lambda stage: self._stage_bench(bench, task, stage),
                seed=self.suite.seeds[0],
            )
            return Cell(digest, "ok", "", evaluator.metrics, scores.candidate, scores.parent, stages.sizes)

        return tried(measure, name=type(evaluator).__name__, digest=digest, limit=limit)

    def _stage_bench(self, bench: Bench, task: MeasureCandidate, stage: int) -> Bench:
        """The bench of a candidate on the images of a stage; of the parent itself, that which all candidates share."""
        parent = self._stage_parent(task.parent, bench.parent, stage)
        if task.key.method == DENSE:
            return parent
        return bench.memoise(
            ("stage", stage), lambda: self._staged(bench, self._stage_source(stage), parent=parent)
        )

    def _stage_parent(self, parent: Candidate, dense: Bench, stage: int) -> Bench:
        name = (parent.seed, parent.weights, stage)
        if name not in self._stage_parents:
            key = Key(DENSE, parent.seed, 0.0)
            self._stage_parents[name] = self._staged(
                dense,
                self._stage_source(stage),
                cache=self._parent_cache,
                weights=self._identity(key, parent),
            )
        return self._stage_parents[name]

    def _staged(self, bench: Bench, source: StageSource, **more: Any) -> StageBench:
        """A bench of the same network on the images of a stage."""
        whole = {view for label in self._measured_whole for view in self._evaluators[label].plugin.needs}
        staged = StageBench(
            bench,
            source,
            whole=whole,
            engine=self.context.engine,
            seed=bench.seed,
            history=bench.history,
            **more,
        )
        staged.batch_size = bench.batch_size
        return staged

    @property
    def _measured_whole(self) -> list[str]:
        """Labels of the tests that are measured on all images."""
        stages, plan = self.context.stages, self.context.plan
        selected = [] if plan is None else [label for label in plan.labels if label in self._evaluators]
        return [label for label in selected if stages is None or label not in stages.tests]

    def _stage_source(self, stage: int) -> StageSource:
        stages = self.context.stages
        if stages is None:
            raise RuntimeError("this run has no stages")
        if stage not in self._stage_sources:
            rows = stages.rows(self.image_source, stage)
            self._stage_sources[stage] = StageSource(self.image_source, rows, stage)
        return self._stage_sources[stage]

    def _bench(self, task: MeasureCandidate, share: float) -> Bench:
        if task.key.method == DENSE and share < 1:
            self._dense.clear()
            self._stage_parents.clear()
        dense = self._bench_of_parent(task.parent)
        dense.set_control(None if task.control is None else self._bench_of_parent(task.control))
        if task.key.method == DENSE:
            return self._with_requests(dense, share)
        model = self._module(task.key, task.candidate)
        history = task.candidate.history
        bench = RunBench(
            model,
            self.image_source,
            engine=self.context.engine,
            screened=self._screened,
            half_gradients=self.context.precision == SCREENED,
            parent=dense,
            seed=dense.seed,
            history=history,
        )
        return self._with_requests(bench, share)

    def _bench_of_parent(self, parent: Candidate) -> Bench:
        """The bench of a parent, with the outputs it has so far; every candidate of its seed is compared with it."""
        name = (parent.seed, parent.weights)
        if name not in self._dense:
            key = Key(DENSE, parent.seed, 0.0)
            model = self._module(key, parent)
            seed = address(parent.seed, "bench")
            bench = RunBench(
                model,
                self.image_source,
                engine=self.context.engine,
                screened=self._screened,
                half_gradients=self.context.precision == SCREENED,
                cache=self._parent_cache,
                weights=self._identity(key, parent),
                seed=seed,
                history=parent.history,
            )
            self._dense[name] = self._with_requests(bench, 1)
        return self._dense[name]

    @property
    def _screened(self) -> frozenset[View]:
        """The image sets that are passed in screened precision."""
        return screened_views(self.suite) if self.context.precision == SCREENED else frozenset()

    def _identity(self, key: Key, parent: Candidate) -> str:
        """Digest of a parent's network: of its weights, its settings, and the code that rebuilds it."""
        code = "" if self.context.plan is None else self.context.plan.by_key[key].code
        return digest_of({"weights": parent.weights, "model": parent.model, "code": code})

    def _module(self, key: Key, candidate: Candidate) -> nn.Module:
        if candidate.model["name"] != PROGRAM:
            wait_for_file(self.store.weights_path(key), self.context.patience)
        return self.production.sound_module(key, candidate)

    def _with_requests(self, bench: Bench, share: float) -> Bench:
        """The bench with all that the evaluators of the suite need from each pass."""
        bench.request_features([view for config in self.suite.evaluators for view in config.plugin.features])
        bench.batch_size = max(1, int(self._batch_size(bench) * share))
        return bench

    def _batch_size(self, bench: Bench) -> int:
        """Images per forward pass: the suite's; else the usual number, on a graphics card by a probe of the network."""
        if size := self.suite.resources.batch_size:
            return size
        if self.device.type != "cuda":
            return BATCH_SIZE
        if self._probed is None:
            images = self.image_source.images(View()).images
            self._probed = fastest_batch_size(bench.inference_model, images, device=self.device)
            log.info("%d images per forward pass, the fastest on this card", self._probed)
        return self._probed
