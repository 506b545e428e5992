"""Low-rank decomposition: each layer becomes two thinner ones, and one error shares the budget out."""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from evalsuite.errors import SuiteError, UserError
from evalsuite.models.cost import nonzero, prunable
from evalsuite.models.surgery.low_rank_factors import factor_pairs, factored, multiplied
from evalsuite.producers.base import Context, Producer
from evalsuite.random_streams import generator
from evalsuite.types import Array


@dataclass(frozen=True)
class Layer:
    """Is a layer that may be decomposed, with the errors of all decompositions.

    Attributes:
        name: Of a convolution or a linear layer.
        outputs: Rows of its weight as a matrix.
        columns: Columns of it: input channels times kernel elements.
        errors: By number of channel groups k: relative errors of rank j, float64, falling, (ranks + 1,); j = 0
            is the first.
    """

    name: str
    outputs: int
    columns: int
    errors: Mapping[int, Array]

    @property
    def whole(self) -> int:
        """Weights of the layer as it is."""
        return self.outputs * self.columns

    def weights(self, groups: int, rank: int) -> int:
        """Returns the number of weights of both factors; `whole` if that is not more."""
        return min(self.whole, rank * (groups * self.outputs + self.columns))

    def rank(self, groups: int, error: float) -> int:
        """Returns the least rank, at least 1, whose relative error is at most `error`."""
        errors = self.errors[groups]
        return max(1, min(int(np.count_nonzero(errors > error)), len(errors) - 1))

    def error(self, groups: int, rank: int) -> float:
        """Returns the relative error of a decomposition; 0 if the layer would stay whole."""
        return 0.0 if self.weights(groups, rank) == self.whole else float(self.errors[groups][rank])


Shape = Mapping[str, tuple[int, int]]
"""Names of layers to numbers of groups k and ranks j."""


@dataclass(frozen=True)
class Svd(Producer):
    """Low-rank decomposition by SVD: every layer has the same largest relative error in the operator norm.

    A convolution's weight is unfolded to (out, in * height * width), so a k x k convolution to few channels
    is followed by a 1 x 1 convolution. A layer whose factors would be no smaller stays whole.

    References:
        Denton et al. 2014, arXiv 1404.0736; the layer budget by the residual's operator norm, relative to the
        weight's: Liebenwein et al. 2021, arXiv 2107.11442, with one group. At each ratio the
        retrained factors are multiplied out and decomposed anew.
    """

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole ranks allow."""

        def choose(dense: nn.Module, budget: float) -> Shape:
            layers = spectra(dense, groups=1)
            return equal_error(layers, {one.name: 1 for one in layers}, budget)

        return decomposing(parent, ratios, context, choose)


@dataclass(frozen=True)
class Alds(Producer):
    """ALDS: channels fall into k groups, each of rank j; k and j of all layers make the largest error least.

    Attributes:
        groups: The largest k; k divides the input channels.
        starts: Random choices of all k that the search begins from, beside k = 1 and k = `first`; those that
            have too many weights at rank 1 are left out.
        rounds: Of the search: j for all layers at fixed k, then k for each layer at fixed size.
        first: k of the second start: the largest divisor that is not larger.

    References:
        Liebenwein et al. 2021, arXiv 2107.11442: the relative error is at most sqrt(k) times the largest (j+1)-th
        singular value of a group, over the largest of the layer; k and j are searched in turn. The kernel stays
        whole in the first factor (out by in * height * width), which is the one way of folding that the
        plain method of the authors' code (torchprune, ``ALDSNet``) tries; kernels that are parted or move to the
        second factor belong to its variant ``ALDSNetPlus`` and are not offered. Differs from that code in that the
        root of k is in the error, as in the paper's bound, which the code leaves out; that linear layers are not split
        (k = 1) and k goes to `groups`, where the code takes every divisor of the channels of both kinds; in the
        starts, of which the code's first four are the divisors next to 3, 5, 7 and 9 and the other eleven random, each
        with k halved until it fits; and in the schedule: at each ratio the retrained factors are multiplied out and
        decomposed anew.
    """

    groups: int = 16
    starts: int = 14
    rounds: int = 4
    first: int = 3

    def __post_init__(self) -> None:
        if min(self.groups, self.rounds, self.first) < 1 or self.starts < 0:
            raise SuiteError(
                f"alds: found groups = {self.groups}, rounds = {self.rounds}, first = {self.first} and starts = "
                f"{self.starts}, expected 1 or more of each and starts from 0 on"
            )

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole ranks allow."""

        def choose(dense: nn.Module, budget: float) -> Shape:
            layers = spectra(dense, groups=self.groups)
            starts = self._beginnings(layers, context, budget)
            found = [self._searched(layers, start, budget) for start in starts]
            return min(found, key=lambda shape: largest_error(layers, shape))

        return decomposing(parent, ratios, context, choose)

    def _beginnings(self, layers: Sequence[Layer], context: Context, budget: float) -> list[dict[str, int]]:
        starts = [{one.name: max(k for k in one.errors if k <= self.first) for one in layers}]
        for start in range(self.starts):
            draws = generator(context.seed, "alds", start)
            starts.append({one.name: int(draws.choice([*one.errors])) for one in layers})
        single = {one.name: 1 for one in layers}
        return [single, *(start for start in starts if least_weights(layers, start) <= budget)]

    def _searched(self, layers: Sequence[Layer], groups: dict[str, int], budget: float) -> Shape:
        best = shape = equal_error(layers, groups, budget)
        for _ in range(self.rounds):
            regrouped = {one.name: least_error_groups(one, *shape[one.name]) for one in layers}
            if regrouped == groups or least_weights(layers, regrouped) > budget:
                break
            groups = regrouped
            shape = equal_error(layers, groups, budget)
            best = min(best, shape, key=lambda one: largest_error(layers, one))
        return best


def decomposing(
    parent: nn.Module, ratios: Sequence[float], context: Context, choose: Callable[[nn.Module, float], Shape]
) -> Iterator[nn.Module]:
    """Yields a retrained model in factors for each ratio; the last one's are multiplied out and decomposed anew.

    Args:
        parent: Is left alone.
        ratios: Rising.
        context: Of the production.
        choose: From a network without factors, and the number of weights that its layers may have in all, to
            groups and ranks.

    Raises:
        UserError: If the parent itself has layers in factors, or a ratio asks for less than rank 1.
    """
    if pairs := factor_pairs(parent):
        raise UserError(
            f"the parent has {len(pairs)} layers in factors already, {next(iter(pairs))!r} first; a low-rank "
            "producer needs the network before its decomposition as parent"
        )
    total = nonzero(parent)
    model = context.previous or parent
    for ratio in ratios:
        dense = multiplied(model, parent)
        model = decomposed(dense, choose(dense, _for_weights(dense, (1 - ratio) * total)))
        context.retrain(model, ratio)
        yield model


def spectra(model: nn.Module, *, groups: int) -> list[Layer]:
    """Returns the layers of `model` that may be decomposed, with up to `groups` groups of channels."""
    found = []
    for name, layer in prunable(model).items():
        weight = layer.get_parameter("weight").detach().double().cpu()
        matrix = weight.flatten(1)
        most = min(groups, weight.shape[1]) if weight.dim() == 4 else 1
        counts = [k for k in range(1, most + 1) if weight.shape[1] % k == 0]
        errors = {k: _errors(matrix, k) for k in counts}
        found.append(Layer(name, matrix.shape[0], matrix.shape[1], errors))
    return found


def equal_error(layers: Sequence[Layer], groups: Mapping[str, int], budget: float) -> Shape:
    """Returns the ranks that one error for all layers gives, with as nearly `budget` weights as it can.

    Raises:
        UserError: If rank 1 everywhere has more.
    """
    errors = np.unique(np.concatenate([one.errors[groups[one.name]][1:] for one in layers]))[::-1]

    def shape(error: float) -> Shape:
        return {one.name: (groups[one.name], one.rank(groups[one.name], error)) for one in layers}

    def size(error: float) -> int:
        return sum(one.weights(*shape(error)[one.name]) for one in layers)

    above = bisect_left(errors, budget, key=size)
    if above == 0 and size(errors[0]) > budget:
        raise UserError(
            f"too high a prune ratio: {round(budget)} weights may stay in {len(layers)} layers, but with rank 1 in "
            f"each {size(errors[0])} are left; ask for a smaller ratio"
        )
    return shape(min(errors[max(above - 1, 0) : above + 1], key=lambda error: abs(size(error) - budget)))


def least_error_groups(layer: Layer, groups: int, rank: int) -> int:
    """Returns the number of groups whose decomposition of the same size has the least error."""
    size = layer.weights(groups, rank)

    def error(k: int) -> float:
        affordable = min(size // (k * layer.outputs + layer.columns), len(layer.errors[k]) - 1)
        return layer.error(k, affordable) if affordable else float("inf")

    return groups if size == layer.whole else min(layer.errors, key=error)


def least_weights(layers: Sequence[Layer], groups: Mapping[str, int]) -> int:
    """Returns the number of weights of all layers at rank 1."""
    return sum(one.weights(groups[one.name], 1) for one in layers)


def largest_error(layers: Sequence[Layer], shape: Shape) -> float:
    """Returns the largest relative error of any layer."""
    return max(one.error(*shape[one.name]) for one in layers)


def decomposed(model: nn.Module, shape: Shape) -> nn.Module:
    """Returns a copy of `model` whose layers are in factors, where that has fewer weights.

    Args:
        model: Without factors.
        shape: Groups and rank of each layer.
    """
    smaller = copy.deepcopy(model)
    for name, (groups, rank) in shape.items():
        layer = model.get_submodule(name)
        reduce, expand = factors(layer.get_parameter("weight").detach(), groups, rank)
        if reduce.numel() + expand.numel() < layer.get_parameter("weight").numel():
            smaller.set_submodule(name, factored(layer, reduce, expand))
    return smaller


def factors(weight: Tensor, groups: int, rank: int) -> tuple[Tensor, Tensor]:
    """Returns the best factors of rank `rank` of each of `groups` groups of input channels.

    Args:
        weight: (out, in, height, width) or (out, in).
        groups: Divides the input channels.
        rank: Of each group.

    Returns:
        Weights of the two layers, (groups * rank, in / groups, height, width) and (out, groups * rank, 1, 1), or
        (rank, in) and (out, rank); singular values are shared out evenly between them.
    """
    tail = weight.shape[2:]
    first, second = [], []
    for part in weight.double().chunk(groups, dim=1):
        left, values, right = torch.linalg.svd(part.flatten(1), full_matrices=False)
        root = values[:rank].sqrt()
        second.append(left[:, :rank] * root)
        first.append((root[:, None] * right[:rank]).view(-1, part.shape[1], *tail))
    expand = torch.cat(second, dim=1)
    return torch.cat(first).to(weight), expand.view(*expand.shape, *[1] * len(tail)).to(weight)


def _errors(matrix: Tensor, groups: int) -> Array:
    """Relative errors of rank 0, 1, ...: of `groups` groups of columns the worst, times the root of their number."""
    values = torch.stack([_singular_values(part.contiguous()) for part in matrix.chunk(groups, dim=1)])
    largest = _singular_values(matrix)[0].clamp(min=torch.finfo(matrix.dtype).tiny)
    worst = values.amax(0) * groups**0.5 / largest
    errors: Array = torch.cat([worst, worst.new_zeros(1)]).numpy()
    return errors


def _singular_values(matrix: Tensor) -> Tensor:
    """By the smaller Gram matrix, which is much faster and exact to half of the digits of float64."""
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    squares: Tensor = torch.linalg.eigvalsh(gram)
    return squares.clamp(min=0).sqrt().flip(0)


def _for_weights(model: nn.Module, left: float) -> float:
    """What is left for the weights that may be decomposed if the whole model may have `left` parameters."""
    own = sum(int(layer.get_parameter("weight").count_nonzero()) for layer in prunable(model).values())
    return left - (nonzero(model) - own)
