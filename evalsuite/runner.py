"""A suite to cells of work to results: what is in the store already is not computed again."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evalsuite.bench import Bench
from evalsuite.choices import Choice
from evalsuite.compat.allocator import keep_large_blocks
from evalsuite.data.dataset import Place
from evalsuite.data.views import Gallery, View
from evalsuite.digests import cell_digest, digest_of
from evalsuite.errors import UserError
from evalsuite.evaluators.contract import Evaluator
from evalsuite.measuring import measured
from evalsuite.preprocessing import doubt
from evalsuite.production import Made, Production
from evalsuite.provenance import MEASURING, Options, code_digest, data_root, record
from evalsuite.randomness import address
from evalsuite.records import Candidate, Status
from evalsuite.results import Run
from evalsuite.store import Cell, Key, Store
from evalsuite.suite import DENSE, PRODUCTION, Suite, load

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
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
    status: Status
    done: int
    total: int
    computed: bool


Progress = Callable[[Step], None]


def run(
    suite: Suite | str | Path,
    *,
    out: Path | str | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Run:
    """Runs a suite and returns its results; what an earlier run finished is not computed again.

    Args:
        suite: A suite, the path of one, or the name of one that ships with the package.
        out: Run folder; ``reports/<suite>`` under the current folder by default.
        options: Seed, device and data, where they differ from the suite's.
        progress: Called after each cell.

    Raises:
        UserError: If the suite, its data or its checkpoint is not as it must be; nothing has been computed
            then.
    """
    options = options or Options()
    chosen = options.applied(suite if isinstance(suite, Suite) else load(suite))
    store = Store(Path(out) if out is not None else Path("reports") / chosen.name)
    gallery = Gallery(
        chosen.data.plugin, Place(data_root(chosen, options), options.download, chosen.seeds[0])
    )
    keep_large_blocks()
    earlier = store.seconds()
    started = time.time()
    with threads(chosen.threads):
        production = Production(
            chosen, store, gallery, device=device(options.device), trust=options.trust_program
        )
        work = _Work(production, progress)
        store.sweep()
        kept = record(chosen, options) | {"started": started, "inputs": work.inputs}
        for seed in chosen.seeds:
            parent, given = work.opened(seed)
            store.write_record({**kept, "seconds": None})
            work.run(seed, parent, given)
    spent = time.time() - started if work.computed else earlier  # looking at finished cells is not the run
    store.write_record({**kept, "seconds": spent, "computed": work.computed})
    return Run(store.root)


class _Work:
    """One run: the walk over producers, candidates and evaluators."""

    def __init__(self, production: Production, progress: Progress | None) -> None:
        suite, gallery = production.suite, production.gallery
        self.suite, self.store, self.gallery, self.device = (
            suite,
            production.store,
            gallery,
            production.device,
        )
        self.production = production
        self.progress = progress or (lambda _: None)
        candidates = len(suite.seeds) * (1 + len(suite.producers) * len(suite.ratios)) + len(suite.candidates)
        self.total = candidates * (1 + len(suite.evaluators))
        self.done = self.computed = 0
        # what is missing is missed here and not after hours of work
        self.inputs: dict[str, Any] = {
            "parents": {str(seed): self.production.parent_digest(seed) for seed in suite.seeds},
            "producers": {
                choice.label: self.production.producer_digest(choice) for choice in suite.producers
            },
            "evaluators": {choice.label: self._evaluator_digest(choice) for choice in suite.evaluators},
            "given": [],
        }

    def opened(self, seed: int) -> tuple[Candidate, list[Made]]:
        """Returns the parent and the finished models of one seed, and writes down which they are."""
        parent, fresh = self.production.parent(seed)
        given = self.production.given(seed, parent)
        self.inputs["given"] += [{**dataclasses.asdict(made.key), "digest": made.digest} for made in given]
        self._tell(Key(DENSE, seed, 0.0), PRODUCTION, "ok", computed=fresh)
        return parent, given

    def run(self, seed: int, parent: Candidate, given: Sequence[Made]) -> None:
        """Computes every cell of one seed that is not in the store."""
        key = Key(DENSE, seed, 0.0)
        module = self.production.module(key, parent)
        if self.suite.checkpoint:  # weights of somebody else, trained on images that we have not seen
            self._warn(module)
        bench = Bench(module, self.gallery, seed=address(seed, "bench"))
        self._measure(key, parent, lambda: bench, parent=parent)
        made = (self.production.candidates(choice, parent, module) for choice in self.suite.producers)
        for candidate in chain.from_iterable([*made, given]):
            self._follow(candidate, parent, bench)

    def _warn(self, module: nn.Module) -> None:
        images = self.gallery.images(View())
        if images.labels is not None and (sentence := doubt(module, images.images, images.labels)):
            log.warning("%s", sentence)

    def _follow(self, made: Made, parent: Candidate, dense: Bench) -> None:
        """Measures one candidate, or records why there is none."""
        if made.candidate is None:
            self.store.write_cell(made.key, PRODUCTION, Cell(made.digest, "error", made.reason))
            for what in (PRODUCTION, *(choice.label for choice in self.suite.evaluators)):
                self._tell(made.key, what, "error", computed=True)
            return
        self._tell(made.key, PRODUCTION, "ok", computed=made.computed)
        candidate = made.candidate

        def bench() -> Bench:
            model = self.production.module(made.key, candidate)
            return Bench(model, self.gallery, parent=dense, seed=dense.seed)

        self._measure(made.key, candidate, bench, parent=parent)

    def _measure(
        self, key: Key, candidate: Candidate, bench: Callable[[], Bench], *, parent: Candidate
    ) -> None:
        """Runs the evaluators whose cells are missing; the model is loaded only if one is."""
        ready: Bench | None = None
        for choice in self.suite.evaluators:
            digest = cell_digest(candidate, parent, self.inputs["evaluators"][choice.label])
            cell = self.store.cell(key, choice.label, digest)
            if cell is not None and cell.status != "error":  # an error may be gone: the cell is tried again
                self._tell(key, choice.label, cell.status, computed=False)
                continue
            ready = ready or bench()
            cell = measured(choice.plugin, ready, digest=digest)
            self.store.write_cell(key, choice.label, cell)
            self._tell(key, choice.label, cell.status, computed=True)

    def _evaluator_digest(self, choice: Choice[Evaluator]) -> str:
        """What a measurement depends on beside the models."""
        return digest_of(
            {
                "evaluator": choice.table,
                "version": choice.plugin.version,
                "images": [self.gallery.digest(view) for view in choice.plugin.needs],
                "threads": self.suite.threads,
                "device": self.device.type,
                "code": code_digest(MEASURING, type(choice.plugin)),
            }
        )

    def _tell(self, key: Key, what: str, status: Status, *, computed: bool) -> None:
        self.done += 1
        self.computed += computed
        self.progress(Step(key, what, status, self.done, self.total, computed))


def device(name: str) -> torch.device:
    """Returns the device called `name`.

    Raises:
        UserError: If it is no device, or not there: there is no silent fall-back.
    """
    try:
        wanted = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}: expected cpu, cuda or cuda:<number>") from None
    there = torch.cuda.device_count() if wanted.type == "cuda" else 0
    if wanted.type not in ("cpu", "cuda") or (wanted.type == "cuda" and (wanted.index or 0) >= there):
        raise UserError(
            f"device {name!r} is not there: this machine has cpu and {there} CUDA devices; use --device cpu"
        )
    return wanted


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Computes with `count` threads inside the block: sums depend on it in the last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
