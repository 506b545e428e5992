"""Structured pruning by one score per filter: whole filters are removed, so that the network really shrinks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import SuiteError, UserError
from evalsuite.models.inference import evaluation_mode
from evalsuite.models.surgery.removal import ChannelGroup, Groups, remove_channels
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.structured.removal import (
    Goal,
    Scoped,
    Scores,
    nearest,
    one_shot,
    ranks,
    shrinking,
    together,
    uniform,
    weight,
)
from evalsuite.random_streams import generator


@dataclass(frozen=True)
class FilterProducer(Scoped, Producer):
    """Removes the channels of lowest score, retrains, and goes on.

    Never are the classifier's outputs among them, and at least one channel of each group stays. The filters that
    make a channel of several convolutions count as one long filter.

    Attributes:
        allocation: ``uniform`` removes the same share of channels from every group, ``global`` sets one
            threshold on the scores of all groups.
        schedule: ``cascade`` starts each ratio from the last one's model, ``one-shot`` from the parent.
    """

    allocation: Literal["uniform", "global"] = "uniform"
    schedule: Literal["cascade", "one-shot"] = "cascade"

    @abstractmethod
    def scores(self, model: nn.Module, own: Groups, context: Context) -> Scores:
        """Returns one score per channel of each of the model's `own` groups; the largest are kept."""

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole channels allow."""

        def step(model: nn.Module, goal: Goal) -> nn.Module:
            own = self.groups(model, context)
            scores = self.scores(model, own, context)
            ladder = uniform(goal.widths) if self.allocation == "uniform" else together(scores)
            return remove_channels(model, nearest(model, ranks(scores), ladder, goal.budget, own), own)

        chosen = step if self.schedule == "cascade" else one_shot(parent, step)
        return shrinking(parent, ratios, context, chosen, self.groups(parent, context))


def per_filter(model: nn.Module, own: Groups, score: Callable[[Tensor], Tensor]) -> Scores:
    """Returns `score` of the filters of each group, (channels, weights) to (channels,)."""
    return {name: score(filters(group, lambda layer: weight(model, layer))) for name, group in own.items()}


def filters(group: ChannelGroup, values: Callable[[str], Tensor]) -> Tensor:
    """Returns what stands at the weights that make each channel of a group, (channels, weights).

    Args:
        group: If several layers make its channels, their filters stand one behind the other.
        values: Of a layer, in the shape of its weight.
    """
    channels = torch.arange(group.channels)
    parts = [values(part.name)[part.entries(channels)] for part in group.filters]
    return torch.cat([one.reshape(group.channels, -1) for one in parts], dim=1)


def l1(filters: Tensor) -> Tensor:
    """Returns the L1 norm of each filter, (channels, weights) to (channels,)."""
    return filters.abs().sum(1)


def l2(filters: Tensor) -> Tensor:
    """Returns the L2 norm of each filter, (channels, weights) to (channels,)."""
    return filters.square().sum(1).sqrt()


def scales(model: nn.Module, group: ChannelGroup) -> Tensor:
    """Returns the absolute scales of the batch norms behind each channel of a group, (norms, channels).

    Raises:
        UserError: If there is no batch norm with a scale.
    """
    channels = torch.arange(group.channels)
    found = [
        layer.weight.detach().abs()[part.entries(channels)]
        for part, layer in ((part, model.get_submodule(part.name)) for part in group.norms)
        if isinstance(layer, nn.BatchNorm2d) and layer.weight is not None
    ]
    if not found:
        raise UserError(
            f"the convolution {group.conv!r} has no batch norm behind it with a scale to rank its filters by; "
            "use a producer that scores the filters themselves"
        )
    return torch.stack(found)


@dataclass(frozen=True)
class FilterL1(FilterProducer):
    """Filter pruning by L1 norm (FT): the same share of filters goes from every layer, physically.

    With ``scope = "coupled"`` a shared channel's score is the sum over its filters, the sum of Torch-Pruning's
    group importance over convolutions' outputs.

    References:
        Li et al. 2017, arXiv 1608.08710, equation 1; Renda et al. 2020, arXiv 2003.02389; "FT" of Liebenwein
        et al. 2021, "Lost in Pruning", whose code prunes the residual stream too, but each of its
        convolutions for itself, by setting filters to zero. Li et al. rank the filters of a residual stream
        by those of the shortcut alone.
    """

    def scores(self, model: nn.Module, own: Groups, context: Context) -> Scores:  # noqa: ARG002  # data-free
        """Returns the L1 norm of each filter."""
        return per_filter(model, own, l1)


@dataclass(frozen=True)
class FilterL2(FilterProducer):
    """Filter pruning by L2 norm: the same share of filters goes from every layer.

    References:
        He et al. 2018, arXiv 1808.06866, equation 2 with p = 2, as a score after training. For shared channels
        its square is the importance of Fang et al. 2023, arXiv 2301.12900, a sum of squares over the group, here
        over convolutions' outputs alone.
    """

    def scores(self, model: nn.Module, own: Groups, context: Context) -> Scores:  # noqa: ARG002  # data-free
        """Returns the L2 norm of each filter."""
        return per_filter(model, own, l2)


@dataclass(frozen=True)
class Fpgm(FilterProducer):
    """Filter pruning via geometric median (FPGM): filters nearest to all others of their layer go.

    References:
        He et al. 2019, arXiv 1811.00250, equation 6: the sum of Euclidean distances to the other filters,
        signs included. Differs from the paper in that filters are removed at once, not softly on the way;
        ``scope = "coupled"`` is ours: distances are those between the long filters of shared channels.
    """

    def scores(self, model: nn.Module, own: Groups, context: Context) -> Scores:  # noqa: ARG002  # data-free
        """Returns the sum of each filter's distances to the others of its layer."""
        return per_filter(model, own, _distances)


@dataclass(frozen=True)
class FilterRandom(FilterProducer):
    """Random filters, the control: they go in an order drawn once, whatever they hold.

    References:
        The control of Mittal et al. 2018, arXiv 1801.10447. At each ratio the order is drawn anew among the
        filters that are left, which has the same distribution as one order for all ratios.
    """

    def scores(self, model: nn.Module, own: Groups, context: Context) -> Scores:  # noqa: ARG002  # nothing is seen
        """Returns uniform draws, addressed by layer and width."""
        widths = {name: group.channels for name, group in own.items()}
        return {
            name: torch.from_numpy(generator(context.seed, "filter-random", name, width).random(width))
            for name, width in widths.items()
        }


@dataclass(frozen=True)
class BatchNormScale(FilterProducer):
    """Filter pruning by the scale of the batch norm behind it, without sparse training.

    References:
        Liu et al. 2017, arXiv 1708.06519: the score and the global threshold of network slimming, see
        `Slimming` for the method itself. If several batch norms stand behind a channel, as behind shared
        ones, it is the mean of their scales, as in Torch-Pruning's importance of that name.
    """

    allocation: Literal["uniform", "global"] = "global"

    def scores(self, model: nn.Module, own: Groups, context: Context) -> Scores:  # noqa: ARG002  # data-free
        """Returns the absolute scale of each filter's batch norm."""
        return {name: scales(model, group).mean(0) for name, group in own.items()}


@dataclass(frozen=True)
class Taylor(FilterProducer):
    """First-order Taylor importance: the squared change of the loss if a filter were set to zero.

    Attributes:
        images: Training images that the gradients come from.
        batch: Images per gradient.

    References:
        Molchanov et al. 2019, arXiv 1906.10771, equations 8 and 9: the sum over a filter's weights of
        (g w)^2, summed over batches; one threshold for all layers. All filters of a shared channel are one
        set of weights. Differs from the paper in that the network is in evaluation mode and does not train
        between the batches.
    """

    allocation: Literal["uniform", "global"] = "global"
    images: int = 512
    batch: int = 64

    def __post_init__(self) -> None:
        if min(self.images, self.batch) < 1:
            raise SuiteError(
                f"taylor: found images = {self.images} and batch = {self.batch}, expected 1 or more"
            )

    def scores(self, model: nn.Module, own: Groups, context: Context) -> Scores:
        """Returns the sum over batches and weights of (g w)^2."""
        names = [*dict.fromkeys(part.name for group in own.values() for part in group.filters)]
        weights = [model.get_submodule(name).get_parameter("weight") for name in names]
        totals = {name: weights[0].new_zeros(group.channels) for name, group in own.items()}
        images, labels = context.batch(self.images, "taylor")
        with evaluation_mode(model), torch.enable_grad():
            for shown, named in zip(
                torch.split(images, self.batch), torch.split(labels, self.batch), strict=True
            ):
                loss = functional.cross_entropy(model(shown), named)
                slopes = dict(zip(names, torch.autograd.grad(loss, weights), strict=True))
                for name, group in own.items():
                    totals[name] += _squared_effects(model, group, slopes)
        return totals


def _squared_effects(model: nn.Module, group: ChannelGroup, slopes: Mapping[str, Tensor]) -> Tensor:
    return filters(group, lambda layer: slopes[layer] * weight(model, layer)).square().sum(1)


def _distances(filters: Tensor) -> Tensor:
    flat = filters.double()
    return torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
