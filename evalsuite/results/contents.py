"""What a run folder holds of its own run, and not of an earlier one with other settings."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from evalsuite.config.suite import DENSE, PRODUCTION
from evalsuite.results.comparison import disambiguate_conditions
from evalsuite.runs.digests import candidate_digest, cell_digest, control, control_of
from evalsuite.runs.store import Cell, Key, Store
from evalsuite.types import Candidate


class Contents:
    """Finds candidates and cells by the digests that the record of a run asks for.

    Args:
        store: The run folder.
        record: Its ``run.json``.
    """

    def __init__(self, store: Store, record: Mapping[str, Any]) -> None:
        self._store, self._record = store, record
        self._suite: Mapping[str, Any] = record["suite"]

    @cached_property
    def keys(self) -> list[Key]:
        """Every candidate that belongs to the run, made or not."""
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
    def candidates(self) -> dict[Key, Candidate]:
        """Every candidate that was made or given, each parent before its children."""
        found: dict[Key, Candidate] = {}
        for key in self.keys:
            candidate = self._store.candidate(key, self._digest(key, found))
            if candidate is not None:
                found[key] = candidate
        return found

    @cached_property
    def cells(self) -> dict[tuple[Key, str], Cell]:
        """What was measured, by candidate and test."""
        labels = [choice["label"] for choice in self._suite["evaluators"]]
        found = {(key, label): self._cell(key, label) for key in self.candidates for label in labels}
        known = {address: cell for address, cell in found.items() if cell is not None}
        return dict(zip(known, disambiguate_conditions(known), strict=True))

    def production(self, key: Key) -> Cell | None:
        """Returns why a candidate was not made, where that is known."""
        return self._store.cell(key, PRODUCTION, self._digest(key, self.candidates))

    @cached_property
    def _given(self) -> dict[Key, str]:
        """Finished models that were made elsewhere, with their digests."""
        return {
            Key(one["method"], one["seed"], one["target_ratio"]): one["digest"]
            for one in self._record["inputs"].get("given", ())
        }

    def _cell(self, key: Key, label: str) -> Cell | None:
        parent = self.candidates.get(parent_of(key))
        if parent is None:
            return None
        inputs, other = self._record["inputs"], self._control(key, label, parent)
        test, past = inputs["evaluators"][label], label in inputs.get("historical", ())
        digest = cell_digest(self.candidates[key], parent, test, control=other, historical=past)
        return self._store.cell(key, label, digest)

    def _control(self, key: Key, label: str, parent: Candidate) -> Candidate | None:
        """The network that a test compares a candidate and its parent with."""
        seed = control_of(key.seed, self._suite["seeds"])
        if seed is None or label not in self._record["inputs"].get("controlled", ()):
            return None
        return control(parent, self.candidates.get(Key(DENSE, seed, 0.0)))

    def _digest(self, key: Key, found: Mapping[Key, Candidate]) -> str:
        """What a candidate of this run must depend on; nothing has the empty digest."""
        inputs, parent = self._record["inputs"], found.get(parent_of(key))
        if key.method == DENSE:
            return str(inputs["parents"][str(key.seed)])
        if key in self._given:
            return self._given[key]
        way = [ratio for ratio in self._suite["ratios"] if ratio <= key.target_ratio]
        return "" if parent is None else candidate_digest(parent, inputs["producers"][key.method], way)


def parent_of(key: Key) -> Key:
    """Returns the address of a candidate's parent."""
    return Key(DENSE, key.seed, 0.0)
