"""What is written down about a run: its suite, command, code, versions and hardware; and where its data is."""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from evalsuite.config.options import Options, data_root
from evalsuite.config.suite import Suite
from evalsuite.config.suite_file import load_suite
from evalsuite.errors import UserError
from evalsuite.runs import provenance
from evalsuite.runs.provenance import git_revision


def test_the_old_name_of_the_data_root_works_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="Options.data_root=...."):
        options = Options(data=tmp_path)
    assert options.data_root == tmp_path


def test_the_text_of_a_suite_is_kept() -> None:
    shipped = load_suite("digits")
    assert provenance.record(shipped, Options())["suite_text"] == shipped.source.read_text("utf-8")


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
    assert data_root(own, Options(data_root=tmp_path / "option")) == tmp_path / "option"


@pytest.mark.parametrize("origin", ["--data-root", "EVALSUITE_DATA", "data_root"])
def test_a_data_folder_that_is_not_there_is_named_with_its_origin(
    origin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVALSUITE_DATA", raising=False)
    if origin == "EVALSUITE_DATA":
        monkeypatch.setenv(origin, str(tmp_path / "gone"))
    options = Options(data_root=tmp_path / "gone" if origin == "--data-root" else None)
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
    defaults = {
        *(
            "automatic",
            "check",
            "checkpoint_entry",
            "checkpoint_weights",
            "classes_stated",
            "conditions",
            "control",
            "limit",
            "notes",
        ),
        *("parent_accuracy", "pruned_only", "sequential"),
    }  # said where they differ, or in the record elsewhere
    assert set(said) == {field.name for field in dataclasses.fields(Suite)} - {"text"} - defaults
    assert said["evaluators"][0] == {"label": "accuracy", "name": "accuracy"}
    attack = next(table for table in said["evaluators"] if table["label"] == "attack")
    assert attack["restarts"] == 1  # a default, written out
    assert said["recipe"]["momentum"] == 0.9


def test_the_command_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    options = Options(seed=3, device="cuda:1", data_root=folder, download=True)
    words = shlex.split(provenance.command(suite(folder), options))
    assert words[:5] == ["python", "-m", "evalsuite", "run", str(folder / "suite.toml")]
    assert words[5:] == ["--seed", "3", "--device", "cuda:1", "--data-root", str(folder), "--download"]
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
    assert git_revision(installed) == ""  # another repository, in which evalsuite is only installed
    (code / "__init__.py").write_text("changed")
    assert git_revision(code) == f"{commit}+changes"


def test_versions_and_hardware_are_there() -> None:
    found = provenance.versions()
    assert all(found[name].partition(".")[0].isdigit() for name in ("python", "torch", "numpy"))
    said = provenance.hardware("cpu")
    assert said["device"] == "cpu"
    assert int(said["cores"]) >= 1
