"""Processor time of `check` on 120 JPEGs in ten class folders: torchvision's resnet18, and a pruned copy of it.

    python tests/benchmarks/own_pictures.py [workers]

Printed are user seconds of all processes (they depend less on what else the machine does than wall time), wall
seconds, and seconds by test. The weights are random: a check of a parent at chance would be refused, so its labels are
its own answers.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision import models

MEAN, STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIDE, COUNT, CLASSES = 32, 120, 10


def write(home: Path) -> None:
    """Writes the pictures, sorted into folders by the answers of ``dense.pt``, and ``pruned.pt``."""
    torch.manual_seed(0)
    draws = np.random.default_rng(0)
    network = models.resnet18(num_classes=CLASSES).eval()
    colours = draws.integers(0, 256, (COUNT, 4, 4, 3), dtype=np.uint8)
    pictures = [Image.fromarray(colour).resize((SIDE, SIDE)) for colour in colours]
    pixels = (
        torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2) / 255
    )
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    with torch.inference_mode():
        logits = network((pixels - mean) / std)
        centred = logits - logits.mean(0)  # so that every class is somewhere the answer
        network.fc.bias -= logits.mean(0)
    for number, (picture, label) in enumerate(zip(pictures, centred.argmax(1).tolist(), strict=True)):
        folder = home / "photos" / f"{label}"
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{number:03}.jpg", quality=98)
    torch.save(network.state_dict(), home / "dense.pt")
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data[layer.weight.abs() < layer.weight.abs().quantile(0.2)] = 0
    torch.save(network.state_dict(), home / "pruned.pt")


def main() -> None:
    """Makes the pictures and the networks in an empty folder, and checks them."""
    workers = sys.argv[1] if len(sys.argv) > 1 else "2"
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        write(home)
        words = (
            "check --parent dense.pt --candidate pruned.pt --data photos:side=32 --model torchvision:resnet18"
        )
        words += f" --setting classes={CLASSES} --workers {workers} --out run"
        places = {"PYTHONPATH": str(Path(__file__).parents[2]), "EVALSUITE_CACHE": str(home / "cache")}
        begun = time.perf_counter()
        command = [sys.executable, "-m", "evalsuite", *words.split()]
        subprocess.run(command, cwd=home, env={**os.environ, **places}, check=False)
        user = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        print(f"{user:.0f} s of processor time, {time.perf_counter() - begun:.0f} s")  # noqa: T201
        print(json.loads((home / "run" / "run.json").read_text("utf-8"))["spent"])  # noqa: T201


if __name__ == "__main__":
    main()
