"""The tasks of a run, and the events that workers report about them; all of it can be sent to another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from evalsuite.config.suite import Suite
from evalsuite.runs.plan import PlannedCandidate, RunPlan
from evalsuite.runs.store import Key
from evalsuite.types import DENSE, Candidate, CellStatus, InferencePrecision

if TYPE_CHECKING:  # the engines import torch
    from evalsuite.execution.parent_cache import CacheSettings
    from evalsuite.execution.stages import Stages
    from evalsuite.models.engines import EngineName


@dataclass(frozen=True)
class RunContext:
    """Everything that a worker needs to do the tasks of a run.

    Attributes:
        suite: The suite that is run.
        root: The run folder.
        plan: All cells; ``None`` while the run is planned.
        data: Data root; ``None`` if none was named.
        device: Where the worker computes.
        download: Whether missing data may be fetched.
        trust: Whether whole programs may be loaded that may run code.
        skip_unreadable: Whether pictures that cannot be read are left out and counted.
        verify: Whether pictures are read again that an earlier run has decoded.
        scratch: Folder where transformed images and outputs of parents are shared between workers; ``None`` to keep
            them in memory.
        cache: Where later runs find what parents computed; ``None`` while the run is planned, and on other machines.
        engine: What computes forward passes, the same for all networks of the run.
        precision: In which sets are passed of which predictions suffice.
        stages: What is measured in stages; ``None`` where everything is measured on all images.
        patience: Seconds to wait for a file that another machine has written.
        fingerprint: Versions and code of the run (`evalsuite.runs.provenance.environment_fingerprint`), which the
            worker's must equal.
    """

    suite: Suite
    root: Path
    plan: RunPlan | None = None
    data: Path | None = None
    device: str = "cpu"
    download: bool = False
    trust: bool = False
    skip_unreadable: bool = False
    verify: bool = False
    scratch: Path | None = None
    cache: CacheSettings | None = None
    engine: EngineName = "eager"
    precision: InferencePrecision = "exact"
    stages: Stages | None = None
    patience: float = 0.0
    fingerprint: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadParent:
    """The task to train or load the parent of one seed, and to load the external models of that seed.

    Attributes:
        seed: Of the parent.
        digest: Of all that the parent depends on, from the plan.
    """

    seed: int
    digest: str

    @property
    def key(self) -> Key:
        """The address of the parent."""
        return Key(DENSE, self.seed, 0.0)

    @property
    def name(self) -> str:
        """A name that no other task of the run has."""
        return f"load {self.seed}"


@dataclass(frozen=True)
class ProduceCandidate:
    """The task to make one candidate, the next of its chain.

    Attributes:
        key: The address of the candidate.
        parent: The parent of the chain.
        step: Index of its ratio among the suite's; the steps before it are in the store.
        inputs: Digest of the method and of how it retrains, from the plan.
    """

    key: Key
    parent: Candidate
    step: int
    inputs: str

    @property
    def name(self) -> str:
        """A name that no other task of the run has."""
        return f"produce {self.key.method} {self.key.seed} {self.step}"

    @property
    def chain(self) -> tuple[str, int]:
        """Method and seed: tasks of one chain are best done by one worker, which still holds the producer."""
        return self.key.method, self.key.seed


@dataclass(frozen=True)
class MeasureCandidate:
    """The task to fill the missing cells of one candidate.

    Attributes:
        key: The address of the candidate.
        candidate: Its record.
        parent: Record of the parent of the same seed.
        cells: Label to digest of the cells that are missing.
        batch_share: Fraction of the usual batch size that is used: less where memory ran out before.
        control: An independently trained network that tests compare both with; ``None`` if there is none.
    """

    key: Key
    candidate: Candidate
    parent: Candidate
    cells: Mapping[str, str]
    batch_share: float = 1.0
    control: Candidate | None = None

    @property
    def name(self) -> str:
        """A name that no other task of the run has."""
        return f"measure {self.key.method} {self.key.seed} {self.key.target_ratio!r}"


Task = LoadParent | ProduceCandidate | MeasureCandidate


@dataclass(frozen=True)
class ProductionResult:
    """One candidate, or the reason why there is none.

    Attributes:
        key: The address of the candidate.
        candidate: ``None`` if its production failed.
        reason: Why it failed.
        computed: False if it was in the store already.
        digest: Of what it depends on.
        notes: Sentences for readers of its numbers.
        planned: Its row in the plan, of an external model.
        retryable: Whether another try may succeed: the failure is not of a kind that evalsuite knows.
    """

    key: Key
    candidate: Candidate | None
    reason: str = ""
    computed: bool = True
    digest: str = ""
    notes: tuple[str, ...] = ()
    planned: PlannedCandidate | None = None
    retryable: bool = False


class WeightsLostError(Exception):
    """Weights on disk are not those of the candidate's record."""

    def __init__(self, key: Key, reason: str) -> None:
        super().__init__(reason)
        self.key = key


@dataclass(frozen=True)
class CellStarted:
    """The event that a worker starts on a cell."""

    what: str


@dataclass(frozen=True)
class CellFinished:
    """The event that a cell is in the store.

    Attributes:
        what: Label of the test.
        status: How it ended.
        seconds: How long it took.
    """

    what: str
    status: CellStatus
    seconds: float


@dataclass(frozen=True)
class ParentReady:
    """The event that the parent and the external models of one seed are in the store.

    Attributes:
        parent: The unpruned network.
        computed: False if it was in the store already.
        external: Models that were made elsewhere.
        notes: Sentences for readers of the report, by candidate.
        seconds: How long it took.
    """

    parent: Candidate
    computed: bool
    external: tuple[ProductionResult, ...] = ()
    notes: tuple[tuple[Key, str], ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class CandidatesReady:
    """The event that one step of a chain is over.

    Attributes:
        results: One candidate; or, where it failed, one entry for each ratio from there on.
        seconds: How long it took.
    """

    results: tuple[ProductionResult, ...]
    seconds: float = 0.0


@dataclass(frozen=True)
class WeightsLost:
    """The event that the weights of a candidate are not those of its record: they must be made again.

    Attributes:
        key: The address of the candidate.
        reason: What is wrong with them.
    """

    key: Key
    reason: str


@dataclass(frozen=True)
class RunAborted:
    """The event that the whole run cannot go on.

    Attributes:
        error: A mistake of the user's, or a defect of this package.
    """

    error: Exception


@dataclass(frozen=True)
class WorkerDied:
    """The event that the worker of a task is gone.

    Attributes:
        reason: How, in words.
    """

    reason: str


@dataclass(frozen=True)
class TaskFinished:
    """The event that a worker has done its task."""


Event = (
    CellStarted
    | CellFinished
    | ParentReady
    | CandidatesReady
    | WeightsLost
    | RunAborted
    | WorkerDied
    | TaskFinished
)


@dataclass(frozen=True)
class CellProgress:
    """One finished cell, as it is reported to a progress bar.

    Attributes:
        key: The address of the candidate.
        what: ``production`` or the label of a test.
        status: How it ended.
        done: Cells finished so far.
        total: Cells of the run.
        computed: False if it was in the store already.
    """

    key: Key
    what: str
    status: CellStatus
    done: int
    total: int
    computed: bool
