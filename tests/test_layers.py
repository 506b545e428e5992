"""Layers: imports point down only, as read from the source; and what start-up may not load."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from textwrap import dedent

import pytest

PACKAGE = Path(__file__).parents[1] / "evalsuite"

LAYERS: tuple[tuple[str, ...], ...] = (
    ("_deprecated", "_lazy", "errors", "types", "random_streams"),
    ("registry", "tolerances", "atomic_files", "cache_folder", "legacy_names", "preprocessing"),
    ("condition_splits",),
    ("cost_axes", "plugin_config", "compat"),
    ("metrics",),
    ("statistics", "thresholds"),
    ("datasets", "models"),
    ("detectors", "model_checks", "training"),
    ("evaluation",),
    ("attacks",),
    ("producers", "evaluators"),
    ("config",),
    ("runs",),
    ("results",),
    ("execution",),
    ("report",),
    ("notebook",),
    ("api",),
    ("plugins", "testing"),
    ("cli",),
    ("__init__", "__main__"),
)
"""Packages and modules from the ground up: each imports from the layers below its own, never from beside it."""

LAYER = {package: index for index, packages in enumerate(LAYERS) for package in packages}
FRAGILE = {"robustbench", "foolbox", "torchvision", "torch_pruning", "vl_convert"}
"""Heavy or fragile packages, imported inside functions only."""


@dataclass(frozen=True)
class Import:
    """One imported name: its line, its target, and when it is imported."""

    line: int
    target: str
    typing: bool
    lazy: bool


class Imports(ast.NodeVisitor):
    """A collector of the imports of a module, with the blocks that they are in."""

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


@cache
def imports(source: str) -> Imports:
    visitor = Imports()
    visitor.visit(ast.parse(source))
    return visitor


def modules(package: Path) -> dict[str, str]:
    """Dotted names of all modules of a package, and their source."""
    return {
        ".".join([package.name, *path.relative_to(package).with_suffix("").parts]): path.read_text("utf-8")
        for path in sorted(package.rglob("*.py"))
    }


def layer_of(module: str) -> str:
    """The package or module of a layer: that of ``evalsuite.datasets.views`` is ``datasets``."""
    return module.split(".")[1]


def resolved(target: str, known: dict[str, str]) -> str | None:
    """The module that an imported name lives in, or ``None`` if it is not of this package."""
    parts = target.split(".")
    for end in range(len(parts), 0, -1):
        for name in (".".join(parts[:end]), ".".join([*parts[:end], "__init__"])):
            if name in known:
                return name
    return None


def internal_imports(known: dict[str, str], *, typing: bool) -> dict[str, list[tuple[int, str]]]:
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


def upward_imports(known: dict[str, str]) -> list[str]:
    """Imports that do not point down, type-checking ones included."""
    return [
        f"{module}, line {line}: {layer_of(module)} may not import from {layer_of(target)}"
        for module, targets in internal_imports(known, typing=True).items()
        for line, target in targets
        if layer_of(module) != layer_of(target) and LAYER[layer_of(target)] >= LAYER[layer_of(module)]
    ]


def cycle(known: dict[str, str]) -> list[str]:
    """Modules that import each other at run time, be it inside functions; empty if there are none."""
    graph = {
        module: {target for _, target in found}
        for module, found in internal_imports(known, typing=False).items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


KNOWN = modules(PACKAGE)


def test_every_module_has_a_layer() -> None:
    missing = [module for module in KNOWN if layer_of(module) not in LAYER]
    assert not missing, f"give them a layer in LAYERS: {missing}"
    assert len(KNOWN) > 20


def test_imports_point_down() -> None:
    assert upward_imports({module: text for module, text in KNOWN.items() if layer_of(module) in LAYER}) == []


def test_no_module_imports_itself_through_others() -> None:
    assert cycle(KNOWN) == []


@pytest.mark.parametrize("module", KNOWN)
def test_conventions(module: str) -> None:
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
    assert not prints or module == "evalsuite.cli.main", f"only the command line prints, not lines {prints}"


SAMPLE = {
    "evalsuite.errors": "from evalsuite.types import Metric",
    "evalsuite.types": "",
    "evalsuite.metrics": "from evalsuite.types import Metric\nimport evalsuite.errors",
    "evalsuite.metrics.weighted": "from evalsuite import metrics",
    "evalsuite.producers.__init__": "if TYPE_CHECKING:\n    from evalsuite.evaluators import base",
    "evalsuite.evaluators.base": "def later():\n    from evalsuite.cli.main import main",
    "evalsuite.cli.main": "from evalsuite.evaluators import base",
}


def test_the_reader_sees_upward_imports() -> None:
    assert upward_imports(SAMPLE) == [
        "evalsuite.errors, line 1: errors may not import from types",
        "evalsuite.producers.__init__, line 2: producers may not import from evaluators",
        "evalsuite.evaluators.base, line 2: evaluators may not import from cli",
    ]


def test_the_reader_sees_cycles_and_relative_imports() -> None:
    assert set(cycle(SAMPLE)) == {"evalsuite.evaluators.base", "evalsuite.cli.main"}
    assert cycle(SAMPLE | {"evalsuite.cli.main": ""}) == []
    assert cycle(
        SAMPLE | {"evalsuite.cli.main": "", "evalsuite.metrics": "import evalsuite.metrics.weighted"}
    )
    assert imports("from . import errors\nfrom .records import Metric").relative == [1, 2]


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
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
    packages = ("statistics", "thresholds", "runs", "config", "results", "report")
    names = [module.removesuffix(".__init__") for module in KNOWN if layer_of(module) in packages]
    assert {
        "evalsuite.report",
        "evalsuite.results.run",
        "evalsuite.thresholds.threshold",
        "evalsuite.thresholds.long_table",
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


WRITERS = {"mkstemp", "NamedTemporaryFile", "write_bytes", "write_text", "replace"}
"""Names of calls that write a file or move one to its place; ``replace`` of one argument is that of a path."""


@pytest.mark.parametrize("module", [name for name in KNOWN if name != "evalsuite.atomic_files"])
def test_files_are_written_by_one_writer(module: str) -> None:
    """It synchronises a file and its folder, so that a killed machine leaves whole files."""
    calls = [
        node
        for node in ast.walk(ast.parse(KNOWN[module]))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WRITERS
    ]
    wrong = [
        f"line {call.lineno}: {ast.unparse(call)}"
        for call in calls
        if not (isinstance(call.func, ast.Attribute) and call.func.attr == "replace")
        or (len(call.args) == 1 and not call.keywords)
    ]
    assert not wrong, "write with evalsuite.atomic_files"
