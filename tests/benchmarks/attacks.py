"""Cost of each attack per 100 images on a ResNet-20, as the evaluators run it by default.

Run it: ``python tests/benchmarks/attacks.py [WEIGHTS [COUNT]]``. With the weights of the published
CIFAR-10 ResNet-20 (``checkpoints/akamaster/resnet20-12fca82f.th`` of the data folder, named by EVALSUITE_DATA)
the robust accuracies are meaningful; without, the network is untrained and no attack ends early.
"""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from evalsuite.attacks.specs import ATTACK_SPECS, AttackBudget, AttackRunner, attack_target
from evalsuite.datasets.base import Place
from evalsuite.datasets.cifar import Cifar10
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.views import View
from evalsuite.evaluation import Bench
from evalsuite.evaluators.attack import Attack
from evalsuite.evaluators.minimal_norm import MinimalNorm
from evalsuite.execution.measuring import scored
from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.settings import from_settings
from evalsuite.models.checkpoints.loading import build_with_weights
from evalsuite.models.checkpoints.reading import read_weights
from evalsuite.types import ImageSet

COUNT = 100
"""Images (second argument); the table has seconds of processor time per 100 images."""
LINF, L2 = 1 / 255, 0.1


def network(weights: str) -> nn.Module:
    """The published architecture, with its weights where they are named."""
    settings = {
        "name": "resnet20", "shortcut": "A", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]
    }  # fmt: skip
    torch.manual_seed(0)
    if weights:
        return build_with_weights(from_settings(settings), read_weights(Path(weights))).eval()
    return build_model(from_settings(settings)).eval()


def image_source() -> ImageSource:
    """CIFAR-10 where the data folder has it, else random images."""
    if folder := os.environ.get("EVALSUITE_DATA"):
        return ImageSource(Cifar10(), Place(root=Path(folder)))
    draws = np.random.default_rng(0)
    pixels = draws.integers(0, 256, (COUNT, 3, 32, 32), dtype=np.uint8)
    return ImageSource(ImageSet("random", pixels, np.arange(COUNT) % 10, 10), Place())


def spent(start: float) -> float:
    """Seconds of processor time since `start`."""
    return time.process_time() - start


def main() -> None:
    """Prints a table: seconds of processor time per 100 images, and the robust accuracy."""
    torch.set_num_threads(1)
    model, images = network(sys.argv[1] if len(sys.argv) > 1 else ""), image_source()
    count = int(sys.argv[2]) if len(sys.argv) > 2 else COUNT
    bench = Bench(model, images)
    bench.outputs(View())
    bench.inference_model(torch.rand(32, 3, 32, 32))
    target = attack_target(bench, slice(count or None))
    print(f"torch {torch.__version__}, 1 thread, {count} images, {target.correct.mean():.2f} right, "  # noqa: T201
          f"Linf 1/255, L2 {L2}")  # fmt: skip
    AttackRunner(target.first(2)).misclassified(
        ATTACK_SPECS["fgsm"], LINF, budget=AttackBudget()
    )  # imports the library
    for name, spec in ATTACK_SPECS.items():
        start = time.process_time()
        hit = AttackRunner(target).misclassified(
            spec, LINF if math.isinf(spec.order) else L2, budget=AttackBudget()
        )
        print(f"{name:15} {spent(start) / count * 100:7.2f} s   robust {1 - hit.mean():.2f}")  # noqa: T201
    for label, evaluator in (
        ("attack, no probe", Attack((0.5, 1.0, 2.0), images=count, probe=0)),
        ("attack", Attack((0.5, 1.0, 2.0), images=count, probe=count)),
        ("minimal-norm", MinimalNorm(images=count)),
    ):
        start = time.process_time()
        flags = {flag for score in scored(evaluator, bench) for flag in score.flags}
        print(f"{label:16} {spent(start) / count * 100:7.2f} s   flags: {sorted(flags) or 'none'}")  # noqa: T201


if __name__ == "__main__":
    main()
