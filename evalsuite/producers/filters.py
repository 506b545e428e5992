"""Structured pruning by one score per filter: whole filters are removed, so that the network really shrinks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import SuiteError, UserError
from evalsuite.models.forward import evaluation_mode
from evalsuite.models.surgery import remove_channels
from evalsuite.producers.contract import Context, Producer
from evalsuite.producers.shrinking import (
    Goal,
    Scores,
    groups,
    nearest,
    ranks,
    shrinking,
    together,
    uniform,
    weight,
)
from evalsuite.randomness import generator


@dataclass(frozen=True)
class FilterProducer(Producer):
    """Removes the filters of lowest score, retrains, and goes on.

    Layers whose filters can be removed alone take part: in a residual network all convolutions of a block but
    the last, in a plain one all of them; never the classifier. At least one filter stays in each.

    Attributes:
        allocation: ``uniform`` removes the same share of filters from every layer, ``global`` sets one
            threshold on the scores of all layers.
        schedule: ``cascade`` starts each ratio from the last one's model, ``one-shot`` from the parent.
    """

    allocation: Literal["uniform", "global"] = "uniform"
    schedule: Literal["cascade", "one-shot"] = "cascade"

    @abstractmethod
    def scores(self, model: nn.Module, context: Context) -> Scores:
        """Returns one score per filter of each layer in `groups`, (out,); the largest are kept."""

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole filters allow."""

        def step(model: nn.Module, goal: Goal) -> nn.Module:
            scores = self.scores(model, context)
            ladder = uniform(goal.widths) if self.allocation == "uniform" else together(scores)
            return remove_channels(model, nearest(model, ranks(scores), ladder, goal.budget))

        return shrinking(parent, ratios, context, step, cascade=self.schedule == "cascade")


def per_filter(model: nn.Module, score: Callable[[Tensor], Tensor]) -> Scores:
    """Returns `score` of the filters, (out, in, height, width) to (out,), of each layer that can lose some."""
    return {name: score(weight(model, name)) for name in groups(model)}


def l1(filters: Tensor) -> Tensor:
    """Returns the L1 norm of each filter, (out, in, height, width) to (out,)."""
    return filters.abs().sum(dim=(1, 2, 3))


def l2(filters: Tensor) -> Tensor:
    """Returns the L2 norm of each filter, (out, in, height, width) to (out,)."""
    return filters.square().sum(dim=(1, 2, 3)).sqrt()


def batch_norm(model: nn.Module, name: str) -> nn.BatchNorm2d:
    """Returns the batch norm behind the convolution `name`.

    Raises:
        UserError: If there is none, or several, or it has no scale.
    """
    norms = [model.get_submodule(norm) for norm in groups(model)[name].norms]
    if len(norms) != 1 or not isinstance(norms[0], nn.BatchNorm2d) or norms[0].weight is None:
        raise UserError(
            f"the convolution {name!r} has {len(norms)} batch norms behind it, expected one with a scale to "
            "rank its filters by; use a producer that scores the filters themselves"
        )
    return norms[0]


@dataclass(frozen=True)
class FilterL1(FilterProducer):
    """Filter pruning by L1 norm (FT): the same share of filters goes from every layer, physically.

    References:
        Li et al. 2017, arXiv 1608.08710, equation 1; Renda et al. 2020, arXiv 2003.02389; "FT" of Liebenwein
        et al. 2021, "Lost in Pruning", whose code sets filters to zero and prunes the residual stream too.
    """

    def scores(self, model: nn.Module, context: Context) -> Scores:  # noqa: ARG002  # data-free
        """Returns the L1 norm of each filter."""
        return per_filter(model, l1)


@dataclass(frozen=True)
class FilterL2(FilterProducer):
    """Filter pruning by L2 norm: the same share of filters goes from every layer.

    References:
        He et al. 2018, arXiv 1808.06866, equation 2 with p = 2, as a score after training.
    """

    def scores(self, model: nn.Module, context: Context) -> Scores:  # noqa: ARG002  # data-free
        """Returns the L2 norm of each filter."""
        return per_filter(model, l2)


@dataclass(frozen=True)
class Fpgm(FilterProducer):
    """Filter pruning via geometric median (FPGM): filters nearest to all others of their layer go.

    References:
        He et al. 2019, arXiv 1811.00250, equation 6: the sum of Euclidean distances to the other filters,
        signs included. Differs from the paper in that filters are removed at once, not softly on the way.
    """

    def scores(self, model: nn.Module, context: Context) -> Scores:  # noqa: ARG002  # data-free
        """Returns the sum of each filter's distances to the others of its layer."""
        return per_filter(model, _distances)


@dataclass(frozen=True)
class FilterRandom(FilterProducer):
    """Random filters, the control: they go in an order drawn once, whatever they hold.

    References:
        The control of Mittal et al. 2018, arXiv 1801.10447. At each ratio the order is drawn anew among the
        filters that are left, which has the same distribution as one order for all ratios.
    """

    def scores(self, model: nn.Module, context: Context) -> Scores:
        """Returns uniform draws, addressed by layer and width."""
        widths = {name: group.channels for name, group in groups(model).items()}
        return {
            name: torch.from_numpy(generator(context.seed, "filter-random", name, width).random(width))
            for name, width in widths.items()
        }


@dataclass(frozen=True)
class BatchNormScale(FilterProducer):
    """Filter pruning by the scale of the batch norm behind it, without sparse training.

    References:
        Liu et al. 2017, arXiv 1708.06519: the score and the global threshold of network slimming, see
        `Slimming` for the method itself.
    """

    allocation: Literal["uniform", "global"] = "global"

    def scores(self, model: nn.Module, context: Context) -> Scores:  # noqa: ARG002  # data-free
        """Returns the absolute scale of each filter's batch norm."""
        return {name: batch_norm(model, name).weight.detach().abs() for name in groups(model)}


@dataclass(frozen=True)
class Taylor(FilterProducer):
    """First-order Taylor importance: the squared change of the loss if a filter were set to zero.

    Attributes:
        images: Training images that the gradients come from.
        batch: Images per gradient.

    References:
        Molchanov et al. 2019, arXiv 1906.10771, equations 8 and 9: the sum over a filter's weights of
        (g w)^2, summed over batches; one threshold for all layers. Differs from the paper in that the
        network is in evaluation mode and does not train between the batches.
    """

    allocation: Literal["uniform", "global"] = "global"
    images: int = 512
    batch: int = 64

    def __post_init__(self) -> None:
        if min(self.images, self.batch) < 1:
            raise SuiteError(
                f"taylor: found images = {self.images} and batch = {self.batch}, expected 1 or more"
            )

    def scores(self, model: nn.Module, context: Context) -> Scores:
        """Returns the sum over batches and weights of (g w)^2."""
        names = list(groups(model))
        weights = [model.get_submodule(name).get_parameter("weight") for name in names]
        totals = [one.new_zeros(len(one)) for one in weights]
        images, labels = context.batch(self.images, "taylor")
        with evaluation_mode(model), torch.enable_grad():
            for shown, named in zip(
                torch.split(images, self.batch), torch.split(labels, self.batch), strict=True
            ):
                loss = functional.cross_entropy(model(shown), named)
                slopes = torch.autograd.grad(loss, weights)
                for total, one, slope in zip(totals, weights, slopes, strict=True):
                    total += (slope * one.detach()).square().sum(dim=(1, 2, 3))
        return dict(zip(names, totals, strict=True))


def _distances(filters: Tensor) -> Tensor:
    flat = filters.flatten(1).double()
    return torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
