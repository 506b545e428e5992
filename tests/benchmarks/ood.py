"""Cost of out-of-distribution scores beside the forward pass that they share.

Run from the root of the repository, with CIFAR-10, CIFAR-100 and a published ResNet-20 in the data folder::

    EVALSUITE_DATA=<folder> OMP_NUM_THREADS=1 python tests/benchmarks/ood.py --images 10000

With ``--neighbors`` also how long the search for the 50th nearest takes beside multiplying every pair out, for so many
training images and for all; in turns, the best of three.

With ``--standard`` also the cost of the tests of the depth `standard` that need only logits and features, beside
the passes that they share: `accuracy`, `corruptions`, `calibration` (on clean and corrupted images) and `ood`.

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
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch

from evalsuite.config.depths import depth_tables
from evalsuite.datasets.base import Place
from evalsuite.datasets.cifar import Cifar10
from evalsuite.datasets.shared_cache import SharedArrayCache
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.views import View
from evalsuite.detectors.nearest_neighbours import NEIGHBORS, NeighborIndex, directions, neighbor_index
from evalsuite.detectors.table import DETECTORS
from evalsuite.evaluation import Bench
from evalsuite.evaluators import EVALUATORS
from evalsuite.evaluators.ood import Ood
from evalsuite.execution.measuring import scored
from evalsuite.models.architectures.uris import architecture_from_uri
from evalsuite.models.checkpoints.loading import build_with_weights
from evalsuite.models.checkpoints.reading import read_weights
from evalsuite.models.inference import keep_large_blocks
from evalsuite.plugin_config import from_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalsuite.evaluators.base import Evaluator
    from evalsuite.types import Floats

CHECKPOINT = Path("checkpoints", "akamaster", "resnet20-12fca82f.th")
WITHOUT_ODIN = tuple(name for name in DETECTORS if name != "odin")


SHARING = ("accuracy", "corruptions", "calibration", "ood")


def bench(root: Path, images: int, cache: SharedArrayCache | None = None) -> Bench:
    """The published network in front of so many test images."""
    plugin = architecture_from_uri(
        "resnet20", mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], shortcut="A"
    )
    model = build_with_weights(plugin, read_weights(root / CHECKPOINT))
    return Bench(model, ImageSource(Cifar10(test_limit=images), Place(root), cache=cache))


def evaluator(detectors: tuple[str, ...], images: int) -> Ood:
    """The evaluator, with as many outliers and training images as there are test images."""
    return Ood(near=("cifar100",), detectors=detectors, images=images, fit_images=images)


def seconds(work: Callable[[], object]) -> float:
    """CPU time of `work`."""
    start = time.process_time()
    work()
    return time.process_time() - start


def run_passes(network_bench: Bench, images: int) -> None:
    """The forward passes that all detectors share."""
    test = evaluator(WITHOUT_ODIN, images)
    network_bench.request_features(test.features)
    for view in test.features:
        network_bench.outputs(view)


def measured(root: Path, images: int) -> dict[str, float]:
    """Seconds of the pass, of each detector alone, and of all together, in that order."""
    network_bench = bench(root, images)
    network_bench.images(View(split="train", first=images))  # loading is not part of the pass
    times = {"pass": seconds(lambda: run_passes(network_bench, images))}
    for name in WITHOUT_ODIN:
        times[name] = seconds(lambda name=name: scored(evaluator((name,), images), network_bench))  # type: ignore[misc]  # mypy cannot infer it
    times["all"] = seconds(lambda: scored(evaluator(WITHOUT_ODIN, images), network_bench))
    check_passes(network_bench)
    return times


def check_passes(network_bench: Bench) -> None:
    """Every image set goes through the network once."""
    if set(network_bench.passes.values()) != {1}:
        raise AssertionError(
            f"image sets went through the model {dict(network_bench.passes)} times, expected once each"
        )


def standard() -> dict[str, Evaluator]:
    """The tests of that depth which share passes, as it has them, with all detectors that do."""
    tables = depth_tables("standard", [], data="cifar10", trained=False)
    chosen = [
        from_table(EVALUATORS, table, where="benchmark") for table in tables if table["name"] in SHARING
    ]
    return {
        one.label: replace(one.plugin, detectors=WITHOUT_ODIN) if isinstance(one.plugin, Ood) else one.plugin
        for one in chosen
    }


def shared(root: Path, images: int) -> dict[str, float]:
    """Seconds of making corrupted images, of the passes, of each test after them, and of all four."""
    tests = standard()
    times = {"making images": 0.0, "pass": 0.0}
    with TemporaryDirectory() as folder:
        network_bench = bench(root, images, SharedArrayCache(Path(folder)))
        for test in tests.values():
            network_bench.request_features(test.features)
        for view in dict.fromkeys(v for test in tests.values() for v in (*test.needs, *test.features)):
            times["making images"] += seconds(lambda view=view: network_bench.images(view))  # type: ignore[misc]  # mypy cannot infer it
            times["pass"] += seconds(lambda view=view: network_bench.outputs(view))  # type: ignore[misc]  # the same
        times |= {
            name: seconds(lambda test=test: scored(test, network_bench))  # type: ignore[misc]  # the same
            for name, test in tests.items()
        }
        check_passes(network_bench)
    return times | {"all": sum(times[name] for name in tests)}


def pointed(network_bench: Bench, view: View) -> Floats:
    """Directions of the features of a view."""
    features = network_bench.outputs(view).features
    if features is None:
        raise AssertionError("the network has no penultimate features")
    return directions(features)


def searched(root: Path, images: int) -> dict[str, tuple[float, float]]:
    """Training images to seconds of the search, with what it has to prepare, and of multiplying every pair out."""
    network_bench = bench(root, images)
    test, far, training = View(), View(data="cifar100", first=images), View(split="train")
    network_bench.request_features((test, far, training))
    bank, *queries = (pointed(network_bench, view) for view in (training, test, far))
    vectors, times = np.concatenate(queries), {}
    for count in (images, len(bank)):
        part = bank[:count]
        exhaustive = NeighborIndex(part, (slice(0, count),), part[:1].astype(np.float32), NEIGHBORS)
        both = [
            (
                seconds(lambda part=part: neighbor_index(part, NEIGHBORS).distances(vectors)),  # type: ignore[misc]  # mypy cannot infer it
                seconds(lambda exhaustive=exhaustive: exhaustive.distances(vectors)),  # type: ignore[misc]  # the same
            )
            for _ in range(3)
        ]
        times[f"{count:,}"] = (min(one for one, _ in both), min(other for _, other in both))
    return times


def printed(title: str, runs: list[dict[str, float]]) -> None:
    """A table of medians."""
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    sys.stdout.write(f"{title}, torch {torch.__version__}\n\n| | s | share of the pass |\n|---|---|---|\n")
    for name, value in medians.items():
        sys.stdout.write(f"| {name} | {value:.3f} | {value / medians['pass']:.2%} |\n")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000, help="of each of the three sets")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--neighbors", action="store_true", help="also the search for neighbours")
    parser.add_argument("--standard", action="store_true", help="also the tests that share passes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    root = Path(os.environ["EVALSUITE_DATA"])
    count = options.images
    runs = [measured(root, count) for _ in range(options.repeats)]
    printed(f"{count} images of each set, {options.repeats} repeats", runs)
    if options.neighbors:
        for training, (ours, plain) in searched(root, count).items():
            sys.stdout.write(f"{training} training images: search {ours:.3f} s, every pair {plain:.3f} s\n")
    if options.standard:
        printed(f"{count} test images, the depth standard", [shared(root, count)])


if __name__ == "__main__":
    main()
