"""Processor time of the corruptions, beside that of the package imagecorruptions.

Both sides use the constants of ImageNet-C at severity 3 on images of 32 px, on one thread, in turns. Run from
the root of the repository::

    python tests/benchmarks/corruptions.py --peer FOLDER

where FOLDER holds imagecorruptions and OpenCV (``pip install --no-deps --target FOLDER imagecorruptions
opencv-python-headless``), which stay outside the environment. Without it only our own times are printed.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import statistics
import sys
import time
import warnings
from functools import partial, wraps
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from evalsuite.datasets.transforms.common_corruptions.kinds import CORRUPTIONS, EXTRA, corrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Array = np.ndarray[Any, Any]
    Peer = Callable[[Array, str], object]

SEVERITY = 3
NOTES = """\
The peer leaves out the affine part of elastic_transform and the middle of its zooms (it takes the upper left). It
reads a file of frost for each image; ours are decoded once, outside the clock. Patched in for present-day numpy
and scikit-image: np.float_, multichannel."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, help="folder with imagecorruptions and OpenCV")
    parser.add_argument("--images", type=int, default=512, help="images for our side")
    parser.add_argument("--peer-images", type=int, default=32, help="images for the peer, one by one")
    parser.add_argument("--rounds", type=int, default=5, help="turns, of which the median counts")
    parser.add_argument("--side", type=int, default=32, help="px")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    limits = importlib.import_module("threadpoolctl").threadpool_limits(1)  # comes with scikit-learn
    with limits, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer, textures = (None, []) if options.peer is None else loaded(options.peer)
        images = scenes(max(options.images, options.peer_images), options.side)
        few = images[: options.peer_images]
        rows = {
            kind: medians(
                partial(ours, images[: options.images], kind, textures),
                partial(theirs, few, kind, peer),
                rounds=options.rounds,
            )
            for kind in CORRUPTIONS + EXTRA
        }
    sys.stdout.write(table(rows) + "\n\n" + versions() + "\n")
    if peer is not None:
        sys.stdout.write(NOTES + "\n")


def scenes(count: int, side: int) -> Array:
    """Returns soft coloured shapes with some grain, uint8, shape (count, 3, side, side)."""
    rng = np.random.default_rng(0)
    fields = ndimage.gaussian_filter(rng.standard_normal((count, 3, side, side)), (0, 0.5, 2, 2))
    levels = 128 + 60 * fields / fields.std() + 5 * rng.standard_normal(fields.shape)
    return np.asarray(np.clip(levels, 0, 255), np.uint8)


def ours(images: Array, kind: str, textures: Sequence[Array]) -> float:
    """Returns seconds per image."""
    start = time.process_time()
    corrupt(images, kind, SEVERITY, seed=0, textures=textures, constants="imagenet")
    return (time.process_time() - start) / len(images)


def theirs(images: Array, kind: str, peer: Peer | None) -> float:
    """Returns seconds per image; NaN where the peer fails."""
    if peer is None:
        return float("nan")
    pixels = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    start = time.process_time()
    try:
        for image in pixels:
            peer(image, kind)
    except Exception as error:  # one kind fails there: the others can still be compared
        sys.stderr.write(f"{kind}: imagecorruptions stopped with {type(error).__name__}: {error}\n")
        return float("nan")
    return (time.process_time() - start) / len(pixels)


def medians(*sides: Callable[[], float], rounds: int) -> list[float]:
    """Returns the median of each side's times, taken in turns after one turn that does not count."""
    turns = [[side() for side in sides] for _ in range(rounds + 1)][1:]
    return [statistics.median(column) for column in zip(*turns, strict=True)]


def loaded(folder: Path) -> tuple[Peer, list[Array]]:
    """Imports the peer from a folder, patched for present-day libraries; and the textures that come with it."""
    sys.path.append(str(folder))
    filters: Any = importlib.import_module("skimage.filters")
    plain = filters.gaussian

    @wraps(plain)
    def gaussian(image: Array, *args: Any, multichannel: bool = False, **settings: Any) -> Array:
        return np.asarray(plain(image, *args, channel_axis=-1 if multichannel else None, **settings))

    filters.gaussian = gaussian
    vars(np).setdefault("float_", np.float64)  # gone in numpy 2
    importlib.import_module("cv2").setNumThreads(1)
    package = importlib.import_module("imagecorruptions")
    files = sorted((Path(str(package.__file__)).parent / "frost").glob("frost*"))
    textures = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    return (lambda image, kind: package.corrupt(image, severity=SEVERITY, corruption_name=kind)), textures


def table(rows: dict[str, list[float]]) -> str:
    """Returns the lines to print: microseconds per image and factors; the total of the kinds that both have."""
    lines = [f"{'kind':<20}{'ours µs':>10}{'peer µs':>12}{'factor':>9}"]
    lines += [line(kind, *times) for kind, times in rows.items()]
    both = {kind: times for kind, times in rows.items() if kind in CORRUPTIONS and not np.isnan(times).any()}
    total = sum(rows[kind][0] for kind in CORRUPTIONS)
    lines.append(f"\nthe 15, ours: {1e6 * total:.0f} µs per image")
    if not both:
        return "\n".join([*lines, "no peer to compare with"])
    factors = [peer_time / our_time for our_time, peer_time in both.values()]
    lines.append(line(f"total of {len(both)}", *np.sum(list(both.values()), axis=0)))
    lines.append(f"geometric mean of the factors: {statistics.geometric_mean(factors):.1f}")
    missing = [kind for kind in CORRUPTIONS + EXTRA if np.isnan(rows[kind][1])]
    return "\n".join([*lines, f"not compared: {', '.join(missing) or 'none'}"])


def line(name: str, our_time: float, peer_time: float) -> str:
    """Returns one line of the table; a dash where there is no peer."""
    if np.isnan(peer_time):
        return f"{name:<20}{1e6 * our_time:>10.1f}{'-':>12}{'-':>9}"
    return f"{name:<20}{1e6 * our_time:>10.1f}{1e6 * peer_time:>12.1f}{peer_time / our_time:>9.1f}"


def versions() -> str:
    """Returns the versions of the packages."""
    packages = (
        "imagecorruptions",
        "numpy",
        "opencv-python-headless",
        "pillow",
        "scikit-image",
        "scipy",
        "torch",
    )
    installed = {str(package.metadata["Name"]).lower(): package.version for package in distributions()}
    return ", ".join(
        [
            f"Python {platform.python_version()}",
            *(f"{name} {installed[name]}" for name in packages if name in installed),
        ]
    )


if __name__ == "__main__":
    main()
