"""A sequential check: the verdicts of all images from as few as they need, on real networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from evalsuite.runs.store import Key, Store
from evalsuite.types import DENSE

Answer = Callable[..., int]
SIZES = [225, 450, 899]


@pytest.fixture(scope="module")
def models(shelf: Path) -> dict[str, Path]:
    """The parent itself, one whose classes are exchanged, and a light one that has lost about as much as it may."""
    state = torch.load(shelf / "dense.pt", weights_only=True)["state_dict"]
    head = max((name for name, value in state.items() if value.ndim == 2), key=list(state).index)
    exchanged = {
        **state,
        head: state[head].roll(1, 0),
        head.replace("weight", "bias"): state[head.replace("weight", "bias")].roll(1, 0),
    }
    torch.save(state, shelf / "equal.pt")
    torch.save(exchanged, shelf / "wrong.pt")
    return {"equal": shelf / "equal.pt", "wrong": shelf / "wrong.pt", "light": shelf / "light.safetensors"}


def checked(answer: Answer, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the document of a check."""
    capsys.readouterr()
    code = answer("--json", *words)
    printed = capsys.readouterr()
    assert code in (0, 1), printed.err
    document: dict[str, Any] = json.loads(printed.out)
    return code, document


def named(models: dict[str, Path], *names: str) -> list[str]:
    return [word for name in names for word in ("--candidate", str(models[name]))]


def table(document: dict[str, Any], candidate: str) -> pd.DataFrame:
    rows = pd.DataFrame(document["checks"])
    return rows[rows["candidate"] == candidate].set_index("condition")


def test_clear_verdicts_are_those_of_all_images_and_take_fewer(
    answer: Answer, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = named(models, "equal", "wrong", "light")
    whole, full = checked(answer, capsys, *words, "--out", str(tmp_path / "full"))
    code, document = checked(answer, capsys, *words, "--sequential", "--out", str(tmp_path / "run"))
    assert (code, document["outcome"]) == (whole, full["outcome"]) == (1, "DO NOT SHIP")
    for name, verdict, images in (("equal", "non-inferior", 450), ("wrong", "inferior", 225)):
        rows, every = table(document, name), table(full, name)
        assert rows["verdict"].to_dict() == every["verdict"].to_dict() == dict.fromkeys(rows.index, verdict)
        assert (rows["images"] <= images).all()
        assert set(rows["images_available"]) == {899}
        assert set(rows["stopping"]) == {"decided early"}
        assert rows["flags"].str.contains("stopped early: the number is biased").all()
        assert (np.abs(rows["parent"] - rows["value"] - rows["drop"]) < 1e-12).all()
        assert set(every["images"]) == {899}
        assert set(every["stopping"]) == {""}
    light = table(document, "light")
    assert set(light["images"]) <= set(SIZES)
    run = Store(tmp_path / "run")
    assert run.record()["stages"] == SIZES
    page = (tmp_path / "run" / "index.html").read_text("utf-8")
    assert "in stages of 225, 450 and 899 images" in page
    assert "stopped early: the number is biased" in page


def test_a_cell_has_the_parent_on_the_same_images_and_another_digest(
    answer: Answer, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*named(models, "wrong"), "--out", str(tmp_path / "run"))
    checked(answer, capsys, *words)
    store = Store(tmp_path / "run")
    (path,) = (tmp_path / "run" / "cells" / "wrong").rglob("accuracy.cell")
    key = Key("wrong", 0, float(path.parent.name))
    full = store.cell(key, "accuracy")
    checked(answer, capsys, *words, "--sequential")
    cell = store.cell(key, "accuracy")
    assert full is not None
    assert cell is not None
    assert cell.digest != full.digest
    assert (full.looks, list(cell.looks)) == ((), SIZES)
    assert [score.metric for score in cell.parent] == [score.metric for score in cell.scores]
    assert {score.n for score in (*cell.scores, *cell.parent)} == {225}
    parent = store.cell(Key(DENSE, 0, 0.0), "accuracy")
    assert parent is not None
    first = {score.metric: score for score in parent.scores}
    for score in cell.parent:
        for name, values in score.evidence.items():
            np.testing.assert_array_equal(values, first[score.metric].evidence[name])


def test_a_stopped_check_goes_on_where_it_was(
    answer: Answer, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*named(models, "equal"), "--sequential", "--out", str(tmp_path / "run"))
    _, before = checked(answer, capsys, *words)
    cells = sorted((tmp_path / "run" / "cells" / "equal").rglob("*.cell"))
    kept = cells[0].stat().st_mtime_ns, cells[0].read_bytes()
    content = cells[1].read_bytes()
    cells[1].unlink()  # as if it had been killed while it measured this one
    _, after = checked(answer, capsys, *words)
    assert (cells[0].stat().st_mtime_ns, cells[0].read_bytes()) == kept
    assert cells[1].read_bytes() == content
    assert after == before


@pytest.mark.extensive
def test_workers_find_the_same(
    answer: Answer, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*named(models, "equal", "wrong"), "--sequential")
    _, one = checked(answer, capsys, *words, "--out", str(tmp_path / "one"))
    _, two = checked(answer, capsys, *words, "--workers", "2", "--out", str(tmp_path / "two"))
    assert one["checks"] == two["checks"]


def test_the_console_and_a_dry_run_say_what_is_measured_in_stages(
    answer: Answer, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*named(models, "wrong"), "--sequential", "--out", str(tmp_path / "run"))
    assert answer(*words, "--dry-run") == 0
    announced = " ".join(capsys.readouterr().out.split())
    assert "Sequential: accuracy, noise in stages of 225, 450 and 899 images" in announced
    assert not (tmp_path / "run" / "cells").exists()
    assert answer(*words) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "Sequential: 2 of 2 checks were decided before the last image (after 225 to 225 images)" in printed
    assert "all together took 25% of their images" in printed


def test_checks_without_a_bound_see_all_images(
    answer: Answer, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*named(models, "wrong"), "--tolerance", "nll@clean=0.05", "--sequential")
    _, document = checked(answer, capsys, *words, "--out", str(tmp_path / "run"))
    rows = table(document, "wrong").reset_index().set_index(["metric", "condition"])
    assert rows.loc[("nll", "clean"), "images"] == 899
    assert rows.loc[("nll", "clean"), "stopping"] == ""
    assert rows.loc[("accuracy", "uniform/32:255"), "images"] == 225
    _, full = checked(answer, capsys, *words[:-1], "--out", str(tmp_path / "full"))
    every = table(full, "wrong").reset_index().set_index(["metric", "condition"])
    place = ("nll", "clean")
    assert rows.loc[place, "value"] == pytest.approx(every.loc[place, "value"], rel=1e-5)
    assert str(rows.loc[place, "verdict"]) == str(every.loc[place, "verdict"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--metric", "nll", "--tolerance", "nll=0.05"),
            "found no check that may stop before the last image",
        ),
        (("--limit", "300"), "found 300 test images, expected at least 399"),
    ],
)
def test_what_has_no_stages_is_a_mistake_in_the_question(
    answer: Answer,
    models: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    said: str,
) -> None:
    out = tmp_path / "run"
    assert answer(*named(models, "wrong"), "--sequential", *words, "--out", str(out)) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (out / "cells").exists()


def test_a_suite_may_ask_for_it_and_no_run_of_methods_does(
    answer: Answer,
    shelf: Path,
    models: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from evalsuite.cli import main as cli

    suite = tmp_path / "battery.toml"
    suite.write_text("sequential = true\n" + (shelf / "battery.toml").read_text("utf-8"), "utf-8")
    _, document = checked(
        answer, capsys, *named(models, "wrong"), "--suite", str(suite), "--out", str(tmp_path / "run")
    )
    assert set(table(document, "wrong")["images"]) == {225}
    monkeypatch.setattr("sys.argv", ["evalsuite", "run", str(suite), "--out", str(tmp_path / "other")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert "found sequential = true, which is for finished models" in " ".join(
        capsys.readouterr().err.split()
    )
