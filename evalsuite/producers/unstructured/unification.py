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
from evalsuite.models.cost import counted, prunable
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.unstructured.global_threshold import weights_of
from evalsuite.training.hooks import Hooks

NEAR = 0.0005
"""How much more than the target a model may save, as a share of the parent's packed bytes."""

Weights = Mapping[str, Tensor]
"""Weights that may be pruned, by layer."""


@dataclass(frozen=True)
class Unify(Producer):
    """Micro-structured weight unification: blocks of weights share one absolute value, which is zero at last.

    A block is `block` weights that lie side by side in a row of the layer's matrix (outputs by inputs and kernel
    positions); the last one of a row may be shorter. The blocks whose magnitudes differ least, by their variance, are
    unified first, wherever in the network they are: each weight becomes its sign times the mean magnitude of its
    block, the nearest point in least squares. Only when all blocks are unified and more has to go, the blocks of least
    value become zero, which is pruning; in each layer the strongest one stays. It saves packed bytes
    (`evalsuite.models.packing`): a sign for each weight and a magnitude for each block are left, and zeros come last,
    so its ratios are shares of packed bytes. Blocks are as many as the ratio takes, found by packing trials.

    The alternating direction method of multipliers pulls the weights to where they will be: training with
    ``rho / 2 |W - Z + U|^2`` in the loss, after every epoch ``Z`` becomes the nearest unified network to ``W + U``
    and ``U`` grows by ``W - Z``. Then the blocks are unified for good and the network is retrained; after every step
    each block is put back to the nearest values of one magnitude, all of its signs as they were or all turned: for
    SGD that is training the shared magnitudes.

    Attributes:
        block: Weights in a block.
        rho: Strength of the pull; 0 leaves it out, with its training.

    References:
        Lin et al. 2021, "Efficient Micro-Structured Weight Unification and Pruning for Neural Network Compression",
        arXiv 2106.08301: blocks of one absolute value, zero as a special case, both combined, ADMM. No code is
        published and its settings could not be verified: shape and size of blocks, that the variance ranks them, one
        ranking for the whole network, that zero comes after unification, rho, an update of Z and U per epoch, and
        retraining under fixed blocks are ours.
    """

    axis: ClassVar[str] = "packed"
    block: int = 8
    rho: float = 0.1

    def __post_init__(self) -> None:
        if self.block < 2 or not 0 <= self.rho < float("inf"):
            raise SuiteError(
                f"unify: found block = {self.block} and rho = {self.rho:g}, expected blocks of at least 2 weights and "
                "a strength from 0 on"
            )

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models that save the target's share of packed bytes; each goes on from the one before."""
        whole = counted(parent, self.axis)
        slack = max(1, round(NEAR * whole))
        model = copy.deepcopy(context.previous or parent)
        for ratio in ratios:
            budget = whole - round(ratio * whole)
            if self.rho:
                pull = Multipliers(self.block, moves(model, self.block, budget, slack), self.rho)
                pull.start(model)
                hooks = Hooks(before_step=pull.pull, after_epoch=pull.update, state=pull.state)
                context.fit(model, ratio, hooks=hooks)
            ties = Ties.of(weights_of(model), self.block, moves(model, self.block, budget, slack))
            ties.tie(model)
            context.fit(model, ratio, hooks=Hooks(after_step=ties.step, phase="retraining"))
            ties.tie(model)
            yield model


@dataclass(frozen=True)
class Ties:
    """Is which weights are tied to one magnitude.

    Attributes:
        signs: By layer, float (rows, blocks, block): -1, 1, or 0 for weights that are zero.
        shared: By layer, bool (rows, blocks, 1): True where a block has one magnitude.
    """

    signs: Weights
    shared: Weights

    @classmethod
    def of(cls, weights: Weights, size: int, count: int) -> Ties:
        """Returns the ties of the `count` first moves: first blocks are unified, then unified ones become zero.

        Args:
            weights: By layer.
            size: Weights in a block.
            count: Moves: from 0 to twice the blocks, less one for each layer.
        """
        split = {name: blocked(weight, size) for name, weight in weights.items()}
        means, variances = {}, {}
        for name, blocks in split.items():
            means[name], variances[name] = spread(blocks)
        total = sum(value.numel() for value in variances.values())
        shared = least(variances, count)
        gone = least(spared(means), count - total)
        signs = {name: blocks.sign() * ~gone[name].unsqueeze(-1) for name, blocks in split.items()}
        return cls(signs, {name: one.unsqueeze(-1) for name, one in shared.items()})

    def nearest(self, weights: Weights) -> dict[str, Tensor]:
        """Returns the nearest weights, in least squares, whose blocks are tied."""
        return {name: self._nearest(name, weight) for name, weight in weights.items()}

    def tie(self, model: nn.Module) -> None:
        """Moves the weights of `model`, in place, to the nearest ones that are tied."""
        with torch.no_grad():
            for name, weight in weights_of(model).items():
                weight.copy_(self._nearest(name, weight))

    def step(self, model: nn.Module, at: float, step: int) -> None:  # noqa: ARG002  # the hook's signature
        """Ties the weights again after a step: the hook ``after_step``."""
        self.tie(model)

    def _nearest(self, name: str, weight: Tensor) -> Tensor:
        signs = self.signs[name]
        blocks = blocked(weight, signs.shape[-1])
        values = (blocks * signs).sum(-1, keepdim=True) / signs.abs().sum(-1, keepdim=True).clamp_min(1)
        return joined(torch.where(self.shared[name], signs * values, blocks), weight)


@dataclass(frozen=True)
class Multipliers:
    """Is the alternating direction method of multipliers in one training: what it remembers is in `state`.

    Attributes:
        size: Weights in a block.
        count: Moves of the projection; see `Ties.of`.
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
        weights = weights_of(model)
        for name, target in Ties.of(weights, self.size, self.count).nearest(weights).items():
            self.state[f"{name}/target"], self.state[f"{name}/dual"] = target, torch.zeros_like(target)

    def pull(self, model: nn.Module, at: float) -> None:  # noqa: ARG002  # the hook's signature
        """Adds the gradient ``rho (W - Z + U)``: the hook ``before_step``."""
        for name, layer in prunable(model).items():
            weight = layer.get_parameter("weight")
            if weight.grad is not None:
                pulled = weight.detach() - self.state[f"{name}/target"] + self.state[f"{name}/dual"]
                weight.grad.add_(pulled, alpha=self.rho)

    def update(self, model: nn.Module, epochs: int) -> None:  # noqa: ARG002  # the hook's signature
        """Moves Z to the nearest unified network of W + U, and U by W - Z: the hook ``after_epoch``."""
        weights = weights_of(model)
        raised = {name: weight + self.state[f"{name}/dual"] for name, weight in weights.items()}
        for name, target in Ties.of(raised, self.size, self.count).nearest(raised).items():
            self.state[f"{name}/target"] = target
            self.state[f"{name}/dual"] = raised[name] - target


def moves(model: nn.Module, size: int, budget: int, slack: int) -> int:
    """Returns a number of moves after which `model` takes at most `budget` packed bytes, and hardly less.

    Args:
        model: What is packed; it is left as it was.
        size: Weights in a block.
        budget: Packed bytes that may stay.
        slack: How many fewer are near enough.

    Raises:
        UserError: If all moves are too few.
    """
    weights, trial = weights_of(model), copy.deepcopy(model)
    blocks = sum(blocked(weight, size).shape[:2].numel() for weight in weights.values())
    every = 2 * blocks - len(weights)  # each is unified and becomes zero, but one in each layer

    @cache
    def packed(count: int) -> int:
        for name, weight in weights_of(trial).items():
            weight.copy_(weights[name])
        Ties.of(weights, size, count).tie(trial)
        return counted(trial, Unify.axis)

    if packed(blocks) <= budget:
        return reached(packed, (0, blocks), budget, slack)
    if packed(every) > budget:
        raise UserError(
            f"too high a ratio: of {budget} packed bytes that may stay, {packed(every)} are taken when every block of "
            f"{size} weights is unified and all but one in each layer are zero; ask for a smaller ratio"
        )
    return reached(packed, (blocks, every), budget, slack)


def reached(size: Callable[[int], int], ends: tuple[int, int], budget: int, slack: int) -> int:
    """Returns a place at which a falling size is at most `budget`, and at most `slack` less where it falls evenly.

    The next place to look at is interpolated; every other one halves what is left, which bounds the number of looks.

    Args:
        size: Is at most `budget` at the last place.
        ends: First and last place.
        budget: What is allowed.
        slack: How much less is near enough.

    >>> reached(lambda place: 1000 - 9 * place, (0, 100), 500, 5)
    56
    """
    (low, high), halving = ends, False
    above, below = size(low), size(high)
    if above <= budget:
        return low
    while high - low > 1 and below < budget - slack:
        share = 0.5 if halving else (above - budget + slack / 2) / (above - below)
        place = min(max(low + round(share * (high - low)), low + 1), high - 1)
        if (found := size(place)) <= budget:
            high, below = place, found
        else:
            low, above = place, found
        halving = not halving
    return high


def blocked(weight: Tensor, size: int) -> Tensor:
    """Returns the blocks of a weight, (rows, blocks, size), the last of a row filled up with zeros."""
    rows = weight.flatten(1)
    return functional.pad(rows, (0, -rows.shape[1] % size)).reshape(len(rows), -1, size)


def joined(blocks: Tensor, like: Tensor) -> Tensor:
    """Returns the weight, of the shape of `like`, that `blocked` parted."""
    return blocks.flatten(1)[:, : like[0].numel()].reshape(like.shape)


def spread(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and variance of the magnitudes in each block, zeros left out, float64 (rows, blocks)."""
    sizes = blocks.abs().double()
    count = (sizes > 0).sum(-1).clamp_min(1)
    mean = sizes.sum(-1) / count
    apart = torch.where(sizes > 0, sizes - mean.unsqueeze(-1), torch.zeros_like(sizes))
    return mean, apart.square().sum(-1) / count


def spared(means: Weights) -> dict[str, Tensor]:
    """Returns the values with the largest of each layer infinite, so that `least` takes it last."""
    return {
        name: value.flatten().scatter(0, value.argmax().view(1), torch.inf).view_as(value)
        for name, value in means.items()
    }


def least(values: Weights, count: int) -> dict[str, Tensor]:
    """Returns which `count` values are the smallest of all layers together; ties fall to the earlier one."""
    flat = torch.cat([value.flatten() for value in values.values()])
    chosen = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    chosen[torch.sort(flat, stable=True).indices[: max(count, 0)]] = True
    parts = torch.split(chosen, [value.numel() for value in values.values()])
    return {name: part.view_as(value) for (name, value), part in zip(values.items(), parts, strict=True)}
