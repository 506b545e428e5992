"""The check of what the demo wrote sees what it must see."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "check_demo.py"

HARMLESS = (
    '<a href="https://arxiv.org/abs/2103.03014">paper</a> <code>fetch("https://x")</code>'
    '<svg xmlns="http://www.w3.org/2000/svg"><image href="data:image/png;base64,AA"/></svg>'
    '<script>const schema = "https://vega.github.io/schema/vega-lite/v5.json"; fetch(url)</script>'
    "<style>a { background: url(data:image/png;base64,AA) } /* https://example.org */</style>"
)
GROUPS = """method,seed,group,noninferior_up_to,inferior_from
magnitude,all,noise,0.5,0.9
filter-l1,all,noise,0.8,
random,all,noise,0.5,
random,0,noise,0.5,0.9
"""
LOADS = [
    '<script src="https://cdn.example.org/vega.js"></script>',
    '<script src="//cdn.example.org/vega.js"></script>',
    '<link rel="stylesheet" href="http://example.org/a.css">',
    "<img src = http://example.org/a.png>",
    '<style>@import "https://example.org/a.css";</style>',
    "<style>a { background: url('https://example.org/a.png') }</style>",
    '<p style="background: url(https://example.org/a.png)">',
    "<script>fetch('https://example.org/data.json')</script>",
    '<script type="module">import("https://example.org/a.js")</script>',
    '<svg><use xlink:href="https://example.org/a.svg#a"/></svg>',
]


@pytest.fixture(name="check", scope="module")
def _check() -> Any:
    spec = importlib.util.spec_from_file_location("check_demo", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(name="demo")
def _demo(tmp_path: Path) -> Path:
    (tmp_path / "run.json").write_text(json.dumps({"suite": {}}))
    (tmp_path / "measurements.csv").write_text("method,status\ndense,ok\n")
    rows = "".join(f"{method},0.5\n" for method in ("magnitude", "filter-l1", "random"))
    (tmp_path / "thresholds.csv").write_text("method,potential\n" + rows)
    (tmp_path / "verdicts.csv").write_text("verdict,beyond_control\nnon-inferior,0.01\nundecided,\n")
    (tmp_path / "groups.csv").write_text(GROUPS)
    (tmp_path / "counts.csv").write_text("method\nmagnitude\nfilter-l1\nrandom\ndense-retrained\n")
    (tmp_path / "index.html").write_text(HARMLESS)
    return tmp_path


def test_a_sound_run_has_no_problems(check: Any, demo: Path) -> None:
    assert check.problems(demo) == []


@pytest.mark.parametrize("load", LOADS)
def test_every_way_to_load_from_elsewhere_is_seen(check: Any, demo: Path, load: str) -> None:
    (demo / "index.html").write_text(HARMLESS + load)
    assert len(check.problems(demo)) == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("index.html", "", "index.html is missing or empty"),
        ("thresholds.csv", "method,potential\nmagnitude,0.5\nrandom,0.5\n", "no row of filter-l1"),
        ("thresholds.csv", "method,potential\nmagnitude,\nrandom,0.5\nfilter-l1,1\n", "potential outside"),
        ("measurements.csv", "method,status\nmagnitude,error\n", "a cell failed"),
        ("groups.csv", GROUPS.replace("0.8,", "0.5,0.9"), "does not tell filter-l1 and magnitude apart"),
        ("counts.csv", "method\nmagnitude\nfilter-l1\nrandom\n", "no row of dense-retrained"),
        ("verdicts.csv", "verdict,beyond_control\nfine,\n", "has the verdict 'fine'"),
        ("verdicts.csv", "verdict,beyond_control\ninferior,\n", "compares no candidate with its control"),
    ],
)
def test_what_is_wrong_is_said(check: Any, demo: Path, name: str, text: str, message: str) -> None:
    (demo / name).write_text(text)
    assert any(message in problem for problem in check.problems(demo))
