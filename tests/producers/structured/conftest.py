"""The channels that producers keep, and the same removal by Torch-Pruning."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from torch import Tensor, nn

from evalsuite.producers.base import Context
from evalsuite.producers.structured import base, pfp, reconstruction

Kept = Mapping[str, Tensor]


@pytest.fixture
def pruned_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retrains nothing, to see the pruning alone."""
    monkeypatch.setattr(Context, "retrain", lambda *_: None)


@pytest.fixture
def kept_channels(pruned_only: None, monkeypatch: pytest.MonkeyPatch) -> list[Kept]:  # noqa: ARG001  # trains nothing
    """Lists the channels that producers keep, one entry per ratio."""
    choices: list[Kept] = []
    original = base.channels_for_budget

    def recorded(*arguments: Any) -> dict[str, Tensor]:
        choices.append(channels := original(*arguments))
        return channels

    for module in (base, pfp, reconstruction):
        monkeypatch.setattr(module, "channels_for_budget", recorded)
    return choices


@pytest.fixture
def torch_pruned() -> Callable[[nn.Module, Kept, Tensor], nn.Module]:
    """Returns a function that removes all but the kept channels from a copy of a model, by Torch-Pruning."""

    def prune(model: nn.Module, kept: Kept, images: Tensor) -> nn.Module:
        smaller = copy.deepcopy(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch_pruning

            graph = torch_pruning.DependencyGraph().build_dependency(smaller, images[:1])
            for layer, channels in kept.items():
                conv: Any = smaller.get_submodule(layer)
                if removed := sorted({*range(conv.out_channels)} - {*channels.tolist()}):
                    graph.get_pruning_group(conv, torch_pruning.prune_conv_out_channels, removed).prune()
        return smaller

    return prune


@pytest.fixture
def biases_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds 100 to the last biases of a small-cnn in place of a retraining, to see where each ratio starts."""

    def raised(_: Context, model: nn.Module, ratio: float) -> None:  # noqa: ARG001  # the context's
        model.get_parameter("network.linear.bias").data += 100

    monkeypatch.setattr(Context, "retrain", raised)
