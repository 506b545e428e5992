"""Channel pruning by reconstruction of the next layer's outputs: ThiNet, and LASSO channel regression."""

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
from evalsuite.models.surgery.channel_removal import ChannelGroup, ChannelGroups, remove_channels
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.structured.base import (
    KeptChannels,
    PruningTarget,
    channels_for_budget,
    prune_and_retrain,
    removable_groups,
    uniform_widths,
)
from evalsuite.producers.structured.layer_inputs import LayerInputs, layer_inputs
from evalsuite.random_streams import generator

RIDGE = 1e-6
"""Of the mean diagonal, added in least squares: channels that never vary must not make them unsolvable."""


@dataclass(frozen=True)
class InputMoments:
    """A layer and the second moments of its inputs: all that least squares need.

    Attributes:
        name: Of the layer.
        reader: Its weights.
        second_moments: Sum of the outer products of the patches it reads, (columns, columns), float64.
    """

    name: str
    reader: LayerInputs
    second_moments: Tensor

    def contributions(self) -> Tensor:
        """Returns the inner products of any two channels' contributions to the outputs, (channels, channels), float64.

        Summed over patches and outputs; biases are no part of it.
        """
        weight = self.reader.weight.double().cpu()
        products = self.second_moments * (weight.T @ weight)
        return products.view(*(self.reader.channels, self.reader.columns) * 2).sum((1, 3))

    def columns(self, channels: Tensor) -> Tensor:
        """Returns the columns of the weight that belong to `channels`."""
        return (channels[:, None] * self.reader.columns + torch.arange(self.reader.columns)).flatten()


@dataclass(frozen=True)
class ReconstructionProducer(Producer):
    """A method that keeps the channels that reconstruct the next layer's outputs best, the same share in every layer.

    Attributes:
        images: Training images that the outputs are taken from.
        positions: Patches of each image that count; all if there are no more.
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
        """Returns channels, best first, by the inner products of their contributions to the next layer's outputs."""

    @abstractmethod
    def fitted_weight(self, moments: InputMoments, channels: Tensor) -> Tensor:
        """Returns the weight of the next layer once only `channels` are left, (out, left columns), float64."""

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole channels allow."""

        def step(model: nn.Module, target: PruningTarget) -> nn.Module:
            groups = removable_groups(model)
            moments = self._moments(model, groups, context)
            products = {name: group_contributions(group, moments) for name, group in groups.items()}
            order = {name: torch.tensor(self.order(matrix)) for name, matrix in products.items()}
            kept = channels_for_budget(model, order, uniform_widths(target.widths), target.budget)
            smaller = remove_channels(model, kept)
            self._fit(smaller, groups, moments, kept)
            return smaller

        return prune_and_retrain(parent, ratios, context, step)

    def _moments(self, model: nn.Module, groups: ChannelGroups, context: Context) -> dict[str, InputMoments]:
        images, _ = context.batch(self.images, "channels")
        consumers = [consumer for group in groups.values() for consumer in group.consumers]
        return {
            name: InputMoments(name, reader, self._second_moments(reader, context, name))
            for name, reader in layer_inputs(model, consumers, images).items()
        }

    def _second_moments(self, reader: LayerInputs, context: Context, name: str) -> Tensor:
        size = reader.weight.shape[1]
        total = torch.zeros((size, size), dtype=torch.float64)
        draws = generator(context.seed, "positions", name)
        for rows in reader.rows():
            per_image = rows.view(-1, reader.patches, size)
            drawn = np.argsort(draws.random(per_image.shape[:2]), axis=1)[:, : self.positions]
            index = torch.from_numpy(drawn).to(rows.device)[:, :, None].expand(-1, -1, size)
            patches = per_image.gather(1, index).flatten(0, 1).double().cpu()
            total += patches.T @ patches
        return total

    def _fit(
        self,
        model: nn.Module,
        groups: ChannelGroups,
        moments: Mapping[str, InputMoments],
        kept: KeptChannels,
    ) -> None:
        """Gives the layers that lost inputs their new weights, without the rows of outputs that were removed."""
        with torch.no_grad():
            for name, channels in kept.items():
                if len(channels) == groups[name].channels:
                    continue
                for consumer in groups[name].consumers:
                    parameter = model.get_submodule(consumer.name).get_parameter("weight")
                    weight = self.fitted_weight(moments[consumer.name], channels)
                    if consumer.name in kept:
                        weight = weight[kept[consumer.name]]
                    parameter.copy_(weight.view_as(parameter))


@dataclass(frozen=True)
class ThiNet(ReconstructionProducer):
    """ThiNet: greedily removes the channels whose sum adds least to the next layer's outputs, then rescales.

    References:
        Luo et al. 2017, arXiv 1707.06342, algorithm 1 (the channel is added to the *removed* set that keeps
        the squared sum of removed contributions smallest) and equation 7 (one factor per kept channel by
        least squares). Differs from the paper in that all outputs at the drawn positions count, not one each,
        all layers are pruned before one retraining, and the outputs are those of the network before that.
    """

    def order(self, contributions: Tensor) -> list[int]:
        """Returns channels in the reverse of the order in which they are removed."""
        return greedy_removal(contributions)[::-1]

    def fitted_weight(self, moments: InputMoments, channels: Tensor) -> Tensor:
        """Returns the old weights of each kept channel times its factor."""
        products = moments.contributions()
        factors = _solve(products[channels][:, channels], products[channels].sum(1, keepdim=True))[:, 0]
        weight = moments.reader.weight.double().cpu()[:, moments.columns(channels)]
        return weight * factors.repeat_interleave(moments.reader.columns)


@dataclass(frozen=True)
class ChannelRegression(ReconstructionProducer):
    """Channel pruning by regression: the LASSO chooses the channels, least squares fit the next layer's weights.

    References:
        He et al. 2017, arXiv 1707.06168, equations 1 to 4. The penalty falls along the LASSO path (LARS), and
        channels are kept in the order in which they enter it for the last time. Differs from the paper in
        that one share holds for all layers, all layers are pruned before one retraining, the outputs are
        those of the network before that, and that only channels that can be removed alone are: its
        residual networks sample the channels at the entry of a block too.
    """

    def order(self, contributions: Tensor) -> list[int]:
        """Returns channels in the order in which they enter the LASSO path."""
        return lasso_order(contributions)

    def fitted_weight(self, moments: InputMoments, channels: Tensor) -> Tensor:
        """Returns the weights whose outputs come nearest to the old ones."""
        columns, weight = moments.columns(channels), moments.reader.weight.double().cpu()
        products = moments.second_moments[columns]
        return _solve(products[:, columns], products @ weight.T).T


def group_contributions(group: ChannelGroup, moments: Mapping[str, InputMoments]) -> Tensor:
    """Returns the contributions of a group's channels to all layers that read them, (channels, channels)."""
    return torch.stack([moments[consumer.name].contributions() for consumer in group.consumers]).sum(0)


def greedy_removal(products: Tensor) -> list[int]:
    """Returns all channels in the order of ThiNet's removal.

    Args:
        products: Inner products of the channels' contributions, (C, C).

    >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-2.9, 0.0]])  # the first and the last cancel out
    >>> greedy_removal(x @ x.T)
    [1, 2, 0]
    """
    remaining = torch.ones(len(products), dtype=torch.bool)
    cost = products.diagonal().clone()  # of the removed sum if the channel joins it, but for a constant
    order: list[int] = []
    for _ in range(len(products)):
        channel = int(torch.where(remaining, cost, torch.inf).argmin())
        order.append(channel)
        remaining[channel] = False
        cost += 2 * products[channel]
    return order


def lasso_order(products: Tensor) -> list[int]:
    """Returns channels in the order in which they enter the LASSO path of their sum for good.

    Args:
        products: Inner products of the channels' contributions, (C, C).
    """
    scale = products.diagonal().mean().clamp(min=torch.finfo(products.dtype).tiny)
    gram = (products / scale).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it stops early where channels are copies of each other
        _, _, path = lars_path_gram(Xy=gram.sum(1), Gram=gram, n_samples=1, method="lasso")
    active = torch.from_numpy(path != 0)  # (channels, steps)
    steps = torch.arange(active.shape[1])
    entered = torch.where(active, -1, steps).amax(1) + 1  # the step after the last one without it
    norms = products.diagonal()
    return sorted(
        range(len(products)), key=lambda channel: (int(entered[channel]), -float(norms[channel]), channel)
    )


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    ridge = RIDGE * matrix.diagonal().mean().clamp(min=torch.finfo(matrix.dtype).tiny)
    solution: Tensor = torch.linalg.solve(matrix + ridge * torch.eye(len(matrix), dtype=matrix.dtype), right)
    return solution
