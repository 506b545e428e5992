"""A dry run: what a planned run would compute and what it would cost, before it computes anything."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evalsuite.config.options import Options
from evalsuite.datasets.views import View
from evalsuite.evaluators.accuracy import ACCURACY, AGREEMENT
from evalsuite.evaluators.corruptions import MEANS
from evalsuite.execution.devices import threads
from evalsuite.execution.planning import PreparedRun, prepare
from evalsuite.execution.search import search_plan
from evalsuite.execution.suite_checks import declared_conditions
from evalsuite.models.architectures.base import build_model
from evalsuite.models.inference import BATCH_SIZE, logits, prepare_for_inference
from evalsuite.results.power import PlannedRate, planned_power
from evalsuite.runs.plan import PlannedCell, ResolvedPlan, RunPlan
from evalsuite.runs.store import Key
from evalsuite.runs.timings import RunTimings
from evalsuite.tolerances import limit_for, parse_limits
from evalsuite.types import DENSE, PRODUCTION

if TYPE_CHECKING:
    from evalsuite.config.suite import Suite
    from evalsuite.runs.store import Store
    from evalsuite.tolerances import Tolerance
    from evalsuite.types import Array

PROBE = 256
"""Images of the probe that measures how fast the network is."""


@dataclass(frozen=True, slots=True)
class CostLine:
    """The cost of one component of a run.

    Attributes:
        what: ``production`` or the label of a test.
        done: Cells that are in the store.
        left: Cells that would be computed.
        images: Images that would go through a network for them; attacks take more, which is not known before.
        seconds: Estimate for one worker.
        measured: Whether the estimate is the mean of finished cells, and not a probe of the network.
        of_controls: How many of the cells that are left belong to networks which are retrained without being pruned.
        controls_seconds: Their part of the estimate.
    """

    what: str
    done: int
    left: int
    images: int
    seconds: float = 0.0
    measured: bool = False
    of_controls: int = 0
    controls_seconds: float = 0.0


@dataclass(frozen=True)
class DryRun:
    """What a run would do, before it computes anything.

    Attributes:
        lines: Cells and cost by component.
        images: Number of labelled test images that are tested.
        shape: Of one image, (C, H, W).
        data: Name of the data set.
        classes: Number of classes.
        class_names: Names of the classes in the order of their labels; empty where the data set has none.
        tolerances: Metric to tolerance.
        sample: Which part of the test images is tested; empty for all.
        found: What was found in the user's own images, in words.
        power: What these images cannot decide, in one sentence; empty where they decide all.
        stages: Which tests of a sequential check are measured in which stages; empty otherwise.
    """

    lines: tuple[CostLine, ...]
    images: int
    shape: tuple[int, ...]
    data: str
    classes: int
    class_names: tuple[str, ...]
    tolerances: Mapping[str, Tolerance]
    sample: str = ""
    found: tuple[str, ...] = ()
    power: str = ""
    stages: str = ""


def dry_run(
    suite: Suite | str | Path, *, out: Path | str | None = None, options: Options | None = None
) -> tuple[CostLine, ...]:
    """Returns the cost of what `evalsuite.run` would compute with the same arguments; nothing is written.

    Raises:
        UserError: If the suite, its data or its checkpoint is not as it must be.
    """
    return describe_run(prepare(suite, out=out, options=options)).lines


def describe_run(prepared: PreparedRun) -> DryRun:
    """Returns what a prepared run would do; nothing is written.

    Raises:
        UserError: If a search has a goal that no evaluator reports.
    """
    plan = search_plan(prepared) if prepared.options.search else prepared.plan
    controls = {config.label for config in prepared.suite.producers if config.plugin.dense}
    lines = _lines(plan, ResolvedPlan(plan, prepared.runner.store).cells, controls)
    spent = RunTimings(prepared.runner.store, workers=1).spent
    test_images = prepared.image_source.images(View())
    sample = prepared.image_source.sample()
    with threads(prepared.suite.threads):
        priced = tuple(_priced(lines, prepared, spent))
    return DryRun(
        priced,
        len(test_images.images),
        tuple(test_images.images.shape[1:]),
        test_images.name,
        test_images.classes,
        () if test_images.labelling else test_images.names,  # which says what each class is called
        prepared.suite.tolerances,
        "" if sample is None else sample.text,
        data_lines(prepared),
        planned_power(planned_rates(prepared), _discordance(plan, prepared.runner.store)),
        ""
        if prepared.stages is None
        else f"{prepared.stages.text} The numbers of images below are the most.",
    )


def planned_rates(prepared: PreparedRun) -> list[PlannedRate]:
    """Returns the checks of rates of a planned run whose tolerance is a number, means over conditions left out.

    Shares that the parent has by definition (the agreement with itself) are left out as well: no candidate that differs
    from it has a drop of 0.
    """
    suite = prepared.suite
    rules = {metric: parse_limits(tolerance) for metric, tolerance in suite.tolerances.items()}
    rates = {
        metric.name
        for config in suite.evaluators
        for metric in config.plugin.metrics
        if metric.functional == "mean" and metric.unit == "fraction" and metric.higher_is_better
    } - {AGREEMENT.name}
    declared = declared_conditions(suite, prepared.image_source)
    groups = {condition.group for conditions in declared.values() for condition in conditions or ()}
    return [
        PlannedRate(condition.metric, condition.condition, min(images.values()), limit.amount)
        for label, conditions in declared.items()
        if (images := prepared.plan.by_label[label].images)
        for condition in conditions or ()
        if condition.metric in rates & set(rules) and condition.condition not in {*groups, *MEANS}
        if (limit := limit_for(rules[condition.metric], condition.condition, condition.group)) is not None
        if not limit.relative
    ]


def _discordance(plan: RunPlan, store: Store) -> float | None:
    """The median share of clean images on which finished candidates and their parents differ in being right."""
    resolved, shares = ResolvedPlan(plan, store), []
    for key in plan.by_key:
        parent = _correct(resolved, Key(DENSE, key.seed, 0.0)) if key.method != DENSE else None
        candidate = None if parent is None else _correct(resolved, key)
        if parent is not None and candidate is not None and len(candidate) == len(parent):
            shares.append(float(np.mean(parent != candidate)))
    return float(np.median(shares)) if shares and max(shares) > 0 else None


def _correct(resolved: ResolvedPlan, key: Key) -> Array | None:
    """Which clean images a network classifies correctly, if that is measured already."""
    for test in resolved.plan.tests:
        cell = resolved.cell(key, test.label) if "accuracy" in test.label else None
        for score in cell.scores if cell is not None else ():
            if (score.metric, score.condition) == (ACCURACY.name, "clean") and score.evidence:
                return next(iter(score.evidence.values()))
    return None


def data_lines(prepared: PreparedRun) -> tuple[str, ...]:
    """Returns what was found in the user's own images, and what was chosen for them, in words."""
    images = prepared.image_source.images(View())
    labelling = (
        (f"{images.name}: {len(images.images)} test images of {images.labelling}.",)
        if images.labelling
        else ()
    )
    geometry = prepared.image_source.geometry
    pixels = (f"{images.name}: {geometry}; {_normalisation(prepared)}.",) if geometry else ()
    return (*labelling, *pixels, *images.notes, *prepared.suite.notes)


def _normalisation(prepared: PreparedRun) -> str:
    """What the network subtracts from its images and divides them by, in words."""
    architecture = prepared.suite.model.plugin
    mean, std = (
        ", ".join(f"{value:g}" for value in values) for values in (architecture.mean, architecture.std)
    )
    return f"mean {mean}, standard deviation {std}"


def _lines(plan: RunPlan, cells: Iterable[PlannedCell], controls: Collection[str]) -> list[CostLine]:
    by_component: dict[str, list[PlannedCell]] = {label: [] for label in plan.labels}
    for cell in cells:
        if cell.selected:
            by_component[cell.what].append(cell)
    unresolved = sum(plan.unresolved.values())
    lines = []
    for label, rows in by_component.items():
        left = [cell for cell in rows if cell.state != "done"]
        images = sum(cell.images for cell in left)
        if label != PRODUCTION:
            test = plan.by_label[label]
            images += unresolved * (test.extra_images + sum(test.images.values()))
        of_controls = sum(cell.key.method in controls for cell in left)
        lines.append(
            CostLine(label, len(rows) - len(left), len(left) + unresolved, images, of_controls=of_controls)
        )
    return lines


def _priced(
    lines: Iterable[CostLine], prepared: PreparedRun, spent: Mapping[str, Mapping[str, Any]]
) -> Iterable[CostLine]:
    """Estimates seconds: from the time of finished cells of the component, else from a probe of the network."""
    rate = 0.0
    for line in lines:
        finished = spent.get(line.what)
        seconds, measured = 0.0, False
        if finished and finished["cells"]:
            seconds, measured = line.left * finished["seconds"] / finished["cells"], True
        elif line.left:
            rate = rate or _images_per_second(prepared)
            seconds = line.images / rate
        share = seconds * line.of_controls / line.left if line.left else 0.0
        yield replace(line, seconds=seconds, measured=measured, controls_seconds=share)


def _images_per_second(prepared: PreparedRun) -> float:
    """Images per second of the parent's architecture, with weights as they are drawn."""
    images = prepared.image_source.images(View()).images[:PROBE]
    device, size = prepared.devices[0], prepared.suite.resources.batch_size or BATCH_SIZE
    network = prepare_for_inference(build_model(prepared.suite.model.plugin).eval(), device=device)
    logits(network, images[:size], device=device, batch_size=size)
    started = time.perf_counter()
    logits(network, images, device=device, batch_size=size)
    return len(images) / (time.perf_counter() - started)
