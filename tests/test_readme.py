"""The README and the docs: boxes run, names of modules, files and tests exist, and the reference has all there is."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import evalsuite
from evalsuite import Suite, plugins, testing
from evalsuite.config.suite_file import KEYS, load_suite, suite_from_tables
from evalsuite.evaluators import EVALUATORS
from evalsuite.models import MODELS
from evalsuite.plugins import build_model
from evalsuite.producers import PRODUCERS
from evalsuite.registry import Registry

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXTENSIONS = (ROOT / "README.md", ROOT / "docs/how-to/extend.md")
BOXES = [
    box
    for path in EXTENSIONS
    for box in re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.DOTALL)
    if "@register_" in box
]
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


@pytest.mark.parametrize(
    ("registry", "document"), [(PRODUCERS, "docs/concepts/methods.md"), (EVALUATORS, "README.md")]
)
def test_every_shipped_plugin_is_named(registry: Registry[Any], document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    for entry in registry.entries():
        assert f"`{entry.name}`" in text or not entry.defined.startswith("evalsuite."), entry


def test_the_readme_is_short() -> None:
    assert len(README.split()) < 900


def test_the_tutorial_has_the_box_of_the_readme() -> None:
    assert BOXES[0] in (ROOT / "docs/tutorials/add-a-method.md").read_text("utf-8")


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """The generated pages of the reference."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/hooks/reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written: dict[str, str] = module.pages()
    return written


def test_the_reference_has_a_sentence_for_everything(pages: dict[str, str]) -> None:
    for name, text in pages.items():
        for line in text.splitlines():
            if line.startswith("| `"):
                assert line.rstrip(" |").count("|") == line.count("|") - 1, f"{name}: {line}"


def test_the_reference_has_every_setting_metric_and_command(pages: dict[str, str]) -> None:
    for registry, page in ((PRODUCERS, "producers"), (EVALUATORS, "evaluators"), (MODELS, "models")):
        for entry in registry.entries():
            assert f"## `{entry.name}`" in pages[page] or not entry.defined.startswith("evalsuite.")
    for option in ("--undecided", "--tolerance", "--figures", "`inspect`", "`sample-size`"):
        assert option in pages["cli"]
    for key in (*KEYS, "epochs", "time_limit", "bypass"):
        assert f"| `{key}` |" in pages["suite"]
    for name in {*evalsuite.__all__, *plugins.__all__, *testing.__all__}:
        assert re.search(rf"[.`]{name}\b", pages["python"]), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_suites_in_documents_are_valid(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(BOXES[0].replace("layer-scaled", "layer-scaled-of-docs"), "utf-8")
    for name in ("apple", "bus"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "1.jpg")
    text = document.read_text("utf-8").replace("layer-scaled", "layer-scaled-of-docs")
    for block in re.findall(r"(?m)^    # \w+\.toml\n((?:    .*\n|\n)+)", text):
        toml = inspect.cleandoc(block.partition("    python -m")[0])
        if tables := tomllib.loads(toml):
            tables.setdefault("model", {"name": "small-cnn"})
            tables.setdefault("ratios", [0.5])
            tables.setdefault("producers", [{"name": "magnitude"}])
            if not str(tables["model"]["name"]).startswith("hf:"):  # a folder that has to be there
                suite_from_tables(tables, source=tmp_path / "suite.toml")


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


def test_the_table_of_packages_has_every_module() -> None:
    table = (ROOT / "docs/concepts/architecture.md").read_text("utf-8")
    for module in pkgutil.iter_modules(evalsuite.__path__):
        if module.name not in ("__main__", "_lazy"):
            assert f"`{module.name}{'/' if module.ispkg else ''}`" in table, module.name
