"""Random draws by address: each has a generator of its own, seeded by a hash of the draw's purpose.

Results then depend neither on the order in which things run nor on how many workers there are, and parent and
candidates are tested with the same noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

BLOCK = 64
"""Images that share one generator: an image's draws depend on its index, never on the number of images."""


def address(*key: str | int | float) -> int:
    """Returns a seed in 0..2**63-1 for the draw that `key` names.

    >>> address(0, "fog", 3) == address(0, "fog", 3) != address(0, "fog", 4)
    True
    """
    plain = (part.item() if isinstance(part, np.generic) else part for part in key)
    text = "\x1f".join(f"{type(part).__name__}:{part!r}" for part in plain)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*key: str | int | float) -> np.random.Generator:
    """Returns numpy's generator at the address `key`."""
    return np.random.default_rng(address(*key))


def blocks(count: int, *key: str | int | float) -> Iterator[tuple[slice, np.random.Generator]]:
    """Yields slices of at most `BLOCK` images that cover ``range(count)``, each with its own generator.

    Draw for a whole block of `BLOCK` images and cut what is not needed, so that the last block does not
    depend on `count`.
    """
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count)), generator(*key, start // BLOCK)
