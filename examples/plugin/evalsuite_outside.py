"""One plug-in of each kind, as another package would bring them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from evalsuite.plugins import (
    Architecture,
    Bench,
    Context,
    DataSet,
    Evaluator,
    ImageSet,
    Metric,
    Place,
    Score,
    Split,
    View,
    WeightProducer,
    prunable_layers,
)


@dataclass(frozen=True)
class Tail(WeightProducer):
    """Prunes the weights that come last in each layer first."""

    def scores(self, model: nn.Module, context: Context) -> Mapping[str, Tensor]:
        """Returns how far each weight is from the end of its layer."""
        layers = {name: layer.get_parameter("weight") for name, layer in prunable_layers(model).items()}
        return {name: torch.arange(w.numel(), 0, -1).view(w.shape) / w.numel() for name, w in layers.items()}


@dataclass(frozen=True)
class Unconfidence(Evaluator):
    """Mean of one minus the largest probability."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """One metric."""
        return (
            Metric(
                "unconfidence", higher_is_better=False, unit="probability", text="One minus the confidence."
            ),
        )

    @property
    def needs(self) -> tuple[View, ...]:
        """The clean test images."""
        return (View(),)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields one score."""
        yield Score("unconfidence", "clean", evidence={"test": 1 - bench.outputs(View()).confidence})


@dataclass(frozen=True)
class Greys(DataSet):
    """Images of one grey each: an out-of-distribution set."""

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns 64 greys."""
        levels = np.arange(0, 256, 4, dtype=np.uint8)[:, None, None, None]
        return ImageSet("greys", np.tile(levels, (1, 3, 32, 32)), None, 0)


@dataclass(frozen=True, kw_only=True)
class Slim(Architecture):
    """One convolution and a classifier."""

    width: int = 8

    def network(self) -> nn.Module:
        """Returns the network."""
        first = nn.Sequential(nn.Conv2d(3, self.width, 4, stride=4), nn.BatchNorm2d(self.width), nn.ReLU())
        return nn.Sequential(
            first, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * self.width, self.classes)
        )
