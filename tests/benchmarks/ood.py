"""What out-of-distribution scores cost beside the forward pass that they share.

Run from the root of the repository, with CIFAR-10, CIFAR-100 and a published ResNet-20 in the data folder::

    EVALSUITE_DATA=<folder> OMP_NUM_THREADS=1 python tests/benchmarks/ood.py --images 10000

The pass is over test images, outliers and training images, logits and features together. What comes after it,
per detector and for all of them: fitting, scores of test images and outliers, and the five measures of each.
ODIN, which calls the model again, is not in it. CPU time of one thread, median of the repeats.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from evalsuite.bench import Bench
from evalsuite.compat.allocator import keep_large_blocks
from evalsuite.data.arrays import Cifar10
from evalsuite.data.dataset import Place
from evalsuite.data.views import Gallery, View
from evalsuite.detectors.table import DETECTORS
from evalsuite.evaluators.ood import Ood
from evalsuite.models.checkpoints import read_weights
from evalsuite.models.loading import rebuilt
from evalsuite.models.references import architecture
from evalsuite.running.measuring import scored

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKPOINT = Path("checkpoints", "akamaster", "resnet20-12fca82f.th")
WITHOUT_ODIN = tuple(name for name in DETECTORS if name != "odin")


def bench(root: Path, images: int) -> Bench:
    """The published network in front of so many test images."""
    plugin = architecture("resnet20", mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], shortcut="A")
    model = rebuilt(plugin, read_weights(root / CHECKPOINT))
    return Bench(model, Gallery(Cifar10(test_limit=images), Place(root)))


def evaluator(detectors: tuple[str, ...], images: int) -> Ood:
    """The evaluator, with as many outliers and training images as there are test images."""
    return Ood(near=("cifar100",), detectors=detectors, images=images, fit_images=images)


def seconds(work: Callable[[], object]) -> float:
    """CPU time of `work`."""
    start = time.process_time()
    work()
    return time.process_time() - start


def passed(on: Bench, images: int) -> None:
    """The forward passes that all detectors share."""
    whole = evaluator(WITHOUT_ODIN, images)
    on.want(whole.features)
    for view in whole.features:
        on.outputs(view)


def measured(root: Path, images: int) -> dict[str, float]:
    """Seconds of the pass, of each detector alone, and of all together, in that order."""
    on = bench(root, images)
    on.images(View(split="train", first=images))  # loading is not part of the pass
    found = {"pass": seconds(lambda: passed(on, images))}
    for name in WITHOUT_ODIN:
        found[name] = seconds(lambda name=name: scored(evaluator((name,), images), on))  # type: ignore[misc]  # mypy cannot infer it
    found["all"] = seconds(lambda: scored(evaluator(WITHOUT_ODIN, images), on))
    if set(on.passes.values()) != {1}:
        raise AssertionError(f"image sets went through the model {dict(on.passes)} times, expected once each")
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000, help="of each of the three sets")
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    root = Path(os.environ["EVALSUITE_DATA"])
    runs = [measured(root, options.images) for _ in range(options.repeats)]
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    sys.stdout.write(
        f"{options.images} images of each set, {options.repeats} repeats, torch {torch.__version__}\n\n"
    )
    sys.stdout.write("| | s | share of the pass |\n|---|---|---|\n")
    for name, value in medians.items():
        sys.stdout.write(f"| {name} | {value:.3f} | {value / medians['pass']:.2%} |\n")


if __name__ == "__main__":
    main()
