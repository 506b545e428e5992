"""Structured pruning: whole filters are removed, so that the network really shrinks."""

from __future__ import annotations

import copy
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from evalsuite.errors import UserError
from evalsuite.models.cost import nonzero
from evalsuite.models.surgery import channel_groups, remove_channels
from evalsuite.producers.contract import Context, Producer

Widths = Mapping[str, int]
_HALF = Fraction(1, 2)  # exact: in floating point 5.5 / 11 * 11 may fall short of 5.5


class FilterProducer(Producer):
    """Removes the filters of lowest score, the same share in every layer, retrains, and goes on.

    Layers whose filters can be removed alone take part: in a residual network the first convolution of each
    block, in a plain one all of them; never the classifier. At least one filter stays in each.
    """

    @abstractmethod
    def scores(self, filters: Tensor) -> Tensor:
        """Returns one score per filter of a layer, (out, in, height, width) to (out,); the largest are kept."""

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose ratio is within one filter per layer of the target.

        Each step starts from the last and retrains with the full schedule (learning-rate rewinding: Renda et
        al. 2020, arXiv 2003.02389).
        """
        widths = {group.conv: _width(parent, group.conv) for group in channel_groups(parent)}
        if not widths:
            raise UserError(
                f"{type(parent).__name__} has no layer whose filters can be removed alone; "
                "use an unstructured producer for it"
            )
        total = nonzero(parent)
        model = copy.deepcopy(context.previous or parent)
        for ratio in ratios:
            model = self._shrunk(model, widths, total - ratio * total)
            context.retrain(model, ratio)
            yield model

    def _shrunk(self, model: nn.Module, widths: Widths, budget: float) -> nn.Module:
        """Copy of `model` whose number of non-zero parameters is as near to `budget` as whole filters allow."""
        ranks = {name: self._ranked(model, name) for name in widths}
        shares = sorted(
            {Fraction(2 * kept + 1, 2 * width) for width in widths.values() for kept in range(width)}
        )
        shares.insert(0, Fraction(0))

        def at(share: Fraction) -> nn.Module:
            return remove_channels(model, _kept(ranks, widths, share))

        above = bisect_left(shares, budget, key=lambda share: nonzero(at(share)))
        if above == len(shares):  # nothing to remove: earlier steps went as far already
            return copy.deepcopy(model)
        if above == 0 and nonzero(at(shares[0])) > budget:
            raise UserError(
                f"too high a prune ratio: {round(budget)} parameters may stay, but with one filter in each of "
                f"{len(widths)} layers {nonzero(at(shares[0]))} are left; ask for a smaller ratio"
            )
        nearest = min(
            shares[max(above - 1, 0) : above + 1], key=lambda share: abs(nonzero(at(share)) - budget)
        )
        return at(nearest)

    def _ranked(self, model: nn.Module, name: str) -> Tensor:
        """Filters of one layer, best first; ties fall to the earlier filter."""
        scores = self.scores(model.get_submodule(name).get_parameter("weight").detach()).double().cpu()
        return torch.sort(scores, descending=True, stable=True).indices


@dataclass(frozen=True)
class FilterL1(FilterProducer):
    """Filter pruning by L1 norm (FT): the same share of filters goes from every layer, physically.

    References:
        Li et al. 2017, arXiv 1608.08710, equation 1; Renda et al. 2020, arXiv 2003.02389; "FT" of Liebenwein
        et al. 2021, "Lost in Pruning", whose code sets filters to zero and prunes the residual stream too.
    """

    def scores(self, filters: Tensor) -> Tensor:
        """Returns the L1 norm of each filter."""
        return filters.abs().sum(dim=(1, 2, 3))


def _kept(ranks: Mapping[str, Tensor], widths: Widths, share: Fraction) -> dict[str, Tensor]:
    """The best filters of each layer in their old order: `share` of the parent's width, rounded, at least one."""
    return {name: ranks[name][: max(1, int(share * widths[name] + _HALF))].sort().values for name in widths}


def _width(model: nn.Module, name: str) -> int:
    return model.get_submodule(name).get_parameter("weight").shape[0]
