"""The pieces of a run that workers do, and what workers say about them; all of it can be sent to another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from evalsuite.config.suite import DENSE, Suite
from evalsuite.runs.store import Key
from evalsuite.types import Candidate, CellStatus

if TYPE_CHECKING:
    from evalsuite.runs.store import Key
    from evalsuite.types import Candidate


@dataclass(frozen=True)
class RunContext:
    """Is what a worker must know to do the tasks of a run.

    Attributes:
        suite: What is run.
        root: The run folder.
        data: Data root; ``None`` if none was named.
        device: Where the worker computes.
        download: Whether missing data may be fetched.
        trust: Whether whole programs may be loaded that may run code.
        scratch: Folder where changed images are shared between workers; ``None`` to keep them in memory.
        patience: Seconds to wait for a file that another machine has written.
        identity: Versions and code of the run (`evalsuite.runs.provenance.environment_fingerprint`), which the
            worker's must equal.
    """

    suite: Suite
    root: Path
    data: Path | None = None
    device: str = "cpu"
    download: bool = False
    trust: bool = False
    scratch: Path | None = None
    patience: float = 0.0
    identity: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadParent:
    """Is the task to have the parent of one seed and its finished models."""

    seed: int

    @property
    def key(self) -> Key:
        """The parent."""
        return Key(DENSE, self.seed, 0.0)

    @property
    def name(self) -> str:
        """Unique among the tasks of a run."""
        return f"open {self.seed}"


@dataclass(frozen=True)
class ProduceCandidate:
    """Is the task to make one candidate, the next of its chain.

    Attributes:
        label: Of the producer.
        parent: Of the chain.
        step: Place of its ratio among the suite's; the steps before it are in the store.
        key: Which candidate.
    """

    label: str
    parent: Candidate
    step: int
    key: Key

    @property
    def name(self) -> str:
        """Unique among the tasks of a run."""
        return f"produce {self.label} {self.parent.seed} {self.step}"

    @property
    def chain(self) -> tuple[str, int]:
        """Tasks of one chain are best done by one worker, whose producer is still at work."""
        return self.label, self.parent.seed


@dataclass(frozen=True)
class MeasureCandidate:
    """Is the task to fill the missing cells of one candidate.

    Attributes:
        key: Which candidate.
        candidate: Its record.
        parent: Of the same seed.
        cells: Label to digest of what is missing.
        share: Part of the usual batch size that is used: less where memory ran out before.
        control: An independently trained network that tests compare both with; ``None`` if there is none.
    """

    key: Key
    candidate: Candidate
    parent: Candidate
    cells: Mapping[str, str]
    share: float = 1.0
    control: Candidate | None = None

    @property
    def name(self) -> str:
        """Unique among the tasks of a run."""
        return f"measure {self.key.method} {self.key.seed} {self.key.target_ratio!r}"


Task = LoadParent | ProduceCandidate | MeasureCandidate


@dataclass(frozen=True)
class CellStarted:
    """Says that a worker starts on a cell."""

    what: str


@dataclass(frozen=True)
class CellFinished:
    """Says that a cell is in the store.

    Attributes:
        what: Evaluator's label.
        status: How it ended.
        seconds: How long it took.
    """

    what: str
    status: CellStatus
    seconds: float


@dataclass(frozen=True)
class ParentReady:
    """Says who is compared in one seed.

    Attributes:
        parent: The unpruned network.
        fresh: False if it was in the store already.
        given: Finished models.
        notes: What readers of the report should know about them.
        seconds: How long it took.
    """

    parent: Candidate
    fresh: bool
    given: tuple[ProductionResult, ...] = ()
    notes: tuple[tuple[Key, str], ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class CandidatesReady:
    """Says what became of one step of a chain: one candidate, or reasons for all the rest.

    Attributes:
        made: One candidate; or, where it failed, one entry for each ratio from there on.
        seconds: How long it took.
    """

    made: tuple[ProductionResult, ...]
    seconds: float = 0.0


@dataclass(frozen=True)
class WeightsLost:
    """Says that the weights of a candidate are not those of its record: they must be made again.

    Attributes:
        key: Whose weights.
        reason: What is wrong with them.
    """

    key: Key
    reason: str


@dataclass(frozen=True)
class RunAborted:
    """Says that the whole run cannot go on.

    Attributes:
        error: What the user can mend, or what is wrong in this package.
    """

    error: Exception


@dataclass(frozen=True)
class WorkerDied:
    """Says that the worker of a task is gone.

    Attributes:
        reason: How, in words.
    """

    reason: str


@dataclass(frozen=True)
class TaskFinished:
    """Says that a worker is through with its task."""


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
    """Is one finished cell, as told to a progress bar.

    Attributes:
        key: Which candidate.
        what: ``production`` or an evaluator's label.
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


@dataclass(frozen=True)
class ProductionResult:
    """Is one candidate, or the reason why there is none.

    Attributes:
        key: Which one.
        candidate: ``None`` if its production failed.
        reason: Why it failed.
        computed: False if it was in the store already.
        digest: Of what it depends on.
        notes: Sentences that whoever reads its numbers should know.
        again: Whether another try may succeed: its failure is not of a kind that somebody foresaw.
    """

    key: Key
    candidate: Candidate | None
    reason: str = ""
    computed: bool = True
    digest: str = ""
    notes: tuple[str, ...] = ()
    again: bool = False


class WeightsLostError(Exception):
    """Says that weights on disk are not those of the candidate's record."""

    def __init__(self, key: Key, reason: str) -> None:
        super().__init__(reason)
        self.key = key
