"""What a worker does: it makes and measures candidates, one task after the other, and says what came of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from evalsuite.atomic_files import wait_for_file
from evalsuite.config.suite import DENSE, Suite
from evalsuite.datasets.base import Place
from evalsuite.datasets.shared_cache import SharedArrayCache
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.views import View
from evalsuite.evaluation import Bench
from evalsuite.evaluators.base import Evaluator
from evalsuite.execution.external_candidates import PROGRAM
from evalsuite.execution.limits import limited
from evalsuite.execution.measuring import Attempt, attempted
from evalsuite.execution.production import Production
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
from evalsuite.model_checks import doubt
from evalsuite.models.inference import BATCH_SIZE, keep_large_blocks
from evalsuite.plugin_config import PluginConfig
from evalsuite.random_streams import address
from evalsuite.runs.store import Key, Store
from evalsuite.types import Candidate

log = logging.getLogger(__name__)


@dataclass
class _Chain:
    """Is a producer at work, kept so that the next step need not start from disk."""

    name: tuple[str, int]
    step: int
    made: Iterator[ProductionResult]


class TaskRunner:
    """Does the tasks of one run, in this process.

    Args:
        order: What is run, and where.
        image_source: Image sets that are there already; loaded as they are needed by default.
    """

    def __init__(self, order: RunContext, image_source: ImageSource | None = None) -> None:
        suite = order.suite
        place = Place(order.data, order.download, suite.seeds[0])
        self.suite: Suite = suite
        self.store = Store(order.root)
        shelf = None if order.scratch is None else SharedArrayCache(order.scratch)
        self.image_source = image_source or ImageSource(suite.data.plugin, place, shelf=shelf)
        self.device = torch.device(order.device)
        self.production = Production(
            suite, self.store, self.image_source, device=self.device, trust=order.trust
        )
        self._evaluators: dict[str, PluginConfig[Evaluator]] = {
            choice.label: choice for choice in suite.evaluators
        }
        self._dense: dict[tuple[int, str], Bench] = {}
        self._chain: _Chain | None = None
        self._patience = order.patience
        keep_large_blocks()

    def events(self, task: Task) -> Iterator[Event]:
        """Does a task, and yields what happens when it happens; every result is on disk by then."""
        try:
            if isinstance(task, LoadParent):
                yield self._opened(task.seed)
            elif isinstance(task, ProduceCandidate):
                yield self._produced(task)
            else:
                yield from self._cells(task)
        except WeightsLostError as error:
            yield WeightsLost(error.key, str(error))
        except Exception as error:
            log.debug("%s failed", task.name, exc_info=True)
            yield RunAborted(error)

    def _opened(self, seed: int) -> ParentReady:
        begun = time.monotonic()
        key = Key(DENSE, seed, 0.0)
        parent, fresh = self.production.parent(seed)
        given = tuple(self.production.given(seed, parent))
        notes = [(made.key, note) for made in given for note in made.notes]
        if self.suite.checkpoint:  # weights of somebody else, trained on images that we have not seen
            notes += self._doubts(key, parent, "the parent")
        for made in given:
            if made.candidate is not None and made.candidate.model["name"] == PROGRAM:
                notes += self._doubts(
                    made.key, made.candidate, made.key.method
                )  # may bring its preprocessing
        return ParentReady(parent, fresh, given, tuple(notes), time.monotonic() - begun)

    def _doubts(self, key: Key, candidate: Candidate, who: str) -> list[tuple[Key, str]]:
        images = self.image_source.images(View())
        if images.labels is None:
            return []
        module = self.production.module(key, candidate)
        return [(key, note) for note in doubt(module, images.images, images.labels, who=who)]

    def _produced(self, task: ProduceCandidate) -> CandidatesReady:
        """One step of a chain; a failure is the last of its chain, and gives the rest their reason."""
        begun = time.monotonic()
        with limited(self.suite.resources.production_limit):
            made = self._step(task)
        if made.candidate is None and made.again:
            self._chain = None  # from what is on disk
            with limited(self.suite.resources.production_limit):
                made = self._step(task)
        if made.candidate is not None:
            return CandidatesReady((made,), time.monotonic() - begun)
        rest = tuple(self._chain.made) if self._chain is not None else ()
        self._chain = None
        return CandidatesReady((made, *rest), time.monotonic() - begun)

    def _step(self, task: ProduceCandidate) -> ProductionResult:
        chain = self._chain
        if chain is None or chain.name != task.chain or chain.step != task.step:
            choice = next(choice for choice in self.suite.producers if choice.label == task.label)
            module = self._bench_of_parent(task.parent).model
            self._chain = chain = _Chain(
                task.chain, 0, self.production.candidates(choice, task.parent, module)
            )
        for made in chain.made:
            chain.step += 1
            if made.key == task.key or made.candidate is None:
                return made
        raise RuntimeError(f"the chain of {task.label} ended before {task.key}")

    def _cells(self, task: MeasureCandidate) -> Iterator[Event]:
        """Fills cells in the order of the suite; a cell that fails is tried once more."""
        bench: Bench | None = None
        for label, digest in task.cells.items():
            yield CellStarted(label)
            begun = time.monotonic()
            bench = bench or self._bench(task, task.share)
            attempt = self._attempt(label, bench, digest)
            if attempt.again:
                share = task.share / 2 if attempt.starved else task.share
                bench = None  # what it computed goes first, so that there is room
                bench = self._bench(task, share)
                attempt = self._attempt(label, bench, digest)
            self.store.write_cell(task.key, label, attempt.cell)
            yield CellFinished(label, attempt.cell.status, time.monotonic() - begun)

    def _attempt(self, label: str, bench: Bench, digest: str) -> Attempt:
        limit = self.suite.resources.time_limit
        return attempted(self._evaluators[label].plugin, bench, digest=digest, limit=limit)

    def _bench(self, task: MeasureCandidate, share: float) -> Bench:
        if task.key.method == DENSE and share < 1:
            self._dense.clear()
        dense = self._bench_of_parent(task.parent)
        dense.set_control(None if task.control is None else self._bench_of_parent(task.control))
        if task.key.method == DENSE:
            return self._wanting(dense, share)
        model = self._module(task.key, task.candidate)
        history = task.candidate.history
        bench = Bench(model, self.image_source, parent=dense, seed=dense.seed, history=history)
        return self._wanting(bench, share)

    def _bench_of_parent(self, parent: Candidate) -> Bench:
        """The bench of a parent, with what it has computed so far; every candidate of its seed is compared with it."""
        name = (parent.seed, parent.weights)
        if name not in self._dense:
            key = Key(DENSE, parent.seed, 0.0)
            model = self._module(key, parent)
            bench = Bench(
                model, self.image_source, seed=address(parent.seed, "bench"), history=parent.history
            )
            self._dense[name] = self._wanting(bench, 1)
        return self._dense[name]

    def _module(self, key: Key, candidate: Candidate) -> nn.Module:
        if candidate.model["name"] != PROGRAM:
            wait_for_file(self.store.weights_path(key), self._patience)
        return self.production.sound_module(key, candidate)

    def _wanting(self, bench: Bench, share: float) -> Bench:
        """The bench with what the evaluators of the suite, taken together, want from each pass."""
        bench.request_features([view for choice in self.suite.evaluators for view in choice.plugin.features])
        bench.batch_size = max(1, int(BATCH_SIZE * share))
        return bench
