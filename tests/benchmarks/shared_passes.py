"""What accuracy, calibration and out-of-distribution scores cost beside the forward passes that they share.

Run from the root of the repository, with CIFAR-10, the outlier sets and a published ResNet-20 in the data folder::

    EVALSUITE_DATA=<folder> OMP_NUM_THREADS=1 python tests/benchmarks/shared_passes.py --images 10000

The four tests of the depth `standard` that look at nothing but logits and features: `accuracy`, `corruptions`,
`calibration` (on clean and corrupted images) and `ood` with its eleven detectors. Every image set goes through the
network once; what comes after are the numbers of all of them, fitting included. CPU time of one thread; making the
corrupted images is told apart. `ood.py` has the share of each detector of the three sets that `ood` alone needs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from evalsuite.bench import Bench
from evalsuite.choices import choose
from evalsuite.compat.allocator import keep_large_blocks
from evalsuite.data.arrays import Cifar10
from evalsuite.data.dataset import Place
from evalsuite.data.shelf import Shelf
from evalsuite.data.views import Gallery
from evalsuite.evaluators import EVALUATORS
from evalsuite.models.checkpoints import read_weights
from evalsuite.models.loading import rebuilt
from evalsuite.models.references import architecture
from evalsuite.running.measuring import scored
from evalsuite.suite.depths import battery

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalsuite.data.views import View
    from evalsuite.evaluators.contract import Evaluator

CHECKPOINT = Path("checkpoints", "akamaster", "resnet20-12fca82f.th")
TESTS = ("accuracy", "corruptions", "calibration", "ood")


def seconds(work: Callable[[], object]) -> float:
    """CPU time of `work`."""
    start = time.process_time()
    work()
    return time.process_time() - start


def evaluators() -> dict[str, Evaluator]:
    """The tests as `standard` has them."""
    tables = battery("standard", [], data="cifar10", trained=False)
    return {
        str(table["name"]): choose(EVALUATORS, table, where="benchmark").plugin
        for table in tables
        if table["name"] in TESTS
    }


def measured(root: Path, images: int, shelf: Path) -> tuple[dict[str, float], int]:
    """Seconds of making images, of the passes, and of each test after them; and how many image sets there are."""
    plugin = architecture("resnet20", mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], shortcut="A")
    gallery = Gallery(Cifar10(test_limit=images), Place(root), shelf=Shelf(shelf))
    on = Bench(rebuilt(plugin, read_weights(root / CHECKPOINT)), gallery)
    found = {"making images": 0.0, "passes": 0.0}
    tests = evaluators()
    views: dict[View, None] = {}
    for test in tests.values():
        on.want(test.features)
        views |= dict.fromkeys((*test.needs, *test.features))
    for view in views:
        found["making images"] += seconds(lambda view=view: on.images(view))  # type: ignore[misc]  # mypy cannot infer it
        found["passes"] += seconds(lambda view=view: on.outputs(view))  # type: ignore[misc]  # the same
    for name, test in tests.items():
        found[name] = seconds(lambda test=test: scored(test, on))  # type: ignore[misc]  # the same
    if set(on.passes.values()) != {1} or len(on.passes) != len(views):
        raise AssertionError(f"image sets went through the model {dict(on.passes)} times, expected once each")
    return found, len(views)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000, help="test images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    with TemporaryDirectory() as folder:
        found, sets = measured(Path(os.environ["EVALSUITE_DATA"]), options.images, Path(folder))
    found["all four"] = sum(found[name] for name in TESTS)
    sys.stdout.write(f"{options.images} test images, {sets} image sets, torch {torch.__version__}\n\n")
    sys.stdout.write("| | s | share of the passes |\n|---|---|---|\n")
    for name, value in found.items():
        sys.stdout.write(f"| {name} | {value:.2f} | {value / found['passes']:.2%} |\n")


if __name__ == "__main__":
    main()
