"""Mistakes that can be known before the first cell: ``run``, its dry run and ``check`` refuse them alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evalsuite import Run

Command = Callable[..., tuple[int, str, str]]
TOLERANCE = "accuracy = 0.05"
CORRUPTIONS = 'name = "corruptions"\nkinds = ["fog"]\nseverities = [3]'


@pytest.fixture(name="suite")
def _suite(small_suite: Callable[..., str]) -> str:
    """The text of a suite without a mistake."""
    return small_suite(
        "mistaken",
        ratios=(0.5, 0.8),
        recipe="epochs = 2\nlearning_rate = 0.1",
        evaluators=('name = "accuracy"', CORRUPTIONS),
        tolerances=TOLERANCE,
    )


def refusals(command: Command, suite: Path, out: Path, *words: str) -> set[str]:
    """The sentences with which the run and its dry run end; nothing may have been written."""
    sentences = set()
    for more in (["--dry-run"], []):
        code, _, said = command("run", suite, "--out", out, *words, *more)
        assert code == 2, said
        sentences.add(" ".join(said.split()))
    assert not out.exists(), "nothing may be trained or written"
    return sentences


MISTAKES = {
    "a condition with a capital": (
        {TOLERANCE: 'accuracy = { "Clean" = 0.01 }'},
        "'Clean': did you mean 'clean'",
    ),
    "a misspelled corruption": (
        {TOLERANCE: 'accuracy = { "fogg/3" = 0.01 }'},
        "'fogg/3': did you mean 'fog/3'",
    ),
    "a severity that is not tested": ({TOLERANCE: 'accuracy = { "fog/9" = 0.01 }'}, "'fog/9'"),
    "two stars": ({TOLERANCE: 'accuracy = { "**" = 0.01 }'}, "'**'"),
    "no condition": ({TOLERANCE: 'accuracy = { "" = 0.01 }'}, "''"),
    "a mean of one channel": ({"widths = [8, 12, 16, 16]": "mean = [0.5]\nstd = [0.5]"}, "3 channels"),
    "a mean that is no number": (
        {"widths = [8, 12, 16, 16]": "mean = [nan, 0.5, 0.5]"},
        "expected finite numbers",
    ),
    "a standard deviation of 0": ({"widths = [8, 12, 16, 16]": "std = [0.0, 0.0, 0.0]"}, "above 0"),
    "three classes on ten": ({"widths = [8, 12, 16, 16]": "classes = 3"}, "10 classes; set classes = 10"),
    "an absurd learning rate": ({"learning_rate = 0.1": "learning_rate = 1e300"}, "learning_rate"),
    "a warm-up longer than the training": ({"epochs = 2": "epochs = 2\nwarmup_epochs = 3"}, "warmup_epochs"),
    "a ratio below one weight": (
        {"ratios = [0.5, 0.8]": "ratios = [1e-300]"},
        "less than one of the network's",
    ),
    "ratios closer than one weight": (
        {"ratios = [0.5, 0.8]": "ratios = [0.5, 0.50000000001]"},
        "differ by less than one",
    ),
    "a tolerance in points": (
        {TOLERANCE: "accuracy = 2"},
        "the tolerance is 2, but the metric is a share from 0 to 1: two points are 0.02",
    ),
    "a tolerance in points under one condition": (
        {TOLERANCE: 'accuracy = { "fog/3" = 1.5, "*" = 0.01 }'},
        "on 'fog/3' the tolerance is 1.5, but",
    ),
    "a ratio twice": ({"ratios = [0.5, 0.8]": "ratios = [0.5, 0.5]"}, "rising numbers without repeats"),
    "an unknown detector": ({CORRUPTIONS: 'name = "ood"\nfar = ["letters"]\ndetectors = ["mspp"]'}, "mspp"),
    "a checkpoint that is not there": ({'name = "small-cnn"': 'name = "small-cnn"'}, "gone.pt"),
    "a candidate that is not there": (
        {"[tolerances]": '[[candidates]]\nfile = "gone.safetensors"\nmethod = "mine"\n[tolerances]'},
        "gone.safetensors: no such file",
    ),
    "a candidate that is no checkpoint": (
        {"[tolerances]": '[[candidates]]\nfile = "notes.txt"\nmethod = "mine"\n[tolerances]'},
        "notes.txt",
    ),
    "a candidate of another network": (
        {"[tolerances]": '[[candidates]]\nfile = "other.safetensors"\nmethod = "mine"\n[tolerances]'},
        "other.safetensors",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_before_anything_is_computed(
    mistake: str, suite: str, command: Command, tmp_path: Path
) -> None:
    changes, expected = MISTAKES[mistake]
    text = suite
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    if mistake.startswith("a checkpoint"):
        text = text.replace("ratios", 'checkpoint = "gone.pt"\nratios', 1)
    (tmp_path / "notes.txt").write_text("not a network")
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "suite.toml").write_text(text)
    (sentence,) = refusals(command, tmp_path / "suite.toml", tmp_path / "run")
    assert expected in sentence


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--executor", "lokal"], "unknown executor 'lokal'"),
        (["--executor", "serial", "--workers", "2"], "serial, which is one"),
        (["--search", "accuracy@fogg/3"], "'fogg/3': did you mean 'fog/3'"),
        (["--search", "nll"], "unknown metric with a tolerance 'nll'"),
        (["--only", "accurracy"], "unknown test or method 'accurracy'"),
        (["--recipe", "lots"], "unknown recipe 'lots'"),
        (["--seed", "-1"], "found seed -1"),
        (["--out", ""], "found the empty path ''"),
    ],
)
def test_an_option_that_is_wrong_is_refused_by_the_dry_run_too(
    words: list[str], expected: str, suite: str, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "suite.toml").write_text(suite)
    (sentence,) = refusals(command, tmp_path / "suite.toml", tmp_path / "run", *words)
    assert expected in sentence


@pytest.fixture(name="files", scope="session")
def _files(done: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained parent and a candidate as checkpoint files, twice."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, source in (("dense", "dense/seed-0/0.0"), ("pruned", "magnitude/seed-0/0.5")):
        weights = load_file(done.path / "candidates" / f"{source}.safetensors")
        save_file(weights, folder / f"{name}.safetensors")
    save_file(load_file(folder / "pruned.safetensors"), folder / "again.safetensors")
    return folder


def check(command: Command, files: Path, out: Path, *words: str) -> tuple[int, str]:
    """Exit code and error of a check of one candidate."""
    code, _, said = command(
        "check", "--parent", files / "dense.safetensors", "--candidate", files / "pruned.safetensors",
        "--data", "digits", "--out", out, *words,
    )  # fmt: skip
    return code, said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--tolerance", "accuracy@Clean=0.01"], "'Clean': did you mean 'clean'"),
        (["--setting", "classes=3"], "3"),
        (["--std", "0,0,0"], "above 0"),
        (["--mean", "0.5", "--std", "0.5"], "3 channels"),
        (["--candidate", "gone.safetensors"], "gone.safetensors: no such file"),
    ],
)
def test_check_refuses_the_same_mistakes(
    words: list[str], expected: str, command: Command, files: Path, tmp_path: Path
) -> None:
    code, said = check(command, files, tmp_path / "run", *words)
    assert code == 2, said
    assert expected in " ".join(said.split())
    assert not (tmp_path / "run").exists()


def test_two_files_of_one_method_and_ratio_are_refused_before_anything_is_measured(
    command: Command, files: Path, tmp_path: Path
) -> None:
    (tmp_path / "manifest.csv").write_text(
        "file,method\n" + "".join(f"{files / name}.safetensors,mine\n" for name in ("pruned", "again"))
    )
    code, said = check(command, files, tmp_path / "run", "--manifest", str(tmp_path / "manifest.csv"))
    assert code == 2, said
    assert "has the same ratio 0.5" in " ".join(said.split())
    assert not (tmp_path / "run").exists()
