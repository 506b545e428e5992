"""Packages that only some commands need: imported where they are used, each in an extra, and missed in one sentence."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from evalsuite.datasets.base import Place
from evalsuite.datasets.huggingface import HuggingFace
from evalsuite.errors import EvalsuiteError
from evalsuite.models.architectures.uris import architecture_from_uri
from evalsuite.models.exported.inspection import inspect_program
from evalsuite.report.export import _as_parquet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = {name: needed for name, needed in PROJECT["optional-dependencies"].items() if name != "docs"}
IMPORTED_AS = {
    "scikit-learn": "sklearn",
    "vl-convert-python": "vl_convert",
    "pillow": "PIL",
    "mlflow-skinny": "mlflow",
}
"""Distributions whose modules have another name."""


def _modules(requirements: list[str]) -> set[str]:
    """Names under which requirements are imported."""
    names = {re.split(r"[<>=!\[ ]", requirement)[0] for requirement in requirements}
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}


CORE = _modules(PROJECT["dependencies"])
OPTIONAL = set().union(*(_modules(needed) for name, needed in EXTRAS.items() if name != "test")) - CORE


def _early_imports(tree: ast.Module) -> set[str]:
    """Packages that importing a module imports: statements outside functions and type-checking blocks."""
    names = set()
    statements = list(tree.body)
    while statements:
        node = statements.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            statements += [*node.body, *node.orelse]
        elif isinstance(node, ast.Try | ast.With | ast.ClassDef):
            statements += node.body
    return names


def test_no_module_imports_an_optional_package_when_it_is_imported() -> None:
    early = {
        path.relative_to(ROOT).as_posix(): sorted(
            _early_imports(ast.parse(path.read_text("utf-8"))) & OPTIONAL
        )
        for path in (ROOT / "evalsuite").rglob("*.py")
    }
    assert {"altair", "onnx", "pyarrow", "ray", "transformers"} <= OPTIONAL
    assert {path: names for path, names in early.items() if names} == {}


def test_the_reader_of_imports_sees_those_outside_functions_alone() -> None:
    source = (
        "import onnx.helper\nif TYPE_CHECKING:\n    import ray\ntry:\n    from pyarrow import parquet\n"
        "except ImportError:\n    pass\ndef later():\n    import altair\n"
    )
    assert _early_imports(ast.parse(source)) == {"onnx", "pyarrow"}


def _program(folder: Path) -> None:
    file = folder / "network.onnx"
    file.write_bytes(b"never read")
    inspect_program(file)


def _tables(folder: Path) -> None:
    (folder / "test-00000-of-00001.parquet").write_bytes(b"never read")
    HuggingFace(str(folder)).load("test", Place())


def _parquet(_: Path) -> None:
    _as_parquet(pd.DataFrame({"value": [1.0]}))


def _model_folder(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "vit"}', "utf-8")
    (folder / "model.safetensors").write_bytes(b"never read")
    architecture_from_uri(f"hf:{folder}")


@pytest.mark.parametrize(
    ("package", "extra", "needing"),
    [
        pytest.param("onnx", "programs", _program, id="a program in ONNX"),
        pytest.param("pyarrow", "parquet", _tables, id="tables of pictures"),
        pytest.param("pyarrow", "parquet", _parquet, id="export to parquet"),
        pytest.param("transformers", "transformers", _model_folder, id="a model folder"),
    ],
)
def test_what_is_missing_is_named_with_the_extra_that_has_it(
    package: str,
    extra: str,
    needing: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    assert package in _modules(EXTRAS[extra])
    with pytest.raises(EvalsuiteError) as error:
        needing(tmp_path)
    assert package in str(error.value)
    assert f"pip install 'evalsuite[{extra}]'" in str(error.value)


def test_every_extra_is_explained_where_people_install() -> None:
    page = (ROOT / "docs" / "get-started.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|$", page, re.MULTILINE))
    assert rows.keys() == EXTRAS.keys() - {"test"}
    assert all(len(meaning) > 10 for meaning in rows.values())
