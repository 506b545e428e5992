"""The tasks of a run: which there are, which are done already, which follow from what, and which come first."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from evalsuite.atomic_files import set_aside
from evalsuite.config.suite import DENSE, Suite
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.views import View
from evalsuite.errors import DataError, UserError
from evalsuite.evaluators.base import Evaluator
from evalsuite.execution.devices import card
from evalsuite.execution.production import Production
from evalsuite.execution.tasks import (
    CandidatesReady,
    CellFinished,
    Event,
    LoadParent,
    MeasureCandidate,
    ParentReady,
    ProduceCandidate,
    ProductionResult,
    Task,
)
from evalsuite.plugin_config import PluginConfig
from evalsuite.producers.base import Producer
from evalsuite.registry import unknown
from evalsuite.runs.digests import candidate_digest, cell_digest, control, control_of, digest_of
from evalsuite.runs.provenance import MEASURING, Options, code_digest, hardware
from evalsuite.runs.store import Key, Store
from evalsuite.types import Candidate, CellStatus

Rank = tuple[int, ...]


@dataclass(frozen=True)
class Scope:
    """Is the part of a suite that a run is asked for.

    Attributes:
        producers: Methods whose candidates are made.
        evaluators: Tests that are run.
        methods: Names of the finished models' methods that are measured.
        again: How a cell may have ended to be computed again.
        steps: Places on the ladder of ratios that are measured, by method; all of a method that is not named.
    """

    producers: tuple[PluginConfig[Producer], ...]
    evaluators: tuple[PluginConfig[Evaluator], ...]
    methods: frozenset[str]
    again: frozenset[CellStatus]
    steps: Mapping[str, frozenset[int]] = field(default_factory=dict)


def scope(suite: Suite, options: Options) -> Scope:
    """Returns what of a suite is run.

    Raises:
        UserError: If a name in ``only`` is that of no test and no method.
    """
    given = dict.fromkeys(one.method for one in suite.candidates)
    tests = {choice.label for choice in suite.evaluators}
    methods = {choice.label for choice in suite.producers} | set(given)
    for name in options.only:
        if name not in tests | methods | {DENSE}:
            raise UserError(f"--only {name}: {unknown('test or method', name, tests | methods)}")
    asked = set(options.only)
    no_test, no_method = not asked & tests, not asked & (methods | {DENSE})
    return Scope(
        tuple(choice for choice in suite.producers if no_method or choice.label in asked),
        tuple(choice for choice in suite.evaluators if no_test or choice.label in asked),
        frozenset(name for name in given if no_method or name in asked),
        frozenset({"error", "invalid", "skipped"} if options.retry_failed else {"error"}),
        options.steps,
    )


class Schedule:
    """Knows the tasks of one run.

    Args:
        production: What makes the candidates; nothing is made here.
        image_source: Where the images come from.
        scope: What is asked for.

    Raises:
        UserError: If something that the run needs is missing: here and not after hours of work.
    """

    def __init__(self, production: Production, image_source: ImageSource, scope: Scope) -> None:
        self.suite: Suite = production.suite
        self.store: Store = production.store
        self.image_source, self.scope = image_source, scope
        self._device = production.device.type
        self._machine = {**hardware(self._device), "card": card(production.device)}
        self._chains = [choice.label for choice in scope.producers]
        self.inputs: dict[str, Any] = {
            "parents": {str(seed): production.parent_digest(seed) for seed in self.suite.seeds},
            "producers": {
                choice.label: production.producer_digest(choice) for choice in self.suite.producers
            },
            "evaluators": {choice.label: self._evaluator_digest(choice) for choice in self.suite.evaluators},
            "controlled": [choice.label for choice in self.suite.evaluators if choice.plugin.uses_control],
            "historical": [choice.label for choice in self.suite.evaluators if choice.plugin.uses_history],
            "given": [],
        }
        self._parents: dict[int, Candidate] = {}
        self._held: list[tuple[Key, Candidate, Candidate]] = []  # until their control is there

    @property
    def total(self) -> int:
        """Cells of the run: each candidate is made, and tested by each test."""
        made = sum(len(self._measured(choice.label)) for choice in self.scope.producers)
        chains = len(self.suite.seeds) * (1 + made)
        given = sum(one.method in self.scope.methods for one in self.suite.candidates)
        return (chains + given) * (1 + len(self.scope.evaluators))

    def first(self) -> list[Task]:
        """Returns the tasks that wait for nothing."""
        return [LoadParent(seed) for seed in self.suite.seeds]

    def settled(self, task: Task) -> tuple[tuple[Event, ...], Task | None]:
        """Returns what the store knows of a task already, and what is left to do of it."""
        if isinstance(task, LoadParent):
            return self._settled_parent(task)
        if isinstance(task, ProduceCandidate):
            found = self._stored(task.key, self.digest(task.key, task.parent))
            made = ProductionResult(task.key, found, computed=False)
            return ((CandidatesReady((made,)),), None) if found is not None else ((), task)
        there = {label: self._status(task.key, label, digest) for label, digest in task.cells.items()}
        left = {label: digest for label, digest in task.cells.items() if there[label] is None}
        events = tuple(
            CellFinished(label, status, 0.0) for label, status in there.items() if status is not None
        )
        return events, dataclasses.replace(task, cells=left) if left else None

    def after(self, task: Task, event: Event) -> Iterator[Task]:
        """Yields the tasks for which the result of another was all that was missing."""
        if isinstance(event, ParentReady):
            self._parents[task.key.seed] = event.parent
            held, self._held = self._held, []
            for one in (*held, (task.key, event.parent, event.parent)):
                yield from self._measures(*one)
            for choice in self.scope.producers:
                yield from self._step(choice.label, event.parent, 0)
            for made in event.given:
                if made.candidate is not None and made.key.method in self.scope.methods:
                    yield from self._measures(made.key, made.candidate, event.parent)
        if isinstance(event, CandidatesReady) and isinstance(task, ProduceCandidate):
            for made in event.made:
                if made.candidate is not None and task.step in self._measured(task.label):
                    yield from self._measures(made.key, made.candidate, task.parent)
            if all(made.candidate is not None for made in event.made):
                yield from self._step(task.label, task.parent, task.step + 1)

    def measure(self, key: Key, candidate: Candidate, parent: Candidate) -> MeasureCandidate:
        """Returns the task to measure one candidate."""
        tests, controlled = self.inputs["evaluators"], self.inputs["controlled"]
        seed = self._control_seed(key.seed)
        other = None if seed is None else control(parent, self._parents.get(seed))
        cells = {
            choice.label: cell_digest(
                candidate,
                parent,
                tests[choice.label],
                control=other if choice.label in controlled else None,
                historical=choice.plugin.uses_history,
            )
            for choice in self.scope.evaluators
        }
        return MeasureCandidate(key, candidate, parent, cells, control=other)

    def _measures(self, key: Key, candidate: Candidate, parent: Candidate) -> Iterator[Task]:
        """The task to measure one candidate, or none before the control of its parent is there."""
        if self._control_seed(key.seed) in {None, *self._parents}:
            yield self.measure(key, candidate, parent)
        else:
            self._held.append((key, candidate, parent))

    def _control_seed(self, seed: int) -> int | None:
        """Whose parent the tests of this run compare a seed's networks with; ``None`` if none of them does."""
        controlled = any(choice.plugin.uses_control for choice in self.scope.evaluators)
        return control_of(seed, self.suite.seeds) if controlled else None

    def digest(self, key: Key, parent: Candidate) -> str:
        """Returns the digest of what a candidate of a producer depends on."""
        way = [ratio for ratio in self.suite.ratios if ratio <= key.target_ratio]
        return candidate_digest(parent, self.inputs["producers"][key.method], way)

    def failed(self, task: ProduceCandidate, reason: str) -> CandidatesReady:
        """Returns the end of a chain whose step could not be done."""
        text = f"production failed at ratio {task.key.target_ratio:g}: {reason}"
        keys = [Key(task.label, task.parent.seed, ratio) for ratio in self.suite.ratios[task.step :]]
        return CandidatesReady(
            tuple(ProductionResult(key, None, text, digest=self.digest(key, task.parent)) for key in keys)
        )

    def remade(self, key: Key, parent: Candidate) -> Task | None:
        """Returns the task that makes a candidate again; ``None`` for finished models, which come from elsewhere."""
        if key.method == DENSE:
            return LoadParent(key.seed)
        if key.method not in self._chains:
            return None
        return ProduceCandidate(key.method, parent, self.suite.ratios.index(key.target_ratio), key)

    def rank(self, task: Task, *, alone: bool) -> Rank:
        """Returns what orders tasks: the smallest comes first.

        Alone, a candidate is measured before the next one is made. In company, chains come first, since
        nothing else in a run must wait for its turn, and measuring fills the other workers.
        """
        seed = self.suite.seeds.index(task.key.seed)
        if isinstance(task, LoadParent):
            if not alone:
                return (0, seed)
            return (seed, -2) if self._control_seed(task.seed) is None else (-1, seed)  # others wait for it
        if isinstance(task, ProduceCandidate):
            place = (seed, self._chains.index(task.label), task.step)
            return (*place, 0) if alone else (1, task.step, *place)
        return (*self._place(task.key, seed), 1) if alone else (2, *self._place(task.key, seed))

    def _place(self, key: Key, seed: int) -> Rank:
        if key.method == DENSE:
            return (seed, -1, 0)
        if key.method in self._chains:
            return (seed, self._chains.index(key.method), self.suite.ratios.index(key.target_ratio))
        methods = list(dict.fromkeys(one.method for one in self.suite.candidates))
        return (seed, len(self._chains) + methods.index(key.method), 0)

    def _step(self, label: str, parent: Candidate, step: int) -> Iterator[Task]:
        if step <= max(self._measured(label), default=-1):
            yield ProduceCandidate(label, parent, step, Key(label, parent.seed, self.suite.ratios[step]))

    def _measured(self, label: str) -> frozenset[int]:
        """Places on the ladder of ratios that are measured: a chain goes as far as the last of them."""
        return self.scope.steps.get(label, frozenset(range(len(self.suite.ratios))))

    def _settled_parent(self, task: LoadParent) -> tuple[tuple[Event, ...], Task | None]:
        """A parent that was trained here and has no finished models beside it needs no look at files."""
        found = self._stored(task.key, self.inputs["parents"][str(task.seed)])
        files = self.suite.checkpoint or any(one.seed == task.seed for one in self.suite.candidates)
        return ((ParentReady(found, fresh=False),), None) if found is not None and not files else ((), task)

    def _stored(self, key: Key, digest: str) -> Candidate | None:
        """The record of a candidate whose weights are there; what is left of damaged ones is set aside."""
        found = self.store.candidate(key, digest)
        if found is None or self.store.has_weights(key):
            return found
        if (path := self.store.weights_path(key)).exists():
            set_aside(path)
        return None

    def _status(self, key: Key, label: str, digest: str) -> CellStatus | None:
        """How a cell ended, if it need not be computed: an error may be gone, and is tried again."""
        cell = self.store.wanted_cell(key, label, digest)
        return None if cell is None or cell.status in self.scope.again else cell.status

    def _evaluator_digest(self, choice: PluginConfig[Evaluator]) -> str:
        """What a measurement depends on beside the models."""
        machine = {"machine": self._machine} if choice.plugin.measures_time else {}
        return digest_of(
            {
                **machine,
                "evaluator": choice.table,
                "version": choice.plugin.version,
                "images": [self.image_source.digest(view) for view in choice.plugin.needs],
                "features": [self._optional_digest(view) for view in choice.plugin.features],
                "threads": self.suite.threads,
                "device": self._device,
                "code": code_digest(MEASURING, type(choice.plugin)),
            }
        )

    def _optional_digest(self, view: View) -> str:
        """The digest of images that an evaluator can do without."""
        try:
            return self.image_source.digest(view)
        except DataError:
            return "absent"
