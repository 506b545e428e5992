"""Structured methods that make heads narrower: widths of queries and keys, and of values."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evalsuite.errors import UserError
from evalsuite.models.architectures.small_networks import SMALL_NETWORKS
from evalsuite.models.cost import count_nonzero
from evalsuite.models.surgery.attention import head_shapes
from evalsuite.producers import PRODUCERS
from evalsuite.producers.base import Context
from evalsuite.training.origin import Origin
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet

ATTENTION = [
    *("timm vit_tiny", "timm deit_tiny_distilled", "timm swin_tiny"),
    *("torchvision vit", "torchvision swin", "transformers ViT"),
]
RECIPE = Recipe(epochs=1, batch_size=8, learning_rate=1e-3)


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("units", ["qk dimensions", "v dimensions", "head dimensions"])
def test_methods_make_heads_narrower(name: str, units: str, fits: list[dict[str, Any]]) -> None:
    if name.startswith("transformers"):
        pytest.importorskip("transformers")
    architecture, side = SMALL_NETWORKS[name].architecture(), SMALL_NETWORKS[name].side
    origin = Origin(architecture, 0, RECIPE)
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, side, side), generator=random, dtype=torch.uint8).numpy()
    context = Context(ImageSet("noise", images, torch.arange(8).numpy() % 10, 10), RECIPE, 0, origin=origin)
    parent = origin.initial().eval()
    methods = ["filter-l1", "filter-l2", "fpgm", "taylor", "filter-random"]
    methods += ["pfp"] if units == "v dimensions" else []
    for method in methods:
        kind: Any = PRODUCERS.get(method)
        table = {"images": 4} if method in ("taylor", "pfp") else {}
        model = next(iter(kind(units=units, **table).produce(parent, (0.05,), context)))
        assert 1 - count_nonzero(model) / count_nonzero(parent) == pytest.approx(0.05, abs=0.02), method
        assert model(torch.rand(2, 3, side, side)).shape == (2, 10)
        shapes = {*head_shapes(model).values()}
        assert any(width < 8 for _, width, _ in shapes) == (units != "v dimensions")
        assert any(values < 8 for _, _, values in shapes) == (units != "qk dimensions")
    assert fits
    if units == "qk dimensions":
        pfp: Any = PRODUCERS.get("pfp")
        with pytest.raises(UserError, match=r"none reads .*:qk.*multiplied with each other"):
            next(iter(pfp(units=units, images=4).produce(parent, (0.05,), context)))
