"""Speed-up and memory of workers: time of the measuring part with one and more, and memory of a large grid.

Run from the root of the checkout::

    python tests/benchmarks/workers.py speed            two workers against one process, candidates already there
    python tests/benchmarks/workers.py memory           75 conditions of 10,000 images, two workers

`speed` compares the bytes of all cells, and prints both times with and without the start of the workers. `memory`
asserts that no worker holds 2 GiB or more beside memory-mapped files.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from evalsuite.config.options import Options
from evalsuite.execution import scheduler
from evalsuite.execution.tasks import CellProgress

GIB = 1 << 30
BOUND = 2 * GIB

HEAD = """
name = "workers"
seeds = [0]
ratios = [{ratios}]
data_root = "{root}"
[model]
name = "{model}"
[recipe]
epochs = {epochs}
[[producers]]
name = "magnitude"
"""
SPEED = (
    HEAD
    + """
[data]
name = "digits"
[[producers]]
name = "random"
[[evaluators]]
name = "accuracy"
[[evaluators]]
name = "corruptions"
[[evaluators]]
name = "attack"
epsilons = [2, 4]
images = 200
"""
)
MEMORY = (
    HEAD
    + """
[data]
name = "arrays"
folder = "large"
classes = 10
[[evaluators]]
name = "corruptions"
"""
)


def speed(folder: Path, workers: int) -> None:
    """Times the measuring of candidates that are there already, in turn: serial, workers, serial, workers."""
    suite = folder / "suite.toml"
    suite.write_text(
        SPEED.format(ratios="0.3, 0.5, 0.7, 0.8, 0.9, 0.95", model="small-cnn", epochs=1, root=folder)
    )
    produced = scheduler.run(suite, out=folder / "produced")
    cells = {path.relative_to(produced.path): path.read_bytes() for path in produced.path.rglob("*.cell")}
    for turn in range(2):
        serial, _ = measured(suite, produced.path, folder / f"serial-{turn}", Options())
        parallel, first = measured(
            suite, produced.path, folder / f"parallel-{turn}", Options(workers=workers)
        )
        for name, data in cells.items():
            assert (folder / f"parallel-{turn}" / name).read_bytes() == data, name
        write_line(
            f"one process {serial:.1f} s, {workers} workers {parallel:.1f} s: {serial / parallel:.2f} times as fast; "
            f"without the {first:.1f} s to the first cell {(serial / (parallel - first)):.2f}; "
            f"load {os.getloadavg()[0]:.1f}"
        )


def measured(suite: Path, produced: Path, out: Path, options: Options) -> tuple[float, float]:
    """Seconds of a run that has its candidates but no cells, and of its first cell."""
    shutil.copytree(produced, out, ignore=shutil.ignore_patterns("cells"))
    first: list[float] = []
    started = time.monotonic()

    def record_first(step: CellProgress) -> None:
        if step.what != "production" and not first:
            first.append(time.monotonic() - started)

    scheduler.run(suite, out=out, options=options, progress=record_first)
    return time.monotonic() - started, first[0]


class MemoryRecorder(threading.Thread):
    """A recorder of the most memory that any child process held beside mapped files."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most: dict[int, int] = {}
        self.mapped: dict[int, int] = {}
        self.over = threading.Event()

    def run(self) -> None:
        """Reads the memory of all processes ten times a second."""
        while not self.over.wait(0.1):
            for pid in children(os.getpid()):
                anonymous, files = held(pid)
                self.most[pid] = max(self.most.get(pid, 0), anonymous)
                self.mapped[pid] = max(self.mapped.get(pid, 0), files)


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    pids = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            pids += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue  # gone meanwhile
    return pids


def held(pid: int) -> tuple[int, int]:
    """Bytes of a process's own memory, and of files that it maps."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    table = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return tuple(int(table.get(name, 0)) * 1024 for name in ("RssAnon", "RssFile"))  # type: ignore[return-value]  # two


def memory(folder: Path, workers: int) -> None:
    """Runs the full grid of corruptions on 10,000 images of 32 x 32 pixels and watches the workers."""
    large = folder / "data" / "large"
    large.mkdir(parents=True)
    draws = np.random.default_rng(0)
    for split, count in (("train", 512), ("test", 10_000)):
        np.save(large / f"{split}_images.npy", draws.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8))
        np.save(large / f"{split}_labels.npy", np.arange(count) % 10)
    suite = folder / "suite.toml"
    suite.write_text(MEMORY.format(ratios="0.5", model="small-cnn", epochs=1, root=folder / "data"))
    recorder = MemoryRecorder()
    recorder.start()
    started = time.monotonic()
    result = scheduler.run(suite, out=folder / "run", options=Options(workers=workers))
    recorder.over.set()
    failed = result.measurements.query("status in ('error', 'invalid')")
    assert failed.empty, failed["reason"].unique()  # a ratio to an untrained parent is skipped
    conditions = result.measurements["condition"].nunique()
    for pid, most in recorder.most.items():
        write_line(
            f"worker {pid}: {most / GIB:.2f} GiB of its own, {recorder.mapped[pid] / GIB:.2f} GiB of mapped files"
        )
    write_line(f"{conditions} conditions, {time.monotonic() - started:.0f} s")
    for cell in sorted(result.path.rglob("*.cell")):
        write_line(f"{cell.relative_to(result.path)}: {cell.stat().st_size / 1e6:.1f} MB")
    assert conditions >= 75
    assert len(recorder.most) >= workers
    assert max(recorder.most.values()) < BOUND, "a worker held more than 2 GiB"


def write_line(line: str) -> None:
    """Writes a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Runs one of the benchmarks in a folder of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("speed", "memory"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=None, help="a place with 6 GB of free space")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        {"speed": speed, "memory": memory}[options.what](Path(name), options.workers)


if __name__ == "__main__":
    main()
