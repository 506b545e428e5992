"""Synthetic logits and features like those of a trained network, and its classifier."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from evalsuite.models.features import Head

if TYPE_CHECKING:
    from evalsuite.types import Array

D, K = 24, 5


@dataclass(frozen=True)
class World:
    """Features of training images, of test images and of images of no known class, and their classifier."""

    head: Head
    training: Array
    labels: Array
    inside: Array
    outside: Array

    @property
    def both(self) -> Array:
        """Features of test images, then of the others."""
        return np.concatenate([self.inside, self.outside])

    def logits(self, features: Array) -> Array:
        """float32 logits."""
        return (features @ self.head.weight.T + self.head.bias).astype(np.float32)


@pytest.fixture(scope="session")
def world() -> World:
    """Non-negative features around class means, as after a ReLU; outliers are weaker and lie elsewhere."""
    random = np.random.default_rng(0)
    means = random.gamma(1.0, 1.0, (K, D))

    def drawn(labels: Array) -> Array:
        noise = random.normal(0, 0.4, (len(labels), D))
        features: Array = np.maximum(means[labels] + noise, 0).astype(np.float32)
        return features

    labels = np.arange(400) % K
    outside = np.maximum(random.normal(0.5, 0.7, (90, D)), 0).astype(np.float32)
    weight = (means - means.mean(axis=0)).astype(np.float32)
    head = Head(weight, random.normal(0, 0.3, K).astype(np.float32))
    return World(head, drawn(labels), labels, drawn(np.arange(150) % K), outside)


@pytest.fixture(scope="session")
def oracle() -> Any:
    """The detectors of pytorch-ood, which warns about its own dependencies when it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("pytorch_ood.detector")
