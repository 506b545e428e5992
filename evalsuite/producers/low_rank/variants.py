"""Other ways to choose ranks: the variants of ALDS, learned ranks, and principal components of a layer's outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from evalsuite.errors import SuiteError
from evalsuite.models.cost import prunable_layers
from evalsuite.models.inference import evaluation_mode, temporary_hooks
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.low_rank.decomposition import (
    DecomposableLayer,
    Decomposition,
    decompose_and_retrain,
    decomposition_for_budget,
    equal_error_ranks,
    layer_spectra,
)
from evalsuite.types import Array

SHARES: tuple[float, ...] = tuple(float(share) for share in np.linspace(0, 1.1, 1101))
"""Shares of a layer's weights or ranks that are tried."""
PRICES: tuple[float, ...] = tuple(float(price) for price in np.logspace(6, -18, 2401))
"""Prices of a multiply-accumulate that are tried, largest first."""
IMAGES_PER_PASS = 32


@dataclass(frozen=True)
class FixedGroups:
    """The setting of variants that split the channels of every layer alike.

    Attributes:
        groups: Groups k of the input channels: in each layer the largest divisor that is not larger.
    """

    groups: int = 3

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise SuiteError(f"found groups = {self.groups}, expected 1 or more")

    def groups_of(self, layers: Sequence[DecomposableLayer]) -> dict[str, int]:
        """Returns the groups of each layer."""
        return {layer.name: max(k for k in layer.errors if k <= self.groups) for layer in layers}


@dataclass(frozen=True)
class AldsErrorOnly(FixedGroups, Producer):
    """ALDS with fixed groups: one relative error for all layers sets the ranks, as in `Alds`.

    References:
        ``ALDSNetErrorOnly`` of lucaslie/torchprune, an ablation of Liebenwein et al. 2021, arXiv 2107.11442, section
        4.3; with the deviations of `Alds`.
    """

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole ranks allow."""

        def choose(dense: nn.Module, budget: float) -> Decomposition:
            layers = layer_spectra(dense, max_groups=self.groups)
            return equal_error_ranks(layers, self.groups_of(layers), budget)

        return decompose_and_retrain(parent, ratios, context, choose)


@dataclass(frozen=True)
class AldsSimple(FixedGroups, Producer):
    """ALDS with fixed groups and the same share of the full rank in every layer.

    References:
        ``ALDSNetSimple`` (k = 3) and ``ALDSNetSimple5`` (k = 5) of lucaslie/torchprune, ablations of Liebenwein et al.
        2021, arXiv 2107.11442, section 4.3.
    """

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole ranks allow."""

        def choose(dense: nn.Module, budget: float) -> Decomposition:
            layers = layer_spectra(dense, max_groups=self.groups)
            groups = self.groups_of(layers)

            def at_share(share: float) -> Decomposition:
                full = {layer.name: len(layer.errors[groups[layer.name]]) - 1 for layer in layers}
                return {
                    name: (groups[name], min(max(1, int(share * rank + 0.5)), rank))
                    for name, rank in full.items()
                }

            return decomposition_for_budget(layers, SHARES, at_share, budget)

        return decompose_and_retrain(parent, ratios, context, choose)


@dataclass(frozen=True)
class AldsOptimalK(Producer):
    """ALDS with the same share of the weights in every layer, and in each the groups of least error.

    Attributes:
        max_groups: The largest k; k divides the input channels.

    References:
        ``ALDSNetOptK`` of lucaslie/torchprune, an ablation of Liebenwein et al. 2021, arXiv 2107.11442, section 4.3;
        with the deviations of `Alds` in errors and groups.
    """

    max_groups: int = 16

    def __post_init__(self) -> None:
        if self.max_groups < 1:
            raise SuiteError(f"alds-optimal-k: found max_groups = {self.max_groups}, expected 1 or more")

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole ranks allow."""

        def choose(dense: nn.Module, budget: float) -> Decomposition:
            layers = layer_spectra(dense, max_groups=self.max_groups)
            return decomposition_for_budget(
                layers,
                SHARES,
                lambda share: {layer.name: best_groups(layer, share) for layer in layers},
                budget,
            )

        return decompose_and_retrain(parent, ratios, context, choose)


def best_groups(layer: DecomposableLayer, share: float) -> tuple[int, int]:
    """Returns groups and rank of least error that have about a share of a layer's weights; ties go to fewer groups."""
    budget = share * layer.outputs * layer.columns
    ranks = {
        k: min(max(1, int(budget / (k * layer.outputs + layer.columns) + 0.5)), len(errors) - 1)
        for k, errors in layer.errors.items()
    }
    affordable = [k for k in ranks if ranks[k] * (k * layer.outputs + layer.columns) <= max(budget * 1.5, 1)]
    best = min(affordable or [1], key=lambda k: (float(layer.errors[k][ranks[k]]), k))
    return best, ranks[best]


@dataclass(frozen=True)
class LearnedRank(Producer):
    """Learned ranks: each layer's rank has the least sum of squared residual and priced multiply-accumulates.

    With s the singular values of the weight of layer k, its rank r minimises ``price C_k(r) + sum_{i > r} s_i^2``; the
    price, one for all layers, is searched to reach the ratio.

    References:
        Idelbayev and Carreira-Perpinan 2020, "Low-rank compression of neural nets: learning the rank of each layer",
        CVPR, equation 5: its compression step alone, as ``LearnedRankNetScheme0`` of lucaslie/torchprune; the paper
        alternates it with training towards the low-rank weights, here they are retrained. The kernel stays whole in
        the first factor.
    """

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole ranks allow."""
        positions = output_positions(parent, context.batch(1, "positions")[0])

        def choose(dense: nn.Module, budget: float) -> Decomposition:
            layers = layer_spectra(dense, max_groups=1)
            norms = {name: float(torch.linalg.matrix_norm(layer.get_parameter("weight").detach().flatten(1), 2))
                     for name, layer in prunable_layers(dense).items()}  # fmt: skip
            curves = {
                layer.name: (residuals(layer.errors[1] * norms[layer.name]), macs_per_rank(layer, positions))
                for layer in layers
            }
            return decomposition_for_budget(
                layers, PRICES, lambda price: {name: (1, priced_rank(*curve, price)) for name, curve in curves.items()},
                budget,
            )  # fmt: skip

        return decompose_and_retrain(parent, ratios, context, choose)


def residuals(singular_values: Array) -> Array:
    """Returns the sum of the squares from each singular value on: at index r that of rank r, with 0 at the end.

    >>> residuals(np.array([3.0, 1.0, 0.0])).tolist()
    [10.0, 1.0, 0.0]
    """
    squares: Array = np.cumsum(np.square(singular_values)[::-1])[::-1]
    return squares


def priced_rank(residual: Array, macs: float, price: float) -> int:
    """Returns the rank, at least 1, of least ``price * macs * rank + residual[rank]``; ties go to the smaller.

    >>> priced_rank(np.array([10.0, 1.0, 0.5, 0.0]), 2.0, 0.25)
    1
    """
    return int(np.argmin(price * macs * np.arange(1, len(residual)) + residual[1:])) + 1


@dataclass(frozen=True)
class Pca(Producer):
    """Low rank by principal components: each layer computes the directions in which its own outputs vary most.

    A layer's rank is the number of components whose share of what they and all larger ones explain, for each
    multiply-accumulate, is above a threshold; one threshold for all layers, searched to reach the ratio.

    Attributes:
        images: Training images whose outputs are looked at.

    References:
        Zhang et al. 2016, arXiv 1505.06798, sections 3.1 and 3.5, without the nonlinear response; shares and the
        division by multiply-accumulates are those of ``PCANet`` of lucaslie/torchprune. Differs from both in that
        outputs are not centred, so that convolutions without a bias need none: the components are those of
        the second moments, which minimise the squared error of the outputs.
    """

    images: int = 128

    def __post_init__(self) -> None:
        if self.images < 1:
            raise SuiteError(f"pca: found images = {self.images}, expected 1 or more")

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole ranks allow."""
        images, _ = context.batch(self.images, "pca")
        positions = output_positions(parent, images[:1])

        def choose(dense: nn.Module, budget: float) -> Decomposition:
            layers, moments = layer_spectra(dense, max_groups=1), output_moments(dense, images)
            scores = {
                layer.name: component_scores(moments[layer.name]) / macs_per_rank(layer, positions)
                for layer in layers
            }
            full = {layer.name: len(layer.errors[1]) - 1 for layer in layers}
            thresholds = np.unique(np.concatenate([*scores.values()]))[::-1].tolist()

            def at_threshold(threshold: float) -> Decomposition:
                return {
                    name: (1, min(max(1, int((values >= threshold).sum())), full[name]))
                    for name, values in scores.items()
                }

            return decomposition_for_budget(layers, thresholds, at_threshold, budget)

        def bases(dense: nn.Module) -> dict[str, Tensor]:
            return {
                name: torch.linalg.eigh(moment).eigenvectors.flip(1)
                for name, moment in output_moments(dense, images).items()
            }

        return decompose_and_retrain(parent, ratios, context, choose, bases)


def component_scores(moment: Tensor) -> Array:
    """Returns for each principal component, largest first, its part of the sum of its own and all larger values.

    >>> component_scores(torch.diag(torch.tensor([1.0, 3.0]))).tolist()
    [1.0, 0.25]
    """
    values = torch.linalg.eigvalsh(moment).clamp(min=0).flip(0)
    scores: Array = (values / values.cumsum(0).clamp(min=torch.finfo(values.dtype).tiny)).cpu().numpy()
    return scores


def output_moments(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Returns the mean outer product of each prunable layer's outputs without bias, float64, (out, out).

    Args:
        model: Seen in evaluation mode.
        images: Float32 in [0, 1], (N, C, H, W).
    """
    sums: dict[str, Tensor] = {}

    def update(name: str, layer: nn.Module, output: Tensor) -> None:
        rows = output.detach().movedim(1, -1) if isinstance(layer, nn.Conv2d) else output.detach()
        bias = getattr(layer, "bias", None)
        rows = (rows if bias is None else rows - bias).reshape(-1, rows.shape[-1]).double()
        sums[name] = sums.get(name, 0) + rows.T @ rows / len(images)

    handles = [
        layer.register_forward_hook(lambda module, _, output, name=name: update(name, module, output))
        for name, layer in prunable_layers(model).items()
    ]
    with temporary_hooks(handles), evaluation_mode(model), torch.no_grad():
        for part in torch.split(images, IMAGES_PER_PASS):
            model(part)
    return sums


def output_positions(model: nn.Module, images: Tensor) -> dict[str, int]:
    """Returns how many positions of one image each prunable layer computes; 1 for a layer that is never called."""
    layers = prunable_layers(model)
    positions = dict.fromkeys(layers, 1)

    def update(name: str, layer: nn.Module, output: Tensor) -> None:
        positions[name] = output[0].numel() // layer.get_parameter("weight").shape[0]

    handles = [
        layer.register_forward_hook(lambda module, _, output, name=name: update(name, module, output))
        for name, layer in layers.items()
    ]
    with temporary_hooks(handles), evaluation_mode(model), torch.no_grad():
        model(images[:1])
    return positions


def macs_per_rank(layer: DecomposableLayer, positions: Mapping[str, int]) -> float:
    """Returns the multiply-accumulates of both factors for one rank."""
    return float((layer.outputs + layer.columns) * positions[layer.name])
