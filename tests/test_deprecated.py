"""Modules and names of evalsuite 0.1: they work, with a warning that has the new name, and evalsuite uses none."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evalsuite import _deprecated, plugins

ROOT = Path(__file__).parents[1]
MOVED = _deprecated.MOVED
GONE = [old for old, (new, _) in MOVED.items() if old != new]


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Old modules are imported anew by each test."""
    before = set(sys.modules)
    yield
    for name in {*sys.modules} - before:
        if name.removeprefix("evalsuite.") in GONE and getattr(sys.modules[name], "__file__", None) is None:
            del sys.modules[name]


@pytest.mark.parametrize("old", MOVED)
def test_every_module_that_moved_has_a_successor_with_all_its_names(old: str) -> None:
    new, names = MOVED[old]
    importlib.import_module(f"evalsuite.{new}")
    for target in names.values():
        place, _, name = target.rpartition(":")
        assert hasattr(importlib.import_module(f"evalsuite.{place or new}"), name), target


@pytest.mark.parametrize("old", MOVED)
def test_every_old_module_can_be_imported_without_a_warning(old: str) -> None:
    module = importlib.import_module(f"evalsuite.{old}")
    assert importlib.import_module(f"evalsuite.{old}") is module


@pytest.mark.parametrize(
    ("module", "name", "new"),
    [
        pytest.param("records", "Score", "evalsuite.plugins.Score", id="public"),
        pytest.param("potential.threshold", "thresholds", "evalsuite.thresholds", id="public function"),
        pytest.param("results", "Run", "evalsuite.Run", id="package that is there"),
        pytest.param("data", "DATASETS", "evalsuite.datasets.DATASETS, which is private", id="package"),
        pytest.param("data.views", "View", "evalsuite.plugins.View", id="module of a package"),
        pytest.param("data.views", "Change", "evalsuite.plugins.Transform", id="renamed"),
        pytest.param("commands.cli", "main", "evalsuite.cli.main.main, which is private", id="private"),
        pytest.param("producers", "register", "evalsuite.plugins.register_producer", id="decorator"),
        pytest.param(
            "suite", "load", "evalsuite.config.suite_file.load_suite, which is private", id="function"
        ),
        pytest.param(
            "models.checkpoints",
            "read_weights",
            "evalsuite.models.checkpoints.reading.read_weights, which is private",
            id="module that is a package now",
        ),
        pytest.param(
            "results.comparison",
            "careful",
            "evalsuite.results.comparison.apply_search_correction, which is private",
            id="module that is there",
        ),
    ],
)
def test_an_old_name_is_the_new_one_with_a_warning(module: str, name: str, new: str) -> None:
    sentence = rf"^evalsuite\.{module}\.{name} moved to {new}[^;]*; the old name stops working with the next release$"
    old = importlib.import_module(f"evalsuite.{module}")
    with pytest.warns(DeprecationWarning, match=sentence) as caught:
        value = getattr(old, name)
    assert caught[0].filename == __file__
    place, _, attribute = new.partition(",")[0].rpartition(".")
    assert value is getattr(importlib.import_module(place), attribute)


def executed(code: str) -> dict[str, Any]:
    """The names of a user's code, which runs as if it stood in this file."""
    names: dict[str, Any] = {}
    exec(compile(code, __file__, "exec"), names)  # noqa: S102  # the statements of old plug-ins
    return names


def from_module() -> Any:
    return executed("from evalsuite.records import Score")["Score"]


def from_root() -> Any:
    return executed("from evalsuite import records; Score = records.Score")["Score"]


def from_package() -> Any:
    return executed("from evalsuite.data import dataset; found = dataset.DataSet")["found"]


def dotted() -> Any:
    return executed("import evalsuite.data.dataset; found = evalsuite.data.dataset.DataSet")["found"]


@pytest.mark.parametrize("spelling", [from_module, from_root, from_package, dotted])
def test_all_spellings_of_an_import_work(spelling: Callable[[], Any]) -> None:
    with pytest.warns(DeprecationWarning, match=r" moved to evalsuite\.plugins\."):
        value = spelling()
    assert value in (plugins.Score, plugins.DataSet)


@pytest.mark.parametrize("module", ["records", "data", "commands.cli", "results", "training.batches"])
def test_an_unknown_name_is_an_attribute_error(module: str) -> None:
    with pytest.raises(AttributeError, match=rf"^module 'evalsuite\.{module}' has no attribute 'Scoer'"):
        importlib.import_module(f"evalsuite.{module}").Scoer  # noqa: B018  # the look-up is what is tested


def test_an_unknown_module_is_a_module_not_found_error() -> None:
    for name in ("evalsuite.record", "evalsuite.data.view", "evalsuite.records.score"):
        with pytest.raises(ModuleNotFoundError, match=name.rpartition(".")[2]):
            importlib.import_module(name)


def imported_names(source: str) -> set[str]:
    """Everything that a source imports, with and without the last part."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_no_source_of_this_repository_imports_by_an_old_name() -> None:
    gone = {f"evalsuite.{old}" for old in GONE if not _exists(old)}
    assert len(gone) > 100
    for path in [*ROOT.glob("evalsuite/**/*.py"), *ROOT.glob("tests/**/*.py")]:
        if path != Path(__file__):
            assert not imported_names(path.read_text("utf-8")) & gone, path


def _exists(module: str) -> bool:
    path = ROOT.joinpath("evalsuite", *module.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


IMPORT_ALL = """
import importlib, pkgutil, evalsuite
for module in pkgutil.walk_packages(evalsuite.__path__, "evalsuite."):
    if module.name != "evalsuite.__main__":
        importlib.import_module(module.name)
"""


@pytest.mark.slow
def test_no_module_of_evalsuite_warns_when_it_is_imported(python: Callable[..., Any]) -> None:
    ended = python("-W", "error:evalsuite:DeprecationWarning", "-c", IMPORT_ALL)
    assert (ended.code, ended.err) == (0, "")
