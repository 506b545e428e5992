"""Channels chosen by what the next layer loses, and the next layer's weights fitted to make up for it."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import lars_path_gram
from torch import Tensor, nn

from evalsuite.errors import SuiteError
from evalsuite.models.surgery.removal import ChannelGroup, remove_channels
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.structured.layer_inputs import LayerInputs, layer_inputs
from evalsuite.producers.structured.removal import Goal, Kept, groups, nearest, shrinking, uniform
from evalsuite.random_streams import generator

RIDGE = 1e-6
"""Of the mean diagonal, added in least squares: channels that never vary must not make them unsolvable."""


@dataclass(frozen=True)
class Reading:
    """Is what a layer reads, condensed: all that least squares need.

    Attributes:
        name: Of the layer.
        reader: Its weights.
        second: Sum of the outer products of the patches it reads, (columns, columns), float64.
    """

    name: str
    reader: LayerInputs
    second: Tensor

    def contributions(self) -> Tensor:
        """Returns inner products of what any two channels add to the outputs, (channels, channels), float64.

        Summed over patches and outputs; biases are no part of it.
        """
        weight = self.reader.weight.double().cpu()
        products = self.second * (weight.T @ weight)
        return products.view(*(self.reader.channels, self.reader.columns) * 2).sum((1, 3))

    def columns(self, channels: Tensor) -> Tensor:
        """Returns the columns of the weight that belong to `channels`."""
        return (channels[:, None] * self.reader.columns + torch.arange(self.reader.columns)).flatten()


@dataclass(frozen=True)
class ChannelProducer(Producer):
    """Keeps the channels from which the next layer's outputs can be had best; the same share in every layer.

    Attributes:
        images: Training images that the outputs are taken from.
        positions: Patches of each image that are looked at; all if there are no more.
    """

    images: int = 128
    positions: int = 10

    def __post_init__(self) -> None:
        if min(self.images, self.positions) < 1:
            raise SuiteError(
                f"found images = {self.images} and positions = {self.positions}, expected 1 or more of each"
            )

    @abstractmethod
    def order(self, contributions: Tensor) -> list[int]:
        """Returns channels, best first, by the inner products of what they add to the next layer's outputs."""

    @abstractmethod
    def fitted(self, reading: Reading, channels: Tensor) -> Tensor:
        """Returns the weight of a reading layer once only `channels` are left, (out, left columns), float64."""

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole channels allow."""

        def step(model: nn.Module, goal: Goal) -> nn.Module:
            own = groups(model)
            seen = self._readings(model, own, context)
            sums = {name: sum_of(group, seen) for name, group in own.items()}
            order = {name: torch.tensor(self.order(one)) for name, one in sums.items()}
            kept = nearest(model, order, uniform(goal.widths), goal.budget)
            smaller = remove_channels(model, kept)
            self._fit(smaller, own, seen, kept)
            return smaller

        return shrinking(parent, ratios, context, step)

    def _readings(
        self, model: nn.Module, own: Mapping[str, ChannelGroup], context: Context
    ) -> dict[str, Reading]:
        images, _ = context.batch(self.images, "channels")
        consumers = [consumer for group in own.values() for consumer in group.consumers]
        return {
            name: Reading(name, reader, self._second(reader, context, name))
            for name, reader in layer_inputs(model, consumers, images).items()
        }

    def _second(self, reader: LayerInputs, context: Context, name: str) -> Tensor:
        size = reader.weight.shape[1]
        total = torch.zeros((size, size), dtype=torch.float64)
        draws = generator(context.seed, "positions", name)
        for rows in reader.rows():
            per_image = rows.view(-1, reader.patches, size)
            drawn = np.argsort(draws.random(per_image.shape[:2]), axis=1)[:, : self.positions]
            chosen = torch.from_numpy(drawn).to(rows.device)[:, :, None].expand(-1, -1, size)
            part = per_image.gather(1, chosen).flatten(0, 1).double().cpu()
            total += part.T @ part
        return total

    def _fit(
        self, model: nn.Module, own: Mapping[str, ChannelGroup], seen: Mapping[str, Reading], kept: Kept
    ) -> None:
        """Gives the layers that lost inputs their new weights; outputs that went are left out."""
        with torch.no_grad():
            for name, channels in kept.items():
                if len(channels) == own[name].channels:
                    continue
                for consumer in own[name].consumers:
                    target = model.get_submodule(consumer.name).get_parameter("weight")
                    weight = self.fitted(seen[consumer.name], channels)
                    if consumer.name in kept:
                        weight = weight[kept[consumer.name]]
                    target.copy_(weight.view_as(target))


@dataclass(frozen=True)
class ThiNet(ChannelProducer):
    """ThiNet: greedily removes the channels whose sum adds least to the next layer's outputs, then rescales.

    References:
        Luo et al. 2017, arXiv 1707.06342, algorithm 1 (the channel is added to the *removed* set that keeps
        the squared sum of removed contributions smallest) and equation 7 (one factor per kept channel by
        least squares). Differs from the paper in that all outputs at the drawn positions count, not one each,
        all layers are cut before one retraining, and the outputs are those of the network before the cut.
    """

    def order(self, contributions: Tensor) -> list[int]:
        """Returns channels in the reverse of the order in which they are removed."""
        return greedy_removal(contributions)[::-1]

    def fitted(self, reading: Reading, channels: Tensor) -> Tensor:
        """Returns the old weights of each kept channel times its factor."""
        products = reading.contributions()
        factors = _solved(products[channels][:, channels], products[channels].sum(1, keepdim=True))[:, 0]
        weight = reading.reader.weight.double().cpu()[:, reading.columns(channels)]
        return weight * factors.repeat_interleave(reading.reader.columns)


@dataclass(frozen=True)
class ChannelRegression(ChannelProducer):
    """Channel pruning by regression: the LASSO chooses the channels, least squares fit the next layer's weights.

    References:
        He et al. 2017, arXiv 1707.06168, equations 1 to 4. The penalty falls along the LASSO path (LARS), and
        channels are kept in the order in which they enter it for the last time. Differs from the paper in
        that one share holds for all layers, all layers are cut before one retraining, the outputs are
        those of the network before the cut, and that only channels that can be removed alone are: its
        residual networks sample the channels at the entry of a block too.
    """

    def order(self, contributions: Tensor) -> list[int]:
        """Returns channels in the order in which they enter the LASSO path."""
        return lasso_order(contributions)

    def fitted(self, reading: Reading, channels: Tensor) -> Tensor:
        """Returns the weights whose outputs come nearest to the old ones."""
        left, weight = reading.columns(channels), reading.reader.weight.double().cpu()
        return _solved(reading.second[left][:, left], reading.second[left] @ weight.T).T


def sum_of(group: ChannelGroup, seen: Mapping[str, Reading]) -> Tensor:
    """Returns the contributions of a group's channels to all layers that read them, (channels, channels)."""
    return torch.stack([seen[consumer.name].contributions() for consumer in group.consumers]).sum(0)


def greedy_removal(products: Tensor) -> list[int]:
    """Returns all channels in the order of ThiNet's removal.

    Args:
        products: Inner products of the channels' contributions, (C, C).

    >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-2.9, 0.0]])  # the first and the last cancel out
    >>> greedy_removal(x @ x.T)
    [1, 2, 0]
    """
    left = torch.ones(len(products), dtype=torch.bool)
    cost = products.diagonal().clone()  # of the removed sum if the channel joins it, but for a constant
    order: list[int] = []
    for _ in range(len(products)):
        chosen = int(torch.where(left, cost, torch.inf).argmin())
        order.append(chosen)
        left[chosen] = False
        cost += 2 * products[chosen]
    return order


def lasso_order(products: Tensor) -> list[int]:
    """Returns channels in the order in which the LASSO of their sum on them lets them in for good.

    Args:
        products: Inner products of the channels' contributions, (C, C).
    """
    scale = products.diagonal().mean().clamp(min=torch.finfo(products.dtype).tiny)
    gram = (products / scale).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it stops early where channels are copies of each other
        _, _, path = lars_path_gram(Xy=gram.sum(1), Gram=gram, n_samples=1, method="lasso")
    inside = torch.from_numpy(path != 0)  # (channels, steps)
    steps = inside.shape[1]
    outside = torch.where(inside, -1, torch.arange(steps))  # steps at which it is out
    entered = outside.amax(1) + 1
    norms = products.diagonal()
    return sorted(range(len(products)), key=lambda one: (int(entered[one]), -float(norms[one]), one))


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    ridge = RIDGE * matrix.diagonal().mean().clamp(min=torch.finfo(matrix.dtype).tiny)
    solution: Tensor = torch.linalg.solve(matrix + ridge * torch.eye(len(matrix), dtype=matrix.dtype), right)
    return solution
