"""Random noise: accuracy and agreement with the parent under it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from evalsuite.datasets.transforms.noise import NoiseKind, RandomNoise, packed
from evalsuite.datasets.views import View
from evalsuite.errors import SkippedError, SuiteError
from evalsuite.evaluation import Outputs
from evalsuite.evaluators.accuracy import (
    ACCURACY,
    AGREEMENT,
    CONTROL,
    NLL,
    POPULATION,
    SOFTMAX_DISTANCE,
    float32_evidence,
)
from evalsuite.evaluators.base import (
    Condition,
    DataSummary,
    Evaluator,
    check_epsilons,
    check_once,
    declare,
)
from evalsuite.evaluators.similarity import DISTANCES, distances
from evalsuite.models.architectures.base import Normalized, unwrap_model
from evalsuite.models.inference import InferenceModel, logits, prepare_for_inference
from evalsuite.plugin_config import OPTIONAL_KEY
from evalsuite.types import Array, Metric, Score

if TYPE_CHECKING:
    from evalsuite.evaluation import Bench

GROUP = "noise"
HUNDRED = 100
"""Draws from which on a percentile of them is another number than the worst."""


@dataclass(frozen=True)
class Noise(Evaluator):
    """Accuracy and agreement with the parent under uniform or Gaussian noise, the same draws for every candidate.

    Each score is a mean over images and draws; ``worst of 3 uniform/8:255`` counts an image if it is classified
    correctly under every draw. Where the suite has several seeds, the parent has agreement and softmax distance of
    the next seed's parent too, on ``control uniform/8:255``: how far an independently trained network is from it.
    From 100 draws on, ``1st percentile of 100 uniform/8:255`` counts an image that agrees with the parent under all but
    the worst 1 % of its draws: the published lower end of the agreement.

    Attributes:
        epsilons: Half-widths of U(-eps, eps) and standard deviations of N(0, eps^2): on [0, 1] images in units
            of 1/255, clipped to [0, 1]; in normalised space as they are.
        kinds: ``uniform``, ``gaussian`` or both.
        draws: Number of draws per kind and epsilon; each is a forward pass.
        space: ``normalised`` adds the noise after the model's own normalisation and does not clip, as the
            published protocol does; at a standard deviation of 0.25, 0.5 there is 32/255 here. Only for models
            whose mean and std are known to the suite.
        distances: Whether to report the other published distances too: the largest difference between softmax
            outputs, and the l2 norm and the largest value of the difference between logits.

    References:
        Liebenwein et al. 2021, "Lost in Pruning", arXiv 2103.03014, section 3, and its code ``eps_ball.py``.
    """

    uses_control: ClassVar[bool] = True
    image_by_image: ClassVar[bool] = True
    epsilons: tuple[float, ...] = (8.0, 16.0, 32.0)
    kinds: tuple[NoiseKind, ...] = ("uniform",)
    draws: int = 1
    space: Literal["pixels", "normalised"] = "pixels"
    distances: bool = field(default=False, metadata=OPTIONAL_KEY)

    def __post_init__(self) -> None:
        check_epsilons("noise", self.epsilons)
        if not self.kinds:
            raise SuiteError("noise: found no kinds, expected uniform, gaussian or both")
        check_once("noise", "kinds", self.kinds)
        if self.draws < 1:
            raise SuiteError(f"noise: found draws = {self.draws}, expected at least 1")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy, NLL, agreement, distance of the softmax outputs, and the other distances."""
        return ACCURACY, NLL, AGREEMENT, *self._distances

    @property
    def _distances(self) -> tuple[Metric, ...]:
        return DISTANCES if self.distances else (SOFTMAX_DISTANCE,)

    @property
    def needs(self) -> tuple[View, ...]:
        """The test images with each noise; the clean ones where the model adds the noise."""
        if self.space == "normalised":
            return (View(),)
        return tuple(self._view(noise) for noises in self._draws() for noise in noises)

    def conditions(self, data: DataSummary) -> Iterable[Condition]:
        """Yields four metrics per kind and epsilon, two for the worst of several draws, and those of a control."""
        for noises in self._draws():
            condition = self._condition(noises[0], data.condition)
            yield from declare(self.metrics, condition, GROUP)
            if len(noises) > 1:
                yield from declare((ACCURACY, AGREEMENT), _worst(condition, len(noises)))
            if len(noises) >= HUNDRED:
                yield Condition(AGREEMENT.name, _percentile(condition, len(noises)))
            if data.control:
                yield from declare((AGREEMENT, *self._distances), f"{CONTROL} {condition}")

    def for_conditions(self, conditions: Collection[str], name_of: Callable[[View], str]) -> Noise:
        """Returns the same test with the kinds and half-widths alone that the conditions are of."""
        kept = [
            noises[0]
            for noises in self._draws()
            if {*conditions} & {*_names(self._condition(noises[0], name_of), len(noises))}
        ]
        kinds, epsilons = ({getattr(noise, name) for noise in kept} for name in ("kind", "epsilon"))
        return replace(
            self,
            kinds=tuple(kind for kind in self.kinds if kind in kinds),
            epsilons=tuple(epsilon for epsilon in self.epsilons if epsilon in epsilons),
        )

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields four scores per kind and epsilon, and with several draws two for the worst of them.

        Raises:
            SkippedError: If the noise is added after a normalisation that is unknown.
        """
        for noises in self._draws():
            condition = self._condition(noises[0], bench.condition)
            pairs = self._pairs(bench, bench.parent, noises)
            yield from map(float32_evidence, _scores(condition, pairs, self._distances))
            if bench.control is not None and bench.parent is bench:
                pairs = self._pairs(bench.control, bench, noises)
                yield from _control_scores(f"{CONTROL} {condition}", pairs, self._distances)

    def _draws(self) -> Iterator[list[RandomNoise]]:
        """Yields all draws of each kind and epsilon."""
        for kind, epsilon in itertools.product(self.kinds, self.epsilons):
            yield [RandomNoise(kind, epsilon, draw) for draw in range(self.draws)]

    def _pairs(self, bench: Bench, other: Bench, noises: list[RandomNoise]) -> list[tuple[Outputs, Outputs]]:
        return [(self._outputs(bench, noise), self._outputs(other, noise)) for noise in noises]

    def _view(self, noise: RandomNoise) -> View:
        return View(transform=noise)

    def _condition(self, noise: RandomNoise, condition: Callable[[View], str]) -> str:
        if self.space == "normalised":
            return f"{noise.kind} normalised/{noise.epsilon:g}"
        return condition(self._view(noise))

    def _outputs(self, bench: Bench, noise: RandomNoise) -> Outputs:
        if self.space == "pixels":
            return bench.outputs(self._view(noise))
        return bench.memoise(("noise", noise), lambda: self._normalised_outputs(bench, noise))

    def _normalised_outputs(self, bench: Bench, noise: RandomNoise) -> Outputs:
        """The outputs with noise that is added after the normalisation."""
        clean = bench.images(View())
        key = (bench.image_source.place.seed, "normalised", noise.kind, float(noise.epsilon), noise.draw)
        model = with_internal_noise(bench.model, noise)
        parts = [logits(model, part, device=bench.device) for _, part in packed(clean.images, *key)]
        return Outputs(np.concatenate(parts), clean.labels)


def _scores(
    condition: str, pairs: list[tuple[Outputs, Outputs]], metrics: tuple[Metric, ...]
) -> Iterator[Score]:
    """Means over draws, image by image, so that comparisons stay paired; and the worst draw of each image."""
    rows = {
        ACCURACY: np.stack([outputs.correct for outputs, _ in pairs]),
        NLL: np.stack([outputs.nll for outputs, _ in pairs]),
        **_differences(pairs, metrics),
    }
    for metric, values in rows.items():
        yield Score(metric.name, condition, evidence={POPULATION: _mean(values)}, group=GROUP)
    if len(pairs) > 1:
        for metric in (ACCURACY, AGREEMENT):
            under_all: Array = np.logical_and.reduce(rows[metric])
            yield Score(metric.name, _worst(condition, len(pairs)), evidence={POPULATION: under_all})
    if len(pairs) >= HUNDRED:
        often = (~rows[AGREEMENT]).sum(axis=0) <= len(pairs) // HUNDRED
        yield Score(AGREEMENT.name, _percentile(condition, len(pairs)), evidence={POPULATION: often})


def _names(condition: str, draws: int) -> tuple[str, ...]:
    """Names of the conditions that are about one kind and size of noise."""
    return condition, _worst(condition, draws), _percentile(condition, draws), f"{CONTROL} {condition}"


def _worst(condition: str, draws: int) -> str:
    return f"worst of {draws} {condition}"


def _percentile(condition: str, draws: int) -> str:
    return f"1st percentile of {draws} {condition}"


def _control_scores(
    condition: str, pairs: list[tuple[Outputs, Outputs]], metrics: tuple[Metric, ...]
) -> Iterator[Score]:
    """Differences between an independently trained network and the parent; no curve of pruning, so in no group."""
    for metric, values in _differences(pairs, metrics).items():
        yield Score(metric.name, condition, evidence={POPULATION: _mean(values)})


def _differences(pairs: list[tuple[Outputs, Outputs]], metrics: tuple[Metric, ...]) -> dict[Metric, Array]:
    """Agreement and distances of each pair and image, (draws, N)."""
    agrees = [first.predictions == second.predictions for first, second in pairs]
    by_pair = [distances(first, second) for first, second in pairs]
    return {
        AGREEMENT: np.stack(agrees),
        **{metric: np.stack([values[metric] for values in by_pair]) for metric in metrics},
    }


def _mean(values: Array) -> Array:
    """The mean over draws; of one draw the values as they are, so that a rate stays a rate."""
    return np.asarray(values[0] if len(values) == 1 else values.mean(axis=0, dtype=np.float64))


class InternalNoise(nn.Module):
    """A network that adds noise to its normalised images; see `evalsuite.datasets.transforms.noise.packed`.

    Args:
        network: Takes normalised images.
        normalized: The model with the mean and standard deviation.
        noise: Kind and size.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, normalized: Normalized, noise: RandomNoise) -> None:
        super().__init__()
        self.network = network
        self.noise = noise
        self.register_buffer("mean", normalized.mean.clone())
        self.register_buffer("std", normalized.std.clone())

    def forward(self, packed: Tensor) -> Tensor:
        """Returns logits of images and U(0, 1) draws, (N, 2C, H, W)."""
        images, uniform = packed.chunk(2, dim=1)
        if self.noise.kind == "gaussian":
            unit = torch.special.ndtri(uniform.clamp(2**-25, 1 - 2**-24))
        else:
            unit = 2 * uniform - 1
        logits: Tensor = self.network((images - self.mean) / self.std + self.noise.epsilon * unit)
        return logits


def with_internal_noise(model: nn.Module, noise: RandomNoise) -> InferenceModel:
    """Returns a model that adds noise after its normalisation.

    Raises:
        SkippedError: If the model's normalisation is unknown.
    """
    if not isinstance(model, Normalized):
        raise SkippedError(
            "the model's mean and std are not known, so that noise cannot be added after its normalisation; "
            'use space = "pixels"'
        )
    device = model.mean.device
    return InferenceModel(
        InternalNoise(prepare_for_inference(unwrap_model(model), device=device), model, noise)
        .to(device)
        .eval()
    ).eval()
