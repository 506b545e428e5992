"""One plan for everything that asks: the run, its dry run, its search, its status and its report agree."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import evalsuite
from evalsuite import Run
from evalsuite.cli import main
from evalsuite.config import suite_file
from evalsuite.datasets.base import Place
from evalsuite.datasets.digits import Digits
from evalsuite.results import run as results
from evalsuite.results.comparison import Comparison
from evalsuite.thresholds.threshold import threshold_rows
from evalsuite.types import ImageSet, Split

PACKAGE = Path(str(evalsuite.__file__)).parent
EDITED_SUITE = '''
from dataclasses import dataclass
from pathlib import Path
from evalsuite import Evaluator, Metric, Score
from evalsuite.plugins import View, register_evaluator

@register_evaluator("editor")
@dataclass(frozen=True)
class Editor(Evaluator):
    """Saves a typo into the suite file while it is run."""

    file: str = ""
    metrics = (Metric("size", True, "images", "How many images there are."),)
    needs = (View(),)

    def evaluate(self, bench):
        Path(self.file).write_text("ratios = [0.5")
        yield Score("size", "clean", value=1.0, n=1)
'''
FINISHED = """
name = "finished"
checkpoint = "dense.safetensors"
[data]
name = "arrays"
folder = "photos"
classes = 10
[model]
name = "small-cnn"
widths = [8, 12, 16, 16]
[[candidates]]
file = "pruned.safetensors"
method = "mine"
[[evaluators]]
name = "accuracy"
[tolerances]
accuracy = 0.05
"""
RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.95)
LEFT = re.compile(r"Together (\d+) cells")


def left(*words: str | Path, root: Path | None = None) -> int:
    """How many cells a dry run announces."""
    code, out = cli("run", *words, "--dry-run", root=root)
    assert code == 0, out
    (count,) = LEFT.findall(out)
    return int(count)


def cli(*words: str | Path, root: Path | None = None) -> tuple[int, str]:
    """Exit code and output of the command line: in this process, or in one of its own of a copy of the package."""
    if root is None:
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
            patch.setattr(sys, "argv", ["evalsuite", *map(str, words)])
            patch.setenv("COLUMNS", "200")
            with pytest.raises(SystemExit) as ended:
                main.main()
        return int(ended.value.code or 0), said.getvalue()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "evalsuite", *map(str, words)],
        env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PATH": "", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_suite_file_that_changes_while_it_is_run_changes_nothing(
    small_suite: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "editor.py").write_text(EDITED_SUITE)
    editor = f'name = "editor"\nfile = "{tmp_path / "suite.toml"}"'
    text = small_suite(top='plugins = ["editor.py"]', ratios=RATIOS, evaluators=('name = "accuracy"', editor))
    (tmp_path / "suite.toml").write_text(text)
    code, said = cli("run", tmp_path / "suite.toml", "--out", tmp_path / "run")
    assert (tmp_path / "suite.toml").read_text() == "ratios = [0.5"
    assert code == 0, said
    for name in ("measurements.csv", "thresholds.csv", "index.html"):
        assert (tmp_path / "run" / name).is_file()
    assert Run(tmp_path / "run").record["suite_text"] == text


@pytest.mark.extensive
def test_after_a_search_everything_that_asks_says_that_nothing_is_left(
    small_suite: Callable[..., str], suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    search = (
        suite_file(text=small_suite(ratios=RATIOS)),
        "--out",
        tmp_path / "run",
        "--search",
        "accuracy@clean",
    )
    before = left(*search)
    code, said = cli("run", *search)
    assert code == 0, said
    assert before > 0
    assert "Everything is done." in cli("status", tmp_path / "run")[1]
    assert left(*search) == 0
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.cell")}
    assert cli("run", *search)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.cell")} == files


def test_a_part_of_a_suite_is_done_when_its_cells_are(tiny: Path, tmp_path: Path) -> None:
    part = (tiny, "--out", tmp_path / "run", "--only", "accuracy")
    assert cli("run", *part)[0] == 0
    assert left(*part) == 0
    assert "Everything is done." in cli("status", tmp_path / "run")[1]


@pytest.fixture(name="copy", scope="module")
def _copy(tiny: Path, done: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A copy of the package, a suite, and its finished run."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, root / "evalsuite", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(done.path, root / "run")
    return root, tiny, root / "run"


@pytest.mark.extensive
def test_a_new_module_and_edited_docstrings_make_nothing_stale(copy: tuple[Path, Path, Path]) -> None:
    root, suite, run = copy
    assert left(suite, "--out", run, root=root) == 0
    (root / "evalsuite" / "models" / "unused.py").write_text('"""A module that nothing imports."""\n')
    (root / "evalsuite" / "evaluators" / "another.py").write_text(
        '"""A new evaluator."""\n\nfrom evalsuite.evaluators.base import Evaluator\n\n\n'
        'class Another(Evaluator):\n    """Does something else."""\n'
    )
    for name in ("evaluators/accuracy.py", "producers/base.py", "evaluation.py", "training/loop.py"):
        file = root / "evalsuite" / name
        text = file.read_text()
        file.write_text(text.replace('"""', '"""Edited: ', 1) + "\n# a comment\n")
    assert left(suite, "--out", run, root=root) == 0


@pytest.mark.extensive
def test_an_edit_of_one_metric_makes_only_the_cells_stale_that_use_it(
    copy: tuple[Path, Path, Path],
) -> None:
    root, suite, run = copy
    file = root / "evalsuite" / "metrics" / "ood.py"
    before = file.read_text()
    file.write_text(before + "\nEDITED = 1\n")
    try:
        code, out = cli("run", suite, "--out", run, "--dry-run", root=root)
    finally:
        file.write_text(before)
    assert code == 0, out
    table = out[out.index("component") :].splitlines()
    stale = {
        line.split()[0]: int(line.split()[2])
        for line in table
        if re.match(r"[a-z]+(-[a-z0-9]+)* +\d+ +\d", line)
    }
    assert stale["ood"] == 5
    assert {label for label, count in stale.items() if count} == {"ood"}


def test_a_run_computes_everything_once(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: dict[str, int] = {}

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] = counts.get(name, 0) + 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(results, "threshold_rows", counting("thresholds", threshold_rows))
    monkeypatch.setattr(suite_file, "parse_suite", counting("parse_suite", suite_file.parse_suite))
    monkeypatch.setattr(Comparison, "over_seeds", counting("over_seeds", Comparison.over_seeds))
    loads: list[str] = []
    load = Digits.load

    def loading(self: Digits, split: Split, place: Place) -> ImageSet:
        loads.append(split)
        return load(self, split, place)

    monkeypatch.setattr(Digits, "load", loading)
    evalsuite.run(tiny, out=tmp_path / "run")
    assert counts == {"thresholds": 1, "parse_suite": 1, "over_seeds": 1}
    assert sorted(loads) == ["test", "train", "validation"]


def test_finished_candidates_need_test_images_only(done: Run, tmp_path: Path) -> None:
    for name, source in (("dense", "dense/seed-0/0.0"), ("pruned", "magnitude/seed-0/0.5")):
        weights = load_file(done.path / "candidates" / f"{source}.safetensors")
        save_file(weights, tmp_path / f"{name}.safetensors")
    (tmp_path / "photos").mkdir()
    digits = Digits().load("test", Place())
    assert digits.labels is not None
    np.save(tmp_path / "photos" / "test_images.npy", digits.images[:100].transpose(0, 2, 3, 1))
    np.save(tmp_path / "photos" / "test_labels.npy", digits.labels[:100])
    (tmp_path / "suite.toml").write_text(FINISHED)
    words = ("run", tmp_path / "suite.toml", "--data-root", tmp_path, "--out", tmp_path / "run")
    code, said = cli(*words)
    assert code == 0, said
    assert set(Run(tmp_path / "run").measurements["status"]) == {"ok"}
