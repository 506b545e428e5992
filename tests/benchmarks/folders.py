"""Peak memory of reading a folder of pictures, for n pictures and for 10 n: it must not grow with the folder.

    python tests/benchmarks/folders.py [n]

Counted is anonymous memory (RssAnon): pages of the mapped file belong to the system, which drops them when it must.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIDE, SOURCE = 224, 300


def write(folder: Path, count: int) -> None:
    """Writes JPEGs of noise into two class folders."""
    draws = np.random.default_rng(0)
    for index in range(count):
        home = folder / f"{index % 2}"
        home.mkdir(parents=True, exist_ok=True)
        pixels = draws.integers(0, 256, (SOURCE // 10, SOURCE // 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((SOURCE, SOURCE)).save(home / f"{index:06}.jpg")


def anonymous() -> float:
    """MiB of anonymous memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def read(folder: Path) -> None:
    """Decodes, digests and walks through a folder, and prints what that took."""
    from evalsuite.datasets.base import Place, digest, load_checked
    from evalsuite.datasets.folders import Folder

    before, peak, running = anonymous(), 0.0, True

    def watch() -> None:
        nonlocal peak
        while running:
            peak = max(peak, anonymous())
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    images = load_checked(Folder(str(folder), side=SIDE, labelled=True), "test", Place())
    digest(images)
    sum(int(images.images[row : row + 32].sum()) for row in range(0, len(images.images), 32))
    running = False
    watcher.join()
    size, seconds = images.images.nbytes / 2**20, time.perf_counter() - started
    text = f"{len(images.images)} pictures, {size:.0f} MiB decoded"
    print(f"{text}: {peak - before:.0f} MiB more at the peak, {seconds:.1f} s")  # noqa: T201  # a script's output


def main() -> None:
    """Reads folders of n and of 10 n pictures, each in a process of its own."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as temporary:
        for factor in (1, 10):
            folder = Path(temporary) / str(factor)
            write(folder, factor * count)
            code = (
                f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import folders, pathlib; "
            )
            code += f"folders.read(pathlib.Path({str(folder)!r}))"
            command = ["env", f"EVALSUITE_CACHE={temporary}/cache", sys.executable, "-c", code]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
