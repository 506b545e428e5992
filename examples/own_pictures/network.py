"""The network of the example: evalsuite calls `small` to build it, as `--model network.py:small`."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def small(width: int = 24, classes: int = 5) -> nn.Module:
    """Returns a small convolutional network for colour pictures of any size."""
    widths = (3, width, 2 * width, 4 * width)
    blocks = [
        nn.Sequential(nn.Conv2d(n, m, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(m), nn.ReLU())
        for n, m in pairwise(widths)
    ]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))
