"""Weight unification: the weights of a micro-block share one absolute value and keep their signs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import SuiteError, UserError
from evalsuite.models.cost import prunable_parameters, weight_cost
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.unstructured.base import prunable_weights
from evalsuite.training.hooks import Hooks

BUDGET_SLACK = 0.0005
"""How much more than the target a model may save, as a share of the parent's packed bytes."""

LayerWeights = Mapping[str, Tensor]
"""Weights that may be pruned, by layer."""


@dataclass(frozen=True)
class Unify(Producer):
    """Micro-structured weight unification: blocks of weights share one absolute value, which is zero at last.

    A block is `block_size` weights that lie side by side in a row of the layer's matrix (outputs by inputs and kernel
    positions); the last one of a row may be shorter. The blocks whose magnitudes differ least, by their variance, are
    unified first, over the whole network: each weight becomes its sign times the mean magnitude of its
    block, the nearest point in least squares. Only when all blocks are unified and more has to go, the blocks of least
    value become zero, which is pruning; in each layer the strongest one stays. It saves packed bytes
    (`evalsuite.models.packing`): a sign for each weight and a magnitude for each block are left, and zeros come last,
    so its ratios are shares of packed bytes. Blocks are as many as the ratio takes, found by packing trials.

    The alternating direction method of multipliers pulls the weights to where they will be: training with
    ``rho / 2 |W - Z + U|^2`` in the loss, after every epoch ``Z`` becomes the nearest unified network to ``W + U``
    and ``U`` grows by ``W - Z``. Then the blocks are unified and the network is retrained; after every step
    each block is put back to the nearest values of one magnitude, all of its signs as they were or all turned: for
    SGD that is training the shared magnitudes.

    Attributes:
        block_size: Weights in a block.
        rho: Strength of the pull; 0 leaves it out, with its training.

    References:
        Lin et al. 2021, "Efficient Micro-Structured Weight Unification and Pruning for Neural Network Compression",
        arXiv 2106.08301: blocks of one absolute value, zero as a special case, both combined, ADMM. No code is
        published and its settings could not be verified: shape and size of blocks, that the variance ranks them, one
        ranking for the whole network, that zero comes after unification, rho, an update of Z and U per epoch, and
        retraining under fixed blocks are ours.
    """

    axis: ClassVar[str] = "packed"
    block_size: int = 8
    rho: float = 0.1
    renamed_settings: ClassVar[Mapping[str, str]] = {"block": "block_size"}

    def __post_init__(self) -> None:
        if self.block_size < 2 or not 0 <= self.rho < float("inf"):
            raise SuiteError(
                f"unify: found block_size = {self.block_size} and rho = {self.rho:g}, "
                "expected blocks of at least 2 weights and a strength from 0 on"
            )

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models that save the target's share of packed bytes; each goes on from the one before."""
        parent_bytes = weight_cost(parent, self.axis)
        slack = max(1, round(BUDGET_SLACK * parent_bytes))
        model = copy.deepcopy(context.previous or parent)
        for ratio in ratios:
            budget = parent_bytes - round(ratio * parent_bytes)
            if self.rho:
                moves = moves_for_budget(model, self.block_size, budget, slack)
                admm = Admm(self.block_size, moves, self.rho)
                admm.start(model)
                hooks = Hooks(before_step=admm.pull, after_epoch=admm.update, state=admm.state)
                context.fit(model, ratio, hooks=hooks)
            moves = moves_for_budget(model, self.block_size, budget, slack)
            blocks = UnifiedBlocks.of(prunable_weights(model), self.block_size, moves)
            blocks.project(model)
            context.fit(model, ratio, hooks=Hooks(after_step=blocks.step, phase="retraining"))
            blocks.project(model)
            yield model


@dataclass(frozen=True)
class UnifiedBlocks:
    """The blocks whose weights share one magnitude.

    Attributes:
        signs: By layer, float (rows, blocks, block): -1, 1, or 0 for weights that are zero.
        shared: By layer, bool (rows, blocks, 1): True where a block has one magnitude.
    """

    signs: LayerWeights
    shared: LayerWeights

    @classmethod
    def of(cls, weights: LayerWeights, size: int, count: int) -> UnifiedBlocks:
        """Returns the blocks after the first `count` moves: first blocks are unified, then unified ones become zero.

        Args:
            weights: By layer.
            size: Weights in a block.
            count: Moves: from 0 to twice the blocks, less one for each layer.
        """
        split = {name: to_blocks(weight, size) for name, weight in weights.items()}
        means, variances = {}, {}
        for name, blocks in split.items():
            means[name], variances[name] = block_statistics(blocks)
        total = sum(variance.numel() for variance in variances.values())
        shared = smallest_masks(variances, count)
        zero = smallest_masks(protect_largest(means), count - total)
        signs = {name: blocks.sign() * ~zero[name].unsqueeze(-1) for name, blocks in split.items()}
        return cls(signs, {name: mask.unsqueeze(-1) for name, mask in shared.items()})

    def nearest(self, weights: LayerWeights) -> dict[str, Tensor]:
        """Returns the nearest weights, in least squares, with these unified blocks."""
        return {name: self._nearest(name, weight) for name, weight in weights.items()}

    def project(self, model: nn.Module) -> None:
        """Moves the weights of `model`, in place, to the nearest ones with these unified blocks."""
        with torch.no_grad():
            for name, weight in prunable_weights(model).items():
                weight.copy_(self._nearest(name, weight))

    def step(self, model: nn.Module, at: float, step: int) -> None:  # noqa: ARG002  # the hook's signature
        """Projects the weights again after a step: the hook ``after_step``."""
        self.project(model)

    def _nearest(self, name: str, weight: Tensor) -> Tensor:
        signs = self.signs[name]
        blocks = to_blocks(weight, signs.shape[-1])
        values = (blocks * signs).sum(-1, keepdim=True) / signs.abs().sum(-1, keepdim=True).clamp_min(1)
        return from_blocks(torch.where(self.shared[name], signs * values, blocks), weight)


@dataclass(frozen=True)
class Admm:
    """The alternating direction method of multipliers in one training: its variables are in `state`.

    Attributes:
        size: Weights in a block.
        count: Moves of the projection; see `UnifiedBlocks.of`.
        rho: Strength of the pull.
        state: ``<layer>/target`` is Z, ``<layer>/dual`` is U.

    References:
        Boyd et al. 2011, "Distributed Optimization and Statistical Learning via the Alternating Direction Method of
        Multipliers", section 3.1.1 (scaled form).
    """

    size: int
    count: int
    rho: float
    state: dict[str, Tensor] = field(default_factory=dict)

    def start(self, model: nn.Module) -> None:
        """Sets Z to the nearest unified network, and U to zero."""
        weights = prunable_weights(model)
        for name, target in UnifiedBlocks.of(weights, self.size, self.count).nearest(weights).items():
            self.state[f"{name}/target"], self.state[f"{name}/dual"] = target, torch.zeros_like(target)

    def pull(self, model: nn.Module, at: float) -> None:  # noqa: ARG002  # the hook's signature
        """Adds the gradient ``rho (W - Z + U)``: the hook ``before_step``."""
        for name, weight in prunable_parameters(model).items():
            if weight.grad is not None:
                residual = weight.detach() - self.state[f"{name}/target"] + self.state[f"{name}/dual"]
                weight.grad.add_(residual, alpha=self.rho)

    def update(self, model: nn.Module, epochs: int) -> None:  # noqa: ARG002  # the hook's signature
        """Moves Z to the nearest unified network of W + U, and U by W - Z: the hook ``after_epoch``."""
        weights = prunable_weights(model)
        shifted = {name: weight + self.state[f"{name}/dual"] for name, weight in weights.items()}
        for name, target in UnifiedBlocks.of(shifted, self.size, self.count).nearest(shifted).items():
            self.state[f"{name}/target"] = target
            self.state[f"{name}/dual"] = shifted[name] - target


def moves_for_budget(model: nn.Module, size: int, budget: int, slack: int) -> int:
    """Returns a number of moves after which `model` takes at most `budget` packed bytes, and hardly fewer.

    Args:
        model: The model that is packed; it is not changed.
        size: Weights in a block.
        budget: Packed bytes that may stay.
        slack: How many fewer are near enough.

    Raises:
        UserError: If all moves are too few.
    """
    weights, trial = prunable_weights(model), copy.deepcopy(model)
    blocks = sum(to_blocks(weight, size).shape[:2].numel() for weight in weights.values())
    most = 2 * blocks - len(weights)  # each is unified and becomes zero, but one in each layer

    @cache
    def packed(count: int) -> int:
        for name, weight in prunable_weights(trial).items():
            weight.copy_(weights[name])
        UnifiedBlocks.of(weights, size, count).project(trial)
        return weight_cost(trial, Unify.axis)

    if packed(blocks) <= budget:
        return search_falling(packed, (0, blocks), budget, slack)
    if packed(most) > budget:
        raise UserError(
            f"too high a ratio: of {budget} packed bytes that may stay, {packed(most)} are taken when every block of "
            f"{size} weights is unified and all but one in each layer are zero; ask for a smaller ratio"
        )
    return search_falling(packed, (blocks, most), budget, slack)


def search_falling(size: Callable[[int], int], ends: tuple[int, int], budget: int, slack: int) -> int:
    """Returns a place at which a falling size is at most `budget`, and at most `slack` less where it falls evenly.

    The next place is interpolated; every other one halves the interval, which bounds the number of evaluations.

    Args:
        size: Is at most `budget` at the last place.
        ends: First and last place.
        budget: What is allowed.
        slack: How much less is near enough.

    >>> search_falling(lambda place: 1000 - 9 * place, (0, 100), 500, 5)
    56
    """
    (low, high), halving = ends, False
    above, below = size(low), size(high)
    if above <= budget:
        return low
    while high - low > 1 and below < budget - slack:
        share = 0.5 if halving else (above - budget + slack / 2) / (above - below)
        place = min(max(low + round(share * (high - low)), low + 1), high - 1)
        if (value := size(place)) <= budget:
            high, below = place, value
        else:
            low, above = place, value
        halving = not halving
    return high


def to_blocks(weight: Tensor, size: int) -> Tensor:
    """Returns the blocks of a weight, (rows, blocks, size), the last of a row filled up with zeros."""
    rows = weight.flatten(1)
    return functional.pad(rows, (0, -rows.shape[1] % size)).reshape(len(rows), -1, size)


def from_blocks(blocks: Tensor, like: Tensor) -> Tensor:
    """Returns the weight, of the shape of `like`, that `to_blocks` split."""
    return blocks.flatten(1)[:, : like[0].numel()].reshape(like.shape)


def block_statistics(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and variance of the magnitudes in each block, zeros left out, float64 (rows, blocks)."""
    sizes = blocks.abs().double()
    count = (sizes > 0).sum(-1).clamp_min(1)
    mean = sizes.sum(-1) / count
    deviations = torch.where(sizes > 0, sizes - mean.unsqueeze(-1), torch.zeros_like(sizes))
    return mean, deviations.square().sum(-1) / count


def protect_largest(means: LayerWeights) -> dict[str, Tensor]:
    """Returns the values with the largest of each layer infinite, so that `smallest_masks` takes it last."""
    return {
        name: value.flatten().scatter(0, value.argmax().view(1), torch.inf).view_as(value)
        for name, value in means.items()
    }


def smallest_masks(values: LayerWeights, count: int) -> dict[str, Tensor]:
    """Returns masks of the `count` smallest values of all layers together; ties fall to the earlier one."""
    flat = torch.cat([value.flatten() for value in values.values()])
    mask = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    mask[torch.sort(flat, stable=True).indices[: max(count, 0)]] = True
    parts = torch.split(mask, [value.numel() for value in values.values()])
    return {name: part.view_as(value) for (name, value), part in zip(values.items(), parts, strict=True)}
