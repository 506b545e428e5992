"""The plan of a run: which cells there are, what each needs and depends on, and what it is expected to cost.

A plan is made once, from a suite, its data and the run folder (`evalsuite.execution.planning`), and is stored with the
run. The scheduler, ``--dry-run``, ``--search``, ``status``, results and the report read it; nothing else lists cells.
Reading it needs neither torch nor data nor models.

A *cell* is the production of a candidate, or one test of one candidate. What a test of a candidate depends on includes
the candidate's weights, so that the digest of a cell is known as soon as the candidates that it needs are there:
`ResolvedPlan` is a plan beside the candidates that a run folder holds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from evalsuite.errors import StoreError
from evalsuite.runs.digests import candidate_digest, cell_digest, control_of
from evalsuite.runs.store import Cell, Key, Store
from evalsuite.types import DENSE, PRODUCTION, PROGRAM, Candidate, CellStatus

Role = Literal["parent", "produced", "external"]
CellState = Literal["done", "failed", "stale", "missing"]
CellId = tuple[Key, str]
"""A candidate, and `PRODUCTION` or the label of a test."""

FORMAT = 1
"""Version of plans in ``run.json``."""


@dataclass(frozen=True, slots=True)
class PlannedCandidate:
    """A network of a run: a parent, a step of a producer's chain, or a model that was made elsewhere.

    Attributes:
        key: Its address.
        role: Where it comes from.
        inputs: Digest of what it depends on beside its parent.
        code: Digest of the code that rebuilds the network from its weights; empty in plans of older versions.
        path: Target ratios of its chain up to and with its own; of an external model, its measured ratio. Without,
            `inputs` is the digest of the candidate: that of a parent, and of external models in older plans.
        training: Expected cost of making it, in forward passes of one image.
        selected: Whether the run makes it: ``--only`` and searches leave some out.
        tested: Whether tests are run on it: a search tests fewer ratios than it makes.
    """

    key: Key
    role: Role
    inputs: str
    code: str = ""
    path: tuple[float, ...] = ()
    training: int = 0
    selected: bool = True
    tested: bool = True

    @property
    def parent(self) -> Key:
        """The address of the network that it is compared with: of a parent, its own."""
        return parent_of(self.key)

    @property
    def previous(self) -> Key | None:
        """What must be there before it can be made: the step before it, or the parent; of a parent, nothing."""
        if self.role == "parent":
            return None
        if self.role == "produced" and len(self.path) > 1:
            return replace(self.key, target_ratio=self.path[-2])
        return self.parent


@dataclass(frozen=True, slots=True)
class PlannedTest:
    """A test that every candidate of a run gets.

    Attributes:
        label: Its name in the suite.
        inputs: Digest of what it depends on beside the networks: settings, images, code, versions.
        uses_control: Whether it compares with an independently trained network.
        uses_history: Whether it looks at the trainings of a candidate.
        images: Number of images of each image set that it passes through a network, by the set's name; a set that
            several tests use is passed once per candidate.
        extra_images: Passes of one image beside those.
        selected: Whether the run computes it.
    """

    label: str
    inputs: str
    uses_control: bool = False
    uses_history: bool = False
    images: Mapping[str, int] = field(default_factory=dict)
    extra_images: int = 0
    selected: bool = True

    def passes_after(self, passed: Collection[str]) -> int:
        """Returns its passes of one image, were the image sets in `passed` passed before."""
        return self.extra_images + sum(count for name, count in self.images.items() if name not in passed)


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """A cell of a plan, as it stands in a run folder.

    Attributes:
        key: The candidate that is made or tested.
        what: `PRODUCTION` or the label of a test.
        needs: Cells that must be done before.
        digest: Digest of all that it depends on; empty as long as a candidate that it needs is not there.
        images: Expected cost, in forward passes of one image.
        state: ``done`` with numbers or for good without; ``failed`` in a way that is tried again; ``stale``: there with
            other settings; ``missing``.
        reason: Why it failed; empty otherwise.
        selected: Whether the run computes it.
    """

    key: Key
    what: str
    needs: tuple[CellId, ...]
    digest: str
    images: int
    state: CellState
    reason: str
    selected: bool


@dataclass(frozen=True)
class RunPlan:
    """All cells of a run.

    Attributes:
        seeds: Of the run; the first one addresses draws that all seeds share.
        candidates: Every network, in the order of results: by seed, each parent before its children.
        tests: Every test, in the order of the suite.
        unresolved: How many external models of a seed have no address yet: their ratio is measured beside a parent
            that is not trained yet.
        retried: How a cell may have ended to be computed again.
        search: What a search is for, ``metric@condition``; empty: the whole grid is tested.
    """

    seeds: tuple[int, ...]
    candidates: tuple[PlannedCandidate, ...]
    tests: tuple[PlannedTest, ...]
    unresolved: Mapping[int, int] = field(default_factory=dict)
    retried: frozenset[CellStatus] = frozenset({"error"})
    search: str = ""

    @cached_property
    def by_key(self) -> Mapping[Key, PlannedCandidate]:
        """The candidates by address."""
        return {candidate.key: candidate for candidate in self.candidates}

    @cached_property
    def by_label(self) -> Mapping[str, PlannedTest]:
        """The tests by label."""
        return {test.label: test for test in self.tests}

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """`PRODUCTION` and the labels of the tests that the run computes."""
        return (PRODUCTION, *(test.label for test in self.tests if test.selected))

    @property
    def total(self) -> int:
        """Number of cells that the run computes, were the run folder empty."""
        tests = len(self.labels) - 1
        resolved = sum(1 + tests * candidate.tested for candidate in self.candidates if candidate.selected)
        return resolved + (1 + tests) * sum(self.unresolved.values())

    @cached_property
    def expected_images(self) -> Mapping[CellId, int]:
        """Expected cost of every cell that the run computes, in forward passes of one image, were the folder empty."""
        costs: dict[CellId, int] = {}
        tests = [test for test in self.tests if test.selected]
        for planned in self.candidates:
            if not planned.selected:
                continue
            costs[planned.key, PRODUCTION] = planned.training
            passed: set[str] = set()
            for test in tests if planned.tested else ():
                costs[planned.key, test.label] = test.passes_after(passed)
                passed |= set(test.images)
        return costs

    def chain(self, method: str, seed: int) -> tuple[PlannedCandidate, ...]:
        """Returns the steps of a producer's chain that the run makes, by rising ratio."""
        return tuple(
            candidate
            for candidate in self.candidates
            if candidate.role == "produced"
            and candidate.selected
            and (candidate.key.method, candidate.key.seed) == (method, seed)
        )

    def tested_ratios(self, method: str) -> tuple[float, ...]:
        """Returns the target ratios of a method that are tested."""
        ratios = (c.key.target_ratio for c in self.candidates if c.key.method == method and c.tested)
        return tuple(dict.fromkeys(ratios))

    def searched_methods(self) -> frozenset[str]:
        """Returns the methods whose tested ratios a search chose."""
        produced = frozenset(c.key.method for c in self.candidates if c.role == "produced")
        return produced if self.search else frozenset()

    def control_seed(self, seed: int) -> int | None:
        """Returns whose parent the selected tests compare a seed's networks with; ``None`` if no test does."""
        compares = any(test.uses_control and test.selected for test in self.tests)
        return control_of(seed, self.seeds) if compares else None

    def candidate_digest(self, key: Key, made: Mapping[Key, Candidate]) -> str:
        """Returns the digest of all that a candidate depends on; empty as long as its parent is not there.

        Args:
            key: Its address.
            made: The candidates that are there.
        """
        planned = self.by_key[key]
        if not planned.path:
            return planned.inputs
        parent = made.get(planned.parent)
        return "" if parent is None else candidate_digest(parent, planned.inputs, planned.path)

    def cell_digest(self, key: Key, label: str, made: Mapping[Key, Candidate]) -> str:
        """Returns the digest of all that a test of a candidate depends on; empty as long as a network is not there.

        Args:
            key: Address of the candidate.
            label: Of the test.
            made: The candidates that are there.
        """
        candidate, parent, test = made.get(key), made.get(parent_of(key)), self.by_label[label]
        if candidate is None or parent is None:
            return ""
        control = None
        if test.uses_control and (seed := control_of(key.seed, self.seeds)) is not None:
            control = made.get(Key(DENSE, seed, 0.0))
            if control is None:
                return ""
        return cell_digest(
            candidate,
            parent,
            test.inputs,
            code=self.by_key[key].code,
            control=independent(parent, control),
            historical=test.uses_history,
        )

    def with_external(self, seed: int, candidates: Iterable[PlannedCandidate]) -> RunPlan:
        """Returns the plan in which the external models of a seed have their addresses."""
        others = [c for c in self.candidates if c.role != "external" or c.key.seed != seed]
        unresolved = {other: count for other, count in self.unresolved.items() if other != seed}
        return replace(self, candidates=_ordered(self.seeds, [*others, *candidates]), unresolved=unresolved)

    def searching(self, search: str, ratios: Mapping[str, Collection[float]]) -> RunPlan:
        """Returns the plan of a search: chains are made as far as they are tested.

        Args:
            search: What it is for, ``metric@condition``.
            ratios: Target ratios that are tested, by method.
        """
        candidates = tuple(
            candidate
            if candidate.role != "produced"
            else replace(
                candidate,
                selected=candidate.key.target_ratio <= max(ratios[candidate.key.method], default=0.0),
                tested=candidate.key.target_ratio in ratios[candidate.key.method],
            )
            for candidate in self.candidates
        )
        return replace(self, candidates=candidates, search=search)

    def to_record(self) -> dict[str, Any]:
        """Returns the plan as plain JSON, for ``run.json``."""
        return {
            "format": FORMAT,
            "seeds": list(self.seeds),
            "candidates": [
                {**asdict(candidate.key), **_without_key(candidate)} for candidate in self.candidates
            ],
            "tests": [asdict(test) for test in self.tests],
            "unresolved": {str(seed): count for seed, count in self.unresolved.items()},
            "retried": sorted(self.retried),
            "search": self.search,
        }


class ResolvedPlan:
    """A plan beside a run folder: the candidates that are there, and the state of every cell.

    What a folder holds of an earlier run with other settings is not taken for the run's own.

    Args:
        plan: The plan.
        store: The run folder; nothing is written.
    """

    def __init__(self, plan: RunPlan, store: Store) -> None:
        self.plan, self._store = plan, store

    @cached_property
    def candidates(self) -> dict[Key, Candidate]:
        """Every candidate that was made, each parent before its children."""
        produced: dict[Key, Candidate] = {}
        for planned in self.plan.candidates:
            digest = self.plan.candidate_digest(planned.key, produced)
            candidate = self._store.candidate(planned.key, digest) if digest else None
            if candidate is not None:
                produced[planned.key] = candidate
        return produced

    def cell(self, key: Key, label: str) -> Cell | None:
        """Returns what a test measured on a candidate; ``None`` if that is not there."""
        digest = self.plan.cell_digest(key, label, self.candidates)
        return self._store.cell(key, label, digest) if digest else None

    def production(self, key: Key) -> Cell | None:
        """Returns why a candidate was not made, where that is known."""
        digest = self.plan.candidate_digest(key, self.candidates)
        return self._store.cell(key, PRODUCTION, digest) if digest else None

    @cached_property
    def cells(self) -> tuple[PlannedCell, ...]:
        """Every cell of the plan, in the order of results."""
        return tuple(cell for planned in self.plan.candidates for cell in self._cells_of(planned))

    def _cells_of(self, planned: PlannedCandidate) -> Iterator[PlannedCell]:
        production = self._production_cell(planned)
        yield production
        passed: set[str] = set()  # an image set goes through a network once, for the first test that uses it
        for test in self.plan.tests:
            digest = self.plan.cell_digest(planned.key, test.label, self.candidates)
            state, reason = self._state_of_test(planned.key, test.label, digest)
            if not digest and production.state == "failed":
                state, reason = "failed", production.reason
            images = 0
            if state != "done":
                images = test.passes_after(passed)
                passed |= set(test.images)
            yield PlannedCell(
                planned.key,
                test.label,
                self._needs(planned.key, test),
                digest,
                images,
                state,
                reason,
                planned.selected and planned.tested and test.selected,
            )

    def _production_cell(self, planned: PlannedCandidate) -> PlannedCell:
        key, digest = planned.key, self.plan.candidate_digest(planned.key, self.candidates)
        state, reason = self._state_of_production(planned, digest)
        needs = () if planned.previous is None else ((planned.previous, PRODUCTION),)
        images = 0 if state == "done" else planned.training
        return PlannedCell(key, PRODUCTION, needs, digest, images, state, reason, planned.selected)

    def _state_of_production(self, planned: PlannedCandidate, digest: str) -> tuple[CellState, str]:
        candidate = self.candidates.get(planned.key)
        if candidate is not None and (
            candidate.model["name"] == PROGRAM or self._store.has_weights(planned.key)
        ):
            return "done", ""
        if digest and (ending := self._store.status(planned.key, PRODUCTION, digest)) is not None:
            return "failed", ending[1]
        there = candidate is None and self._store.weights_path(planned.key).exists()
        return ("stale" if there else "missing"), ""

    def _state_of_test(self, key: Key, label: str, digest: str) -> tuple[CellState, str]:
        ending = self._store.status(key, label, digest) if digest else None
        if ending is not None:
            status, reason = ending
            return ("failed", reason) if status in self.plan.retried else ("done", "")
        return ("stale" if self._store.cell_path(key, label).exists() else "missing"), ""

    def _needs(self, key: Key, test: PlannedTest) -> tuple[CellId, ...]:
        keys = dict.fromkeys([key, parent_of(key)])
        if test.uses_control and (seed := control_of(key.seed, self.plan.seeds)) is not None:
            keys[Key(DENSE, seed, 0.0)] = None
        return tuple((needed, PRODUCTION) for needed in keys)


def parent_of(key: Key) -> Key:
    """Returns the address of a candidate's parent."""
    return Key(DENSE, key.seed, 0.0)


def independent(parent: Candidate, other: Candidate | None) -> Candidate | None:
    """Returns the other network if it is another one: one checkpoint may be the parent of several seeds."""
    return other if other is not None and other.weights != parent.weights else None


def plan_of_record(record: Mapping[str, Any], *, path: str) -> RunPlan:
    """Returns the plan of a run from its ``run.json``, of whatever version.

    Args:
        record: The content of ``run.json``.
        path: What error messages call it.

    Raises:
        StoreError: If it has no plan that can be read.
    """
    if missing := [key for key in ("suite",) if not isinstance(record.get(key), Mapping)]:
        raise StoreError(f"{path} has no {missing[0]}; run the suite again")
    try:
        if isinstance(record.get("plan"), Mapping):
            return _plan_of(record["plan"])
        if isinstance(record.get("inputs"), Mapping):
            return _plan_of_inputs(record["suite"], record["inputs"], record.get("tested") or {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"{path} has a plan that cannot be read ({type(error).__name__}: {error}); run the suite again"
        ) from error
    raise StoreError(f"{path} has no plan; run the suite again")


def _plan_of(content: Mapping[str, Any]) -> RunPlan:
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']!r}, expected {FORMAT}")
    return RunPlan(
        seeds=tuple(content["seeds"]),
        candidates=tuple(_candidate_of(fields) for fields in content["candidates"]),
        tests=tuple(PlannedTest(**fields) for fields in content["tests"]),
        unresolved={int(seed): count for seed, count in content["unresolved"].items()},
        retried=frozenset(content["retried"]),
        search=content["search"],
    )


def _candidate_of(fields: Mapping[str, Any]) -> PlannedCandidate:
    address = ("method", "seed", "target_ratio")
    others = {name: value for name, value in fields.items() if name not in address}
    return PlannedCandidate(
        Key(*(fields[name] for name in address)), **{**others, "path": tuple(others["path"])}
    )


def _without_key(candidate: PlannedCandidate) -> dict[str, Any]:
    return {name: value for name, value in asdict(candidate).items() if name != "key"}


def _plan_of_inputs(
    suite: Mapping[str, Any], inputs: Mapping[str, Any], tested: Mapping[str, Collection[float]]
) -> RunPlan:
    """The plan of a run that was written before plans were stored: the whole grid, with the digests of its inputs."""
    ratios = [float(ratio) for ratio in suite["ratios"]]
    candidates: list[PlannedCandidate] = []
    for seed in suite["seeds"]:
        candidates.append(
            PlannedCandidate(Key(DENSE, seed, 0.0), "parent", str(inputs["parents"][str(seed)]))
        )
        for label in (choice["label"] for choice in suite["producers"]):
            chosen = tested.get(label, ratios)
            candidates += [
                PlannedCandidate(
                    Key(label, seed, ratio),
                    "produced",
                    inputs["producers"][label],
                    path=tuple(ratios[: step + 1]),
                    selected=ratio <= max(chosen, default=0.0),
                    tested=ratio in chosen,
                )
                for step, ratio in enumerate(ratios)
            ]
    for model in inputs.get("given", ()):
        key = Key(model["method"], model["seed"], model["target_ratio"])
        # its digest is that of a candidate already, parent included
        candidates.append(PlannedCandidate(key, "external", model["digest"]))
    tests = tuple(
        PlannedTest(
            label,
            inputs["evaluators"][label],
            uses_control=label in inputs.get("controlled", ()),
            uses_history=label in inputs.get("historical", ()),
        )
        for label in (choice["label"] for choice in suite["evaluators"])
    )
    seeds = tuple(suite["seeds"])
    search = "earlier" if tested else ""
    return RunPlan(seeds, _ordered(seeds, candidates), tests, search=search)


def _ordered(seeds: tuple[int, ...], candidates: Iterable[PlannedCandidate]) -> tuple[PlannedCandidate, ...]:
    """Candidates in the order of results: by seed; parents, then chains, then external models by method and ratio."""
    rows = list(candidates)
    produced = [row for seed in seeds for row in rows if row.role != "external" and row.key.seed == seed]
    external = [row for row in rows if row.role == "external"]
    external.sort(key=lambda row: (row.key.seed, row.key.method, row.key.target_ratio))
    return (*produced, *external)
