"""Models with random norms, so that folding, cutting and saving have something to break."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from evalsuite.models.architecture import assemble, from_settings

Build = Callable[..., nn.Module]


@pytest.fixture(scope="session")
def build() -> Build:
    """Returns a function: settings of a model to that model with random norms, in evaluation mode."""

    def built(name: str, *, seed: int = 0, **settings: Any) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = assemble(from_settings({"name": name, **settings}))
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, std=0.3)
                    nn.init.normal_(module.get_buffer("running_mean"), std=0.3)
                    nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2.0)
        return model.eval()

    return built
