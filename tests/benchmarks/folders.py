"""Peak memory of reading a folder of pictures and of corrupting them, for n and for 10 n: exit code 1 if it grows.

    python tests/benchmarks/folders.py [n]

Counted is anonymous memory (RssAnon): pages of the mapped file belong to the system, which drops them when it must.
Pictures are decoded 64 at a time: their pixels, the same once more as one array and as the bytes that are written, and
from the second batch on the batch before, which is held while the next is decoded. So the peak of clean pictures of
224 px is 34 MiB for 60 of them (one batch), 45 for 128, 47 for 600 and 50 for 2,400; what still grows are the names
(about 1 KiB a picture). n is therefore at least 128.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SIDE, SOURCE = 224, 300
LEAST = 128
"""Pictures of two batches."""
GROWTH = 1.2
"""Most of the peak for n pictures that 10 n may take, beyond `NAMES` MiB a picture."""
NAMES = 1 / 512
"""MiB for the names of a picture."""


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
    """Decodes, digests, corrupts and walks through a folder, and prints what that took."""
    from evalsuite.datasets.base import Place
    from evalsuite.datasets.folders import Folder
    from evalsuite.datasets.shared_cache import SharedArrayCache
    from evalsuite.datasets.source import ImageSource
    from evalsuite.datasets.transforms.corruption import Corruption
    from evalsuite.datasets.views import View

    pictures, peaks = Folder(str(folder), side=SIDE, labelled=True), []
    image_source = ImageSource(
        pictures, Place(), cache=SharedArrayCache(folder.parent / f"scratch-{folder.name}")
    )
    for view in (
        View(),
        View(transform=Corruption("gaussian_noise", 3)),
        View(transform=Corruption("contrast", 3)),
    ):
        with _peak() as peak:
            images = image_source.images(view).images
            image_source.digest(view)
            sum(int(images[row : row + 32].sum()) for row in range(0, len(images), 32))
        text = f"{len(images)} pictures, {images.nbytes / 2**20:.0f} MiB, {image_source.condition(view)}"
        print(f"{text}: {peak[0]:.0f} MiB more at the peak, {peak[1]:.1f} s", flush=True)  # noqa: T201  # a script's output
        peaks.append(peak[0])
    (folder.parent / f"{folder.name}.json").write_text(json.dumps(peaks))


@contextlib.contextmanager
def _peak() -> Iterator[list[float]]:
    """A list that gets the most MiB of anonymous memory during the block beyond those before it, and its seconds."""
    before, running, found = anonymous(), True, [0.0, 0.0]

    def watch() -> None:
        while running:
            found[0] = max(found[0], anonymous() - before)
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    yield found
    found[1] = time.perf_counter() - started
    running = False
    watcher.join()


def main() -> None:
    """Reads folders of n and of 10 n pictures, each in a process of its own."""
    count = max(LEAST, int(sys.argv[1]) if len(sys.argv) > 1 else 200)
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
        few, many = (json.loads((Path(temporary) / f"{factor}.json").read_text()) for factor in (1, 10))
        most = [max(8, GROWTH * peak) + 10 * count * NAMES for peak in few]
        grown = any(peak > limit for peak, limit in zip(many, most, strict=True))
        sys.exit(f"the peak grows with the folder: {few} MiB, then {many} MiB" if grown else 0)


if __name__ == "__main__":
    main()
