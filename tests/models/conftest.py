"""Models with random norms, so that folding, cutting and saving have something to break."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.uris import architecture_from_uri

Build = Callable[..., nn.Module]


@pytest.fixture(scope="session")
def build() -> Build:
    """Returns a function: reference and settings to a model with random norms, in evaluation mode."""

    def built(name: str, *, seed: int = 0, **settings: Any) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_model(architecture_from_uri(name, **settings))
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, std=0.3)
                    nn.init.normal_(module.get_buffer("running_mean"), std=0.3)
                    nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2.0)
        return model.eval()

    return built


@pytest.fixture(scope="session")
def torch_pruned() -> Callable[..., None]:
    """Torch-Pruning, which cuts channels of a network in place, residual streams too."""

    def cut(network: nn.Module, classes: int, *, shared: bool, ratio: float) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch_pruning

            heads = [
                layer
                for layer in network.modules()
                if getattr(layer, "out_features", getattr(layer, "out_channels", None)) == classes
            ]
            torch_pruning.pruner.BasePruner(
                network,
                torch.rand(1, 3, 32, 32),
                importance=torch_pruning.importance.MagnitudeImportance(p=1),
                pruning_ratio=ratio,
                global_pruning=shared,
                ignored_layers=heads,
            ).step()

    return cut
