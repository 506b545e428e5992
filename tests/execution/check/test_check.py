"""Finished models of other people: what they are called, what is asked of them, and what comes out."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from evalsuite.cli import main as cli
from evalsuite.cli.commands.check import print_verdicts
from evalsuite.config.manifest import candidates_of_paths, read_manifest
from evalsuite.config.settings import settings
from evalsuite.config.suite_file import find_suite, read_suite_tables
from evalsuite.errors import CheckpointError, SuiteError
from evalsuite.execution.check import CheckRequest, junit, suite_for
from evalsuite.models.architectures.base import build_model, unwrap_model
from evalsuite.results import check_verdicts
from evalsuite.results.check_verdicts import verdict_table
from evalsuite.results.run import Run
from evalsuite.types import ExternalCandidate

WIDTHS = (8, 12, 16, 16)
Answer = Callable[..., int]


def test_a_good_model_passes_and_a_bad_one_fails(
    answer: Answer, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = ["--candidate", str(shelf / "light.safetensors"), "--out"]
    assert answer(*good, str(tmp_path / "good")) == 0
    assert "pass" in capsys.readouterr().out
    both = [*good, str(tmp_path / "both"), "--candidate", str(shelf / "heavy.safetensors"), "--json"]
    assert answer(*both, "--junit", str(tmp_path / "junit.xml")) == 1
    rows = pd.DataFrame(json.loads(capsys.readouterr().out)["checks"])
    passed = rows.groupby("candidate")["passed"].all()
    assert passed.to_dict() == {"light": True, "heavy": False}
    ratios = rows.groupby("candidate")["ratio"].first()
    assert ratios["light"] == pytest.approx(0.2, abs=1e-3)  # measured: nobody said it
    assert ratios["heavy"] == pytest.approx(0.97, abs=1e-3)
    assert (rows["drop"] - (rows["parent"] - rows["value"])).abs().max() < 1e-12
    assert set(rows.query("candidate == 'heavy'")["shown"]) == {
        "open"
    }  # it has no numbers: no gate lets it in
    page = (tmp_path / "both" / "index.html").read_text("utf-8")
    assert "heavy" in page
    cases = ET.parse(tmp_path / "junit.xml").getroot()  # noqa: S314  # our own file
    failures = {suite.get("name"): int(suite.get("failures", 0)) for suite in cases}
    assert failures["light"] == 0
    assert failures["heavy"] > 0


def test_the_command_in_the_record_runs_it_again(answer: Answer, shelf: Path, tmp_path: Path) -> None:
    assert answer("--candidate", str(shelf / "light.safetensors"), "--out", str(tmp_path / "run")) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert record["command"].startswith("python -m evalsuite check --parent")
    assert str(shelf / "light.safetensors") in record["command"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--candidate", "nowhere.pt"], r"candidate nowhere.pt: no such file"),
        ([], "no candidates|neither|none"),
        (["--candidate", "{shelf}/light.safetensors", "--metric", "acuracy"], "did you mean 'accuracy'"),
        (
            ["--candidate", "{shelf}/light.safetensors", "--tolerance", "accuracy"],
            r"--tolerance accuracy: expected metric=number",
        ),
        (["--candidate", "{shelf}/light.safetensors", "--tolerance", "accuracy=much"], "expected a number"),
        (["--candidate", "{shelf}/battery.toml"], "battery.toml"),
        (["--candidate", "{shelf}/light.safetensors", "--mean", "0.5"], "mean"),
    ],
    ids=["no file", "no candidates", "metric", "pair", "number", "no weights", "one mean"],
)
def test_mistakes_are_one_sentence_and_write_nothing(
    words: list[str],
    sentence: str,
    answer: Answer,
    shelf: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [word.replace("{shelf}", str(shelf)) for word in words]
    assert answer(*filled, "--out", str(tmp_path / "run")) == 2
    said = capsys.readouterr().err
    assert pd.Series([said]).str.contains(sentence).all(), said
    assert not (tmp_path / "run" / "measurements.csv").exists()


def test_a_claimed_ratio_is_checked(answer: Answer, shelf: Path, tmp_path: Path) -> None:
    listed = tmp_path / "models.csv"
    listed.write_text(f"file,method,ratio\n{shelf / 'light.safetensors'},ours,0.2\n", "utf-8")
    words = ("--manifest", str(listed), "--out", str(tmp_path / "run"))
    assert answer(*words) == 0
    listed.write_text(f"file,method,ratio\n{shelf / 'light.safetensors'},ours,0.5\n", "utf-8")
    assert answer(*words) == 2


def test_a_manifest_makes_curves(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(
        f"[[candidates]]\nfile = '{shelf / 'heavy.safetensors'}'\nmethod = 'tool'\n"
        f"[[candidates]]\nfile = '{shelf / 'light.safetensors'}'\nmethod = 'tool'\nratio = 0.2\n",
        "utf-8",
    )
    import evalsuite

    question = CheckRequest(
        parent=str(shelf / "dense.pt"),
        candidates=read_manifest(tmp_path / "models.toml"),
        model="small-cnn",
        settings={"widths": list(WIDTHS)},
        data={"name": "digits"},
        suite=str(shelf / "battery.toml"),
    )
    run = evalsuite.run(suite_for(question, folder=tmp_path), out=tmp_path / "run")
    found = run.thresholds().query("condition == 'clean' and seed == 'all'").iloc[0]
    assert found["tested"].count(" ") == 1
    assert found["potential"] == pytest.approx(0.2, abs=1e-3)
    again = evalsuite.run(suite_for(question, folder=tmp_path), out=tmp_path / "run")
    assert again.record["computed"] == 0
    assert set(verdict_table(again)["candidate"]) == {"tool"}


def test_the_depth_of_a_suite_is_asked_too(shelf: Path, tmp_path: Path) -> None:
    """With the temperatures of networks that somebody else trained, and the suite's own changes."""
    (tmp_path / "deep.toml").write_text(
        "depth = 'quick'\n[[evaluators]]\nname = 'attack'\nimages = 20\n[tolerances]\naccuracy = 0.01\n",
        "utf-8",
    )
    question = CheckRequest(
        parent=str(shelf / "dense.pt"),
        candidates=(ExternalCandidate(str(shelf / "light.safetensors"), "light"),),
        model="small-cnn",
        settings={"widths": list(WIDTHS)},
        data={"name": "digits"},
        suite=str(tmp_path / "deep.toml"),
    )
    found = {one.label: one.plugin for one in suite_for(question, folder=tmp_path).evaluators}
    assert list(found) == ["accuracy", "corruptions", "ood", "noise", "attack", "calibration"]
    assert (found["attack"].images, found["attack"].steps) == (20, 10)  # type: ignore[attr-defined]  # an Attack
    assert found["calibration"].held_out == "cross-fit"  # type: ignore[attr-defined]  # a Calibration


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file\na/x.pt\n", [ExternalCandidate("a/x.pt", "x")]),
        (
            "file,method,seed,masks,ratio,bypass\na.pt, m , 2 ,b.pt,0.5,layer1.0.conv1 layer2\n",
            [ExternalCandidate("a.pt", "m", 2, "b.pt", ("layer1.0.conv1", "layer2"), 0.5)],
        ),
    ],
    ids=["file alone", "everything"],
)
def test_csv_manifest(text: str, expected: list[ExternalCandidate], tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(text, "utf-8")
    assert list(read_manifest(tmp_path / "m.csv")) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "lists no candidates"),
        ("file,method\n", "lists no candidates"),
        ("path,method\na.pt,m\n", "unknown key 'path'"),
        ("method\nm\n", "'file' is missing"),
        ("file,seed\na.pt,one\n", "key 'seed'"),
        ("file,ratio\na.pt,half\n", "key 'ratio'"),
    ],
    ids=["empty", "header alone", "unknown column", "no file", "seed in words", "ratio in words"],
)
def test_mistakes_in_a_manifest(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(text, "utf-8")
    with pytest.raises(SuiteError, match=sentence):
        read_manifest(tmp_path / "m.csv")
    with pytest.raises(SuiteError, match="cannot be read"):
        read_manifest(tmp_path / "other.csv")


def test_candidates_are_named_as_shortly_as_tells_them_apart() -> None:
    assert [one.method for one in candidates_of_paths(["a/x.pt", "b/y.pth.tar"])] == ["x", "y"]
    assert [one.method for one in candidates_of_paths(["a/x.pt", "b/x.pt"])] == ["a/x.pt", "b/x.pt"]
    assert [one.method for one in candidates_of_paths(["a/dense.pt"])] == [
        "a/dense.pt"
    ]  # the parent's name is taken
    with pytest.raises(CheckpointError, match="twice"):
        candidates_of_paths(["a/x.pt", "a/x.pt"])


def test_settings() -> None:
    assert settings(["a=1", "b=0.5", "c=x,2", "d=A"]) == {"a": 1, "b": 0.5, "c": ["x", 2], "d": "A"}
    with pytest.raises(SuiteError, match="expected key=value"):
        settings(["=1"])


def test_junit_says_what_could_not_be_measured() -> None:
    row: dict[str, Any] = dict.fromkeys(check_verdicts.COLUMNS, float("nan"))
    row |= {
        "candidate": "m",
        "metric": "accuracy",
        "condition": "clean",
        "passed": False,
        "reason": "no gradients <>",
    }
    text = junit(pd.DataFrame([row])).decode()
    assert "could not be measured: no gradients &lt;&gt;" in text


def test_junit_has_the_numbers_of_every_check_and_times_that_add_up() -> None:
    row: dict[str, Any] = dict.fromkeys(check_verdicts.COLUMNS, 0.5)
    row |= {"candidate": "m", "metric": "accuracy", "seed": 0, "controls": 0, "reason": "", "flags": ""}
    row |= {"verdict": "inferior", "verdict_level": "97.5 %", "drop_low": 0.1, "passed": False}
    rows = [row | {"condition": f"fog/{k}", "evaluator": "corruptions", "passed": k == 1} for k in (1, 2)]
    found = pd.DataFrame(
        [*rows, row | {"condition": "clean", "evaluator": "accuracy", "drop_low": float("nan")}]
    )
    root = ET.fromstring(junit(found, {"corruptions": 3.0, "production": 9.0}))  # noqa: S314  # our own file
    (suite,) = root
    assert [case.get("time") for case in suite] == ["1.500", "1.500", "0.000"]
    assert suite.get("time") == "3.000"
    passed, failed, last = suite
    numbers = "drop 0.5000 (95 % interval 0.1000 to 0.5000), tolerance 0.5\nverdict: inferior, at 97.5 %"
    assert numbers in (passed.findtext("system-out") or "")
    assert numbers in (failed.findtext("failure") or "")
    assert "accuracy on clean: 0.5000, the parent's 0.5000\ndrop 0.5000, tol" in (
        last.findtext("failure") or ""
    )


def test_a_doubted_number_passes_with_its_doubt(capsys: pytest.CaptureFixture[str]) -> None:
    row: dict[str, Any] = dict.fromkeys(check_verdicts.COLUMNS, 0.5)
    row |= {"candidate": "m", "metric": "robust_accuracy", "condition": "worst/2:255", "shown": "open"}
    row |= {"seed": 0, "verdict": "undecided", "decidable": True}
    row |= {"passed": True, "reason": "", "flags": "The gradient is zero on 9 of 10 images <>."}
    found = pd.DataFrame([row, row | {"metric": "accuracy", "flags": ""}])
    case, other = ET.fromstring(junit(found)).iter("testcase")  # noqa: S314  # our own file
    warning = "Warning: The gradient is zero on 9 of 10 images <>."
    assert (case.findtext("system-out") or "").endswith(f"\n{warning}")
    assert "Warning" not in (other.findtext("system-out") or "")
    print_verdicts(found)
    printed = " ".join(capsys.readouterr().out.split())
    assert "m, robust_accuracy on worst/2:255: The gradient is zero on 9 of 10 images <>." in printed
    assert "accuracy on worst/2:255: The" not in printed.replace("robust_accuracy", "")


def test_warnings_that_differ_in_numbers_alone_are_one(capsys: pytest.CaptureFixture[str]) -> None:
    row: dict[str, Any] = dict.fromkeys(check_verdicts.COLUMNS, 0.5)
    row |= {
        "candidate": "m",
        "seed": 0,
        "verdict": "undecided",
        "decidable": True,
        "passed": True,
        "reason": "",
    }
    row |= {"metric": "accuracy", "sample": ""}
    texts = ("over 3 of the 3 corruptions.", "over 14 of the 15 corruptions.", "masked.")
    print_verdicts(
        pd.DataFrame([row | {"condition": str(place), "flags": text} for place, text in enumerate(texts)])
    )
    printed = capsys.readouterr().out
    assert "Warning: m, accuracy on 0 and 1 more: over 3 of the 3 corruptions." in printed
    assert "Warning: m, accuracy on 2: masked." in printed
    assert printed.count("Warning:") == 2


def test_the_architecture_is_guessed_where_nobody_names_it(tmp_path: Path) -> None:
    from evalsuite.models.architectures.resnet import ResNet20

    torch.manual_seed(0)
    torch.save(unwrap_model(build_model(ResNet20(shortcut="B"))).state_dict(), tmp_path / "dense.pt")
    question = CheckRequest(
        parent=str(tmp_path / "dense.pt"),
        candidates=(ExternalCandidate("x.pt", "x"),),
        data={"name": "digits"},
    )
    guessed = suite_for(question, folder=tmp_path).model
    assert guessed.name == "resnet20"
    assert guessed.settings["shortcut"] == "B"


def test_inspect_says_what_is_there(
    shelf: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["evalsuite", "inspect", str(shelf / "heavy.safetensors"), "--parent", str(shelf / "dense.pt")]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    said = capsys.readouterr().out
    assert "safetensors" in said
    assert "of the parent's parameters are gone" in said
    assert "a guess guessed from names and shapes of the tensors" in " ".join(said.split())
    monkeypatch.setattr("sys.argv", [*words, "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    assert json.loads(capsys.readouterr().out)["ratio"] == pytest.approx(0.97, abs=1e-3)


def test_a_candidate_as_dense_as_its_parent_is_judged_and_lies_on_no_curve(
    answer: Answer, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = torch.load(shelf / "dense.pt", weights_only=True)["state_dict"]
    torch.save(weights, tmp_path / "again.pt")
    words = ["--candidate", str(tmp_path / "again.pt"), "--json", "--out", str(tmp_path / "run")]
    assert answer(*words) == 0
    rows = pd.DataFrame(json.loads(capsys.readouterr().out)["checks"])
    assert set(rows["ratio"]) == {0.0}
    assert (rows["drop"] == 0).all()
    assert answer(*words, "--candidate", str(shelf / "heavy.safetensors")) == 1
    assert {"again", "heavy"} == {row["candidate"] for row in json.loads(capsys.readouterr().out)["checks"]}
    table = pd.read_csv(tmp_path / "run" / "thresholds.csv")
    assert set(table["method"]) == {"heavy"}


def test_a_measured_drop_is_no_proof(
    answer: Answer, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy of the parent loses nothing on 899 images; that alone allows a drop of 0.0033 on all others."""
    weights = torch.load(shelf / "dense.pt", weights_only=True)["state_dict"]
    torch.save(weights, tmp_path / "again.pt")
    words = [
        "--candidate",
        str(tmp_path / "again.pt"),
        "--out",
        str(tmp_path / "run"),
        "--metric",
        "accuracy",
    ]
    strict = [*words, "--tolerance", "accuracy=0.003"]
    assert answer(*strict) == 0
    said = capsys.readouterr().out
    assert "pass (0 of 2 shown to hold)" in said
    assert "UNDECIDED again: 0 of 2 checks are shown to fail, 0 to hold; 2 are undecided." in said
    assert "Exit code 0: no candidate fails; again UNDECIDED, which passes by --undecided measured." in said
    assert answer(*strict, "--undecided", "pass") == 0
    assert answer(*strict, "--undecided", "fail") == 1
    assert "Exit code 1: again UNDECIDED, which fails by --undecided fail." in capsys.readouterr().out
    assert answer(*strict, "--undecided", "fial") == 2
    assert "did you mean 'fail'" in capsys.readouterr().err
    assert answer(*strict, "--undecided", "pass", "--proof") == 2
    assert "--proof means --undecided fail" in capsys.readouterr().err
    assert answer(*strict, "--proof", "--junit", str(tmp_path / "junit.xml")) == 1
    assert "which the images leave undecided" in (tmp_path / "junit.xml").read_text("utf-8")
    capsys.readouterr()
    assert answer(*words, "--tolerance", "accuracy=0.0045", "--proof", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    rows = document.pop("checks")
    (candidate,) = document.pop("candidates")
    assert (document["outcome"], document["exit_code"], document["n"]) == ("SHIP", 0, 899)
    assert Path(document["report"]).is_file()
    assert (candidate["candidate"], candidate["outcome"], candidate["noninferior"]) == ("again", "SHIP", 2)
    page = Path(document["report"]).read_text("utf-8")
    assert "SHIP" in page
    assert "Curves over the prune ratio" not in page
    assert {(row["shown"], row["verdict"]) for row in rows} == {("commensurate", "non-inferior")}
    assert all("97.5 %" in row["verdict_level"] for row in rows)
    last = [name for name in weights if name.endswith(".bias")][-1]
    weights[last] = weights[last] + 1000 * (torch.arange(10) == 3)  # everything is a three
    torch.save(weights, tmp_path / "threes.pt")
    assert answer("--candidate", str(tmp_path / "threes.pt"), "--out", str(tmp_path / "threes")) == 1
    assert "FAIL 2 of 2 (2 shown)" in capsys.readouterr().out


def test_a_candidate_denser_than_its_parent_is_judged(
    answer: Answer, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--parent", str(shelf / "light.safetensors"), "--candidate", str(shelf / "dense.pt")]
    assert answer(*words, "--json", "--out", str(tmp_path / "run")) == 0
    assert {row["ratio"] < 0 for row in json.loads(capsys.readouterr().out)["checks"]} == {True}


def test_a_dry_run_prints_the_plan_and_computes_nothing(
    answer: Callable[..., int], shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "nothing"
    words = ("--candidate", str(shelf / "light.safetensors"), "--out", str(out))
    assert answer(*words, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "899 test images of digits, 3x32x32" in printed
    assert "classes     10: 0 0, 1 1" in printed
    assert "tolerances  accuracy 0.02" in printed
    rows = {line.split()[0]: line.split()[1:3] for line in printed.splitlines() if line[:1].isalpha()}
    assert rows["accuracy"] == rows["noise"] == ["0", "2"]
    assert not out.exists()
    assert answer(*words, "--dry-run", "--metric", "acuracy") == 2
    mistake = capsys.readouterr().err
    assert answer(*words, "--metric", "acuracy") == 2
    assert capsys.readouterr().err == mistake != ""


def test_an_option_that_has_no_effect_beside_a_dry_run_is_refused(
    answer: Callable[..., int], shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--candidate", str(shelf / "light.safetensors"), "--dry-run")
    for option in (("--json",), ("--junit", str(tmp_path / "x.xml"))):
        assert answer(*words, *option) == 2
        assert f"{option[0]} has no effect with --dry-run" in capsys.readouterr().err


def test_a_rule_for_undecided_checks_is_refused_before_anything_is_read() -> None:
    with pytest.raises(SuiteError, match="undecided: unknown rule 'fial': did you mean 'fail'"):
        CheckRequest("gone.pt", (), "digits", undecided="fial")  # type: ignore[arg-type]
    with pytest.warns(DeprecationWarning, match="undecided='fail'"):
        assert CheckRequest("gone.pt", (), "digits", proof=True).undecided == "fail"


def test_a_limit_is_said_in_the_verdict_the_json_the_junit_and_the_report(
    answer: Callable[..., int], shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "check", tmp_path / "junit.xml"
    text = "a seeded sample, stratified by class, of 100 of the 899 test images"
    words = ("--candidate", str(shelf / "light.safetensors"), "--out", str(out), "--limit", "100")
    answer(*words, "--junit", str(file))
    assert f"Tested on {text}" in capsys.readouterr().out
    answer(*words, "--json")
    rows = json.loads(capsys.readouterr().out)["checks"]
    assert all(row["sample"].startswith(text) for row in rows)
    run = Run(out)
    assert set(run.measurements["n"].dropna()) == {100}
    assert any(text in note["note"] for note in run.notes)
    assert run.record["sample"] == {"images": 100, "of": 899, "limit": 100, "text": rows[0]["sample"]}
    assert text in file.read_text()
    assert text in (out / "index.html").read_text("utf-8")
    answer(*words, "--dry-run")
    assert f"sample      {text}" in capsys.readouterr().out
    assert answer(*words[:-1], "0") == 2
    assert "found --limit 0, expected a number of images from 1 on" in capsys.readouterr().err


def test_controls_say_what_is_not_due_to_pruning(
    answer: Answer, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = torch.load(shelf / "dense.pt", weights_only=True)["state_dict"]
    torch.save(weights, tmp_path / "again.pt")
    last = [name for name in weights if name.endswith(".bias")][-1]
    weights[last] = weights[last] + 1000 * (torch.arange(10) == 3)  # a training that went wrong
    for name in ("threes.pt", "pruned.pt"):
        torch.save(weights, tmp_path / name)
    words = ["--candidate", str(tmp_path / "pruned.pt"), "--metric", "accuracy"]
    words += ["--control", str(tmp_path / "again.pt"), "--control", str(tmp_path / "threes.pt")]
    assert answer(*words, "--out", str(tmp_path / "run"), "--json", "--junit", str(tmp_path / "j.xml")) == 1
    rows = json.loads(capsys.readouterr().out)["checks"]
    assert {row["candidate"] for row in rows} == {"pruned"}  # controls have no rows and do not decide
    assert {(row["controls"], row["controls_inferior"], row["controls_failed"]) for row in rows} == {
        (2, 1, 1)
    }
    assert "of 2 dense controls 1 loses more than that as well" in (tmp_path / "j.xml").read_text("utf-8")
    assert answer(*words, "--out", str(tmp_path / "run")) == 1
    assert "too)" in capsys.readouterr().out  # "2 fail in a control too", wherever the table breaks it


def test_a_copy_of_the_parent_is_no_control(
    shelf: Path, tmp_path: Path, answer: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copy(shelf / "dense.pt", tmp_path / "again.pt")
    words = ["--candidate", str(shelf / "light.safetensors"), "--control", str(copy)]
    assert answer(*words) == 2
    assert "found the parent's own weights" in " ".join(capsys.readouterr().err.split())


def test_a_control_alone_is_no_question(
    answer: Answer, shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer("--control", str(shelf / "dense.pt")) == 2
    assert "found no candidates" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("suite", "keys"),
    [
        ("digits", "seeds, producers, ratios, recipe, retraining"),
        ("recipe-cross-digits", "seeds, producers, ratios, recipe"),
        ("methods-digits", "seeds, producers, ratios, recipe, retraining"),
        ("", ""),
    ],
)
def test_keys_of_a_suite_that_mean_nothing_here_are_named_in_one_sentence(
    suite: str, keys: str, shelf: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every suite that ships can be used: what it says about the making of candidates is said to be left out."""
    (tmp_path / "tests.toml").write_text(
        "name = 'gate'\ndescription = 'fast'\n[[evaluators]]\nname = 'accuracy'\n[tolerances]\naccuracy = 0.01\n",
        "utf-8",
    )
    question = CheckRequest(
        parent=str(shelf / "dense.pt"),
        candidates=(ExternalCandidate(str(shelf / "light.safetensors"), "light", seed=3),),
        model="small-cnn",
        settings={"widths": list(WIDTHS)},
        data={"name": "digits"},
        suite=suite or str(tmp_path / "tests.toml"),
    )
    answered = suite_for(question, folder=tmp_path)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (1 if keys else 0)
    assert all(text.endswith(f"check takes finished models, so it does not use {keys}") for text in said)
    assert (answered.name, answered.seeds, answered.producers) == ("check", (3,), ())
    about = read_suite_tables(find_suite(suite))["description"] if suite else "fast"
    tests = f"by the tests of the suite {suite or 'gate'}: {about}"
    assert answered.description == f"finished models beside dense.pt, {tests}"
