"""The public names: all of them, with their types, from an import that loads nothing."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import evalsuite

ROOT = Path(__file__).parents[1]
PUBLIC = {
    "evalsuite": [
        "Architecture", "Candidate", "CheckRequest", "Context", "DataSet", "EvalsuiteError", "Evaluator",
        "ImageSet", "Metric", "Options", "Producer", "Run", "Score", "Suite", "Threshold", "UserError",
        "__version__", "check", "evaluate", "publish", "required_images", "required_seeds", "run", "threshold",
        "thresholds",
    ],
    "evalsuite.plugins": [
        "Architecture", "Array", "Bench", "CellError", "ChannelGroup", "Condition", "Context", "ContractError",
        "DataError", "DataSet", "DataSummary", "EvalsuiteError", "Evaluator", "FilterProducer", "Floats",
        "Hooks", "ImageSet", "InvalidModelError", "Metric", "Normalized", "Outputs", "Phase", "Place",
        "Producer", "Recipe", "Score", "SkippedError", "Split", "StoredImages", "SuiteError", "Transform",
        "UserError", "View", "WeightProducer", "address", "build_model", "check_once", "count_nonzero",
        "declare", "generator", "logits", "per_filter", "prunable_layers", "prunable_parameters",
        "register_architecture", "register_dataset", "register_evaluator", "register_producer",
    ],
    "evalsuite.testing": [
        "FewDigits", "check_evaluator", "check_model", "check_producer",
    ],
}  # fmt: skip
"""All names that users may import. One that changes is in the changelog, and its old name works for one release."""

NAMES = [(module, name) for module, names in PUBLIC.items() for name in names]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_module_exports_its_public_names_and_no_others(name: str) -> None:
    module = import_module(name)
    assert sorted(module.__all__) == dir(module) == PUBLIC[name]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_every_public_name_is_there_and_documented(module: str, name: str) -> None:
    value = getattr(import_module(module), name)
    assert value is not None
    if inspect.isclass(value) or inspect.isroutine(value):
        assert inspect.getdoc(value)


@pytest.mark.parametrize("name", PUBLIC)
def test_other_names_are_attribute_errors(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'Scoer'"):
        import_module(name).Scoer  # noqa: B018  # the look-up is what is tested


def test_a_function_is_not_hidden_by_the_package_of_its_name() -> None:
    import_module("evalsuite.thresholds.threshold")
    table = pd.DataFrame({"method": "m", "ratio": [0.0, 0.5], "metric": "accuracy", "condition": "clean",
                          "value": [0.9, 0.9], "higher_is_better": True})  # fmt: skip
    assert set(evalsuite.thresholds(table, tolerance=0.01)["potential"]) == {0.5}


LIGHT = """
import sys
before = set(sys.modules)
import evalsuite, evalsuite.plugins
assert dir(evalsuite) and dir(evalsuite.plugins)
heavy = {"torch", "numpy", "pandas", "scipy", "pydantic", "typer"} & {*sys.modules} - before
assert not heavy, heavy
assert evalsuite.plugins.Metric and "torch" not in sys.modules
"""


def test_an_import_loads_no_library(python: Callable[..., Any]) -> None:
    assert python("-c", LIGHT).err == ""


MYPY = """
[mypy]
strict = true
[mypy-torch.*,pandas.*,scipy.*,sklearn.*,pydantic.*,rich.*,typer.*,jinja2.*,PIL.*]
follow_imports = skip
follow_imports_for_stubs = true
ignore_missing_imports = true
"""
"""Strict; most libraries are left out, since only evalsuite's own types are of interest here."""
USER_FILE = """
from collections.abc import Iterator
from dataclasses import dataclass

from evalsuite import Run, run
from evalsuite.plugins import Bench, Evaluator, Metric, Score, View, register_evaluator


@register_evaluator("typed")
@dataclass(frozen=True)
class Typed(Evaluator):
    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (Metric("typed", higher_is_better=True, unit="fraction", text="A metric."),)

    @property
    def needs(self) -> tuple[View, ...]:
        return (View(),)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        yield Score("typed", "clean", evidence={"test": bench.outputs(View()).confidence})


results: Run = run("digits")
Score(metric=1, condition="clean")
from evalsuite.plugins import Scoer
"""


@pytest.mark.slow
def test_a_type_checker_sees_the_types_of_all_public_names(tmp_path: Path) -> None:
    (tmp_path / "mypy.ini").write_text(MYPY, "utf-8")
    (tmp_path / "user.py").write_text(USER_FILE, "utf-8")
    reveals = [f"reveal_type({module}.{name})" for module, name in NAMES]
    (tmp_path / "reveal.py").write_text(
        "\n".join([*(f"import {name}" for name in PUBLIC), *reveals]), "utf-8"
    )
    command = (sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "user.py", "reveal.py")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    assert len(revealed) == len(NAMES), done.stdout + done.stderr
    unknown = [name for (_, name), kind in zip(NAMES, revealed, strict=True) if kind == "Any"]
    assert unknown == []
    errors = [line.partition(" error: ")[2] for line in done.stdout.splitlines() if " error: " in line]
    assert len(errors) == 2
    assert errors[0].startswith('Argument "metric" to "Score" has incompatible type "int"')
    assert errors[1].startswith('Module "evalsuite.plugins" has no attribute "Scoer"')


def evalsuite_imports(source: str) -> set[str]:
    """The modules of evalsuite that a source imports from, and every name that it takes from one."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "evalsuite"}


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_readme_and_docs_and_the_external_plugin_import_public_names_only() -> None:
    sources = [(ROOT / "examples" / "plugin" / "evalsuite_outside.py").read_text("utf-8")]
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        sources += re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        sources += re.findall(r"^(?:>>> |    )((?:from|import) evalsuite.*)$", text, re.MULTILINE)
    imported = set().union(*map(evalsuite_imports, sources))
    assert len(imported) > 10
    assert imported <= {*PUBLIC, *(f"{module}.{name}" for module, name in NAMES), "evalsuite.plugins"}
