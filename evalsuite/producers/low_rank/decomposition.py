"""Low-rank decomposition (SVD, ALDS): each layer becomes two thinner ones; one error for all layers sets the ranks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from evalsuite.errors import SkippedError, SuiteError, UserError, first_few
from evalsuite.models.cost import count_nonzero, layers_read_as_weights, prunable_layers
from evalsuite.models.surgery.low_rank_factors import factor_pairs, factorize_layer, merge_factors
from evalsuite.producers.base import Context, Producer, nearest_choice
from evalsuite.random_streams import generator
from evalsuite.types import Array


@dataclass(frozen=True)
class DecomposableLayer:
    """A layer that may be decomposed, with the errors of all decompositions.

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
    def dense_weights(self) -> int:
        """Weights of the layer as it is."""
        return self.outputs * self.columns

    def weights(self, groups: int, rank: int) -> int:
        """Returns the number of weights of both factors; `dense_weights` if that is not more."""
        return min(self.dense_weights, rank * (groups * self.outputs + self.columns))

    def rank(self, groups: int, error: float) -> int:
        """Returns the least rank, at least 1, whose relative error is at most `error`."""
        errors = self.errors[groups]
        return max(1, min(int(np.count_nonzero(errors > error)), len(errors) - 1))

    def error(self, groups: int, rank: int) -> float:
        """Returns the relative error of a decomposition; 0 if the layer would stay undecomposed."""
        return 0.0 if self.weights(groups, rank) == self.dense_weights else float(self.errors[groups][rank])


Decomposition = Mapping[str, tuple[int, int]]
"""Names of layers to numbers of groups k and ranks j."""


@dataclass(frozen=True)
class Svd(Producer):
    """Low-rank decomposition by SVD: every layer has the same largest relative error in the operator norm.

    A convolution's weight is unfolded to (out, in * height * width), so a k x k convolution to few channels
    is followed by a 1 x 1 convolution. A layer whose factors would be no smaller stays as it is.

    References:
        Denton et al. 2014, arXiv 1404.0736; the layer budget by the residual's operator norm, relative to the
        weight's: Liebenwein et al. 2021, arXiv 2107.11442, with one group. At each ratio the
        retrained factors are multiplied out and decomposed anew.
    """

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole ranks allow."""

        def choose(dense: nn.Module, budget: float) -> Decomposition:
            layers = layer_spectra(dense, max_groups=1)
            return equal_error_ranks(layers, {layer.name: 1 for layer in layers}, budget)

        return decompose_and_retrain(parent, ratios, context, choose)


@dataclass(frozen=True)
class Alds(Producer):
    """ALDS: channels fall into k groups, each of rank j; k and j of all layers make the largest error least.

    Attributes:
        max_groups: The largest k; k divides the input channels.
        random_starts: Random choices of all k that the search begins from, beside k = 1 and k = `start_groups`;
            those that have too many weights at rank 1 are left out.
        rounds: Of the search: j for all layers at fixed k, then k for each layer at fixed size.
        start_groups: k of the second start: the largest divisor that is not larger.

    References:
        Liebenwein et al. 2021, arXiv 2107.11442: the relative error is at most sqrt(k) times the largest (j+1)-th
        singular value of a group, over the largest of the layer; k and j are searched in turn. The kernel stays
        whole in the first factor (out by in * height * width), which is the one way of folding that the
        plain method of the authors' code (torchprune, ``ALDSNet``) tries; kernels that are parted or move to the
        second factor belong to its variant ``ALDSNetPlus`` and are not offered. Differs from that code in that the
        root of k is in the error, as in the paper's bound, which the code leaves out; that linear layers are not split
        (k = 1) and k goes to `max_groups`, where the code takes every divisor of the channels of both kinds; in the
        starts, of which the code's first four are the divisors next to 3, 5, 7 and 9 and the other eleven random, each
        with k halved until it fits; and in the schedule: at each ratio the retrained factors are multiplied out and
        decomposed anew.
    """

    max_groups: int = 16
    random_starts: int = 14
    rounds: int = 4
    start_groups: int = 3
    renamed_settings: ClassVar[Mapping[str, str]] = {
        "first": "start_groups",
        "groups": "max_groups",
        "starts": "random_starts",
    }

    def __post_init__(self) -> None:
        if min(self.max_groups, self.rounds, self.start_groups) < 1 or self.random_starts < 0:
            raise SuiteError(
                f"alds: found max_groups = {self.max_groups}, rounds = {self.rounds}, start_groups = "
                f"{self.start_groups} and random_starts = {self.random_starts}, expected 1 or more of each and "
                "random_starts from 0 on"
            )

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole ranks allow."""

        def choose(dense: nn.Module, budget: float) -> Decomposition:
            layers = layer_spectra(dense, max_groups=self.max_groups)
            starts = self._starts(layers, context, budget)
            results = [self._search(layers, start, budget) for start in starts]
            return min(results, key=lambda decomposition: largest_error(layers, decomposition))

        return decompose_and_retrain(parent, ratios, context, choose)

    def _starts(
        self, layers: Sequence[DecomposableLayer], context: Context, budget: float
    ) -> list[dict[str, int]]:
        """Groups of each layer: one, the fixed start, and the random ones, as far as they fit the budget."""
        starts = [{layer.name: max(k for k in layer.errors if k <= self.start_groups) for layer in layers}]
        for number in range(self.random_starts):
            draws = generator(context.seed, "alds", number)
            starts.append({layer.name: int(draws.choice([*layer.errors])) for layer in layers})
        single = {layer.name: 1 for layer in layers}
        return [single, *(start for start in starts if least_weights(layers, start) <= budget)]

    def _search(
        self, layers: Sequence[DecomposableLayer], groups: dict[str, int], budget: float
    ) -> Decomposition:
        best = current = equal_error_ranks(layers, groups, budget)
        for _ in range(self.rounds):
            regrouped = {layer.name: least_error_groups(layer, *current[layer.name]) for layer in layers}
            if regrouped == groups or least_weights(layers, regrouped) > budget:
                break
            groups = regrouped
            current = equal_error_ranks(layers, groups, budget)
            best = min(best, current, key=lambda decomposition: largest_error(layers, decomposition))
        return best


def decompose_and_retrain(
    parent: nn.Module,
    ratios: Sequence[float],
    context: Context,
    choose: Callable[[nn.Module, float], Decomposition],
    bases: Callable[[nn.Module], Mapping[str, Tensor]] | None = None,
) -> Iterator[nn.Module]:
    """Yields a retrained model in factors for each ratio; each time the last factors are multiplied out first.

    Args:
        parent: Not changed.
        ratios: Rising.
        context: Of the production.
        choose: From a network without factors, and the number of weights that its layers may have in all, to
            groups and ranks.
        bases: From such a network to orthonormal directions of each layer's outputs, best first, (out, out): its
            factors project on these; by default they are the best factors of the weight.

    Raises:
        UserError: If the parent itself has layers in factors, or a ratio asks for less than rank 1.
    """
    if pairs := factor_pairs(parent):
        raise UserError(
            f"the parent has {len(pairs)} layers in factors already, {next(iter(pairs))!r} first; a low-rank "
            "producer needs the network before its decomposition as parent"
        )
    total = count_nonzero(parent)
    model = context.previous or parent
    for ratio in ratios:
        dense = merge_factors(model, parent)
        decomposition = choose(dense, _layer_budget(dense, (1 - ratio) * total))
        model = decompose(dense, decomposition, bases(dense) if bases else {})
        context.retrain(model, ratio)
        yield model


def layer_spectra(model: nn.Module, *, max_groups: int) -> list[DecomposableLayer]:
    """Returns the layers of `model` that may be decomposed, with up to `max_groups` groups of channels."""
    if unseen := layers_read_as_weights(model):
        raise SkippedError(
            f"{first_few(unseen)} cannot be replaced by two layers: the attention around it reads its weight and does "
            "not call it; use another producer"
        )
    spectra = []
    for name, layer in prunable_layers(model).items():
        weight = layer.get_parameter("weight").detach().double().cpu()
        matrix = weight.flatten(1)
        most = min(max_groups, weight.shape[1]) if weight.dim() == 4 else 1
        divisors = [k for k in range(1, most + 1) if weight.shape[1] % k == 0]
        errors = {k: _relative_errors(matrix, k) for k in divisors}
        spectra.append(DecomposableLayer(name, matrix.shape[0], matrix.shape[1], errors))
    return spectra


def equal_error_ranks(
    layers: Sequence[DecomposableLayer], groups: Mapping[str, int], budget: float
) -> Decomposition:
    """Returns the ranks that one error for all layers gives, with as nearly `budget` weights as it can.

    Raises:
        UserError: If rank 1 everywhere has more.
    """
    all_errors = np.concatenate([layer.errors[groups[layer.name]][1:] for layer in layers])
    errors: list[float] = np.unique(all_errors)[::-1].tolist()

    def at_error(error: float) -> Decomposition:
        return {layer.name: (groups[layer.name], layer.rank(groups[layer.name], error)) for layer in layers}

    return decomposition_for_budget(layers, errors, at_error, budget)


def decomposition_for_budget(
    layers: Sequence[DecomposableLayer],
    choices: Sequence[float],
    decomposition: Callable[[float], Decomposition],
    budget: float,
) -> Decomposition:
    """Returns the decomposition whose number of weights comes nearest to `budget`.

    Args:
        layers: All layers.
        choices: Values of one parameter, in the order in which the number of weights rises.
        decomposition: Of a value.
        budget: Weights that may stay in these layers.

    Raises:
        UserError: If the first has more.
    """

    def size(choice: float) -> int:
        ranks = decomposition(choice)
        return sum(layer.weights(*ranks[layer.name]) for layer in layers)

    choice = nearest_choice(choices, budget, size)
    if choice is None:
        raise UserError(
            f"too high a prune ratio: {round(budget)} weights may stay in {len(layers)} layers, but with rank 1 in "
            f"each {size(choices[0])} are left; ask for a smaller ratio"
        )
    return decomposition(choice)


def least_error_groups(layer: DecomposableLayer, groups: int, rank: int) -> int:
    """Returns the number of groups whose decomposition of the same size has the least error."""
    size = layer.weights(groups, rank)

    def error(k: int) -> float:
        affordable = min(size // (k * layer.outputs + layer.columns), len(layer.errors[k]) - 1)
        return layer.error(k, affordable) if affordable else float("inf")

    return groups if size == layer.dense_weights else min(layer.errors, key=error)


def least_weights(layers: Sequence[DecomposableLayer], groups: Mapping[str, int]) -> int:
    """Returns the number of weights of all layers at rank 1."""
    return sum(layer.weights(groups[layer.name], 1) for layer in layers)


def largest_error(layers: Sequence[DecomposableLayer], decomposition: Decomposition) -> float:
    """Returns the largest relative error of any layer."""
    return max(layer.error(*decomposition[layer.name]) for layer in layers)


def decompose(
    model: nn.Module, decomposition: Decomposition, bases: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """Returns a copy of `model` whose layers are in factors, where that has fewer weights.

    Args:
        model: Without factors.
        decomposition: Groups and rank of each layer.
        bases: Orthonormal directions of the outputs, (out, out), of layers that are to be projected on the first of
            them; such a layer has one group.
    """
    smaller = copy.deepcopy(model)
    for name, (groups, rank) in decomposition.items():
        layer = model.get_submodule(name)
        weight = layer.get_parameter("weight").detach()
        basis = (bases or {}).get(name)
        reduce, expand = factorise(weight, groups, rank) if basis is None else project(weight, basis, rank)
        if reduce.numel() + expand.numel() < weight.numel():
            smaller.set_submodule(name, factorize_layer(layer, reduce, expand))
    return smaller


def factorise(weight: Tensor, groups: int, rank: int) -> tuple[Tensor, Tensor]:
    """Returns the best factors of rank `rank` of each of `groups` groups of input channels.

    Args:
        weight: (out, in, height, width) or (out, in).
        groups: Divides the input channels.
        rank: Of each group.

    Returns:
        Weights of the two layers, (groups * rank, in / groups, height, width) and (out, groups * rank, 1, 1), or
        (rank, in) and (out, rank); each has the square roots of the singular values.
    """
    kernel = weight.shape[2:]
    first, second = [], []
    for part in weight.double().chunk(groups, dim=1):
        left, values, right = torch.linalg.svd(part.flatten(1), full_matrices=False)
        root = values[:rank].sqrt()
        second.append(left[:, :rank] * root)
        first.append((root[:, None] * right[:rank]).view(-1, part.shape[1], *kernel))
    expand = torch.cat(second, dim=1)
    return torch.cat(first).to(weight), expand.view(*expand.shape, *[1] * len(kernel)).to(weight)


def project(weight: Tensor, basis: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Returns factors whose product is the weight, projected on the first `rank` directions of its outputs.

    Args:
        weight: (out, in, height, width) or (out, in).
        basis: Orthonormal columns, (out, out).
        rank: Of the product.

    Returns:
        Weights of the two layers, as `factorise` does.
    """
    kernel = weight.shape[2:]
    directions = basis[:, :rank].to(weight.device, torch.float64)
    reduce = (directions.T @ weight.double().flatten(1)).view(rank, *weight.shape[1:])
    return reduce.to(weight), directions.view(*directions.shape, *[1] * len(kernel)).to(weight)


def _relative_errors(matrix: Tensor, groups: int) -> Array:
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


def _layer_budget(model: nn.Module, budget: float) -> float:
    """The budget of the weights that may be decomposed, if the whole model may have `budget` parameters."""
    decomposable = sum(
        int(layer.get_parameter("weight").count_nonzero()) for layer in prunable_layers(model).values()
    )
    return budget - (count_nonzero(model) - decomposable)
