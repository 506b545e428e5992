"""The commands: what they print, where it goes, and how they end."""

from __future__ import annotations

import json
import os
import re
import shutil
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from evalsuite import Run
from evalsuite.cli.commands.listing import KINDS
from evalsuite.cli.commands.run import print_time_spent

if TYPE_CHECKING:
    from collections.abc import Callable

Command = Any


PROGRESS = re.compile(r"evalsuite: \d+ of \d+ cells done.*")


def beside_progress(err: str) -> list[str]:
    """The lines of standard error that are not the progress of a run, which has at least its start and its end."""
    lines = err.splitlines()
    assert sum(bool(PROGRESS.fullmatch(line)) for line in lines) >= 2
    return [line for line in lines if not PROGRESS.fullmatch(line)]


def copied(done: Run, folder: Path) -> Path:
    path = folder / "a [bold]run[/bold]"
    shutil.copytree(done.path, path)
    return path


def test_a_run_says_where_its_report_is_and_nothing_on_the_side(
    command: Command, done: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(done, tmp_path)
    monkeypatch.chdir(tmp_path)
    code, out, err = command("run", tiny, "--out", "a [bold]run[/bold]")
    assert (code, beside_progress(err)) == (0, [])
    lines = out.splitlines()
    assert lines[-1] == f"Report: {tmp_path / 'a [bold]run[/bold]' / 'index.html'}"
    (row,) = [line.split() for line in lines if line.startswith("accuracy") and "clean" in line]
    rows = done.thresholds().query("metric == 'accuracy' and condition == 'clean' and seed == 'all'")
    potentials = dict(zip(rows["method"], rows["potential"], strict=True))
    assert row[2:] == [f"{potentials[method]:.1%}" for method in ("magnitude", "filter-l1")]
    everything = {
        row["method"]: row
        for row in done.groups.query("group == 'everything' and seed == 'all'").to_dict("records")
    }
    for method in ("magnitude", "filter-l1"):
        (said,) = [line for line in lines if line.startswith(f"{method}, all ")]
        for name, words in (
            ("noninferior_up_to", "shown to hold up to"),
            ("inferior_from", "shown to fail from"),
        ):
            ratio = float(everything[method][name])
            assert (f"{words} {ratio:.1%}" in said) == bool(ratio > 0)


def test_report_prints_the_full_path(command: Command, done: Run, tmp_path: Path) -> None:
    path = copied(done, tmp_path)
    assert command("report", path) == (0, f"Report: {path / 'index.html'}\n", "")


def test_a_page_for_others_shows_no_test_images(command: Command, done: Run, tmp_path: Path) -> None:
    path = copied(done, tmp_path)
    pages = []
    for option in ([], ["--no-pictures"], []):
        assert command("report", path, *option)[0] == 0
        pages.append((path / "index.html").read_text("utf-8"))
    assert [page.count("data:image/png") > 0 for page in pages] == [True, False, True]
    assert "None to show: this page was written without test images (report --no-pictures)." in pages[1]


def test_threshold_draws_conclusions_at_another_tolerance_without_torch(command: Command, done: Run) -> None:
    code, out, err = command(
        "threshold", done.path, "--metric", "accuracy@clean", "--tolerance", "0.2", "--json"
    )
    assert (code, err) == (0, "")
    rows = {row["method"]: row for row in json.loads(out)}
    expected = Run(done.path, tolerances={"accuracy": {"clean": 0.2}}).thresholds().query("seed == 'all'")
    assert {m: row["potential"] for m, row in rows.items()} == dict(
        zip(expected["method"], expected["potential"], strict=True)
    )
    assert all(row["certified"] is not None and row["tolerance"] == 0.2 for row in rows.values())


def test_compare_puts_runs_into_one_page(command: Command, done: Run, tmp_path: Path) -> None:
    other = copied(done, tmp_path)
    code, out, err = command("compare", done.path, other, "--out", tmp_path / "both")
    assert (code, out, err) == (0, f"Report: {tmp_path / 'both' / 'index.html'}\n", "")
    assert (tmp_path / "both" / "index.html").read_text("utf-8").count("magnitude (") > 1
    code, _, err = command("compare", done.path)
    assert (code, "found 1 run to compare, expected at least two" in err) == (2, True)


def test_report_writes_figures(command: Command, done: Run, tmp_path: Path) -> None:
    path = copied(done, tmp_path)
    only = ("--only", "verdict, panels,curves:accuracy/clean", "--width", "120mm")
    code, out, err = command("report", path, "--figures", "svg", *only)
    assert (code, err) == (0, "")
    figures = list((path / "figures").glob("*.svg"))
    assert f"Figures: {len(figures)} in {path / 'figures'}" in out
    assert {figure.name for figure in figures} == {"verdict.svg", "panels.svg", "curves-accuracy-clean.svg"}
    assert all('width="120.00mm"' in figure.read_text("utf-8") for figure in figures)
    assert all(figure.read_text("utf-8").startswith("<svg") for figure in figures)


def test_options_of_figures_without_figures_are_refused(command: Command, done: Run) -> None:
    for option in (("--only", "verdict"), ("--width", "page")):
        code, _, err = command("report", done.path, *option)
        assert (code, f"found {option[0]} without figures; add --figures pdf, svg or png" in err) == (2, True)


def test_threshold_prints_a_line_for_every_threshold_of_the_suite(command: Command, done: Run) -> None:
    code, out, err = command("threshold", done.path)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 1 + len(done.thresholds().query("seed == 'all'"))
    assert "certified" in out.splitlines()[0]


def test_threshold_names_the_nearest_metric(command: Command, done: Run) -> None:
    code, out, err = command("threshold", done.path, "--metric", "acuracy")
    assert (code, out) == (2, "")
    assert "unknown metric with a tolerance in this run 'acuracy': did you mean 'accuracy'" in err


def test_export_writes_the_tables(command: Command, done: Run, tmp_path: Path) -> None:
    assert command("export", done.path, "--out", tmp_path / "x") == (0, f"Tables: {tmp_path / 'x'}\n", "")
    assert (tmp_path / "x" / "thresholds.csv").read_bytes() == (done.path / "thresholds.csv").read_bytes()
    code, _, err = command("export", done.path, "--format", "excel")
    assert (code, "unknown export format 'excel'" in err) == (2, True)


def test_sample_size_prints_how_many_images_a_tolerance_needs(command: Command) -> None:
    code, out, err = command("sample-size", "--tolerance", "0.02", "--spread", "0.01")
    assert (code, err) == (0, "")
    assert out.startswith(
        "1,024 images certify a drop of at most 0.02 in 80% of the tests (--discordance 0.06, --drop 0)\n"
    )
    assert "seeds do so for the method" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        pytest.param(
            ["run", "digit"],
            "unknown suite 'digit': did you mean 'digits' or 'vit-digits'? Known:",
            id="suite name",
        ),
        pytest.param(["run", "gone.toml"], "suite gone.toml: no such file", id="suite file"),
        pytest.param(["run", "--device", "cuda:99"], "device 'cuda:99' is not there", id="device"),
        pytest.param(
            ["run", "--workers", "0"], "found --workers 0, expected a number from 1 on, or auto", id="workers"
        ),
        pytest.param(
            ["check", "--parent", "dense.pt", "--candidate", "pruned.pt", "--workers", "x"],
            "found --workers x, expected a number from 1 on, or auto",
            id="workers of a check",
        ),
        pytest.param(
            ["run", "--workers", "2", "--executor", "serial"],
            "found 2 workers for the executor serial, which is one",
            id="serial workers",
        ),
        pytest.param(
            ["run", "--executor", "rai"], "unknown executor 'rai': did you mean 'ray'", id="executor"
        ),
        pytest.param(["run", "--only", "accurracy"], "--only accurracy: unknown test or method", id="only"),
        pytest.param(["status", "gone"], "gone is not a run folder: it has no run.json", id="status"),
        pytest.param(["run", "--seed", "-1"], "found seed -1, expected an integer from 0 on", id="seed"),
        pytest.param(
            ["run", "--data-root", "gone"],
            "--data-root names the data folder gone, which does not exist",
            id="data folder",
        ),
        pytest.param(
            ["run", "--data", "cifar10"],
            "--data cifar10: the suite names the data set that it runs on; change it under [data] in the suite, and "
            "give a folder with data by --data-root",
            id="data set of a run",
        ),
        pytest.param(["report", "gone"], "gone is not a run folder: it has no run.json", id="no run"),
        pytest.param(["report", "."], ". is not a run folder: it has no run.json", id="another folder"),
        pytest.param(
            ["list", "producer"], "unknown listing 'producer': did you mean 'producers'", id="listing"
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    words: list[str], sentence: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert err.startswith(f"evalsuite: {sentence}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", [["run", "--sed", "1"], ["run", "--seed", "one"], ["report"], ["list"], ["nothing"]]
)
def test_a_word_that_is_no_option_is_exit_code_2(words: list[str], command: Command) -> None:
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert "Usage" in err


def test_a_mistake_in_a_suite_keeps_its_brackets(
    command: Command, suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = suite_file({'"magnitude"': '"magnitud"'})
    code, _, err = command("run", path, "--out", tmp_path / "x")
    assert code == 2
    assert err.startswith(
        f"evalsuite: {path}, [[producers]]: unknown producer 'magnitud': did you mean 'magnitude'"
    )


@pytest.fixture
def failing_suite(
    small_suite: Callable[..., str], suite_file: Callable[..., Path], tmp_path: Path
) -> Callable[..., Path]:
    """Writes a suite with a test that fails as long as the file ``flag`` is there, which it is."""

    def write(test: str, **settings: Any) -> Path:
        flag = tmp_path / "flag"
        flag.touch()
        evaluators = ('name = "accuracy"', f'name = "{test}"\nflag = "{flag}"')
        return suite_file(
            text=small_suite(top="control = false", ratios=(0.5, 0.8), evaluators=evaluators, **settings)
        )

    return write


def test_a_failed_cell_is_exit_code_1_and_told(
    command: Command, failing_suite: Callable[..., Path], tmp_path: Path
) -> None:
    suite = failing_suite("moody", producers=('name = "magnitude"', 'name = "filter-l1"'))
    code, out, err = command("run", suite, "--out", tmp_path / "run")
    assert code == 1
    failures = beside_progress(err)
    assert failures[0] == "dense 0 moody (seed 0): error"
    assert len(failures) == 5
    assert re.search(r"^5 of \d+ numbers are missing; the report says why\.$", out, re.MULTILINE)
    assert re.search(r"^  moody: \w+: .+ \(5 times\)$", out, re.MULTILINE)
    assert f"Report: {tmp_path / 'run' / 'index.html'}" in out.splitlines()[-1]
    (tmp_path / "flag").unlink()
    code, out, err = command("run", suite, "--out", tmp_path / "run")
    assert (code, beside_progress(err)) == (0, [])
    assert "are missing" not in out
    code, out, err = command(
        "run", suite, "--out", tmp_path / "part", "--only", "magnitude", "--only", "accuracy"
    )
    assert (code, beside_progress(err)) == (0, [])
    assert re.search(
        r"^\d+ of \d+ numbers are not computed yet; start the same run again\.$", out, re.MULTILINE
    )


def test_a_plan_and_a_status_are_tables_and_write_nothing(
    command: Command, done: Run, tiny: Path, tmp_path: Path
) -> None:
    path = copied(done, tmp_path)
    (path / "cells/magnitude/seed-0/0.5/ood.cell").unlink()
    before = sorted((file, file.stat().st_mtime_ns) for file in path.rglob("*"))
    code, out, err = command("run", tiny, "--out", path, "--dry-run")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split()[1:3] for line in out.splitlines()}
    assert rows["ood"] == ["4", "1"]
    assert rows["noise"] == ["5", "0"]
    assert "Together 1 cells" in out
    code, out, err = command("status", path)
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split()[1:5] for line in out.splitlines()}
    assert rows["ood"] == ["4", "0", "0", "1"]
    assert "1 cells are left, no process works on them; time left: about" in out
    assert sorted((file, file.stat().st_mtime_ns) for file in path.rglob("*")) == before
    assert "Everything is done." in command("status", done.path)[1]
    code, out, _ = command("status", done.path, "--verify")
    assert (code, "all are what was written" in out) == (0, True)
    (path / "candidates/magnitude/seed-0/0.5.safetensors").write_bytes(b"")
    code, out, _ = command("status", path, "--verify")
    assert (code, "1 are damaged" in out) == (1, True)


def test_a_run_that_computes_nothing_says_what_it_did_not_read(capsys: pytest.CaptureFixture[str]) -> None:
    print_time_spent({"computed": 0})
    said = capsys.readouterr().out
    assert "Weights behind finished cells were not read again; status --verify reads all." in said


def test_workers_are_as_good_as_one(command: Command, done: Run, tiny: Path, tmp_path: Path) -> None:
    path = copied(done, tmp_path)
    victim = path / "cells/magnitude/seed-0/0.5/ood.cell"
    data = victim.read_bytes()
    victim.unlink()
    code, out, err = command("run", tiny, "--out", path, "--workers", "auto", "--executor", "local")
    assert (code, beside_progress(err)) == (0, [])
    assert "Spent: production" in out
    assert victim.read_bytes() == data


def test_an_interrupt_is_one_sentence(
    command: Command, failing_suite: Callable[..., Path], tmp_path: Path
) -> None:
    suite = failing_suite("stopping")
    sentence = "Stopped. What is finished is kept: the same command goes on from here."
    code, out, err = command("run", suite, "--out", tmp_path / "run")
    assert (code, out, beside_progress(err)) == (130, "", [sentence])
    (tmp_path / "flag").unlink()
    assert command("run", suite, "--out", tmp_path / "run")[0] == 0


BROKEN = """
import torch
class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 10)
    def forward(self, images):
        return self.linear(images.mean((2, 3))) / BROKEN
def network(num_classes=10):
    return Network()
"""


@pytest.mark.extensive
def test_a_parent_without_numbers_is_no_failure_of_a_candidate(command: Command, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(BROKEN.replace("BROKEN", "0"))
    torch.save(torch.nn.ModuleDict({"linear": torch.nn.Linear(3, 10)}).state_dict(), tmp_path / "w.pt")
    files = ("--parent", tmp_path / "w.pt", "--candidate", tmp_path / "w.pt")
    words = (
        *files,
        "--model",
        f"{tmp_path / 'net.py'}:network",
        "--data",
        "digits",
        "--out",
        tmp_path / "out",
    )
    code, _, err = command("check", *words)
    assert (code, "NaN or infinite logits" in err) == (2, True)


def test_a_fault_of_a_program_has_an_exit_code_of_its_own(
    command: Command, monkeypatch: pytest.MonkeyPatch, done: Run
) -> None:
    monkeypatch.setattr("evalsuite.api.publish", lambda *_, **__: 1 / 0)
    code, _, err = command("report", done.path)
    assert code == 70
    assert "ZeroDivisionError" in err
    assert "no answer" in err


LISTED = {
    "producers": (
        "magnitude",
        "smallest absolute weights",
        "evalsuite.producers.unstructured.magnitude:Magnitude",
    ),
    "evaluators": ("attack", "FGSM and LinfPGD", "evalsuite.evaluators.attack:Attack"),
    "datasets": ("digits", "1,797 handwritten digits", "evalsuite.datasets.digits:Digits"),
    "models": ("small-cnn", "Four convolutions", "evalsuite.models.architectures.cnn:SmallCNN"),
    "recipes": ("lost-cifar-resnet", "ResNet-20, 56 and 110", "evalsuite.training.published_recipes"),
    "suites": ("digits", "handwritten digits", "digits.toml"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_listing_in_a_pipe_is_one_line_each(kind: str, command: Command) -> None:
    code, out, err = command("list", kind)
    assert (code, err) == (0, "")
    title, *lines = out.splitlines()
    assert title.split("  ")[0] == "name"
    places = [title.index(word) for word in ("what it is", "defined in")]
    name, text, defined = LISTED[kind]
    (line,) = [line for line in lines if line.startswith(f"{name} ")]
    assert text in line[places[0] : places[1]]
    assert line[places[1] :].endswith(defined)
    assert all(
        line[: places[0]].strip() and line[places[0] : places[1]].strip() and line[places[1] :]
        for line in lines
    )
    names = [line.split()[0] for line in lines]
    assert names == sorted(names)


def test_the_version_is_that_of_the_package(command: Command) -> None:
    assert command("--version") == (0, f"evalsuite {version('evalsuite')}\n", "")


def test_completion_can_be_installed(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    monkeypatch.setattr("typer._completion_shared.shellingham", None, raising=False)
    code, out, _ = command("--install-completion", "bash")
    assert (code, "bash completion installed in" in out) == (0, True)
    (script,) = tmp_path.rglob("evalsuite.sh")
    assert "_EVALSUITE_COMPLETE=complete_bash" in script.read_text("utf-8")
    assert "evalsuite.sh" in (tmp_path / ".bashrc").read_text("utf-8")


def test_the_old_spelling_of_a_data_folder_works_with_a_warning(
    command: Command, done: Run, tiny: Path, tmp_path: Path
) -> None:
    path = copied(done, tmp_path)
    code, _, err = command("run", tiny, "--out", path, "--data", tmp_path, "--dry-run")
    assert code == 0
    assert err == (
        f"evalsuite: --data {tmp_path}: a folder with data is now given by --data-root {tmp_path}; the old spelling "
        "stops working with the next release\n"
    )
    code, _, err = command("run", tiny, "--out", path, "--data-root", tmp_path, "--dry-run")
    assert (code, err) == (0, "")
    code, _, err = command("run", tiny, "--out", path, "--data-root", tmp_path, "--data", tmp_path)
    assert (code, "the suite names the data set that it runs on" in err) == (2, True)


@pytest.mark.parametrize(
    ("old", "new", "words"), [("plan", "sample-size", []), ("recipe-cross", "factorial", ["--help"])]
)
def test_old_names_of_commands_work_with_a_warning(
    old: str, new: str, words: list[str], command: Command
) -> None:
    code, out, err = command(old, *words)
    if not words:
        assert err == (
            f"evalsuite: the command {old} is now called {new}; the old name stops working with the next release\n"
        )
    assert (code, out.replace(f"evalsuite {old}", f"evalsuite {new}")) == command(new, *words)[:2]
    assert f"  {old} " not in command("--help")[1]


OLD_PLUGIN = '''
from dataclasses import dataclass
from evalsuite.producers.weights import Magnitude
from evalsuite.producers import register

@register("old")
@dataclass(frozen=True)
class Old(Magnitude):
    """Written for evalsuite 0.1."""
'''


@pytest.mark.extensive
def test_a_plugin_with_old_imports_works_with_a_warning(
    python: Callable[..., Any], suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "old.py").write_text(OLD_PLUGIN, "utf-8")
    suite = tmp_path / "old.toml"
    text = suite_file({'"magnitude"': '"old"'}).read_text("utf-8")
    suite.write_text(f'plugins = ["old.py"]\n{text}', "utf-8")
    ended = python("-m", "evalsuite", "run", "old.toml", "--dry-run", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert (
        f"{tmp_path / 'old.py'}:3: DeprecationWarning: evalsuite.producers.weights.Magnitude moved to"
        in ended.err
    )
    assert "evalsuite.producers.register moved to evalsuite.plugins.register_producer;" in ended.err


LIGHT = """
import sys
from evalsuite.cli.main import main
sys.argv = ["evalsuite", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code
heavy = {"torch", "sklearn", "scipy"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize("words", [["--help"], ["list", "models"], ["list", "suites"]], ids=" ".join)
def test_help_and_listings_do_without_torch(words: list[str], python: Callable[..., Any]) -> None:
    ended = python("-c", LIGHT, *words)
    assert (ended.code, ended.err) == (0, "")


def test_the_module_is_the_command(python: Callable[..., Any], tmp_path: Path) -> None:
    ended = python("-m", "evalsuite", "report", "gone", cwd=tmp_path)
    assert ended.code == 2
    assert ended.err.startswith("evalsuite: gone is not a run folder")
    assert find_spec("evalsuite.__main__") is not None
    assert os.environ.get("OMP_NUM_THREADS")
