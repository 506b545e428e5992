"""Counts the predictions that screened precision changes on corrupted CIFAR-10, and measures what it takes.

    EVALSUITE_DATA=DATA python tests/benchmarks/screening.py CHECKPOINT [IMAGES] [SEVERITIES] [rounded]

CHECKPOINT is a published ResNet-20 or ResNet-56. Each of the 15 corruptions is generated at each severity (3; or
1,2,3,4,5 for the whole grid) of evenly spaced test images, passed in single precision, and screened. Prints one line
per set as it is done, then JSON: predictions that differ (0 is the claim), shares of images passed again, predictions
that bfloat16 alone would have changed, and the ratio of processor times, which is above 1 only where the processor has
units for bfloat16. Elsewhere it takes ten times as long; with the word ``rounded`` the same numbers come from single
precision: inputs, weights and outputs of convolutions and matrix products are rounded to bfloat16, and summed in
float32, as units for bfloat16 do. The largest difference of its logits from bfloat16's is printed.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from evalsuite.datasets.base import Place
from evalsuite.datasets.cifar import Cifar10
from evalsuite.datasets.transforms.common_corruptions.kinds import CORRUPTIONS, corrupt
from evalsuite.models.architectures.settings import from_settings
from evalsuite.models.checkpoints.loading import build_with_weights
from evalsuite.models.checkpoints.reading import read_weights
from evalsuite.models.engines import half_precision
from evalsuite.models.inference import InferenceModel, keep_large_blocks, logits, prepare_for_inference
from evalsuite.models.screening import largest_move, precision_gain, screen
from evalsuite.types import Array

SETTINGS = {"shortcut": "A", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def main() -> None:
    """Prints the result."""
    torch.set_num_threads(1)
    keep_large_blocks()
    weights = Path(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    severities = [int(text) for text in (sys.argv[3] if len(sys.argv) > 3 else "3").split(",")]
    architecture = from_settings({"name": weights.name.partition("-")[0], **SETTINGS})
    exact = prepare_for_inference(build_with_weights(architecture, read_weights(weights)).eval())
    half = half_precision(exact)
    emulated = rounded(exact) if "rounded" in sys.argv else half
    whole = Cifar10().load("test", Place(root=Path(os.environ["EVALSUITE_DATA"]))).images
    images = np.ascontiguousarray(whole[np.linspace(0, len(whole) - 1, min(count, len(whole))).astype(int)])
    calls = [lambda batch: logits(exact, batch), lambda batch: logits(emulated, batch)]
    move = largest_move(calls[0], calls[1], images)
    rows = []
    for kind in CORRUPTIONS:
        for severity in severities:
            rows.append(
                row(calls, corrupt(images, kind, severity, seed=0), move) | {"set": f"{kind}/{severity}"}
            )
            print(json.dumps(rows[-1]), flush=True)  # noqa: T201
    total = {name: sum(each[name] for each in rows) for name in rows[0] if name != "set"}
    ratio = total["seconds"] / total["screened seconds"]
    gain = precision_gain(exact, half, images)
    differs = float(np.abs(logits(emulated, images[:64]) - logits(half, images[:64])).max())
    facts = {
        "emulation differs by": differs,
        "largest move": move,
        "torch": torch.__version__,
        "network": weights.name,
        "ratio": ratio,
        "gain of bfloat16": gain,
    }
    print(json.dumps(facts | total, indent=1))  # noqa: T201


def rounded(exact: InferenceModel) -> InferenceModel:
    """A prepared network whose convolutions and matrix products take and give numbers rounded to bfloat16."""
    model = copy.deepcopy(exact.model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            for parameter in module.parameters():
                parameter.data = parameter.data.bfloat16().float()
            module.register_forward_pre_hook(lambda _, inputs: tuple(x.bfloat16().float() for x in inputs))
            module.register_forward_hook(lambda _, __, output: output.bfloat16().float())
    return InferenceModel(model).eval()


def row(calls: list[Any], images: Array, move: float) -> dict[str, Any]:
    """What screening does on one set."""
    started = time.process_time()
    truth = calls[0](images).argmax(1)
    between = time.process_time()
    result = screen(calls[0], calls[1], images, move=move)
    return {
        "images": len(images),
        "differ": int((result.logits.argmax(1) != truth).sum()),
        "passed again": int(result.again.sum()),
        "changed by bfloat16": result.changed,
        "seconds": between - started,
        "screened seconds": time.process_time() - between,
    }


if __name__ == "__main__":
    main()
