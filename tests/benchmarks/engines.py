"""Measures the engines on one network: images per second of processor time, and whether predictions are the same.

    python tests/benchmarks/engines.py [CHECKPOINT] [IMAGES]

Both engines run in this process on the same images with one thread, interleaved. With a checkpoint of the published
ResNet-20 and CIFAR-10 in the folder that EVALSUITE_DATA names the predictions are meaningful; without, the network is
untrained. Prints JSON: images per second of each round, the median ratio with its range, changed predictions.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

from evalsuite.datasets.base import Place
from evalsuite.datasets.cifar import Cifar10
from evalsuite.datasets.digits import Digits
from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.settings import from_settings
from evalsuite.models.checkpoints.loading import build_with_weights
from evalsuite.models.checkpoints.reading import read_weights
from evalsuite.models.engines import OPENVINO, computed_by, openvino_version, relative_difference
from evalsuite.models.inference import keep_large_blocks, logits, prepare_for_inference
from evalsuite.types import Array

ROUNDS, COUNT = 5, 1_000


def network(weights: str) -> nn.Module:
    """The published architecture, with its weights where they are named."""
    settings = {
        "name": "resnet20", "shortcut": "A", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]
    }  # fmt: skip
    torch.manual_seed(0)
    if weights:
        return build_with_weights(from_settings(settings), read_weights(Path(weights))).eval()
    return build_model(from_settings(settings)).eval()


def rate(model: nn.Module, images: Array) -> float:
    """Images per second of processor time."""
    started = time.process_time()
    logits(model, images)
    return len(images) / (time.process_time() - started)


def main() -> None:
    """Prints the result as JSON."""
    torch.set_num_threads(1)
    keep_large_blocks()
    weights = sys.argv[1] if len(sys.argv) > 1 else ""
    count = int(sys.argv[2]) if len(sys.argv) > 2 else COUNT
    data = Cifar10() if weights else Digits()
    root = Path(os.environ["EVALSUITE_DATA"]) if weights else None
    images = data.load("test", Place(root=root)).images[:count]
    eager = prepare_for_inference(network(weights))
    other = computed_by(OPENVINO, eager, images)
    if other is eager:
        sys.exit("OpenVINO is not installed, or does not take the network")
    rounds = [(rate(eager, images), rate(other, images)) for _ in range(ROUNDS)]
    ratios = sorted(fast / slow for slow, fast in rounds)
    changed = int((logits(eager, images).argmax(1) != logits(other, images).argmax(1)).sum())
    result = {
        "openvino": openvino_version(), "torch": torch.__version__, "images": len(images), "threads": 1,
        "eager images/s": [round(slow) for slow, _ in rounds],
        "openvino images/s": [round(fast) for _, fast in rounds],
        "ratio": round(statistics.median(ratios), 3), "range": [round(ratios[0], 3), round(ratios[-1], 3)],
        "changed predictions": changed, "relative difference": relative_difference(eager, other, images[:32]),
    }  # fmt: skip
    print(json.dumps(result, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
