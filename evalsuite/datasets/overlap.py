"""Images that two sets share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from evalsuite.types import Array

CHUNK = 256
"""Images that are read at once."""


def count_shared(images: Array, others: Array) -> int:
    """Returns how many of `images` have the same pixels as one of `others`, uint8 or float32 (N, C, H, W)."""
    if images.shape[1:] != others.shape[1:] or images.dtype != others.dtype:
        return 0
    seen = set(_digests(others))
    return sum(digest in seen for digest in _digests(images))


def _digests(images: Array) -> Iterator[bytes]:
    for start in range(0, len(images), CHUNK):
        for image in images[start : start + CHUNK]:
            yield hashlib.blake2b(image.tobytes(), digest_size=16).digest()
