"""Doors open one way: who imports whom, read from the source, and what start-up may not load."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from textwrap import dedent

import pytest

HOUSE = Path(__file__).parents[1] / "evalsuite"

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "randomness"),
    ("records", "registry", "tolerances"),
    ("axes", "choices", "storage"),
    ("compat",),
    ("metrics",),
    ("statistics", "potential", "data", "models", "report"),
    ("bench", "detectors"),
    ("training",),
    ("producers", "evaluators"),
    ("suite",),
    ("results",),
    ("running",),
    ("publishing",),
    ("api",),
    ("testing",),
    ("commands",),
    ("__init__", "__main__"),
)
"""Rooms from the ground up: a room may import from the floors below it, and never from one beside it."""

PARTS = {"gates": "bench"}
"""Modules that share a room with the one that gives it its name."""

FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FRAGILE = {"robustbench", "foolbox", "torchvision", "torch_pruning", "altair", "vl_convert"}
"""Heavy or fragile packages, imported inside functions only."""


@dataclass(frozen=True)
class Import:
    """Is one imported name: where it stands, what it means, and when it happens."""

    line: int
    target: str
    typing: bool
    lazy: bool


class Imports(ast.NodeVisitor):
    """Collects the imports of a module, with what they stand in."""

    def __init__(self) -> None:
        self.found: list[Import] = []
        self.relative: list[int] = []
        self._typing = self._lazy = False

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.found.append(Import(node.lineno, alias.name, self._typing, self._lazy))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level:
            self.relative.append(node.lineno)
        for alias in node.names:
            self.found.append(Import(node.lineno, f"{node.module}.{alias.name}", self._typing, self._lazy))

    def visit_If(self, node: ast.If) -> None:
        before, self._typing = self._typing, self._typing or "TYPE_CHECKING" in ast.unparse(node.test)
        for child in node.body:
            self.visit(child)
        self._typing = before
        for child in node.orelse:
            self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before, self._lazy = self._lazy, True
        self.generic_visit(node)
        self._lazy = before


def imports(source: str) -> Imports:
    visitor = Imports()
    visitor.visit(ast.parse(source))
    return visitor


def modules(house: Path) -> dict[str, str]:
    """Dotted names of all modules of a package, and their source."""
    return {
        ".".join([house.name, *path.relative_to(house).with_suffix("").parts]): path.read_text("utf-8")
        for path in sorted(house.rglob("*.py"))
    }


def room(module: str) -> str:
    """The room of ``evalsuite.data.views`` is ``data``."""
    name = module.split(".")[1]
    return PARTS.get(name, name)


def resolved(target: str, known: dict[str, str]) -> str | None:
    """The module that an imported name lives in, or ``None`` if it is not of this package."""
    parts = target.split(".")
    for end in range(len(parts), 0, -1):
        for name in (".".join(parts[:end]), ".".join([*parts[:end], "__init__"])):
            if name in known:
                return name
    return None


def doors(known: dict[str, str], *, typing: bool) -> dict[str, list[tuple[int, str]]]:
    """The lines and modules that each module imports from its own package."""
    return {
        module: [
            (found.line, target)
            for found in imports(source).found
            if typing or not found.typing
            for target in [resolved(found.target, known)]
            if target is not None and target != module
        ]
        for module, source in known.items()
    }


def wrong_doors(known: dict[str, str]) -> list[str]:
    """Imports that do not point down, type-checking ones included."""
    return [
        f"{module}, line {line}: {room(module)} may not import from {room(target)}"
        for module, targets in doors(known, typing=True).items()
        for line, target in targets
        if room(module) != room(target) and FLOOR[room(target)] >= FLOOR[room(module)]
    ]


def cycle(known: dict[str, str]) -> list[str]:
    """Modules that import each other at run time, be it inside functions; empty if there are none."""
    graph = {module: {target for _, target in found} for module, found in doors(known, typing=False).items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


KNOWN = modules(HOUSE)


def test_every_module_has_a_room() -> None:
    homeless = [module for module in KNOWN if room(module) not in FLOOR]
    assert not homeless, f"give them a room in FLOORS or PARTS: {homeless}"
    assert len(KNOWN) > 20
    assert set(PARTS.values()) <= set(FLOOR)


def test_doors_open_one_way() -> None:
    assert wrong_doors({module: text for module, text in KNOWN.items() if room(module) in FLOOR}) == []


def test_no_module_imports_itself_through_others() -> None:
    assert cycle(KNOWN) == []


@pytest.mark.parametrize("module", KNOWN)
def test_manners(module: str) -> None:
    tree = ast.parse(KNOWN[module])
    found = imports(KNOWN[module])
    assert ast.get_docstring(tree), "a module starts with a docstring"
    assert not found.relative, "imports are absolute"
    early = [i for i in found.found if i.target.split(".")[0] in FRAGILE and not (i.lazy or i.typing)]
    assert not early, "heavy and fragile packages are imported where they are used"
    prints = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not prints or module == "evalsuite.commands.cli", (
        f"only the command line prints, not lines {prints}"
    )


SAMPLE = {
    "evalsuite.errors": "from evalsuite.records import Metric",
    "evalsuite.records": "",
    "evalsuite.metrics": "from evalsuite.records import Metric\nimport evalsuite.errors",
    "evalsuite.metrics.weighted": "from evalsuite import metrics",
    "evalsuite.producers.__init__": "if TYPE_CHECKING:\n    from evalsuite.evaluators import contract",
    "evalsuite.evaluators.contract": "def later():\n    from evalsuite.commands.cli import main",
    "evalsuite.commands.cli": "from evalsuite.evaluators import contract",
}


def test_the_reader_sees_wrong_doors() -> None:
    assert wrong_doors(SAMPLE) == [
        "evalsuite.errors, line 1: errors may not import from records",
        "evalsuite.producers.__init__, line 2: producers may not import from evaluators",
        "evalsuite.evaluators.contract, line 2: evaluators may not import from commands",
    ]


def test_the_reader_sees_cycles_and_relative_imports() -> None:
    assert set(cycle(SAMPLE)) == {"evalsuite.evaluators.contract", "evalsuite.commands.cli"}
    assert cycle(SAMPLE | {"evalsuite.commands.cli": ""}) == []
    assert cycle(
        SAMPLE | {"evalsuite.commands.cli": "", "evalsuite.metrics": "import evalsuite.metrics.weighted"}
    )
    assert imports("from . import errors\nfrom .records import Metric").relative == [1, 2]


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(HOUSE.parent)}
    command = [sys.executable, "-c", dedent(script)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize(
    "arguments",
    ["--help", *(f"list {k}" for k in ("producers", "evaluators", "datasets", "models", "suites"))],
)
def test_help_and_listings_do_not_load_torch(arguments: str, tmp_path: Path) -> None:
    done = run(
        f"""
        import runpy, sys
        sys.argv = ["evalsuite", *"{arguments}".split()]
        try:
            runpy.run_module("evalsuite", run_name="__main__")
        except SystemExit as stop:
            assert not stop.code, stop.code
        heavy = {FRAGILE | {"torch"}} & set(sys.modules)
        assert not heavy, heavy
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_thresholds_results_and_report_never_load_torch(tmp_path: Path) -> None:
    rooms = ("statistics", "potential", "storage", "suite", "results", "report")
    names = [module.removesuffix(".__init__") for module in KNOWN if room(module) in rooms]
    assert {
        "evalsuite.report",
        "evalsuite.results",
        "evalsuite.potential.threshold",
        "evalsuite.potential.tidy",
    } <= set(names)
    done = run(
        f"""
        import importlib, sys
        for name in {names}:
            importlib.import_module(name)
            assert "torch" not in sys.modules, name
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
