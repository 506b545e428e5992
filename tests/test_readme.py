"""The README and the docs: boxes run, and names of modules, files and tests exist."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import evalsuite
from evalsuite import Suite, testing
from evalsuite.config.suite import load_suite
from evalsuite.evaluators import EVALUATORS
from evalsuite.models import MODELS
from evalsuite.plugins import build_model
from evalsuite.producers import PRODUCERS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BOXES = [box for box in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "@register_" in box]
SUITE = """
name = "readme"
ratios = [0.5]
plugins = [{plugins}]
[data]
name = "digits"
[model]
name = "tiny"
width = 8
[[producers]]
name = "layer-scaled"
power = 0.5
[[evaluators]]
name = "margin"
[[evaluators]]
name = "ood"
far = ["stripes"]
"""


@pytest.fixture(scope="module")
def plugged(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """A suite that names the four boxes as plug-in files."""
    folder = tmp_path_factory.mktemp("a folder with spaces")
    for index, box in enumerate(BOXES):
        (folder / f"box{index}.py").write_text(box, "utf-8")
    names = ", ".join(f'"box{index}.py"' for index in range(len(BOXES)))
    path = folder / "readme.toml"
    path.write_text(SUITE.format(plugins=names), "utf-8")
    return load_suite(path)


def test_there_are_four_boxes_below_twenty_lines() -> None:
    assert len(BOXES) == 4
    assert all(len(box.splitlines()) < 20 for box in BOXES)


def test_the_boxes_conform(plugged: Suite) -> None:
    testing.check_producer(PRODUCERS.get("layer-scaled")(power=0.5))  # type: ignore[call-arg]  # a plug-in's own field
    testing.check_evaluator(EVALUATORS.get("margin")())
    testing.check_evaluator(plugged.evaluators[1].plugin)
    testing.check_model(build_model(MODELS.get("tiny")()))


def test_every_shipped_plugin_is_named(plugged: Suite) -> None:
    producers = {choice.name for choice in plugged.producers}
    evaluators = {choice.name for choice in plugged.evaluators}
    mine = {plugged.model.name, *producers, *evaluators}
    for name in {*PRODUCERS, *EVALUATORS} - mine:
        assert f"`{name}`" in README


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_and_tests_that_a_document_names_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    for name, test in re.findall(
        r"`((?:tests|docs|suites|evalsuite)/[\w/.-]+\.(?:py|md|toml))(?:::(\w+))?", text
    ):
        path = ROOT / name
        assert path.is_file(), f"{document.name} names {name}"
        assert not test or f"def {test}(" in path.read_text("utf-8"), f"{document.name} names {name}::{test}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_names_of_evalsuite_that_a_document_has_exist(document: Path) -> None:
    for name in re.findall(r"`(evalsuite(?:\.\w+)+)", document.read_text("utf-8")):
        parent, _, attribute = name.rpartition(".")
        is_module = attribute in {module.name for module in pkgutil.iter_modules(_path(parent))}
        assert is_module or hasattr(importlib.import_module(parent), attribute), (
            f"{document.name} names {name}"
        )


def _path(package: str) -> list[str]:
    return list(getattr(importlib.import_module(package), "__path__", []))


def test_the_tree_in_the_readme_has_every_module() -> None:
    table = README.partition("## Where things are")[2].partition("## Your data")[0]
    for module in pkgutil.iter_modules(evalsuite.__path__):
        if module.name not in ("__main__", "_lazy"):
            assert f"`{module.name}{'/' if module.ispkg else ''}`" in table, module.name
