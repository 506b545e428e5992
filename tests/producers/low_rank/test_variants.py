from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from evalsuite.errors import SuiteError, UserError
from evalsuite.models.cost import count_nonzero
from evalsuite.models.surgery.low_rank_factors import factor_pairs
from evalsuite.producers.base import Context
from evalsuite.producers.low_rank.decomposition import DecomposableLayer, decompose, layer_spectra
from evalsuite.producers.low_rank.variants import (
    AldsErrorOnly,
    AldsOptimalK,
    AldsSimple,
    LearnedRank,
    Pca,
    best_groups,
    output_moments,
    output_positions,
    priced_rank,
    residuals,
)

SPECTRA = {
    1: np.array([1.0, 0.8, 0.6, 0.4, 0.0]),
    2: np.array([1.1, 0.5, 0.2, 0.1, 0.0]),
    4: np.array([1.3, 0.1, 0.05, 0.0]),
}
LAYER = DecomposableLayer("a", outputs=10, columns=40, errors=SPECTRA)  # 400 weights; 50, 60 or 80 for a rank


def residual_nets() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    ).eval()  # fmt: skip


def test_the_best_groups_are_those_of_a_plain_search() -> None:
    for share in (0.15, 0.3, 0.45, 0.8, 1.0):
        budget, options = share * 400, []
        for k, errors in SPECTRA.items():
            rank = min(max(1, int(budget / (k * 10 + 40) + 0.5)), len(errors) - 1)
            if rank * (k * 10 + 40) <= 1.5 * budget:
                options.append((errors[rank], k, rank))
        assert best_groups(LAYER, share) == min(options)[1:]
    assert best_groups(LAYER, 0.001) == (1, 1)


def test_priced_ranks_are_those_of_a_plain_search() -> None:
    values = np.array([5.0, 3.0, 1.0, 0.5, 0.0])
    residual = residuals(values)
    np.testing.assert_allclose(residual, [(values[i:] ** 2).sum() for i in range(5)])
    for price in (1e-6, 0.01, 0.3, 2.0, 100.0):
        costs = {rank: price * 7 * rank + float((values[rank:] ** 2).sum()) for rank in range(1, 5)}
        assert priced_rank(residual, 7.0, price) == min(costs, key=lambda rank: costs[rank])


def test_moments_and_positions_are_those_of_the_layers() -> None:
    model, images = residual_nets(), torch.rand(40, 3, 8, 8)
    moments = output_moments(model, images)
    maps = model[:3](images)
    outputs = nn.functional.conv2d(maps, model.get_parameter("3.weight"), stride=2, padding=1)
    rows = outputs.movedim(1, -1).reshape(-1, 16).double()
    torch.testing.assert_close(moments["3"], rows.T @ rows / 40, rtol=1e-5, atol=1e-8)
    assert output_positions(model, images) == {"0": 64, "3": 16, "7": 1}


def test_principal_components_have_the_least_error_of_the_outputs() -> None:
    model, images = residual_nets(), torch.rand(40, 3, 8, 8)
    with torch.no_grad():  # an output that the inputs hardly move, whatever the size of its weight
        model.get_parameter("0.weight")[0] -= model.get_parameter("0.weight")[0].mean() - 3
        model.get_parameter("0.weight")[0] *= 0.1
    bases = {
        name: torch.linalg.eigh(moment).eigenvectors.flip(1)
        for name, moment in output_moments(model, images).items()
    }

    def error(smaller: Any) -> float:
        with torch.no_grad():
            return float((smaller[0](images) - model[0](images)).square().mean())

    ranks = {"0": (1, 5)}
    best = error(decompose(model, ranks, {"0": bases["0"]}))
    assert best < error(decompose(model, ranks))
    values = torch.linalg.eigvalsh(output_moments(model, images)["0"]).flip(0)
    assert best == pytest.approx(float(values[5:].sum()) / (64 * 12), rel=1e-4)
    whole: Any = decompose(model, {"0": (1, 12)}, bases)
    torch.testing.assert_close(whole[0](images), model[0](images))


@pytest.mark.parametrize(
    "producer", [AldsErrorOnly(), AldsSimple(groups=2), AldsOptimalK(max_groups=4), LearnedRank(), Pca(images=16)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_every_variant_reaches_its_ratio_and_refuses_one_out_of_reach(
    producer: Any, small_context: Context, fits: list[dict[str, Any]]
) -> None:
    parent = residual_nets()
    models = list(producer.produce(parent, [0.3, 0.6], small_context))
    for ratio, model in zip((0.3, 0.6), models, strict=True):
        assert 1 - count_nonzero(model) / count_nonzero(parent) == pytest.approx(ratio, abs=0.06)
        assert factor_pairs(model)
    assert len(fits) == 2
    with pytest.raises(UserError, match="too high a prune ratio"):
        list(producer.produce(parent, [0.98], small_context))


def test_error_only_has_fixed_groups_and_simple_one_share(
    small_context: Context, fits: list[dict[str, Any]]
) -> None:
    parent = residual_nets()
    (by_error,) = AldsErrorOnly(groups=4).produce(parent, [0.5], small_context)
    for name, pair in factor_pairs(by_error).items():
        assert getattr(pair.get_submodule("reduce"), "groups", 1) == {"0": 3, "3": 4}.get(name, 1)
    (simple,) = AldsSimple(groups=1).produce(parent, [0.5], small_context)
    shares = []
    for layer in layer_spectra(parent, max_groups=1):
        if layer.name in factor_pairs(simple):
            rank = len(factor_pairs(simple)[layer.name].get_submodule("expand").get_parameter("weight")[0])
            shares.append((rank - 0.5, rank + 0.5, len(layer.errors[1]) - 1))
    assert max(low / full for low, _, full in shares) <= min(high / full for _, high, full in shares)
    assert len(fits) == 2


@pytest.mark.parametrize("kind", [AldsErrorOnly, AldsSimple])
def test_no_groups_are_refused(kind: Callable[..., Any]) -> None:
    with pytest.raises(SuiteError, match="found groups = 0, expected 1 or more"):
        kind(groups=0)
