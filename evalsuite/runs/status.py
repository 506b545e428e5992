"""How far a run has come, read from its folder while it goes on or after; nothing is written and no model loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalsuite.config.suite import DENSE, PRODUCTION
from evalsuite.errors import StoreError
from evalsuite.runs.digests import candidate_digest, cell_digest, control, control_of
from evalsuite.runs.lock import alive, holder
from evalsuite.runs.store import Key, Store
from evalsuite.runs.timings import running
from evalsuite.types import Candidate


@dataclass
class Count:
    """Is how far one component is: the production of candidates, or one test.

    Attributes:
        done: Cells that are finished, with numbers or for good without.
        failed: Cells that ended in an error; the next run tries them again.
        stale: Cells of other settings; they count as missing.
        missing: Cells that are not there.
    """

    done: int = 0
    failed: int = 0
    stale: int = 0
    missing: int = 0

    @property
    def left(self) -> int:
        """Cells that the next run computes."""
        return self.failed + self.stale + self.missing


@dataclass(frozen=True)
class RunStatus:
    """Is how far a run has come.

    Attributes:
        path: The run folder.
        counts: By component, in the order of the suite.
        holder: Who works there, or died there; empty if nobody is written down.
        alive: Whether that process lives.
        running: What it does: method, seed, target_ratio, what, seconds.
        failures: What ended in an error, with the reason.
        seconds_left: Estimate from what finished cells took; ``None`` where too little is finished.
    """

    path: Path
    counts: Mapping[str, Count]
    holder: str
    alive: bool
    running: tuple[Mapping[str, Any], ...]
    failures: tuple[tuple[Key, str, str], ...]
    seconds_left: float | None


def status(path: Path | str) -> RunStatus:
    """Returns how far a run has come.

    Args:
        path: The run folder.

    Raises:
        StoreError: If it is none.
    """
    root = Path(path)
    store = Store(root)
    record = store.record()
    if missing := [key for key in ("suite", "inputs") if not isinstance(record.get(key), Mapping)]:
        raise StoreError(f"{root / 'run.json'} has no {missing[0]}; run the suite again")
    found = holder(root)
    lives = found is not None and alive(root, found)
    now = running(root)
    labels = [PRODUCTION, *(choice["label"] for choice in record["suite"]["evaluators"])]
    counts = {label: Count() for label in labels}
    failures = tuple(_counted(store, record, counts))
    left = _left(counts, now.get("spent") or record.get("spent") or {}, now.get("workers", 1) if lives else 1)
    return RunStatus(
        root,
        counts,
        str(found or ""),
        lives,
        tuple(now.get("running", ())) if lives else (),
        failures,
        left,
    )


def _counted(
    store: Store, record: Mapping[str, Any], counts: Mapping[str, Count]
) -> Iterator[tuple[Key, str, str]]:
    """Counts every cell of a run, and yields those that failed."""
    tests: Mapping[str, str] = record["inputs"]["evaluators"]
    controlled = record["inputs"].get("controlled", ())
    for key, digest, candidate, parent in _candidates(store, record):
        if candidate is None:
            yield from _unmade(store, key, digest, counts)
            continue
        counts[PRODUCTION].done += 1
        for label, test in tests.items():
            other = _control(store, record, key, parent or candidate) if label in controlled else None
            past = label in record["inputs"].get("historical", ())
            digest = cell_digest(candidate, parent or candidate, test, control=other, historical=past)
            found = store.status(key, label, digest)
            if found is None:
                _absent(counts[label], store.cell_path(key, label))
            elif found[0] == "error":
                counts[label].failed += 1
                yield key, label, found[1]
            else:
                counts[label].done += 1


def _control(store: Store, record: Mapping[str, Any], key: Key, parent: Candidate) -> Candidate | None:
    """The network that tests compare a candidate and its parent with."""
    seed = control_of(key.seed, record["suite"]["seeds"])
    if seed is None:
        return None
    return control(
        parent, store.candidate(Key(DENSE, seed, 0.0), str(record["inputs"]["parents"][str(seed)]))
    )


def _unmade(
    store: Store, key: Key, digest: str, counts: Mapping[str, Count]
) -> Iterator[tuple[Key, str, str]]:
    """Counts the cells of a candidate that is not there."""
    failed = store.status(key, PRODUCTION, digest) if digest else None
    if failed is not None:
        yield key, PRODUCTION, failed[1]
    for label, count in counts.items():
        if failed is not None:
            count.failed += 1
        else:
            _absent(count, store.weights_path(key) if label == PRODUCTION else store.cell_path(key, label))


def _absent(count: Count, path: Path) -> None:
    """What is there under another digest was made with other settings."""
    if path.exists():
        count.stale += 1
    else:
        count.missing += 1


def _candidates(
    store: Store, record: Mapping[str, Any]
) -> Iterator[tuple[Key, str, Candidate | None, Candidate | None]]:
    """Yields each candidate's key, digest, record if it is made, and parent."""
    suite, inputs = record["suite"], record["inputs"]
    ratios = suite["ratios"]
    for seed in suite["seeds"]:
        dense = Key(DENSE, seed, 0.0)
        digest = str(inputs["parents"][str(seed)])
        parent = store.candidate(dense, digest)
        yield dense, digest, parent, parent
        for choice in suite["producers"]:
            wanted = record.get("tested", {}).get(choice["label"], ratios)  # a search needs no others
            for i, ratio in enumerate(ratios):
                if ratio not in wanted:
                    continue
                key = Key(choice["label"], seed, ratio)
                method = inputs["producers"][key.method]
                own = "" if parent is None else candidate_digest(parent, method, ratios[: i + 1])
                yield key, own, store.candidate(key, own) if own else None, parent
        for one in inputs.get("given", ()):
            if one["seed"] == seed:
                key = Key(one["method"], seed, one["target_ratio"])
                yield key, one["digest"], store.candidate(key, one["digest"]), parent


def _left(counts: Mapping[str, Count], spent: Mapping[str, Any], workers: int) -> float | None:
    """Seconds for what is left, at the mean cost of what is done; ``None`` if a component was never timed."""
    total = 0.0
    for label, count in counts.items():
        known = spent.get(label, {})
        if count.left and not known.get("cells"):
            return None
        if count.left:
            total += count.left * known["seconds"] / known["cells"]
    return total / max(1, workers)
