"""Informative pixels: those that a network needs most, and whether its parent needs them too."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from evalsuite.datasets.views import View
from evalsuite.errors import SuiteError
from evalsuite.evaluators.accuracy import CONTROL, POPULATION
from evalsuite.evaluators.base import Condition, DataSummary, Evaluator
from evalsuite.metrics.logits import softmax
from evalsuite.models.architectures.base import Normalized
from evalsuite.models.inference import logits
from evalsuite.types import Array, Floats, Metric, Score

if TYPE_CHECKING:
    from evalsuite.evaluation import Bench

BATCH = 1024
"""Masked images that are in memory at once."""
GROUP = "pixels"
CANDIDATE, PARENT = "candidate", "parent"
"""Names of networks in conditions, beside `CONTROL`."""
CONFIDENCE = Metric(
    "pixel_confidence", higher_is_better=None, unit="probability",
    text="Mean softmax probability of the true class where a network sees only the pixels that it, or another network, "
    "needs most; the others have the mean colour (Liebenwein et al. 2021, arXiv 2103.03014).",
)  # fmt: skip
TRANSFER = Metric(
    "pixel_transfer", higher_is_better=True, unit="probability",
    text="Mean softmax probability of the true class that the candidate gives where it sees only the pixels that its "
    "parent needs most: low where the candidate needs others.",
)  # fmt: skip


@dataclass(frozen=True)
class Pixels(Evaluator):
    """Confidence of candidate and parent on the few pixels that either needs: informative pixels by backward selection.

    Pixels are masked one after another with the mean colour, 0 in the network's normalised space: always the one
    whose loss leaves the probability of the class that the network predicts for the whole image highest. Those
    masked last are its informative pixels. Each of candidate and parent is evaluated on its own pixels and on the
    other's. Where the suite has several seeds, the next seed's parent is a third network, ``control``, trained
    independently. The pixels of parent and control are selected once for all candidates.

    The published procedure masks one pixel a round: 524,800 forward passes for an image of 32 px, and two
    networks choose. With ``step`` pixels a round, the best ones of it at once, the cost is divided by about that:
    the defaults cost 46,000 passes a network, nearly as many as 5 test sets of 10,000 images. Of
    a ResNet-20 one thread of a busy machine did 400 to 650 passes a second.

    Attributes:
        images: The first so many test images.
        share: Share of the pixels that stay, in (0, 1].
        step: Pixels masked per round; 1 is the published procedure.

    References:
        Carter et al. 2019, "What made you do this? Understanding black-box decisions with sufficient input
        subsets", arXiv 1810.03805 (backward selection); Liebenwein et al. 2021, arXiv 2103.03014 (settings).
    """

    uses_control: ClassVar[bool] = True
    images: int = 10
    share: float = 0.1
    step: int = 128

    def __post_init__(self) -> None:
        if self.images < 1 or self.step < 1:
            raise SuiteError(
                f"pixels: found images = {self.images} and step = {self.step}, expected counts from 1 on"
            )
        if not 0 < self.share <= 1:
            raise SuiteError(f"pixels: found share = {self.share}, expected a number in (0, 1]")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Confidence in the true class; that of the candidate on its parent's pixels has a direction."""
        return CONFIDENCE, TRANSFER

    @property
    def needs(self) -> tuple[View, ...]:
        """The first clean test images."""
        return (View(first=self.images),)

    def conditions(self, data: DataSummary) -> Iterable[Condition]:
        """Yields each pair of a network that chose the pixels and one that sees them, perhaps of a control."""
        networks = (CANDIDATE, PARENT, *((CONTROL,) if data.control else ()))
        for chooser, network in itertools.product(networks, networks):
            yield Condition(CONFIDENCE.name, _condition(network, chooser), GROUP)
        yield Condition(TRANSFER.name, f"pixels of {PARENT}")

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields a score for each pair of a network that chose the pixels and one that sees them."""
        labels = bench.outputs(View(first=self.images)).true_labels
        images = unit_images(bench.images(View(first=self.images)).images)
        fill = mean_colour(bench, images)
        networks = {CANDIDATE: bench, PARENT: bench.parent}
        if bench.control is not None:
            networks[CONTROL] = bench.control
        selected = {name: self.selected(network, images, fill) for name, network in networks.items()}
        for chooser, pixels in selected.items():
            for name, network in networks.items():
                p = confidences(network, images, pixels, (fill, labels))
                evidence = {f"{POPULATION}[:{len(p)}]": p}
                yield Score(CONFIDENCE.name, _condition(name, chooser), evidence=evidence, group=GROUP)
                if (name, chooser) == (CANDIDATE, PARENT):
                    yield Score(TRANSFER.name, f"pixels of {chooser}", evidence=evidence)

    def selected(self, network: Bench, images: Array, fill: Array) -> Array:
        """Returns the pixels of float32 `images` in [0, 1] that `network` needs most, bool (N, H, W)."""
        key = ("pixels", self.images, self.step, fill.tobytes())
        order = network.memoise(
            key,
            lambda: np.stack([backward_selection(network, image, fill, step=self.step) for image in images]),
        )
        pixels = order[0].size
        selected: Array = order >= pixels - max(1, round(self.share * pixels))
        return selected


def confidences(network: Bench, images: Array, pixels: Array, scene: tuple[Array, Array]) -> Floats:
    """Returns the probability of the true class of each image of which a network sees some pixels alone, (N,).

    Args:
        network: What sees them.
        images: float32 in [0, 1], (N, C, H, W).
        pixels: Those that stay, bool (N, H, W).
        scene: Colour of the others, (C,), and true classes, (N,).
    """
    fill, labels = scene
    masked = np.where(pixels[:, None], images, fill[:, None, None])
    p = softmax(logits(network.inference_model, masked, device=network.device))
    chosen: Floats = p[np.arange(len(p)), labels]
    return chosen


def _condition(network: str, chooser: str) -> str:
    return f"{network} on pixels of {chooser}"


def backward_selection(network: Bench, image: Array, fill: Array, *, step: int = 1) -> Array:
    """Returns the place of each pixel in the order in which they are masked: the last is the most informative.

    Args:
        network: The network whose predicted class and probabilities select the pixels.
        image: float32 (C, H, W) in [0, 1].
        fill: Colour of masked pixels, float32 (C,).
        step: Pixels masked per round, the best of it at once. Of equally good ones the first in reading order.

    Returns:
        int64 (H, W): 0 for the pixel masked first, H * W - 1 for the last.
    """
    target = int(logits(network.inference_model, image[None], device=network.device).argmax())
    height, width = image.shape[1:]
    current = image.reshape(len(image), -1).copy()
    left = np.arange(height * width)
    order = np.empty(height * width, np.int64)
    while left.size:
        masked = height * width - left.size
        probabilities = _probabilities(network, current.reshape(image.shape), left, (fill, target))
        best = np.argsort(-probabilities, kind="stable")[:step]
        order[left[best]] = masked + np.arange(best.size)
        current[:, left[best]] = fill[:, None]
        left = np.delete(left, best)
    return order.reshape(height, width)


def _probabilities(network: Bench, image: Array, pixels: Array, masking: tuple[Array, int]) -> Floats:
    """Probability of the target class with each of the `pixels` masked as well."""
    fill, target = masking
    parts = []
    for start in range(0, len(pixels), BATCH):
        part = pixels[start : start + BATCH]
        masked = np.repeat(image.reshape(1, len(fill), -1), len(part), axis=0)
        masked[np.arange(len(part)), :, part] = fill
        parts.append(
            logits(network.inference_model, masked.reshape(len(part), *image.shape), device=network.device)
        )
    p: Floats = softmax(np.concatenate(parts))[:, target]
    return p


def mean_colour(bench: Bench, images: Array) -> Array:
    """Returns the colour that the parent's normalisation turns into 0; the mean of `images` if that is unknown."""
    model = bench.parent.model
    if isinstance(model, Normalized):
        colour: Array = model.mean.detach().cpu().numpy().reshape(-1).astype(np.float32)
        if len(colour) == images.shape[1]:
            return colour
    return np.asarray(images.mean(axis=(0, 2, 3), dtype=np.float64), dtype=np.float32)


def unit_images(images: Array) -> Array:
    """Returns images, uint8 or float in [0, 1], as float32 in [0, 1]."""
    scale = 255 if images.dtype == np.uint8 else 1
    scaled: Array = np.asarray(images, dtype=np.float32) / np.float32(scale)
    return scaled
