"""Plug-ins of another package are found by entry points: installed, listed, conforming, and used in a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "examples" / "plugin"
SUITE = """
name = "outside"
control = false
ratios = [0.5]
[data]
name = "digits"
[model]
name = "slim"
[recipe]
epochs = 1
[[producers]]
name = "tail"
[[evaluators]]
name = "unconfidence"
[[evaluators]]
name = "ood"
far = ["greys"]
[tolerances]
unconfidence = 0.5
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the package in ``examples/plugin`` is installed."""
    site = tmp_path_factory.mktemp("site")
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    subprocess.run([sys.executable, *install, "--target", str(site), str(PLUGIN)], check=True)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}


def test_its_plugins_are_listed_with_their_place(environment: dict[str, str]) -> None:
    for kind, name, place in (
        ("producers", "tail", "evalsuite_outside:Tail"),
        ("evaluators", "unconfidence", "evalsuite_outside:Unconfidence"),
        ("datasets", "greys", "evalsuite_outside:Greys"),
        ("models", "slim", "evalsuite_outside:Slim"),
    ):
        command = [sys.executable, "-m", "evalsuite", "list", kind]
        listed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        line = next(line for line in listed.splitlines() if line.startswith(name))
        assert line.endswith(place)


@pytest.mark.extensive
def test_they_conform_and_run(environment: dict[str, str], tmp_path: Path) -> None:
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(PLUGIN)]
    subprocess.run(tests, env=environment, cwd=tmp_path, check=True)
    (tmp_path / "outside.toml").write_text(SUITE, "utf-8")
    command = [sys.executable, "-m", "evalsuite", "run", "outside.toml", "--out", "run"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "run" / "thresholds.csv").read_text("utf-8")
    assert "tail,nonzero,0,unconfidence,clean" in table
    assert "greys" in (tmp_path / "run" / "measurements.csv").read_text("utf-8")
