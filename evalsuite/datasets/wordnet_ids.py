"""ImageNet's classes by their WordNet ids, from the lists that timm ships."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

from evalsuite.errors import DataError

CLASSES = 1000
WORDNET_ID = re.compile(r"n\d{8}")


def wnids() -> tuple[str, ...]:
    """Returns the 1,000 WordNet ids of ImageNet in the order of the classes: sorted."""
    return listed_wnids("imagenet_synsets")


@cache
def listed_wnids(name: str) -> tuple[str, ...]:
    """Returns a list of WordNet ids that timm ships, in its order.

    Args:
        name: ``imagenet_synsets``, ``imagenet_a_synsets`` or ``imagenet_r_synsets``.

    Raises:
        DataError: If timm is not installed.
    """
    spec = importlib.util.find_spec("timm")  # without importing it, which takes a second
    if spec is None or spec.origin is None:
        raise DataError(
            "the classes of ImageNet are read from the package timm, which is not installed: pip install timm"
        )
    text = Path(spec.origin).with_name("data").joinpath("_info", f"{name}.txt").read_text("utf-8")
    return tuple(text.split())
