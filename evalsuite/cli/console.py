"""What the commands print: progress, listings, tables, verdicts."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from evalsuite.cli import progress_log
from evalsuite.cli.endings import OutputConsole, SideConsole
from evalsuite.cli.progress_log import ProgressLog, duration
from evalsuite.cost_axes import AXES, DEFAULT_AXIS
from evalsuite.errors import printable
from evalsuite.registry import RegistryEntry
from evalsuite.tolerances import OTHER_CONDITIONS
from evalsuite.types import SYNTHETIC_FROST

if TYPE_CHECKING:
    import pandas as pd
    from rich.progress import Progress

    from evalsuite.cli.plugin_settings import Setting
    from evalsuite.execution.dry_run import CostLine, DryRun
    from evalsuite.execution.scheduler import ProgressCallback
    from evalsuite.execution.tasks import CellProgress
    from evalsuite.models.checkpoints.architecture_detection import ArchitectureMatch
    from evalsuite.models.checkpoints.inspection import CheckpointInspection, LayerInspection
    from evalsuite.models.exported.inspection import ProgramInspection
    from evalsuite.results.run import Run
    from evalsuite.runs.status import RunStatus
    from evalsuite.runs.verification import Verification
    from evalsuite.tolerances import Tolerance

NARROW = 40
"""Columns below which a text does not fit beside its name."""
PIPE_WIDTH = 160
"""Columns of tables in pipes and files, which have no width."""
MAX_METHOD_COLUMNS = 6
"""Methods beyond which a table with a column for each is too wide."""
MAX_REASONS = 8
MAX_CLASSES = 12
FLAGS = ("censored", "infeasible", "non_monotone", "incomplete", "at_chance", "underpowered")
SUMMARY_TITLE = "Prune potential: commensurate up to this ratio"
PARTIAL = rf"{SYNTHETIC_FROST}/| corruptions\b|corruptions[^/]*/"
"""Conditions that only the report shows: synthetic frost, means of a family, of a severity."""
UNITS = (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))

out = OutputConsole(highlight=False, width=None if sys.stdout and sys.stdout.isatty() else PIPE_WIDTH)
err = SideConsole(stderr=True, highlight=False)


def print_json(text: str) -> None:
    """Prints JSON, for other programs to read."""
    out.print_json(text)


def print_rows(table: pd.DataFrame) -> None:
    """Prints a table as JSON, one object per row, every number to its last digit."""
    from evalsuite.report.data import records  # pandas takes a while to import

    print_json(json.dumps(records(table), default=str))


def print_error(message: str) -> None:
    """Prints one sentence about a mistake or a failure."""
    err.print(f"[bold red]evalsuite:[/] {escape(message)}", soft_wrap=True)


def print_warning(message: str) -> None:
    """Prints one sentence that asks for a change."""
    err.print(f"[yellow]evalsuite:[/] {escape(message)}", soft_wrap=True)


def print_path(what: str, path: Path, *, count: int | None = None) -> None:
    """Prints where something was written, and how many of it."""
    number = "" if count is None else f"{count} in "
    out.print(f"{what}: {number}{path.resolve()}", soft_wrap=True, markup=False)


def print_listing(entries: Sequence[RegistryEntry]) -> None:
    """Prints the lines of a listing."""
    for line in listing(entries, width=out.width if out.is_terminal else None):
        out.print(line, soft_wrap=True, markup=False)


def listing(entries: Sequence[RegistryEntry], *, width: int | None) -> Iterator[str]:
    """Yields the lines of a listing: three columns; where they do not fit, the last one or two stand below.

    Args:
        entries: What is listed.
        width: Columns of the terminal; ``None`` for any number.
    """
    rows = [RegistryEntry("name", "what it is", "defined in"), *entries]
    names, texts, addresses = (
        max(len(getattr(row, field)) for row in rows) for field in ("name", "text", "defined")
    )
    if width is None or names + texts + addresses + 4 <= width:
        yield from (f"{row.name:<{names}}  {row.text:<{texts}}  {row.defined}" for row in rows)
        return
    beside = width - names - 2
    for row in rows:
        if beside < NARROW:
            yield row.name
            yield from (f"  {line}" for line in [*textwrap.wrap(row.text, width - 2), row.defined])
            continue
        lines = [*textwrap.wrap(row.text, beside), row.defined]
        yield from (f"{name:<{names}}  {line}" for name, line in zip_longest([row.name], lines, fillvalue=""))


def print_settings(entry: RegistryEntry, settings: Sequence[Setting]) -> None:
    """Prints a plug-in and its settings: name, type, default, and the meaning below."""
    width = out.width if out.is_terminal else PIPE_WIDTH
    out.print(f"{entry.name}: {entry.text}", soft_wrap=True, markup=False)
    out.print(f"defined in {entry.defined}", soft_wrap=True, markup=False)
    if not settings:
        out.print("It has no settings.")
    for setting in settings:
        default = "required" if setting.required else f"default {setting.default}"
        out.print(f"\n{setting.name}: {setting.type}, {default}", soft_wrap=True, markup=False)
        for line in textwrap.wrap(setting.meaning, max(NARROW, width) - 4, break_long_words=False):
            out.print(f"    {line}", soft_wrap=True, markup=False)


@contextmanager
def cell_progress(*, interval: float | None = None) -> Iterator[ProgressCallback]:
    """Shows a bar of cells on a terminal, elsewhere a line at most every `interval` seconds.

    Cells that fail are printed in both.

    Args:
        interval: Seconds between two lines; `progress_log.INTERVAL` by default.
    """
    if not err.is_terminal:
        log = _LogWithFailures(_print_line, progress_log.INTERVAL if interval is None else interval)
        with log.lines():
            yield log
        return
    with _bar() as bar:
        task = bar.add_task("reading the suite", total=None)

        def update(step: CellProgress) -> None:
            bar.update(task, description=escape(_step(step)), completed=step.done, total=step.total)
            _print_failure(step)

        yield update


class _LogWithFailures(ProgressLog):
    """Progress lines, and a line for each cell that fails."""

    def __call__(self, step: CellProgress) -> None:
        """Prints a cell that failed."""
        _print_failure(step)


def _print_line(text: str) -> None:
    with suppress(OSError):  # a log that its reader has closed does not end a run
        err.print(f"evalsuite: {text}", soft_wrap=True, markup=False)
        err.file.flush()


def _print_failure(step: CellProgress) -> None:
    if step.status != "ok":
        err.print(f"{_step(step)} (seed {step.key.seed}): {step.status}", soft_wrap=True, markup=False)


def _step(step: CellProgress) -> str:
    return printable(f"{step.key.method} {step.key.target_ratio:g} {step.what}")


@contextmanager
def count_progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar on a terminal, nothing elsewhere, and yields a function of the number done and the total."""
    with _bar() as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _bar() -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=err, disable=not err.is_terminal, transient=True)


def print_inspection(inspection: CheckpointInspection, match: ArchitectureMatch) -> None:
    """Prints what a file of weights holds: first its totals, then a line per layer."""
    ratio, prunable_ratio = inspection.ratio, inspection.prunable_ratio
    print_facts(
        {
            "format": inspection.format + (f", under {inspection.wrapper}" if inspection.wrapper else ""),
            "parameters": f"{inspection.parameters:,}, of which {inspection.nonzero:,} are not zero",
            "MACs": _macs(match),
            "bytes": f"{inspection.bytes:,} on disk, {inspection.packed:,} losslessly packed",
            "ratio": "" if ratio is None else f"{ratio:.2%} of the parent's parameters are gone",
            "prunable": "" if prunable_ratio is None else f"{prunable_ratio:.2%} of its prunable weights",
            "structure": _structure(inspection),
            "pattern": inspection.pattern,
            "fits": match.fits,
            "a guess": match.doubt,
            "folded": ", ".join(inspection.folded),
            "also there": ", ".join(inspection.extras),
            "missing": ", ".join(inspection.missing),
            "note": inspection.note,
        }
    )
    _print_layers(inspection.layers)


def _structure(inspection: CheckpointInspection) -> str:
    if inspection.structured:
        return "whole channels"
    return "single weights" if inspection.prunable_nonzero < inspection.prunable else "dense"


def print_program(program: ProgramInspection) -> None:
    """Prints what a whole program shows of itself: first its totals, then a line per layer."""
    operators = sorted(program.operators.items(), key=lambda pair: (-pair[1], pair[0]))
    print_facts(
        {
            "format": f"{program.format}, a whole program",
            "opset": program.opset,
            "inputs": "; ".join(program.inputs),
            "outputs": "; ".join(program.outputs),
            "operators": ", ".join(f"{count} {name}" for name, count in operators),
            "parameters": "unknown"
            if program.parameters is None
            else f"{program.parameters:,}, of which {program.nonzero:,} are not zero",
            "ratio": ""
            if program.ratio is None
            else f"{program.ratio:.2%} of the parent's parameters are gone",
            "note": " ".join(program.notes),
        }
    )
    if program.layers:
        _print_layers(program.layers)


def _macs(match: ArchitectureMatch) -> str:
    if match.macs is None or match.image is None:
        return f"not counted: {match.uncounted}"
    image = "x".join(map(str, match.image))
    return f"{match.macs:,} for an image of {image}, of which {match.macs_nonzero:,} are not by a zero weight"


def print_facts(facts: Mapping[str, str]) -> None:
    """Prints names with what is known of them, a line each; empty texts are left out."""
    for name, text in facts.items():
        if text:
            out.print(f"{name:<12}{text}", soft_wrap=True, markup=False)


def _print_layers(layers: Sequence[LayerInspection]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("layer", "shape", "weights", "zeros", "zero filters", "pattern"):
        table.add_column(title, justify="left" if title == "layer" else "right", no_wrap=True)
    for layer in layers:
        shape = "x".join(map(str, layer.shape))
        counts = (f"{layer.weights:,}", f"{layer.sparsity:.1%}", str(layer.zero_filters), layer.pattern)
        table.add_row(escape(layer.name), shape, *counts)
    out.print(table)


def print_time_spent(record: Mapping[str, Any]) -> None:
    """Prints how long the components of a run took, over all runs in its folder, and what was not read again."""
    if not record.get("computed"):
        out.print(
            "Nothing was computed: all cells were there. Weights behind finished cells were not read again; "
            "status --verify reads all.",
            soft_wrap=True,
        )
    spent = record.get("spent") or {}
    if not record.get("computed") or not spent:
        return
    text = ", ".join(f"{component} {duration(total['seconds'])}" for component, total in spent.items())
    out.print(f"Spent: {text}", soft_wrap=True, markup=False)


def print_plan(plan: DryRun) -> None:
    """Prints what a run would do: data, classes, tolerances, and the cost of each component."""
    size = "x".join(map(str, plan.shape))
    print_facts(
        {
            "data": f"{plan.images:,} test images of {plan.data}, {size}",
            "sample": plan.sample,
            "classes": f"{plan.classes}{_class_names(plan.class_names)}",
            "tolerances": ", ".join(
                f"{name} {tolerance_text(rule)}" for name, rule in plan.tolerances.items()
            ),
        }
    )
    for line in plan.found:
        out.print(line, soft_wrap=True, markup=False)
    if plan.power:
        out.print(plan.power, soft_wrap=True, markup=False)
    _print_costs(plan.lines)


def _class_names(names: Sequence[str]) -> str:
    """The names of the classes in the order of their labels, the first and last of many."""
    if not names:
        return ""
    shown = [f"{label} {name}" for label, name in enumerate(names)]
    if len(shown) > MAX_CLASSES:
        shown = [*shown[: MAX_CLASSES - 1], "...", shown[-1]]
    return f": {', '.join(shown)}"


def tolerance_text(rule: Tolerance) -> str:
    """A tolerance in words.

    >>> tolerance_text(0.005), tolerance_text("5%"), tolerance_text({"clean": 0.01, "*": 0.02})
    ('0.005', '5%', '0.01 on clean and 0.02 on all others')
    """
    if not isinstance(rule, Mapping):
        return str(rule)
    places = {OTHER_CONDITIONS: "all others"}
    return " and ".join(f"{limit} on {places.get(name, name)}" for name, limit in rule.items())


def _print_costs(lines: Sequence[CostLine]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("component", "done", "to do", "images", "one worker", "estimated from"):
        table.add_column(title, justify="left" if title in ("component", "estimated from") else "right")
    for line in lines:
        source = ("finished cells" if line.measured else "a probe of the network") if line.left else ""
        counts = (str(line.done), str(line.left), f"{line.images:,}", duration(line.seconds))
        table.add_row(escape(line.what), *counts, source)
    out.print(table)
    out.print(
        f"Together {sum(line.left for line in lines)} cells, about {duration(sum(line.seconds for line in lines))} "
        "for one worker; what attacks compute beside one pass is counted only after they have run.",
        soft_wrap=True,
    )
    if count := sum(line.of_controls for line in lines):
        seconds = sum(line.controls_seconds for line in lines)
        out.print(
            f"Of these, {count} cells, about {duration(seconds)}, are of the control: the dense network retrained "
            "without pruning (control = false in the suite leaves it out).",
            soft_wrap=True,
        )


def print_status(status: RunStatus) -> None:
    """Prints how far a run has come."""
    table = Table(box=None, pad_edge=False)
    for title in ("component", "done", "failed", "stale", "missing"):
        table.add_column(title, justify="left" if title == "component" else "right")
    for label, count in status.counts.items():
        table.add_row(escape(label), *map(str, (count.done, count.failed, count.stale, count.missing)))
    out.print(table)
    for key, test, reason in status.failures:
        cell = f"{key.method} {key.target_ratio:g} {test} (seed {key.seed})"
        out.print(f"failed: {cell}: {reason}", soft_wrap=True, markup=False)
    for task in status.running:
        cell = f"{task['method']} {task['target_ratio']:g} {task['what']} (seed {task['seed']})"
        out.print(f"running: {cell} for {duration(task['seconds'])}", soft_wrap=True, markup=False)
    out.print(_outlook(status), soft_wrap=True, markup=False)


def print_verification(verification: Verification) -> None:
    """Prints which files are no longer what was written."""
    for file, problem in verification.damaged:
        out.print(f"damaged: {file}: {problem}", soft_wrap=True, markup=False)
    result = (
        f"{len(verification.damaged)} are damaged: remove them, and the same run makes them again"
        if verification.damaged
        else "all are what was written"
    )
    out.print(
        f"Read again: the weights of {verification.weights} models and {verification.cells} cells; {result}.",
        soft_wrap=True,
    )


def _outlook(status: RunStatus) -> str:
    """What is left to do, and whether a process works on it."""
    left = sum(count.left for count in status.counts.values())
    if not left:
        return "Everything is done."
    time_left = "unknown" if status.seconds_left is None else f"about {duration(status.seconds_left)}"
    if not status.holder:
        holder = "no process works on them"
    else:
        holder = f"{status.holder} " + ("works on them" if status.alive else "died while it worked on them")
    return f"{left} cells are left, {holder}; time left: {time_left}."


def print_summary(run: Run) -> None:
    """Prints, per method, the largest ratio up to which each headline metric is commensurate."""
    import pandas as pd

    thresholds = run.thresholds()
    headline = thresholds[(thresholds["seed"] == "all") & thresholds["aggregate"].isin(["single", "minimum"])]
    worst = headline["aggregate"] == "minimum"
    grouped = pd.MultiIndex.from_frame(headline.loc[worst, ["metric", "group"]])
    ungrouped = ~pd.MultiIndex.from_frame(headline[["metric", "group"]]).isin(grouped)
    partial = headline["condition"].str.contains(PARTIAL, regex=True)
    rows = headline[worst | (ungrouped & ~partial)]  # of a group the worst condition; the report has them all
    if not rows.empty:
        rows = _with_axis_in_names(rows)
        many = rows["method"].nunique() > MAX_METHOD_COLUMNS
        out.print(_row_per_method(rows) if many else _row_per_condition(rows))
    _print_intervals(run.groups)
    print_sample(str((run.record.get("sample") or {}).get("text", "")))
    _print_missing(run)


def _print_intervals(groups: pd.DataFrame) -> None:
    """Prints, per method, up to which ratio everything is shown to hold, and from which something is shown to fail."""
    from evalsuite.results.verdict_tables import EVERYTHING
    from evalsuite.thresholds.seeds import ALL_SEEDS

    everything = groups[(groups["group"] == EVERYTHING) & (groups["seed"] == ALL_SEEDS)]
    for row in everything[everything["noninferior_up_to"].notna()].to_dict("records"):
        holds, fails = float(row["noninferior_up_to"]), float(row["inferior_from"])
        checks = row["checks"] - row["never_decided"]
        shown = f"shown to hold up to {holds:.1%}" if holds else "not shown to hold at any tested ratio"
        failing = f"shown to fail from {fails:.1%}" if fails == fails else "nothing is shown to fail"
        out.print(
            f"{row['method']}, all {checks} checks together: {shown}; {failing}.",
            soft_wrap=True,
            markup=False,
        )


def _print_missing(run: Run) -> None:
    """Prints how many numbers are missing, and why."""
    from evalsuite.results.run import UNCOMPUTED, UNTESTED

    total, reasons = len(run.measurements), run.failures["reason"]
    untested, uncomputed = int((reasons == UNTESTED).sum()), int((reasons == UNCOMPUTED).sum())
    if missing := len(reasons) - untested - uncomputed:
        out.print(f"{missing:,} of {total:,} numbers are missing; the report says why.")
        _print_reasons(run.failures)
    if uncomputed:
        out.print(f"{uncomputed:,} of {total:,} numbers are not computed yet; start the same run again.")
    if untested:
        out.print(f"{untested:,} of {total:,} numbers were left out by the search, which did not need them.")


def _print_reasons(failures: pd.DataFrame) -> None:
    """Prints each reason for missing numbers once; the report alone has what does not apply to a model."""
    bad = failures[failures["status"].isin(["error", "invalid"])]
    cells = bad.drop_duplicates(["method", "seed", "target_ratio", "evaluator"])
    for (test, reason), rows in list(cells.groupby(["evaluator", "reason"], sort=False))[:MAX_REASONS]:
        times = "" if len(rows) == 1 else f" ({len(rows)} times)"
        out.print(escape(f"  {test}: {reason}{times}"), soft_wrap=True)


def _row_per_condition(rows: pd.DataFrame) -> Table:
    """A line per metric and condition, a column per method."""
    table = Table(box=None, pad_edge=False, title=SUMMARY_TITLE, title_justify="left")
    table.add_column("metric")
    table.add_column("condition")
    methods = list(dict.fromkeys(rows["method"]))
    for method in methods:
        table.add_column(escape(method), justify="right")
    for (metric, _, _), same in rows.groupby(["metric", "condition", "aggregate"], sort=False):
        potentials = dict(zip(same["method"], same["potential"], strict=True))
        shares = (f"{potentials[method]:.1%}" if method in potentials else "-" for method in methods)
        table.add_row(escape(str(metric)), escape(_condition(same.iloc[0])), *shares)
    return table


def _row_per_method(rows: pd.DataFrame) -> Table:
    """A line per method, the best first: its first condition, all conditions, and the first that fails."""
    first = rows.iloc[0]
    table = Table(box=None, pad_edge=False, title=SUMMARY_TITLE, title_justify="left")
    table.add_column("method")
    for title in (f"{first['metric']}, {_condition(first)}", "all conditions"):
        table.add_column(escape(title), justify="right")
    table.add_column("first failure")
    ranked = sorted(
        rows.groupby("method", sort=False),
        key=lambda pair: (pair[1].iloc[0]["potential"], pair[1]["potential"].mean()),
        reverse=True,
    )
    for method, same in ranked:
        weakest = same.sort_values("potential", kind="stable").iloc[0]
        table.add_row(
            escape(str(method)),
            f"{same.iloc[0]['potential']:.1%}",
            f"{weakest['potential']:.1%}",
            escape(f"{weakest['metric']}, {_condition(weakest)}"),
        )
    return table


def _with_axis_in_names(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, methods named with their cost axis where these differ; a common axis is printed once."""
    axes = rows["axis"].unique()
    if len(axes) == 1:
        if axes[0] != DEFAULT_AXIS:
            out.print(f"Ratios are shares of the parent's {AXES[axes[0]].noun} that are gone.")
        return rows
    suffixes = ["" if axis == DEFAULT_AXIS else f" ({AXES[axis].noun})" for axis in rows["axis"]]
    return rows.assign(method=[f"{name}{text}" for name, text in zip(rows["method"], suffixes, strict=True)])


def _condition(row: pd.Series[Any]) -> str:
    return f"{row['condition']} (worst)" if row["aggregate"] == "minimum" else str(row["condition"])


def print_thresholds(rows: pd.DataFrame) -> None:
    """Prints one line per method, metric and condition: potential, certified ratio, first failure."""
    table = Table(box=None, pad_edge=False)
    for title in ("method", "metric", "condition"):
        table.add_column(title)
    for title in ("tolerance", "parent", "potential", "certified", "95 % interval", "first failure"):
        table.add_column(title, justify="right")
    table.add_column("flags")
    for _, row in _with_axis_in_names(rows).iterrows():
        flags = [name for name in FLAGS if row.get(name)]
        low, high = row["potential_low"], row["potential_high"]
        aggregate = "" if row["aggregate"] == "single" else f" ({row['aggregate']})"
        names = (row["method"], row["metric"], f"{row['condition']}{aggregate}")
        table.add_row(
            *(escape(str(name)) for name in names),
            f"{row['tolerance']:.4g}",
            f"{row['reference']:.4f}",
            f"{row['potential']:.1%}",
            _share(row["certified"]),
            f"{_share(low)} to {_share(high)}" if low >= 0 else "-",
            _share(row["first_failure"]),
            ", ".join(flags).replace("_", "-"),
        )
    out.print(table)


def print_factorial(rows: pd.DataFrame) -> None:
    """Prints a 2x2 factorial comparison of methods and recipes: a line per pair and target ratio."""
    table = Table(box=None, pad_edge=False)
    for title in ("ratio", "A", "B"):
        table.add_column(title)
    for title in ("A, recipe 1", "B, recipe 1", "A, recipe 2", "B, recipe 2"):
        table.add_column(title, justify="right")
    table.add_column("verdict")
    for _, row in rows.iterrows():
        values = ("value", "other_value", "value_other_recipe", "other_value_other_recipe")
        verdict = f"{row['winner']} under both: {row['verdict']}" if row["winner"] else row["verdict"]
        methods = (escape(str(row[name])) for name in ("method", "other_method"))
        table.add_row(
            f"{row['target_ratio']:.1%}",
            *methods,
            *(f"{row[name]:.4f}" for name in values),
            escape(verdict),
        )
    out.print(table)


def _share(ratio: float) -> str:
    return f"{ratio:.1%}" if ratio >= 0 else "-"  # NaN compares with nothing


def print_verdicts(verdicts: pd.DataFrame) -> None:
    """Prints one line per candidate and metric: the condition with the largest drop, and how many failed.

    Beside the verdict on what was measured stands how much of it the images show at 95 %.
    """
    from evalsuite.results.check_verdicts import (
        candidate_verdicts,
        sample_of,
    )  # pandas takes a while to import

    table = Table(box=None, pad_edge=False)
    left = ("candidate", "metric", "worst on", "verdict")
    for title in (
        *("candidate", "ratio", "parameters", "MACs", "packed", "metric", "worst on"),
        *("value", "parent", "drop", "95 % interval", "tolerated", "verdict"),
    ):
        table.add_column(title, justify="left" if title in left else "right")
    skipped = verdicts["passed"] & verdicts["value"].isna()
    for (candidate, metric), rows in verdicts[~skipped].groupby(["candidate", "metric"], sort=False):
        worst = rows.sort_values("drop", ascending=False, na_position="first", kind="stable").iloc[0]
        costs = [worst["parameters"], *(rows[name].astype("float64").iloc[0] for name in ("macs", "packed"))]
        table.add_row(
            escape(str(candidate)),
            f"{worst['ratio']:.1%}",
            *(_count(float(cost)) for cost in costs),
            escape(str(metric)),
            escape(worst["condition"]),
            *(f"{worst[name]:.4f}" for name in ("value", "parent", "drop")),
            f"{worst['drop_low']:+.4f} {worst['drop_high']:+.4f}",
            f"{worst['tolerance']:g}",
            _verdict(rows),
        )
    out.print(table)
    for verdict in candidate_verdicts(verdicts):
        style = {"SHIP": "bold green", "DO NOT SHIP": "bold red", "UNDECIDED": "bold yellow"}[verdict.outcome]
        out.print(
            f"[{style}]{verdict.outcome}[/] {escape(verdict.candidate)}: {verdict.reason}.", soft_wrap=True
        )
    print_sample(sample_of(verdicts))
    for reason in verdicts.loc[skipped, "reason"].unique():
        out.print(f"Not compared: {reason}.", soft_wrap=True, markup=False)
    _print_warnings(verdicts)


def _print_warnings(verdicts: pd.DataFrame) -> None:
    """Prints each warning once, with what it is about; those that differ in numbers alone are one."""
    flagged = verdicts[verdicts["flags"].fillna("") != ""]
    alike = flagged["flags"].str.replace(r"\d+", "0", regex=True)
    for _, rows in flagged.groupby(alike, sort=False):
        first = rows.iloc[0]
        place = "{candidate}, {metric} on {condition}".format_map(first)
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        out.print(f"[yellow]Warning:[/] {escape(place)}{more}: {escape(str(first['flags']))}", soft_wrap=True)


def print_exit(code: int, reason: str) -> None:
    """Prints the exit code of a check and why it is that."""
    out.print(f"Exit code {code}: {reason}.", soft_wrap=True, markup=False)


def print_sample(text: str) -> None:
    """Prints which part of the test images was looked at; nothing for all."""
    if text:
        out.print(f"Tested on {text}.", soft_wrap=True, markup=False)


def _verdict(rows: pd.DataFrame) -> str:
    """How many checks failed, and how many are shown to be inferior, or non-inferior."""
    failed, count = int((~rows["passed"]).sum()), len(rows)
    if failed:
        inferior = int((rows["verdict"] == "inferior").sum())
        controls = int(rows["controls"].max())
        alike = int((~rows["passed"] & (rows["controls_failed"] > 0)).sum())
        beside = f"; {alike} fail in a control too" if controls else ""
        return f"[bold red]FAIL[/] {failed} of {count} ({inferior} inferior{beside})"
    noninferior = int((rows["verdict"] == "non-inferior").sum())
    return f"[green]pass[/] ({noninferior} of {count} non-inferior)"


def _count(number: float) -> str:
    """A large count in three figures; a dash where it is unknown.

    >>> _count(1234567), _count(float("nan"))
    ('1.23M', '-')
    """
    if not number >= 1:  # NaN compares with nothing
        return "-"
    unit, divisor = next((unit, size) for unit, size in UNITS if number >= size)
    return f"{number / divisor:.3g}{unit}"
