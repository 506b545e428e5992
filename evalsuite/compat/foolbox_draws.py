"""Random draws of foolbox's attacks, each at the address of its image instead of in the order of a generator."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from evalsuite.randomness import BLOCK, address

Key = tuple[str | int, ...]


def start_by_index(tool: Any, index: list[int], key: Key) -> None:
    """Makes an attack of the library draw each image's random start at the address of the image."""
    from eagerpy.astensor import astensor

    draw = tool.get_random_start

    def start(images: Any, epsilon: float) -> Any:
        shape = (BLOCK, *images.shape[1:])
        blocks = {
            block: _drawn(draw, shape, epsilon, (*key, block)) for block in {at // BLOCK for at in index}
        }
        offsets = torch.stack([blocks[at // BLOCK][at % BLOCK] for at in index])
        return images + astensor(offsets.to(images.raw.device))

    tool.get_random_start = start


def noise_by_index(tool: Any, index: list[int], key: Key) -> None:
    """Makes an attack draw each image's noise at the address of the image, and scale it to epsilon."""
    from eagerpy.astensor import astensor

    draw, draws = tool.sample_noise, itertools.count()

    def noise(images: Any) -> Any:
        shape, number = (BLOCK, *images.shape[1:]), next(draws)
        blocks = {
            block: _drawn(lambda zeros, _: draw(zeros), shape, 1.0, (*key, number, block))
            for block in {at // BLOCK for at in index}
        }
        found = torch.stack([blocks[at // BLOCK][at % BLOCK] for at in index])
        unit = found / found.flatten(1).abs().amax(1).view(-1, *[1] * (found.dim() - 1))
        return astensor(unit.to(images.raw.device))

    tool.sample_noise = noise
    tool.get_epsilons = lambda _images, _noise, epsilon, **_: epsilon


def _drawn(draw: Any, shape: tuple[int, ...], epsilon: float, key: Key) -> Tensor:
    """Returns a block of random starts around zero, drawn on the CPU: other devices have other generators."""
    from eagerpy.astensor import astensor

    torch.default_generator.manual_seed(address(*key))
    offsets: Tensor = draw(astensor(torch.zeros(shape)), epsilon).raw
    return offsets
