"""What a dry run prints: data, classes, tolerances, and the cost of each component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from evalsuite.cli import console
from evalsuite.cli.progress import duration
from evalsuite.tolerances import OTHER_CONDITIONS

if TYPE_CHECKING:
    from evalsuite.execution.dry_run import CostLine, DryRun
    from evalsuite.tolerances import Tolerance

MAX_CLASSES = 12


def print_plan(plan: DryRun) -> None:
    """Prints what a run would do: data, classes, tolerances, and the cost of each component."""
    size = "x".join(map(str, plan.shape))
    console.print_facts(
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
        console.out.print(line, soft_wrap=True, markup=False)
    if plan.stages:
        console.out.print(plan.stages, soft_wrap=True, markup=False)
    if plan.power:
        console.out.print(plan.power, soft_wrap=True, markup=False)
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
    console.out.print(table)
    console.out.print(
        f"Together {sum(line.left for line in lines)} cells, about {duration(sum(line.seconds for line in lines))} "
        "for one worker without attacks, which take many passes for each image, often most of the time, and are "
        "counted only after they have run.",
        soft_wrap=True,
    )
    if count := sum(line.of_controls for line in lines):
        seconds = sum(line.controls_seconds for line in lines)
        console.out.print(
            f"Of these, {count} cells, about {duration(seconds)}, are of the control: the dense network retrained "
            "without pruning (control = false in the suite leaves it out).",
            soft_wrap=True,
        )
