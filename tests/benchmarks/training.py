"""Images per second of training a ResNet-20 on 32-pixel images, one thread: ``python tests/benchmarks/training.py``."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np
import torch

from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.settings import from_settings
from evalsuite.training.loop import train
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet

IMAGES = 512
RECIPE = Recipe(epochs=1, batch_size=128, augment="crop-flip")


def speed(recipe: Recipe) -> float:
    """Images per second of one epoch, after one to warm up."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (IMAGES, 3, 32, 32), dtype=np.uint8)
    images = ImageSet("noise", pictures, rng.integers(0, 10, IMAGES), 10)
    model = build_model(from_settings({"name": "resnet20"}))
    train(model, images, recipe, seed=0)
    start = time.perf_counter()
    train(model, images, recipe, seed=0)
    return IMAGES / (time.perf_counter() - start)


def main() -> None:
    """Writes one line per recipe."""
    torch.set_num_threads(1)
    for label, recipe in (
        ("float32", RECIPE),
        ("bfloat16", replace(RECIPE, precision="bfloat16")),
        ("float32, cutmix, average", replace(RECIPE, cutmix=1.0, ema=0.999)),
    ):
        sys.stdout.write(f"{label:26} {speed(recipe):6.0f} images/s\n")


if __name__ == "__main__":
    main()
