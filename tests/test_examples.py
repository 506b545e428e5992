"""The examples do what they say: commands of "Get started", the script of the action, the job of a cluster."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from evalsuite.cli.main import app

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
yaml = pytest.importorskip("yaml")


def environment(**more: str) -> dict[str, str]:
    """An environment in which `python` is this one, with evalsuite."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more


def options_of(command: str) -> set[str]:
    parameters: list[Any] = list(typer.main.get_group(app).commands[command].params)
    return {name for parameter in parameters for name in parameter.opts}


def test_options_in_pipelines_exist() -> None:
    texts = [
        (ROOT / "action.yml").read_text("utf-8"),
        (ROOT / "docs/tutorials/check-in-ci.md").read_text("utf-8"),
    ]
    texts += [path.read_text("utf-8") for path in (EXAMPLES / "ci").iterdir()]
    used = {option for text in texts for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)}
    assert {"--junit", "--markdown", "--limit"} <= used
    assert used - {"--quiet"} <= options_of("check")


def test_the_workflow_gives_inputs_that_the_action_has() -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
    workflow = yaml.safe_load((EXAMPLES / "ci" / "github.yml").read_text("utf-8"))
    (step,) = (step for step in workflow["jobs"]["check"]["steps"] if "evalsuite" in step["uses"])
    assert set(step["with"]) <= set(action["inputs"])
    assert {name for name, value in action["inputs"].items() if value.get("required")} <= set(step["with"])
    assert (
        "script" in yaml.safe_load((EXAMPLES / "ci" / "gitlab.yml").read_text("utf-8"))["check-pruned-model"]
    )


@pytest.mark.extensive
def test_get_started_and_the_action_give_the_verdicts_that_the_text_states(tmp_path: Path) -> None:
    for name in ("make.py", "network.py"):
        shutil.copy(EXAMPLES / "own_pictures" / name, tmp_path)
    surroundings = environment()
    text = (ROOT / "docs" / "get-started.md").read_text("utf-8")
    blocks = re.findall(r"(?m)^    (python (?:.*\\\n)*.*)$", text)
    make, inspect, plan, check = (shlex.split(block.replace("\\\n", " ")) for block in blocks)
    for command, expected in (
        (make, ""),
        (inspect, "are not zero"),
        (plan, "600 test images"),
        (check[:-2], "UNDECIDED"),
    ):
        done = subprocess.run(
            command, cwd=tmp_path, env=surroundings, capture_output=True, text=True, check=False
        )
        assert done.returncode == (command[3:4] == ["check"] and "--dry-run" not in command), done.stderr
        assert expected in done.stdout
    action = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
    (script,) = (step["run"] for step in action["runs"]["steps"] if step.get("id") == "check")
    summary = tmp_path / "summary.md"
    inputs = {
        "DATA": "photos",
        "PARENT": "dense.pt",
        "CANDIDATES": "pruned_20.pt pruned_50.pt",
        "MODEL": "network.py:small",
        "OPTIONS": "--limit 300",
    }
    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=surroundings | inputs | {"GITHUB_STEP_SUMMARY": str(summary)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "| pruned\\_50 | **DO NOT SHIP** |" in summary.read_text("utf-8")
    assert (tmp_path / "evalsuite-report" / "index.html").is_file()


@pytest.mark.extensive
def test_the_job_of_a_cluster_runs_a_suite(small_suite: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(small_suite(top="control = false"), "utf-8")
    command = ["/bin/bash", str(EXAMPLES / "cluster" / "slurm.sh"), "small.toml"]
    subprocess.run(command, cwd=tmp_path, env=environment(EVALSUITE_DEVICE="cpu"), check=True)
    assert (tmp_path / "reports" / "small" / "index.html").is_file()


@pytest.mark.extensive
def test_the_notebook_runs_and_shows_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("altair")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "keep it without outputs"
    client = nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/svg+xml" in data for data in shown) == 3
    html = [str(data["text/html"]) for data in shown if "text/html" in data]
    assert any("<b>magnitude</b>" in text and "<svg" in text for text in html)
    assert any("noninferior_up_to" in text for text in html)
    assert (tmp_path / "verdict.svg").read_text("utf-8").startswith("<svg")
