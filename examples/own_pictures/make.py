"""Makes what a reader of "Get started" may not have at hand: labelled pictures, a network, and pruned copies of it.

    python make.py

draws JPEGs of five shapes into photos/CLASS/*.jpg, trains the network of network.py on others of their kind, and
writes dense.pt, pruned_20.pt and pruned_50.pt (global magnitude pruning by torch.nn.utils.prune, no retraining).
"""

from __future__ import annotations

import io
import math
import random
from pathlib import Path

import numpy as np
import torch
from network import small
from PIL import Image, ImageDraw
from torch import nn
from torch.nn.utils import prune

SHAPES = ("circle", "cross", "square", "star", "triangle")
SIDE = 40


def picture(shape: str, draws: random.Random) -> Image.Image:
    """Returns a shape of a random colour, size and place before a cloudy background, as a JPEG has it."""
    clouds = np.random.default_rng(draws.randrange(2**32)).integers(90, 170, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(clouds).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    size = draws.uniform(11, 17)
    x, y = (draws.uniform(size + 2, SIDE - size - 2) for _ in range(2))
    angle = draws.uniform(-0.3, 0.3) - math.pi / 2
    colour = tuple(draws.choice((draws.randint(0, 90), draws.randint(165, 255))) for _ in range(3))
    draw = ImageDraw.Draw(image)
    if shape == "circle":
        draw.ellipse((x - size, y - size, x + size, y + size), fill=colour)
    elif shape == "cross":
        for turn in (0, math.pi / 2):
            dx, dy = size * math.cos(angle + turn), size * math.sin(angle + turn)
            draw.line((x - dx, y - dy, x + dx, y + dy), fill=colour, width=6)
    else:
        corners, inner = {"square": (4, 1.0), "triangle": (3, 1.0), "star": (10, 0.4)}[shape]
        points = [
            (x + radius * size * math.cos(angle + step), y + radius * size * math.sin(angle + step))
            for corner in range(corners)
            for step, radius in [
                (2 * math.pi * corner / corners, inner if corner % 2 and corners == 10 else 1.0)
            ]
        ]
        draw.polygon(points, fill=colour)
    file = io.BytesIO()
    image.save(file, "jpeg", quality=92)
    return Image.open(file)


def tensors(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns pictures as float32 (N, 3, H, W) in [0, 1], and their labels, int64 (N,)."""
    draws = random.Random(seed)
    labels = torch.arange(count) % len(SHAPES)
    images = [np.asarray(picture(SHAPES[int(label)], draws)) for label in labels]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255, labels


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int = 12) -> None:
    """Trains a network by Adam."""
    steps = math.ceil(len(images) / 64) * epochs
    optimiser = torch.optim.Adam(model.parameters(), lr=0.004)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.008, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimiser.step()
            schedule.step()


def main() -> None:
    """Writes pictures, network and pruned copies into the current folder."""
    torch.manual_seed(0)
    draws = random.Random(1)
    for shape in SHAPES:
        folder = Path("photos", shape)
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(120):
            picture(shape, draws).save(folder / f"{index}.jpg", quality="keep")
    model = small()
    train(model, *tensors(3000, seed=2))
    torch.save(model.state_dict(), "dense.pt")
    for percent in (20, 50):
        copy = small()
        copy.load_state_dict(torch.load("dense.pt", weights_only=True))
        layers = [(m, "weight") for m in copy.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=percent / 100)
        for module, name in layers:
            prune.remove(module, name)
        torch.save(copy.state_dict(), f"pruned_{percent}.pt")


if __name__ == "__main__":
    main()
