"""A run folder read back: measurements, thresholds and reliability as tables, without torch and without the models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from evalsuite.errors import StoreError
from evalsuite.potential.threshold import thresholds
from evalsuite.records import Candidate, Metric, Score
from evalsuite.results.comparison import Comparison, told_apart
from evalsuite.results.excess import excess_slopes
from evalsuite.results.forgetting import forgetting
from evalsuite.results.reliability import reliability
from evalsuite.results.retraining import retrainings
from evalsuite.storage.digests import candidate_digest, cell_digest, control, control_of
from evalsuite.storage.store import Cell, Key, Store
from evalsuite.suite import DENSE, PRODUCTION
from evalsuite.tolerances import Rule, Tolerance, narrowed

COLUMNS = (
    *("method", "seed", "target_ratio", "ratio", "prunable_ratio"),
    *("parameters", "nonzero", "macs", "macs_nonzero", "bytes"),
    *("evaluator", "metric", "condition", "group", "unit", "higher_is_better"),
    *("value", "n", "drop", "drop_low", "drop_high", "drop_upper", "drop_floor", "mcnemar"),
    *("status", "reason", "flags"),
)
COUNTS = ("parameters", "nonzero", "macs", "macs_nonzero", "bytes", "n")  # whole, also where one is missing

UNTESTED = "not tested: the search did not need it"


class Run:
    """Is what a run found, as far as it has come.

    Args:
        path: The run folder.
        tolerances: Metric to tolerance instead of the suite's; see `evalsuite.tolerances`. Conclusions are drawn
            anew from the evidence, bounds included.

    Raises:
        StoreError: If it is none.
    """

    def __init__(self, path: Path | str, *, tolerances: Mapping[str, Tolerance] | None = None) -> None:
        self.path = Path(path)
        self._other = tolerances
        self._store = Store(self.path)
        self.record: Mapping[str, Any] = self._store.record()
        if missing := [key for key in ("suite", "inputs") if not isinstance(self.record.get(key), Mapping)]:
            raise StoreError(f"{self.path / 'run.json'} has no {missing[0]}; run the suite again")

    @cached_property
    def measurements(self) -> pd.DataFrame:
        """One row per number, the parent first; drops are paired and their 95 % intervals hold over images.

        Rows without a number say why: ``status`` is ``skipped``, ``invalid`` or ``error``.
        """
        rows = [row for seed in self._suite["seeds"] for row in self._seed_rows(seed)]
        return pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(COUNTS, "Int64"))

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The definition of every metric that was measured."""
        return {metric.name: metric for cell in self._cells.values() for metric in cell.metrics}

    @cached_property
    def reliability(self) -> pd.DataFrame:
        """Reliability table of every candidate on clean images: one row per bin of the confidence."""
        return reliability(self.candidates, self.comparison.scores)

    @cached_property
    def excess(self) -> pd.DataFrame:
        """Slope of the excess error on corrupted images over the prune ratio; see `evalsuite.results.excess`."""
        ratios = {key: candidate.ratio for key, candidate in self.candidates.items()}
        scores = {
            at: score for at, score in self.comparison.scores.items() if at[0].method not in self._unpruned
        }
        return excess_slopes(scores, ratios, seed=self._suite["seeds"][0])

    @cached_property
    def exemplars(self) -> pd.DataFrame:
        """Images on which pruning changes the answer whatever the seed; see `evalsuite.results.forgetting`."""
        return forgetting(self.comparison.scores, {key: one.ratio for key, one in self.candidates.items()})

    @cached_property
    def retraining(self) -> pd.DataFrame:
        """How good each candidate was before and after its last training; see `evalsuite.results.retraining`."""
        return retrainings(self.candidates.values())

    @property
    def failures(self) -> pd.DataFrame:
        """Rows of `measurements` that have a reason instead of a number."""
        found = self.measurements
        return found[found["status"] != "ok"]

    def thresholds(self, tolerance: Rule | Mapping[str, Tolerance] | None = None) -> pd.DataFrame:
        """Returns the thresholds at the run's tolerances, or at others.

        Args:
            tolerance: One for all metrics, or by metric. What ``certified`` rests on is there for the metrics that
                the run has tolerances for: give others as `tolerances` to `Run`.

        Raises:
            UserError: If a tolerance is for what nobody measured.
        """
        table = self._paired()
        wanted = self._measured_rules(table) if tolerance is None else tolerance
        if table.empty or (isinstance(wanted, Mapping) and not wanted):
            return thresholds(table.head(0), tolerance={})
        seeds = self.comparison.over_seeds()
        curved = None if seeds is None else seeds[self._curved(seeds)]
        return thresholds(table, tolerance=wanted, over_seeds=curved)

    @property
    def tolerances(self) -> Mapping[str, Tolerance]:
        """Metric to tolerance, as the suite says or as they were given."""
        own: Mapping[str, Tolerance] = self._suite["tolerances"]
        return own if self._other is None else self._other

    def _measured_rules(self, table: pd.DataFrame) -> dict[str, Tolerance]:
        """The tolerances of what is there: a run that is unfinished, or of a part of its suite, lacks some."""
        places: Any = table[["metric", "condition", "group"]].drop_duplicates().to_numpy().tolist()
        named = {metric for metric, _, _ in places}
        rules = {name: rule for name, rule in self.tolerances.items() if name in named or self._other}
        met = {label for key, label in self._cells if key.method == DENSE}
        whole = met >= {choice["label"] for choice in self._suite["evaluators"]}
        return rules if whole else narrowed(rules, places)  # of the whole, what is not there is a mistake

    def tested(self, method: str) -> tuple[float, ...]:
        """Returns the target ratios of a producer that the run tests: all, unless it is a search."""
        every = {choice["label"]: self._suite["ratios"] for choice in self._suite["producers"]}
        return tuple(self.record.get("tested", {}).get(method, every.get(method, ())))

    def _paired(self) -> pd.DataFrame:
        """Measurements on a curve that have a parent's number to compare with.

        A finished model that is as dense as its parent, or denser, is measured but lies on no curve of pruning;
        nor do those of a method that prunes nothing, such as ``dense-retrained``.
        """
        table = self.measurements
        table = table[((table["method"] == DENSE) | self._curved(table)) & (table["reason"] != UNTESTED)]
        dense = table[(table["method"] == DENSE) & (table["status"] == "ok")]
        known = pd.MultiIndex.from_frame(dense[["seed", "metric", "condition"]])
        return table[pd.MultiIndex.from_frame(table[["seed", "metric", "condition"]]).isin(known)]

    def _curved(self, table: pd.DataFrame) -> pd.Series[bool]:
        """Which rows lie on a curve of pruning."""
        return (table["target_ratio"] > 0) & ~table["method"].isin(self._unpruned)

    @property
    def _unpruned(self) -> set[str]:
        return {choice["label"] for choice in self._suite["producers"] if choice.get("dense")}

    @property
    def _suite(self) -> Mapping[str, Any]:
        suite: Mapping[str, Any] = self.record["suite"]
        return suite

    @cached_property
    def _keys(self) -> list[Key]:
        methods = [
            (choice["label"], ratio) for choice in self._suite["producers"] for ratio in self._suite["ratios"]
        ]
        return [
            *(
                Key(method, seed, ratio)
                for seed in self._suite["seeds"]
                for method, ratio in [(DENSE, 0.0), *methods]
            ),
            *sorted(self._given, key=lambda key: (key.seed, key.method, key.target_ratio)),
        ]

    @cached_property
    def _given(self) -> dict[Key, str]:
        """Finished models that were made elsewhere, with their digests."""
        return {
            Key(one["method"], one["seed"], one["target_ratio"]): one["digest"]
            for one in self.record["inputs"].get("given", ())
        }

    @cached_property
    def candidates(self) -> dict[Key, Candidate]:
        """Every candidate that was made or given, each parent before its children."""
        found: dict[Key, Candidate] = {}
        for key in self._keys:
            candidate = self._store.candidate(key, self._digest(key, found))
            if candidate is not None:
                found[key] = candidate
        return found

    @cached_property
    def _cells(self) -> dict[tuple[Key, str], Cell]:
        labels = [choice["label"] for choice in self._suite["evaluators"]]
        found = {(key, label): self._cell(key, label) for key in self.candidates for label in labels}
        known = {address: cell for address, cell in found.items() if cell is not None}
        return dict(zip(known, told_apart(known), strict=True))

    def _cell(self, key: Key, label: str) -> Cell | None:
        """A cell of this run, and not what an earlier one with other settings left."""
        parent = self.candidates.get(_parent_of(key))
        if parent is None:
            return None
        inputs, other = self.record["inputs"], self._control(key, label, parent)
        test, past = inputs["evaluators"][label], label in inputs.get("historical", ())
        digest = cell_digest(self.candidates[key], parent, test, control=other, historical=past)
        return self._store.cell(key, label, digest)

    def _control(self, key: Key, label: str, parent: Candidate) -> Candidate | None:
        """The network that a test compares a candidate and its parent with."""
        seed = control_of(key.seed, self._suite["seeds"])
        if seed is None or label not in self.record["inputs"].get("controlled", ()):
            return None
        return control(parent, self.candidates.get(Key(DENSE, seed, 0.0)))

    def _digest(self, key: Key, found: Mapping[Key, Candidate]) -> str:
        """What a candidate of this run must depend on; nothing has the empty digest."""
        inputs, parent = self.record["inputs"], found.get(_parent_of(key))
        if key.method == DENSE:
            return str(inputs["parents"][str(key.seed)])
        if key in self._given:
            return self._given[key]
        way = [ratio for ratio in self._suite["ratios"] if ratio <= key.target_ratio]
        return "" if parent is None else candidate_digest(parent, inputs["producers"][key.method], way)

    @cached_property
    def comparison(self) -> Comparison:
        """Every score with its evidence, and what it says against the parent's."""
        return Comparison(self._cells, self.metrics, self.tolerances, seed=self._suite["seeds"][0])

    def _seed_rows(self, seed: int) -> Iterator[dict[str, Any]]:
        for key in self._keys:
            if key.seed == seed:
                for choice in self._suite["evaluators"]:
                    yield from self._rows(key, choice["label"])

    def _rows(self, key: Key, evaluator: str) -> Iterator[dict[str, Any]]:
        """Rows of one evaluator on one candidate; without scores, one row for each number that is missing."""
        cell = self._cells.get((key, evaluator))
        shared = {**self._identity(key), "evaluator": evaluator}
        if cell is not None and cell.status == "ok":
            for score in cell.scores:
                status = "skipped" if score.reason else "ok"
                notes = {"status": status, "reason": score.reason, "flags": " ".join(score.flags)}
                yield {**shared, **self._measured(key, score), **notes}
            return
        status, reason = self._missing(key, cell)
        for score in self.comparison.expected(key.seed, evaluator):
            found = {"metric": score.metric, "condition": score.condition, "group": score.group}
            yield {
                **shared,
                **found,
                **self._direction(score.metric),
                "status": status,
                "reason": reason,
                "flags": "",
            }

    def _missing(self, key: Key, cell: Cell | None) -> tuple[str, str]:
        if cell is not None:
            return cell.status, cell.reason
        production = self._store.cell(key, PRODUCTION, self._digest(key, self.candidates))
        if key not in self.candidates and production is not None:
            return production.status, production.reason
        if key.method in self.record.get("tested", {}) and key.target_ratio not in self.tested(key.method):
            return "skipped", UNTESTED
        return "skipped", "not computed yet: start the same run again"

    def _identity(self, key: Key) -> dict[str, Any]:
        candidate = self.candidates.get(key)
        shared = {"method": key.method, "seed": key.seed, "target_ratio": key.target_ratio}
        if candidate is None:
            return {**shared, "ratio": key.target_ratio}
        spent = asdict(candidate.cost)
        costs = {name: spent[name] for name in ("parameters", "nonzero", "macs", "macs_nonzero", "bytes")}
        return {**shared, "ratio": candidate.ratio, "prunable_ratio": candidate.prunable_ratio, **costs}

    def _direction(self, metric: str) -> dict[str, Any]:
        known = self.metrics.get(metric)
        return {} if known is None else {"unit": known.unit, "higher_is_better": known.higher_is_better}

    def _measured(self, key: Key, score: Score) -> dict[str, Any]:
        found = {"metric": score.metric, "condition": score.condition, "group": score.group}
        change = self.comparison.change(key, score)
        return {**found, **self._direction(score.metric), "value": score.value, "n": score.n, **change}


def _parent_of(key: Key) -> Key:
    return Key(DENSE, key.seed, 0.0)
