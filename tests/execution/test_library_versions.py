"""Which versions make results stale: those of libraries whose algorithms a test calls, and not evalsuite's own."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from evalsuite.execution.planning import prepare
from evalsuite.runs.plan import RunPlan


def plan(root: Path) -> RunPlan:
    return prepare("digits", out=root / "nowhere").plan


def install(package: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a distribution of another version before the one that is installed; its modules are not touched."""
    information = folder / f"{package}-999.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 999\n", "utf-8")
    monkeypatch.syspath_prepend(folder)
    assert version(package) == "999"


def test_a_release_of_evalsuite_makes_nothing_stale_and_one_of_foolbox_the_attacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = plan(tmp_path)
    install("evalsuite", tmp_path, monkeypatch)
    assert plan(tmp_path) == before
    install("foolbox", tmp_path, monkeypatch)
    after = plan(tmp_path)
    digests = {test.label: test.inputs for test in before.tests}
    assert [test.label for test in after.tests if test.inputs != digests[test.label]] == ["attack"]
