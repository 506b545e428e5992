"""Stochastic depth: residual branches that are left out at random during a training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from torch import Tensor, nn

from evalsuite.errors import UserError

_PLACES = frozenset({"StochasticDepth", "DropPath", "SwinDropPath", "ConvNextDropPath", "ViTDropPath"})
"""Classes of torchvision, timm and transformers that stand at the end of a residual branch."""
_NAMES = ("drop_path", "drop_path1", "drop_path2", "stochastic_depth")
"""Names that such a place has where the network was built without stochastic depth, and holds an identity."""
_BLOCKS = {"ResidualBlock": "bn2", "BottleneckBlock": "bn3"}
"""Residual blocks of evalsuite, with the last layer of their branch."""


@contextlib.contextmanager
def stochastic_depth(model: nn.Module, rate: float) -> Iterator[None]:
    """Leaves residual branches out while the model trains within the block, the deepest one with probability `rate`.

    The probabilities rise linearly from the first branch; each image has a draw of its own, and branches that
    stay are scaled up to keep their mean. Nothing changes in evaluation mode.

    Args:
        model: A network of evalsuite with residual blocks, or one whose branches end in a ``drop_path``.
        rate: In [0, 1).

    Raises:
        UserError: If the network has no such branch.

    References:
        Huang et al. 2016, arXiv 1603.09382, with the linear rule; the operation is torchvision's. There the first of L
        branches has rate / L, here as in timm 0.
    """
    if not rate:
        yield
        return
    places = branch_ends(model)
    if not places:
        raise UserError(
            f"recipe: found stochastic_depth = {rate:g}, but {type(model).__name__} has no residual branch that is "
            "known here; leave it out"
        )
    rates = [rate * index / max(len(places) - 1, 1) for index in range(len(places))]
    handles = [
        place.register_forward_hook(_dropping(share)) for place, share in zip(places, rates, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def branch_ends(model: nn.Module) -> list[nn.Module]:
    """Returns the modules whose outputs are what residual branches add, in the order of the model."""
    places: list[nn.Module] = []
    for name, module in model.named_modules():
        kind, last = type(module).__name__, name.rpartition(".")[2]
        if kind in _PLACES or (isinstance(module, nn.Identity) and last in _NAMES):
            places.append(module)
        elif kind in _BLOCKS and type(module).__module__.startswith("evalsuite."):
            places.append(module.get_submodule(_BLOCKS[kind]))
    return places


def _dropping(rate: float) -> Callable[[nn.Module, object, Tensor], Tensor]:
    from torchvision.ops import stochastic_depth as drop

    def hook(module: nn.Module, _: object, output: Tensor) -> Tensor:
        dropped: Tensor = drop(output, rate, "row", training=module.training)
        return dropped

    return hook
