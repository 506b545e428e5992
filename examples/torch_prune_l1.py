"""torch.nn.utils.prune as a producer: evalsuite run digits --candidates-from examples/torch_prune_l1.py:global_l1."""

from torch import nn
from torch.nn.utils import prune


def global_l1(model, ratio, _):
    """Global magnitude: one threshold on all weights of convolutions and linear layers."""
    weights = [(m, "weight") for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    prune.global_unstructured(weights, pruning_method=prune.L1Unstructured, amount=ratio)
    return model
