"""What a result depends on: the code behind it, the data folder, and a record that can be repeated."""

from __future__ import annotations

import ast
import dataclasses
import os
import shlex
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from evalsuite.config.suite import Suite, load_suite
from evalsuite.errors import UserError
from evalsuite.evaluators import EVALUATORS
from evalsuite.evaluators.accuracy import Accuracy
from evalsuite.evaluators.noise import Noise
from evalsuite.producers import PRODUCERS
from evalsuite.producers.unstructured.global_threshold import Magnitude
from evalsuite.runs import provenance
from evalsuite.runs.provenance import (
    MEASURING,
    PRODUCING,
    Options,
    code_digest,
    covered,
    data_root,
    git_revision,
)

if TYPE_CHECKING:
    from evalsuite.registry import Registry

HOUSE = Path(__file__).parents[2] / "evalsuite"

PLAIN = {
    *("errors.py", "registry.py", "records.py", "choices.py"),
    *("storage/store.py", "suite/__init__.py", "running/provenance.py"),
}
"""Words and records: no number depends on how they are written down or read."""


def imported(path: Path) -> set[Path]:
    """Files of the package that a file needs at run time; ``import`` statements for type checkers do not count."""
    found: set[Path] = set()
    body = ast.parse(path.read_text("utf-8"))
    typing = {
        id(node)
        for branch in ast.walk(body)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(body):
        if (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("evalsuite")
            and id(node) not in typing
        ):
            base = HOUSE.joinpath(*str(node.module).split(".")[1:])
            if all(name.name.startswith("check_") for name in node.names):
                continue  # what refuses a setting makes no number
            for place in (base, *(base / name.name for name in node.names)):
                found |= {
                    file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()
                }
    return found - {HOUSE / "__init__.py"}


def closure(start: set[Path]) -> set[Path]:
    """All files that the files of `start` need, through others too."""
    reached, todo = set(start), list(start)
    while todo:
        fresh = imported(todo.pop()) - reached
        fresh = {path for path in fresh if path.relative_to(HOUSE).as_posix() not in PLAIN}
        reached |= fresh
        todo += fresh
    return reached


def listings(paths: set[Path]) -> set[Path]:
    """The registries of names, which hold no mathematics."""
    return {
        path
        for path in paths
        if path.name == "__init__.py" and path.parent.name in ("producers", "evaluators")
    }


@pytest.mark.parametrize(
    ("rooms", "registry", "engine"),
    [(MEASURING, EVALUATORS, "running/measuring.py"), (PRODUCING, PRODUCERS, "running/production.py")],
    ids=["measuring", "producing"],
)
def test_every_file_that_a_number_comes_through_is_in_its_digest(
    rooms: tuple[str, ...], registry: Registry[type], engine: str
) -> None:
    shipped = [name for name in registry if registry.get(name).__module__.startswith("evalsuite.")]
    assert len(shipped) > 10  # other tests may have plugged in more
    for name in shipped:
        plugin = registry.get(name)
        inside = covered(rooms, plugin)
        needed = closure({HOUSE / engine, *(path for path in inside if HOUSE in path.parents)})
        assert {path.relative_to(HOUSE).as_posix() for path in needed - listings(needed) - inside} == set(), (
            name
        )


def test_the_digest_follows_the_plug_in_and_the_classes_it_is_built_on(tmp_path: Path) -> None:
    assert code_digest(MEASURING, Accuracy) == code_digest(MEASURING, Accuracy)
    assert (
        len({code_digest(MEASURING), code_digest(MEASURING, Noise), code_digest(PRODUCING, Magnitude)}) == 3
    )
    base = tmp_path / "base.py"
    base.write_text("class Base:\n    pass\n")
    spec = spec_from_file_location("own_base", base)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "own_base", module)
        child = type("Child", (module.Base,), {"__module__": __name__})
        assert {base, Path(__file__)} <= covered(MEASURING, child)


def test_a_changed_file_changes_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.py").write_text("1")
    (tmp_path / "bench.py").write_text("1")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "running" / "provenance.py"))
    code = code_digest.__wrapped__
    before = code(("data", "bench.py"))
    assert code(("data", "bench.py")) == before
    (tmp_path / "data" / "x.py").write_text("2")
    assert code(("data", "bench.py")) != before
    with pytest.raises(FileNotFoundError):
        code(("no_such_room",))


def suite(folder: Path, root: str = "") -> Suite:
    return dataclasses.replace(load_suite("digits"), source=folder / "suite.toml", data_root=root)


def test_the_data_folder_is_the_option_then_the_environment_then_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("option", "environment", "suites/here", "home/data"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    own = suite(tmp_path / "suites", "here")
    monkeypatch.delenv("EVALSUITE_DATA", raising=False)
    assert data_root(None, Options()) is None
    assert data_root(suite(tmp_path), Options()) is None
    assert data_root(own, Options()) == tmp_path / "suites" / "here"
    assert data_root(suite(tmp_path, "~/data"), Options()) == tmp_path / "home" / "data"
    assert data_root(suite(tmp_path, str(tmp_path / "option")), Options()) == tmp_path / "option"
    monkeypatch.setenv("EVALSUITE_DATA", str(tmp_path / "environment"))
    assert data_root(own, Options()) == tmp_path / "environment"
    assert data_root(own, Options(data=tmp_path / "option")) == tmp_path / "option"


@pytest.mark.parametrize("origin", ["--data", "EVALSUITE_DATA", "data_root"])
def test_a_data_folder_that_is_not_there_is_named_with_its_origin(
    origin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVALSUITE_DATA", raising=False)
    if origin == "EVALSUITE_DATA":
        monkeypatch.setenv(origin, str(tmp_path / "gone"))
    options = Options(data=tmp_path / "gone" if origin == "--data" else None)
    with pytest.raises(UserError, match=rf"{origin} names the data folder .*gone, which does not exist"):
        data_root(suite(tmp_path, "gone" if origin == "data_root" else ""), options)


def test_a_seed_replaces_those_of_the_suite() -> None:
    own = dataclasses.replace(load_suite("digits"), seeds=(0, 1))
    assert Options().applied(own).seeds == (0, 1)
    assert Options(seed=7).applied(own).seeds == (7,)
    with pytest.raises(UserError, match="found seed -1, expected an integer from 0 on"):
        Options(seed=-1).applied(own)


def test_the_record_says_everything_about_the_suite() -> None:
    said = provenance.described(load_suite("digits"))
    assert set(said) == {field.name for field in dataclasses.fields(Suite)}
    assert said["evaluators"][0] == {"label": "accuracy", "name": "accuracy"}
    attack = next(table for table in said["evaluators"] if table["label"] == "attack")
    assert attack["attacks"] == ["fgsm", "linf-pgd", "linf-noise"]  # a default, written out
    assert said["recipe"]["momentum"] == 0.9


def test_the_command_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    options = Options(seed=3, device="cuda:1", data=folder, download=True)
    words = shlex.split(provenance.command(suite(folder), options))
    assert words[:5] == ["python", "-m", "evalsuite", "run", str(folder / "suite.toml")]
    assert words[5:] == ["--seed", "3", "--device", "cuda:1", "--data", str(folder), "--download"]
    shipped_suite = provenance.command(load_suite("digits"), Options())
    assert shlex.split(shipped_suite)[4:] == ["digits"]  # on any machine
    assert provenance.described(load_suite("digits"))["source"] == "digits"
    assert provenance.described(suite(folder))["source"] == str(folder / "suite.toml")


def git(*words: str, folder: Path) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@x", *words]
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def test_the_revision_is_that_of_the_code_and_of_no_repository_around_it(tmp_path: Path) -> None:
    assert git_revision(tmp_path) == ""
    code, installed = tmp_path / "package", tmp_path / ".venv" / "package"
    for folder in (code, installed):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
    git("init", "--quiet", folder=tmp_path)
    git("add", "package", folder=tmp_path)
    git("commit", "--quiet", "-m", "x", folder=tmp_path)
    commit = git("rev-parse", "HEAD", folder=tmp_path)
    assert git_revision(code) == commit
    assert git_revision(installed) == ""  # somebody else's repository, in which evalsuite is only installed
    (code / "__init__.py").write_text("changed")
    assert git_revision(code) == f"{commit}+changes"


def test_versions_and_hardware_are_there() -> None:
    found = provenance.versions()
    assert all(found[name].partition(".")[0].isdigit() for name in ("python", "torch", "numpy"))
    said = provenance.hardware("cpu")
    assert said["device"] == "cpu"
    assert int(said["cores"]) >= 1
