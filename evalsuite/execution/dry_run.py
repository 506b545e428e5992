"""What a run would do and what it would cost, before it does anything."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evalsuite.config.suite import DENSE, PRODUCTION, Suite, load_suite
from evalsuite.datasets.base import Place
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.views import View
from evalsuite.execution.devices import device, devices, threads
from evalsuite.execution.production import Production
from evalsuite.execution.schedule import Schedule, scope
from evalsuite.models.architectures.base import assemble
from evalsuite.models.inference import logits, prepared
from evalsuite.runs.digests import cell_digest, control, control_of
from evalsuite.runs.provenance import Options, data_root
from evalsuite.runs.store import Key, Store
from evalsuite.runs.timings import RunTimings
from evalsuite.types import Candidate

PROBE = 256
"""Images of the probe that says how fast the network is."""
BACKWARD = 3
"""Cost of a training step on an image, in forward passes: one there and two back."""


@dataclass
class Line:
    """Is what one component of a run would do.

    Attributes:
        what: ``production`` or a test's label.
        done: Cells that are in the store.
        left: Cells that would be computed.
        images: Images that would go through a network for them; attacks take more, which nobody counts before.
        seconds: Estimate for one worker.
        measured: Whether the estimate is the mean of finished cells, and not a probe of the network.
    """

    what: str
    done: int = 0
    left: int = 0
    images: int = 0
    seconds: float = 0.0
    measured: bool = False


def plan(
    suite: Suite | str | Path, *, out: Path | str | None = None, options: Options | None = None
) -> tuple[Line, ...]:
    """Returns what `evalsuite.run` would do with the same arguments; nothing is written.

    Raises:
        UserError: If the suite, its data or its checkpoint is not as it must be.
    """
    options = options or Options()
    chosen = options.applied(suite if isinstance(suite, Suite) else load_suite(suite))
    store = Store(Path(out) if out is not None else Path("reports") / chosen.name)
    with threads(chosen.threads):
        image_source = ImageSource(
            chosen.data.plugin, Place(data_root(chosen, options), options.download, chosen.seeds[0])
        )
        place = device(devices(options.device)[0])
        production = Production(chosen, store, image_source, device=place, trust=options.trust_program)
        schedule = Schedule(production, image_source, scope(chosen, options))
        lines = _lines(schedule, store)
        _priced(lines, schedule, RunTimings(store, workers=1).spent)
    return tuple(lines.values())


def _lines(schedule: Schedule, store: Store) -> dict[str, Line]:
    labels = [PRODUCTION, *(choice.label for choice in schedule.scope.evaluators)]
    lines = {label: Line(label) for label in labels}
    plugins = {choice.label: choice.plugin for choice in schedule.scope.evaluators}
    size = {view: _images(schedule, view) for plugin in plugins.values() for view in plugin.needs}
    tests, controlled = schedule.inputs["evaluators"], schedule.inputs["controlled"]
    for key, candidate, parent in _candidates(schedule, store):
        if candidate is None:
            lines[PRODUCTION].left += 1
            lines[PRODUCTION].images += _training(schedule, key)
        else:
            lines[PRODUCTION].done += 1
        passed: set[View] = (
            set()
        )  # an image set goes through a network once, for the first test that wants it
        for label, plugin in plugins.items():
            known = None
            if candidate is not None and parent is not None:
                other = _control(schedule, store, key, parent) if label in controlled else None
                past = label in schedule.inputs["historical"]
                digest = cell_digest(candidate, parent, tests[label], control=other, historical=past)
                known = store.status(key, label, digest)
            if known is not None and known[0] not in schedule.scope.again:
                lines[label].done += 1
            else:
                lines[label].left += 1
                new = set(plugin.needs) - passed
                lines[label].images += plugin.extra_images + sum(size[view] for view in new)
                passed |= new
    return lines


def _control(schedule: Schedule, store: Store, key: Key, parent: Candidate) -> Candidate | None:
    """The network that tests compare a candidate and its parent with."""
    seed = control_of(key.seed, schedule.suite.seeds)
    if seed is None:
        return None
    found = store.candidate(Key(DENSE, seed, 0.0), schedule.inputs["parents"][str(seed)])
    return control(parent, found)


def _candidates(schedule: Schedule, store: Store) -> Iterator[tuple[Key, Candidate | None, Candidate | None]]:
    """Yields each candidate, its record if it is made, and its parent's; finished models count as not made."""
    suite = schedule.suite
    for seed in suite.seeds:
        dense = Key(DENSE, seed, 0.0)
        parent = store.candidate(dense, schedule.inputs["parents"][str(seed)])
        yield dense, parent, parent
        for choice in schedule.scope.producers:
            for ratio in suite.ratios:
                key = Key(choice.label, seed, ratio)
                known = None if parent is None else store.candidate(key, schedule.digest(key, parent))
                yield key, known, parent
        for one in suite.candidates:
            if one.seed == seed and one.method in schedule.scope.methods:
                yield Key(one.method, seed, one.ratio or 0.0), None, parent


def _images(schedule: Schedule, view: View) -> int:
    return len(schedule.image_source.images(replace(view, transform=None)).images)


def _training(schedule: Schedule, key: Key) -> int:
    """Images whose training makes a candidate, in forward passes."""
    suite = schedule.suite
    if key.method not in {DENSE, *(choice.label for choice in suite.producers)}:
        return 0
    if key.method == DENSE and suite.checkpoint:
        return 0
    recipe = suite.recipe if key.method == DENSE else suite.retraining_of(key.method)
    return int(BACKWARD * recipe.epochs * len(schedule.image_source.images(View(split="train")).images))


def _priced(lines: Mapping[str, Line], schedule: Schedule, spent: Mapping[str, Mapping[str, Any]]) -> None:
    """Estimates seconds: from what cells of the kind took, else from a probe of the network."""
    rate = 0.0
    for line in lines.values():
        known = spent.get(line.what)
        if known and known["cells"]:
            line.seconds, line.measured = line.left * known["seconds"] / known["cells"], True
        elif line.left:
            rate = rate or _rate(schedule)
            line.seconds = line.images / rate


def _rate(schedule: Schedule) -> float:
    """Images per second of the parent's architecture, with weights as they are drawn."""
    images = schedule.image_source.images(View()).images[:PROBE]
    ready = prepared(assemble(schedule.suite.model.plugin).eval())
    logits(ready, images[:32])
    begun = time.perf_counter()
    logits(ready, images)
    return len(images) / (time.perf_counter() - begun)
