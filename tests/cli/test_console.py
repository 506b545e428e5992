"""What the commands print on terminals of several widths, and in tables of many methods."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from evalsuite import Run
from evalsuite.cli import console
from evalsuite.cli.commands.listing import KINDS, entries_of
from evalsuite.cli.threshold_tables import _print_intervals, _row_per_method

Command = Any
FIRST_WORDS = {
    "producers": ("magnitude", "smallest"),
    "evaluators": ("attack", "FGSM"),
    "datasets": ("digits", "1,797"),
    "models": ("small-cnn", "Four"),
    "recipes": ("lost-cifar-resnet", "ResNet-20,"),
    "suites": ("digits", "handwritten"),
}


def test_many_methods_have_a_line_each(done: Run) -> None:
    table = done.thresholds().query("seed == 'all' and aggregate == 'single'")
    many = pd.concat([table.assign(method=f"{method} {n}") for n in range(4) for method in ("a", "b")])
    lines = rendered(_row_per_method(many))
    assert len(lines) == 2 + 8
    weakest = table.sort_values("potential", kind="stable").iloc[0]
    assert f"{weakest['potential']:.1%}" in lines[-1]
    assert lines[-1].endswith(f"{weakest['metric']}, {weakest['condition']}")


@pytest.mark.parametrize(
    ("never", "checks"),
    [(0, "all 53 checks together"), (1, "all 52 checks that images can decide (of 53) together")],
)
def test_the_checks_that_are_never_decided_are_not_left_out_in_silence(
    never: int, checks: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The console had 52 checks where the page had 53."""
    row = {"group": "everything", "seed": "all", "method": "magnitude", "checks": 53, "never_decided": never}
    _print_intervals(pd.DataFrame([row | {"noninferior_up_to": 0.3, "inferior_from": 0.5}]))
    assert f"magnitude, {checks}: shown to hold up to 30.0%" in capsys.readouterr().out


def test_a_long_name_is_apart_from_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_facts({"network": "small-cnn", "encoder.layers.0.mlp": "its output is added", "none": ""})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [
        ["network", "small-cnn"],
        ["encoder.layers.0.mlp", "its output is added"],
    ]
    assert lines[0].index("small-cnn") == lines[1].index("its")


def rendered(table: Any) -> list[str]:
    page = Console(width=200, file=io.StringIO(), highlight=False)
    page.print(table)
    assert isinstance(page.file, io.StringIO)
    return [line.rstrip() for line in page.file.getvalue().splitlines()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [60, 80, 240])
def test_a_listing_on_a_terminal_breaks_no_word(
    kind: str,
    width: int,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        console, "out", Console(highlight=False, force_terminal=True, color_system=None, width=width)
    )
    _, out, _ = command("list", kind)
    name, word = FIRST_WORDS[kind]
    places = [entry.defined for entry in entries_of(kind)]
    assert all(len(line) <= width or line.endswith(tuple(places)) for line in out.splitlines())
    assert name in out
    assert all(place in out for place in places)  # in one piece
    assert word in out
    assert len(out.splitlines()) <= (1 if width == 240 else 4) * (1 + len(places))


def test_a_run_on_a_terminal_shows_a_bar(
    command: Command, done: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "err", Console(stderr=True, highlight=False, force_terminal=True, width=100))
    path = tmp_path / "run"
    shutil.copytree(done.path, path)
    code, _, err = command("run", tiny, "--out", path)
    assert code == 0
    assert "35/35" in err


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            ("evaluators", "noise"),
            ["draws: int, default 1", 'space: "pixels" or "normalised", default "pixels"'],
        ),
        (("datasets", "cifar10"), ["test_limit: int, default 0"]),
        (("datasets", "arrays"), ["folder: str, required"]),
        (("producers", "magnitude"), ["schedule: "]),
        (
            ("models", "small-cnn"),
            ["widths: list of 4 int, default [24, 48, 64, 64]", "mean: list of float, default"],
        ),
    ],
)
def test_a_plug_in_is_listed_with_its_settings(
    command: Command, words: tuple[str, str], lines: list[str]
) -> None:
    code, out, err = command("list", *words)
    assert (code, err) == (0, "")
    for line in lines:
        assert any(printed.startswith(line) for printed in out.splitlines())


def test_a_listing_of_what_has_no_settings_or_is_unknown_is_a_mistake(command: Command) -> None:
    code, _, err = command("list", "suites", "digits")
    assert (code, "suites have no settings" in err) == (2, True)
    code, _, err = command("list", "evaluators", "nois")
    assert (code, "did you mean 'noise'?" in err) == (2, True)
