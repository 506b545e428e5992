"""Workers: the same bytes as one after the other, and workers that die, hang or cannot be had."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from evalsuite.config.options import Options
from evalsuite.config.suite_file import load_suite
from evalsuite.errors import UserError
from evalsuite.evaluators.base import Evaluator
from evalsuite.execution import scheduler as runner
from evalsuite.execution.executors import executor
from evalsuite.execution.executors.local import LocalExecutor, WorkerProcess
from evalsuite.execution.tasks import CellProgress, LoadParent, ParentReady, RunContext
from evalsuite.execution.worker import TaskRunner
from evalsuite.runs.provenance import environment_fingerprint
from evalsuite.types import Metric, Score

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from evalsuite.evaluation import Bench
    from evalsuite.results.run import Run

TWO = Options(workers=2)
ONE = Options(workers=1, executor="local")

HURT = '''
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
from evalsuite.plugins import register_evaluator
from evalsuite.datasets.views import View
from evalsuite.evaluators.base import Evaluator
from evalsuite.types import Metric, Score

@register_evaluator("hurt")
@dataclass(frozen=True)
class Hurt(Evaluator):
    """Does something terrible, as often as lines are left in a file."""

    flag: str = ""
    how: str = "die"
    metrics = (Metric("mood", True, "fraction", "How it feels."),)
    needs = (View(),)

    def evaluate(self, bench):
        if bench.parent is not bench and self._unlucky():
            if self.how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "memory":
                raise MemoryError("nothing left")
            if self.how == "exit":
                raise SystemExit(3)
            if self.how == "sleep":
                time.sleep(60)
            if self.how == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
        yield Score("mood", "clean", evidence={"test": bench.outputs(View()).correct})
        yield Score("mood", f"batch", value=float(bench.batch_size), n=1)

    def _unlucky(self):
        path = Path(self.flag)
        left = int(path.read_text() or 0)
        path.write_text(str(max(left - 1, 0)))
        return left > 0
'''


def contents(path: Path) -> dict[str, bytes]:
    """Every cell and candidate of a run folder."""
    files = [*path.rglob("*.cell"), *path.rglob("candidates/*/*/*.*")]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


@pytest.fixture(name="hurting")
def _hurting(small_suite: Callable[..., str], tmp_path: Path) -> Callable[..., Path]:
    """Writes a suite with one test that hurts its worker so many times."""

    def write(*, times: int, how: str, limit: str = "") -> Path:
        (tmp_path / "hurt.py").write_text(HURT)
        (tmp_path / "flag").write_text(str(times))
        hurt = f'name = "hurt"\nflag = "{tmp_path / "flag"}"\nhow = "{how}"'
        text = small_suite(
            top='control = false\nseeds = [0]\nplugins = ["hurt.py"]',
            ratios=(0.5, 0.8),
            evaluators=('name = "accuracy"', hurt, 'name = "calibration"'),
            tolerances="",
        )
        path = tmp_path / "few.toml"
        path.write_text(f"{text}[resources]\n{limit}\n")
        return path

    return write


def reasons(found: Run) -> dict[tuple[float, str], str]:
    failed = found.failures.drop_duplicates(["target_ratio", "evaluator"])
    rows: list[Any] = list(failed.itertuples())
    return {(row.target_ratio, row.evaluator): row.reason for row in rows}


def test_two_workers_write_the_same_bytes_as_one_after_the_other(
    done: Run, tiny: Path, tmp_path: Path
) -> None:
    steps: list[CellProgress] = []
    runner.run(tiny, out=tmp_path / "two", options=TWO, progress=steps.append)
    assert contents(tmp_path / "two") == contents(done.path)
    assert [step.done for step in steps] == list(range(1, 36))
    assert {(step.total, step.computed) for step in steps} == {(35, True)}
    assert not list((tmp_path / "two").glob("run.lock*"))
    assert not (tmp_path / "two" / "running.json").exists()


def test_devices_are_dealt_to_workers_in_turn(tiny: Path, tmp_path: Path) -> None:
    order = RunContext(load_suite(tiny), tmp_path)
    hands = executor("local", order, TaskRunner(order), devices=("cuda:0", "cuda:1"), workers=3)
    assert isinstance(hands, LocalExecutor)
    assert [one.device for one in hands._contexts] == ["cuda:0", "cuda:1", "cuda:0"]
    assert hands.slots == 3


@pytest.mark.extensive
def test_a_worker_that_dies_is_replaced_and_its_cell_tried_again(
    hurting: Callable[..., Path], tmp_path: Path
) -> None:
    suite = hurting(times=1, how="die")
    hurt = runner.run(suite, out=tmp_path / "hurt", options=TWO)
    assert hurt.failures.empty
    whole = runner.run(suite, out=tmp_path / "whole")
    assert contents(hurt.path) == contents(whole.path)


@pytest.mark.extensive
def test_a_cell_that_kills_its_worker_twice_has_a_reason_and_the_rest_goes_on(
    hurting: Callable[..., Path], tmp_path: Path
) -> None:
    run = runner.run(
        hurting(times=2, how="die"),
        out=tmp_path / "run",
        options=Options(workers=1, executor="local"),
    )
    (only,) = reasons(run).items()
    assert only[0] == (0.5, "hurt")
    assert (
        only[1] == "its process was killed by SIGKILL; the system kills processes that take too much memory"
    )
    again = runner.run(tmp_path / "few.toml", out=tmp_path / "run", options=TWO)
    assert again.failures.empty
    assert again.record["computed"] == 1


@pytest.mark.parametrize("executor", ["serial", "local"])
@pytest.mark.extensive
def test_a_cell_over_its_time_limit_is_tried_once_more(
    hurting: Callable[..., Path], executor: str, tmp_path: Path
) -> None:
    suite = hurting(times=3, how="sleep", limit="time_limit = 0.5")
    begun = time.monotonic()
    run = runner.run(suite, out=tmp_path / "run", options=Options(workers=1, executor=executor))
    assert time.monotonic() - begun < 50
    assert reasons(run) == {
        (
            0.5,
            "hurt",
        ): "TimeLimitError: it took longer than its limit of 0.5 s; raise the limit or make it smaller"
    }


@pytest.mark.extensive
def test_a_worker_that_hangs_is_killed(
    hurting: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalsuite.execution.executors.local.GRACE", 0.5)
    suite = hurting(times=2, how="stop", limit="time_limit = 4")
    run = runner.run(suite, out=tmp_path / "run", options=ONE)
    assert reasons(run) == {(0.5, "hurt"): "it did not come back within its time limit, and was killed"}


@pytest.mark.parametrize("executor", ["serial", "local"])
@pytest.mark.extensive
def test_out_of_memory_is_tried_again_with_half_the_batch(
    hurting: Callable[..., Path], executor: str, tmp_path: Path
) -> None:
    suite = hurting(times=1, how="memory")
    run = runner.run(suite, out=tmp_path / "run", options=Options(workers=1, executor=executor))
    assert run.failures.empty
    sizes = run.measurements.query("condition == 'batch'").set_index("target_ratio")["value"]
    assert dict(sizes) == {0.0: 32, 0.5: 16, 0.8: 32}


def test_a_suite_that_cannot_be_sent_is_told_how(suite_file: Callable[..., Path], tmp_path: Path) -> None:
    suite = load_suite(suite_file())

    @dataclass(frozen=True)
    class Local(Evaluator):
        metrics = (Metric("mood", True, "fraction", "How it feels."),)
        needs = ()

        def evaluate(self, bench: Bench) -> Iterator[Score]:
            yield Score("mood", "clean", value=float(bench.batch_size), n=1)

    broken = replace(suite, evaluators=(replace(suite.evaluators[0], plugin=Local()),))
    with pytest.raises(
        UserError, match=r"cannot be sent to another process .*in a file that the suite names"
    ):
        runner.run(broken, out=tmp_path / "run", options=TWO)


@pytest.mark.extensive
def test_a_worker_imports_nothing_from_the_folder_that_it_happens_to_be_in(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A console script does not look there either; a folder called like a package is common."""
    (tmp_path / "evalsuite.py").write_text("raise SystemExit('the wrong one')\n")
    monkeypatch.chdir(tmp_path)
    hands = LocalExecutor([RunContext(load_suite(tiny), tmp_path / "run")])
    try:
        hands.submit(LoadParent(7, "digest"))
        said = hands.event(100.0)
    finally:
        hands.close()
    assert said is not None
    assert isinstance(said[1], ParentReady)


def test_an_interrupt_from_the_terminal_is_not_for_workers(tiny: Path, tmp_path: Path) -> None:
    """It goes to every process of a group, and one that is still importing would say so at length."""
    worker = WorkerProcess(RunContext(load_suite(tiny), tmp_path / "run"))
    try:
        assert os.getpgid(worker.process.pid) == worker.process.pid != os.getpgid(0)
    finally:
        worker.kill()


@pytest.mark.parametrize(("name", "found"), [("torch", r" \(.*, expected 1.0\)"), ("code", "")])
def test_a_worker_with_other_code_than_the_run_computes_nothing(
    name: str, found: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {**environment_fingerprint(), name: "1.0"}
    monkeypatch.setattr("evalsuite.execution.executors.environment_fingerprint", lambda: other)
    with pytest.raises(
        UserError, match=f"a worker cannot start: .* another {name} than the run{found}; install"
    ):
        runner.run(tiny, out=tmp_path / "run", options=TWO)
    assert not list((tmp_path / "run").rglob("*.cell"))


def test_one_after_the_other_is_not_for_several_workers(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found 2 workers for the executor serial, which is one"):
        runner.run(tiny, out=tmp_path / "run", options=Options(workers=2, executor="serial"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("executor", ["serial", "local"])
@pytest.mark.extensive
def test_a_test_that_exits_does_not_end_the_run(
    hurting: Callable[..., Path], executor: str, tmp_path: Path
) -> None:
    suite = hurting(times=2, how="exit")
    run = runner.run(suite, out=tmp_path / "run", options=Options(workers=1, executor=executor))
    assert reasons(run) == {(0.5, "hurt"): "SystemExit: 3"}
