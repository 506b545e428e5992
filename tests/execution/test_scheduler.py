"""A suite run: the same numbers every time, nothing computed twice, and nothing lost to a kill."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import torch

import evalsuite
from evalsuite import api
from evalsuite.config.options import Options
from evalsuite.errors import CheckpointError, DataError, UserError
from evalsuite.execution import scheduler as runner
from evalsuite.execution.devices import threads
from evalsuite.execution.tasks import CellProgress
from evalsuite.results.run import UNCOMPUTED
from evalsuite.runs.store import Key, Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalsuite import Run

TABLES = ("measurements.csv", "thresholds.csv", "reliability.csv")
ADDRESS = ["method", "seed", "target_ratio", "evaluator", "metric", "condition"]
CELLS = 5 * (1 + 6)  # parent and two candidates of two methods: made, and six tests each


def tables(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in TABLES}


def copied(done: Run, folder: Path) -> Path:
    path = folder / "run"
    shutil.copytree(done.path, path)
    return path


def finished(path: Path) -> dict[Path, tuple[int, int]]:
    """Every finished cell and candidate with what would change if it were written again."""
    found = [*path.rglob("*.cell"), *path.rglob("candidates/*/*/*.json")]
    return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in found}


def computed(path: Path) -> int:
    return int(json.loads((path / "run.json").read_text())["computed"])


def test_two_runs_in_different_folders_are_equal_byte_for_byte(done: Run, tiny: Path, tmp_path: Path) -> None:
    api.run(tiny, out=tmp_path / "elsewhere" / "again")
    assert tables(tmp_path / "elsewhere" / "again") == tables(done.path)
    names = {path.relative_to(done.path): path.read_bytes() for path in finished(done.path)}
    assert len(names) == CELLS
    for name, data in names.items():
        assert (tmp_path / "elsewhere" / "again" / name).read_bytes() == data


def test_the_order_of_methods_and_tests_changes_no_number(
    done: Run, suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    text = Path(done.record["suite"]["source"]).read_text()
    head, *blocks = text.partition("[tolerances]")[0].split("[[")
    turned = (
        head
        + "".join(f"[[{block}" for block in reversed(blocks))
        + "[tolerances]"
        + text.partition("[tolerances]")[2]
    )
    other = api.run(suite_file(text=turned), out=tmp_path / "turned")
    assert list(other.measurements["evaluator"].unique()) == list(
        reversed(done.measurements["evaluator"].unique())
    )
    left, right = (run.measurements.sort_values(ADDRESS, ignore_index=True) for run in (done, other))
    pd.testing.assert_frame_equal(left, right, check_exact=True)
    by = ["method", "seed", "metric", "condition", "aggregate"]
    left, right = (run.thresholds().sort_values(by, ignore_index=True) for run in (done, other))
    pd.testing.assert_frame_equal(left, right, check_exact=True)


def test_a_second_start_computes_nothing(
    done: Run, tiny: Path, tmp_path: Path, counted: dict[str, int]
) -> None:
    path = copied(done, tmp_path)
    before, csv = finished(path), tables(path)
    steps: list[CellProgress] = []
    api.run(tiny, out=path, progress=steps.append)
    assert counted == {"trainings": 0, "passes": 0}
    assert computed(path) == 0
    assert finished(path) == before
    assert tables(path) == csv
    assert [step.done for step in steps] == list(range(1, CELLS + 1))
    assert {(step.total, step.computed, step.status) for step in steps} == {(CELLS, False, "ok")}


@pytest.mark.parametrize(
    "victim",
    [
        "cells/magnitude/seed-0/0.5/ood.cell",
        "cells/dense/seed-0/0.0/attack.cell",
        "cells/filter-l1/seed-0/0.8/noise.cell",
    ],
)
@pytest.mark.parametrize("damage", ["deleted", "cut"])
def test_a_lost_cell_is_all_that_is_computed_again(
    victim: str, damage: str, done: Run, tiny: Path, tmp_path: Path
) -> None:
    path = copied(done, tmp_path)
    before, csv = finished(path), tables(path)
    data = (path / victim).read_bytes()
    if damage == "deleted":
        (path / victim).unlink()
    else:
        (path / victim).write_bytes(data[:-20])
    api.run(tiny, out=path)
    assert computed(path) == 1
    assert {
        file.relative_to(path).as_posix() for file, seen in finished(path).items() if before[file] != seen
    } == {victim}
    assert (path / victim).read_bytes() == data
    assert tables(path) == csv


@pytest.mark.parametrize("damage", ["weights cut", "weights deleted", "record deleted"])
def test_a_lost_candidate_is_made_again_as_it_was(damage: str, done: Run, tiny: Path, tmp_path: Path) -> None:
    path = copied(done, tmp_path)
    csv = tables(path)
    weights = path / "candidates/magnitude/seed-0/0.8.safetensors"
    data = weights.read_bytes()
    lost = weights.with_suffix(".json") if damage == "record deleted" else weights
    if damage == "weights cut":
        weights.write_bytes(data[: len(data) // 2])
        (path / "cells/magnitude/seed-0/0.8/noise.cell").unlink()  # so that they are asked for
    else:
        lost.unlink()
    api.run(tiny, out=path)
    assert computed(path) == (2 if damage == "weights cut" else 1)
    assert weights.read_bytes() == data
    assert tables(path) == csv


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        pytest.param({"accuracy = 0.05": "accuracy = 0.5"}, set(), id="tolerance"),
        pytest.param({"seeds = [0]": 'seeds = [0]\ndescription = "x"'}, set(), id="description"),
        pytest.param({"epsilons = [16]": "epsilons = [16.0]"}, set(), id="the same number written otherwise"),
        pytest.param({"epsilons = [16]": "epsilons = [20]"}, {"noise"}, id="setting of one test"),
        pytest.param({"steps = 2": "steps = 3"}, {"attack"}, id="setting of another test"),
    ],
)
def test_a_change_of_the_suite_computes_what_depends_on_it(
    changes: dict[str, str], again: set[str], done: Run, suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = copied(done, tmp_path)
    before = finished(path)
    api.run(suite_file(changes), out=path)
    assert {file.stem for file, seen in finished(path).items() if before[file] != seen} == again
    assert computed(path) == 5 * len(again)


@pytest.mark.parametrize(
    ("changes", "trainings"),
    [
        pytest.param({"learning_rate = 0.1": "learning_rate = 0.05"}, 5, id="recipe"),
        pytest.param({"ratios = [0.5, 0.8]": "ratios = [0.5, 0.8, 0.9]"}, 2, id="one ratio more"),
        pytest.param({"ratios = [0.5, 0.8]": "ratios = [0.5, 0.7]"}, 2, id="another last ratio"),
        pytest.param({"ratios = [0.5, 0.8]": "ratios = [0.8]"}, 2, id="the first ratio dropped"),
        pytest.param({'"filter-l1"': '"random"'}, 2, id="another method"),
        pytest.param({'"filter-l1"': '"filter-l1"\nlabel = "FT"'}, 2, id="another label"),
    ],
)
def test_a_candidate_depends_on_its_whole_way(
    changes: dict[str, str],
    trainings: int,
    done: Run,
    suite_file: Callable[..., Path],
    tmp_path: Path,
    counted: dict[str, int],
) -> None:
    path = copied(done, tmp_path)
    runner.run(suite_file(changes), out=path)
    assert counted["trainings"] == trainings


@pytest.mark.extensive
def test_nothing_of_an_older_suite_is_reported_as_this_one(
    done: Run, suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    """A run that was changed and stopped early must not pair new parents with old candidates."""
    path = copied(done, tmp_path)

    def stop(step: CellProgress) -> None:
        if step.done == 5:
            raise KeyboardInterrupt

    changed = {"learning_rate = 0.1": "learning_rate = 0.05"}
    with pytest.raises(KeyboardInterrupt):
        api.run(suite_file(changed), out=path, progress=stop)
    api.publish(path)
    found = evalsuite.Run(path).measurements
    assert set(found[found["status"] == "ok"]["method"]) == {"dense"}
    children = found[found["method"] != "dense"]
    assert set(children["status"]) == {"skipped"}
    assert children["value"].isna().all()
    whole = api.run(suite_file(changed), out=path).measurements
    fresh = api.run(suite_file(changed), out=tmp_path / "fresh").measurements
    pd.testing.assert_frame_equal(whole, fresh, check_exact=True)


def test_cells_of_older_settings_are_not_reported_under_the_new_ones(
    done: Run, suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = copied(done, tmp_path)

    def stop(step: CellProgress) -> None:
        if step.done == CELLS // 5:  # the parent is done
            raise KeyboardInterrupt

    changed = {"steps = 2": "steps = 3"}
    with pytest.raises(KeyboardInterrupt):
        runner.run(suite_file(changed), out=path, progress=stop)
    found = evalsuite.Run(path).measurements
    missing = found[found["status"] != "ok"]
    assert set(missing["evaluator"]) == {"attack"}
    assert set(missing["method"]) == {"magnitude", "filter-l1"}
    api.run(
        suite_file({"steps = 2": "steps = 2"}), out=path
    )  # and going back loses nothing but what was written over
    assert computed(path) == 1


KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
from evalsuite import api
from evalsuite.execution import scheduler as runner
suite, out = sys.argv[1], Path(sys.argv[2])
draws = random.Random()
runner.run(suite, out=out.with_name("warm"))  # imports whatever there is to import
begun = time.monotonic()
runner.run(suite, out=out.with_name("timed"))
span = time.monotonic() - begun
for _ in range(5):
    child = os.fork()
    if child == 0:
        runner.run(suite, out=out)
        os._exit(0)
    time.sleep(draws.uniform(0.02, 0.5) * span)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    files = [*out.rglob("*.cell"), *out.rglob("candidates/*/*/*.json")]
    print(json.dumps({str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}), flush=True)
"""


@pytest.mark.extensive
def test_kills_at_random_moments_lose_nothing_that_was_finished(
    done: Run, tiny: Path, tmp_path: Path, python: Callable[..., Any]
) -> None:
    path = tmp_path / "run"
    ended = python("-W", "ignore", "-c", KILLER, tiny, path)
    assert ended.code == 0, ended
    states = [
        {file: tuple(seen) for file, seen in json.loads(line).items()} for line in ended.out.splitlines()
    ]
    assert len(states) == 5
    api.run(tiny, out=path)
    states.append({str(file): seen for file, seen in finished(path).items()})
    for before, after in pairwise(states):
        assert before.items() <= after.items()
    assert states[-2]
    assert tables(path) == tables(done.path)


def interrupted(
    suite: Path, out: Path, cells: int, number: signal.Signals, *more: str
) -> subprocess.Popen[str]:
    """The command, sent a signal as soon as it has finished some cells."""
    from_conftest = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "evalsuite", "run", str(suite), "--out", str(out), *more],
        env={**os.environ, **from_conftest},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell that runs this in the background has it ignore interrupts, and children inherit that
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    limit = time.monotonic() + 100
    while len(list(out.rglob("*.cell"))) < cells and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    process.send_signal(number)
    return process


@pytest.mark.extensive
@pytest.mark.parametrize(
    ("number", "more"),
    [(signal.SIGINT, ()), (signal.SIGTERM, ("--workers", "2")), (signal.SIGHUP, ())],
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)
def test_an_interrupt_is_one_sentence_and_the_run_goes_on_later(
    number: signal.Signals, more: tuple[str, ...], done: Run, tiny: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    process = interrupted(tiny, path, 3, number, *more)
    out, err = process.communicate(timeout=100)  # until the last worker has closed them
    assert process.returncode == 128 + number, err
    assert not (path / "run.lock").exists()
    *progress, last = err.splitlines()
    assert last == "Stopped. What is finished is kept: the same command goes on from here."
    assert all(re.fullmatch(r"evalsuite: \d+ of \d+ cells done.*", line) for line in progress)
    assert out == ""
    kept = finished(path)
    assert 3 <= len(kept) < CELLS
    assert not list(path.rglob(".*"))
    api.run(tiny, out=path)
    assert kept.items() <= finished(path).items()
    assert tables(path) == tables(done.path)


FEW = {
    '[[producers]]\nname = "filter-l1"\n': "",
    '[[evaluators]]\nname = "corruptions"\nkinds = ["brightness", "contrast"]\nseverities = [3]\n': "",
    '[[evaluators]]\nname = "ood"\nnear = ["letters"]\nfar = ["uniform-noise"]\n': "",
    '[[evaluators]]\nname = "attack"\nepsilons = [8]\nsteps = 2\nimages = 32\n': "",
    '[[evaluators]]\nname = "calibration"\n': "",
    "robust_accuracy = 0.1\nmsp_auroc = 0.05\nece_equal_width = 0.05\n": "",
}


def test_a_failing_test_is_written_down_and_tried_again(
    suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    flag, path = tmp_path / "flag", tmp_path / "run"
    moody = {
        '"noise"\nepsilons = [16]': f'"moody"\nflag = "{flag}"',
        "accuracy = 0.05": "accuracy = 0.05\nmood = 0.05",
    }
    suite = suite_file(FEW | moody)
    flag.touch()
    first = api.run(suite, out=path)
    failed = first.failures
    assert set(failed["evaluator"]) == {"moody"}
    assert set(failed["reason"]) == {"ValueError: not in the mood"}
    assert set(failed["status"]) == {"error"}
    assert len(failed) == 3
    assert (first.measurements["status"] == "ok").sum() == 9  # the other test went on
    assert "not in the mood" in (path / "index.html").read_text("utf-8")
    assert "mood" not in set(first.thresholds()["metric"])
    flag.unlink()
    second = api.run(suite, out=path)
    assert second.failures.empty
    assert computed(path) == 3
    assert set(second.thresholds()["metric"]) == {"accuracy", "mood"}


def test_a_test_that_fails_on_a_candidate_only_leaves_its_threshold_incomplete(
    suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    flag, path = tmp_path / "flag", tmp_path / "run"
    moody = {
        '"noise"\nepsilons = [16]': f'"moody"\nflag = "{flag}"',
        "accuracy = 0.05": "accuracy = 0.05\nmood = 1.0",
    }

    def spoil(step: CellProgress) -> None:
        if step.key.target_ratio == 0.5:
            flag.touch()

    run = api.run(suite_file(FEW | moody), out=path, progress=spoil)
    rows = run.measurements[run.measurements["metric"] == "mood"]
    assert list(rows["status"]) == ["ok", "error", "error"]
    assert list(rows["condition"]) == ["clean"] * 3
    (threshold,) = run.thresholds().query("metric == 'mood' and seed == 'all'").to_dict("records")
    assert threshold["incomplete"]
    assert threshold["potential"] == 0


def test_a_failing_producer_gives_its_reason_to_the_rest_of_its_chain(
    suite_file: Callable[..., Path], tmp_path: Path, counted: dict[str, int]
) -> None:
    flag, path = tmp_path / "flag", tmp_path / "run"
    ratios = {"ratios = [0.5, 0.8]": "ratios = [0.5, 0.8, 0.9]"}
    suite = suite_file(FEW | ratios | {'"magnitude"': f'"fragile"\nflag = "{flag}"'})
    flag.touch()
    steps: list[CellProgress] = []
    first = api.run(suite, out=path, progress=steps.append)
    failed = first.failures
    assert set(failed["target_ratio"]) == {0.8, 0.9}
    assert set(failed["reason"]) == {"production failed at ratio 0.8: nothing is left to remove"}
    assert set(failed["status"]) == {"error"}
    assert "nothing is left to remove" in (path / "index.html").read_text("utf-8")
    assert [step.done for step in steps] == list(range(1, steps[0].total + 1))
    flag.unlink()
    counted["trainings"] = 0
    second = api.run(suite, out=path)
    assert second.failures.empty
    assert counted["trainings"] == 2  # the two that failed, from the one that did not
    whole = api.run(
        suite_file(FEW | ratios | {'"magnitude"': '"fragile"\nlabel = "other"'}), out=tmp_path / "whole"
    )
    weights = [
        Store(run.path).candidate(Key(label, 0, 0.9))
        for run, label in ((second, "fragile"), (whole, "other"))
    ]
    assert weights[0] is not None
    assert weights[1] is not None
    assert weights[0].weights == weights[1].weights


def test_a_candidate_that_was_made_before_but_cannot_be_made_now_is_not_reported(
    suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    flag, path = tmp_path / "flag", tmp_path / "run"
    changes = FEW | {'"magnitude"': f'"fragile"\nflag = "{flag}"'}
    api.run(suite_file(changes), out=path)
    flag.touch()
    run = api.run(suite_file(changes | {"epochs = 2": "epochs = 1"}), out=path)
    assert set(run.failures["target_ratio"]) == {0.8}


def test_a_model_that_is_no_number_is_invalid_and_stays_so(
    suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    suite = suite_file(FEW | {'"magnitude"': '"overflow"', "[0.5, 0.8]": "[0.5]"})
    run = api.run(suite, out=tmp_path / "run")
    assert set(run.failures["status"]) == {"invalid"}
    assert set(run.failures["target_ratio"]) == {0.5}
    assert run.failures["reason"].str.contains("finite|NaN|inf").all()
    assert run.failures["value"].isna().all()
    again = api.run(suite, out=tmp_path / "run")
    assert computed(again.path) == 0
    assert len(again.failures) == len(run.failures)


@pytest.mark.parametrize(
    ("sin", "sentence"),
    [
        ("nothing", r"the producer yielded NoneType for ratio 0\.5, expected a module"),
        ("parent", r"the producer changed the parent; it must work on a copy"),
        ("nan", r"weights that are not finite at ratio 0\.5"),
        ("falling", r"measured ratios must rise: 0\.0000 at target 0\.8 follows 0\.\d+"),
    ],
)
def test_a_producer_that_breaks_its_contract_is_told_how(
    sin: str, sentence: str, suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    suite = suite_file(FEW | {'"magnitude"': f'"lazy"\nsin = "{sin}"', "epochs = 2": "epochs = 1"})
    run = runner.run(suite, out=tmp_path / "run")
    assert run.failures["reason"].str.contains(sentence).all()
    assert set(run.failures["target_ratio"]) == ({0.8} if sin == "falling" else {0.5, 0.8})
    assert not run.failures.empty


def test_every_seed_has_its_own_parent_and_the_headline_is_over_all(
    done: Run, suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    run = api.run(suite_file(FEW | {"seeds = [0]": "seeds = [0, 1]"}), out=tmp_path / "run")
    both = run.measurements
    assert list(both["seed"].unique()) == [0, 1]
    dense = both[(both["method"] == "dense") & (both["metric"] == "nll") & (both["condition"] == "clean")]
    assert dense["value"].nunique() == 2
    assert (dense["drop"] == 0).all()
    rows = run.thresholds()
    assert set(rows["seed"]) == {0, 1, "all"}
    clean = rows[(rows["metric"] == "accuracy") & (rows["condition"] == "clean")].set_index("seed")
    drops = both[
        (both["metric"] == "accuracy") & (both["condition"] == "clean") & (both["target_ratio"] == 0.5)
    ]
    assert clean.loc["all", "potential_any_mean"] == clean.loc[[0, 1], "potential_any"].mean()
    assert drops["drop"].nunique() == 2
    alone = both[(both["seed"] == 0) & (both["metric"] == "accuracy") & (both["condition"] == "clean")]
    known = done.measurements.merge(alone, on=ADDRESS)
    assert len(known) == 3
    assert (known["value_x"] == known["value_y"]).all()  # seed 0 is the same with and without another


def test_one_seed_can_be_asked_for(suite_file: Callable[..., Path], tmp_path: Path) -> None:
    run = runner.run(
        suite_file(FEW | {"epochs = 2": "epochs = 1"}), out=tmp_path / "run", options=Options(seed=5)
    )
    assert set(run.measurements["seed"]) == {5}
    assert run.record["suite"]["seeds"] == [5]
    assert "--seed 5" in run.record["command"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "cuda:99",
            r"device 'cuda:99' is not there: this machine has cpu and \d+ CUDA devices; use --device cpu",
        ),
        ("gpu", r"unknown device 'gpu': expected cpu, cuda or cuda:<number>"),
        ("", r"unknown device ''"),
        ("meta", r"device 'meta' is not there"),
        ("cuda:98,99", r"device 'cuda:98' is not there"),
        ("cpu,cpu", r"--device cpu,cpu: cpu is there twice; name each once"),
    ],
)
def test_a_device_that_is_not_there_is_said(name: str, sentence: str, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        runner.run(tiny, out=tmp_path / "run", options=Options(device=name))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        pytest.param({'name = "digits"': 'name = "cifar10"'}, DataError, "cifar", id="own images"),
        pytest.param({'near = ["letters"]': 'near = ["svhn"]'}, DataError, "svhn", id="outliers"),
        pytest.param(
            {"seeds = [0]": 'seeds = [0]\ncheckpoint = "gone-{seed}.pt"'},
            CheckpointError,
            r"checkpoint gone-0\.pt: no such file in .*; put it there",
            id="checkpoint",
        ),
    ],
)
def test_what_is_missing_is_missed_before_anything_is_computed(
    changes: dict[str, str],
    error: type[Exception],
    sentence: str,
    suite_file: Callable[..., Path],
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=sentence):
        runner.run(suite_file(changes), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_tells_what_it_was_run_with(done: Run, tiny: Path) -> None:
    record = done.record
    assert record["suite"]["name"] == "tiny"
    assert record["command"] == f"python -m evalsuite run {tiny}"
    assert record["seconds"] > 0
    assert abs(record["started"] - time.time()) < 3600
    assert record["computed"] == CELLS
    assert {"versions", "git_revision", "hardware", "python"} <= set(record)


def test_the_number_of_threads_is_put_back() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError), threads(before + 1):
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_of_methods_that_were_not_run_nothing_is_concluded(tiny: Path, tmp_path: Path) -> None:
    """They have neither failed nor been tested; a page that says otherwise would be wrong."""
    run = api.run(tiny, out=tmp_path / "run", options=Options(only=("magnitude",)))
    assert set(run.thresholds()["method"]) == {"magnitude"}
    assert set(run.failures.query("method == 'filter-l1'")["reason"]) == {UNCOMPUTED}
    page = (run.path / "index.html").read_text("utf-8")
    assert re.search(r"<b>\d+ numbers of this suite are not computed yet.</b>", page)
    answer = page.partition('id="answer"')[2].partition("</section>")[0]
    assert answer.count("No verdict can be stated") == 1


def test_of_ratios_that_were_not_reached_nothing_is_concluded(done: Run, tmp_path: Path) -> None:
    """As if it had been killed before the last ratio was measured."""
    path = copied(done, tmp_path)
    last = [
        cell for cell in path.rglob("*.cell") if "magnitude" in cell.as_posix() and "0.8" in cell.as_posix()
    ]
    assert last
    for cell in last:
        cell.unlink()
    one = "method == 'magnitude' and aggregate == 'single'"
    cut, whole = (run.thresholds().query(one) for run in (evalsuite.Run(path), done))
    assert (cut["tested"].str.count(" ") == 0).all()
    assert (whole["tested"].str.count(" ") == 1).all()
    assert not cut["incomplete"].any()
