"""Torch-Pruning as a producer: evalsuite run digits --candidates-from examples/torch_pruning_l2.py:group_l2."""

import torch_pruning as tp
from torch import nn


def group_l2(model, ratio, data):
    """Group L2 norm, the same share of channels everywhere: a share p of channels is about 1 - (1 - p)^2 of weights."""
    pruner = tp.pruner.BasePruner(
        model,
        data.example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=1 - (1 - ratio) ** 0.5,
        ignored_layers=[[m for m in model.modules() if isinstance(m, nn.Linear)][-1]],
    )
    pruner.step()
    return model
