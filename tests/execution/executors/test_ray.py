"""Ray on two nodes of one machine: the same bytes, also when a node is lost or nobody shares a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

import pytest

from evalsuite.config.options import Options
from evalsuite.errors import UserError
from evalsuite.execution import scheduler as runner

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalsuite import Run

ROOT = Path(__file__).parents[3]

SCRIPT = """
import fcntl, json, os, socket, struct, sys
from collections import Counter
from pathlib import Path
os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"})
with socket.socket() as any_socket:  # this namespace has a loopback device alone, and it is down
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: up, running
import ray
from ray.cluster_utils import Cluster
from evalsuite.execution import scheduler as runner
from evalsuite.execution.executors import ray as executor
from evalsuite.runs.lock import this_process
from evalsuite.config.options import Options

suite, out, what = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8}
nodes = Cluster(initialize_head=True, head_node_args=head)
second = nodes.add_node(num_cpus=1, object_store_memory=10**8)
ray.init(address=nodes.address, log_to_driver=False)
nodes.wait_for_nodes()
if what == "apart":  # as if every machine had a disk of its own
    executor.holder = lambda root: this_process()

told = Counter()
def tell(step):
    told[step.key.method, step.key.target_ratio, step.what] += 1
    if what == "loss" and step.done == 8:
        nodes.remove_node(second, allow_graceful=False)

found = runner.run(suite, out=out, options=Options(executor="ray"), progress=tell)
failures = found.failures["reason"].unique().tolist()
print(json.dumps({"told": sorted(told.values()), "failures": failures}))
ray.shutdown()
nodes.shutdown()
"""

ALONE = ("unshare", "--map-root-user", "--net")
"""Runs a command in a network namespace that has only a loopback device: Ray binds to nothing else."""


def loopback_alone() -> bool:
    return which("unshare") is not None and subprocess.run([*ALONE, "true"], check=False).returncode == 0


needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed: pip install 'evalsuite[ray]'"
)


def contents(path: Path) -> dict[str, bytes]:
    files = [*path.rglob("*.cell"), *path.rglob("candidates/*/*/*.*")]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("what", ["shared", "apart", "loss"])
def test_two_nodes_write_the_same_bytes_as_one_process(
    what: str, done: Run, tiny: Path, tmp_path: Path
) -> None:
    if not loopback_alone():
        pytest.skip("no network namespace can be made here, and Ray must not listen on a real network")
    more = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*ALONE, sys.executable, "-W", "ignore", "-c", SCRIPT, str(tiny), str(tmp_path / "run"), what],
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith('{"told"')]  # Ray prints as well
    said = json.loads(line)
    assert said["failures"] == []
    assert said["told"] == [1] * 35  # nothing is missing, and nothing is there twice
    assert contents(tmp_path / "run") == contents(done.path)


def test_without_ray_one_sentence_says_what_to_install(
    suite_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"Ray cannot be imported .*pip install 'evalsuite\[ray\]'"):
        runner.run(suite_file(), out=tmp_path / "run", options=Options(executor="ray"))


def test_an_executor_that_nobody_knows_is_told_from_the_others(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown executor 'locl': did you mean 'local'"):
        runner.run(tiny, out=tmp_path / "run", options=Options(executor="locl"))
