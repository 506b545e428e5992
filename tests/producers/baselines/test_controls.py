from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from evalsuite.errors import ContractError, SkippedError, SuiteError
from evalsuite.execution.production import checked
from evalsuite.models.cost import cost, count_nonzero, weights_digest
from evalsuite.plugin_config import from_table
from evalsuite.producers import PRODUCERS
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.baselines.controls import (
    DenseRetrained,
    Inverted,
    LayerShuffled,
    PruneOnlyContext,
    Reinitialised,
    shuffle_masks,
)
from evalsuite.producers.unstructured.base import (
    global_masks,
    magnitudes,
    nonzero_budget,
    nonzero_masks,
    nonzero_per_layer,
    prunable_weights,
    weight_budget,
)
from evalsuite.producers.unstructured.magnitude import Lamp, Magnitude
from evalsuite.runs.code_digest import code_digest
from evalsuite.training.history import history
from evalsuite.training.hooks import Hooks
from evalsuite.types import Candidate

Network = Callable[..., nn.Module]
KINDS: tuple[Any, ...] = (LayerShuffled(), Reinitialised(), Inverted(), Inverted(of="lamp"))


def one_shot(producer: Producer, parent: nn.Module, ratio: float, context: Context) -> nn.Module:
    return copy.deepcopy(next(iter(producer.produce(parent, (ratio,), context))))


@pytest.mark.parametrize("producer", KINDS, ids=repr)
def test_ratios_are_exact(
    small_context: Context, small_parent: nn.Module, fits: list[dict[str, Any]], producer: Producer
) -> None:
    before = weights_digest(small_parent)
    for ratio, model in zip(
        (0.3, 0.8), producer.produce(small_parent, (0.3, 0.8), small_context), strict=True
    ):
        assert sum(nonzero_per_layer(model).values()) == weight_budget(
            small_parent, nonzero_budget(small_parent, ratio)
        )
        assert min(nonzero_per_layer(model).values()) > 0
    assert weights_digest(small_parent) == before
    assert [one["ratio"] for one in fits] == [0.3, 0.8]  # the other method trains nothing


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize("name", ["small-cnn", "resnet20"])
def test_shuffling_keeps_counts_and_moves_places(network: Network, small_context: Context, name: str) -> None:
    parent = network(name)
    shuffled, magnitude = (
        one_shot(one, parent, 0.7, small_context) for one in (LayerShuffled(), Magnitude())
    )
    assert nonzero_per_layer(shuffled) == nonzero_per_layer(magnitude)
    moved = [
        not torch.equal(mask, nonzero_masks(magnitude)[layer])
        for layer, mask in nonzero_masks(shuffled).items()
    ]
    assert sum(moved) >= len(moved) - 1
    for layer, weight in prunable_weights(shuffled).items():
        assert bool(((weight == 0) | (weight == prunable_weights(parent)[layer])).all())


def test_a_mask_that_cannot_be_shuffled() -> None:
    with pytest.raises(ContractError, match="shuffling changed no mask"):
        shuffle_masks(
            {"whole": torch.ones(9, dtype=torch.bool), "empty": torch.zeros(9, dtype=torch.bool)}, 0
        )
    first, again, other = (
        shuffle_masks({"half": torch.arange(64) < 32}, seed)["half"] for seed in (0, 0, 1)
    )  # fmt: skip
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.usefixtures("fits")
def test_reinitialised_weights_are_new(small_context: Context, small_parent: nn.Module) -> None:
    reinitialised, magnitude = (
        one_shot(one, small_parent, 0.7, small_context) for one in (Reinitialised(), Magnitude())
    )
    assert all(
        torch.equal(mask, nonzero_masks(magnitude)[layer])
        for layer, mask in nonzero_masks(reinitialised).items()
    )
    first = small_context.fresh()
    for layer, weight in prunable_weights(reinitialised).items():
        nonzero = weight != 0
        for other in (magnitude, first):
            assert not bool((weight[nonzero] == prunable_weights(other)[layer][nonzero]).any())
    assert weights_digest(reinitialised) == weights_digest(
        one_shot(Reinitialised(), small_parent, 0.7, small_context)
    )
    with pytest.raises(SkippedError, match="how the parent was built is unknown"):
        one_shot(Reinitialised(), small_parent, 0.7, replace(small_context, origin=None))


@pytest.mark.usefixtures("fits")
def test_inverted_keeps_the_least(small_context: Context, small_parent: nn.Module) -> None:
    inverted = one_shot(Inverted(), small_parent, 0.6, small_context)
    scores = {name: -score for name, score in magnitudes(small_parent).items()}
    expected = global_masks(
        small_parent, scores, weight_budget(small_parent, nonzero_budget(small_parent, 0.6))
    )
    assert all(torch.equal(mask, expected[layer]) for layer, mask in nonzero_masks(inverted).items())
    magnitude = one_shot(Magnitude(), small_parent, 0.6, small_context)
    sums = [sum(float(one.sum()) for one in magnitudes(model).values()) for model in (inverted, magnitude)]
    assert sums[0] < sums[1] / 2


@dataclass(frozen=True)
class TwoTrainings(Producer):
    """Prunes in a first training, and retrains in a second."""

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        for ratio in ratios:
            model = copy.deepcopy(parent)
            context.fit(model, ratio, hooks=Hooks(after_step=lambda *_: None))
            context.fit(
                model,
                ratio,
                masks=global_masks(
                    model, magnitudes(model), weight_budget(model, nonzero_budget(parent, ratio))
                ),
            )
            yield model


def test_the_other_method_prunes_but_does_not_retrain(
    small_context: Context, small_parent: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRODUCERS._loaded, "two-trainings", TwoTrainings)
    model = one_shot(LayerShuffled(of="two-trainings"), small_parent, 0.5, small_context)
    phases = [phase.what for phase in history(model) or ()]
    assert phases == ["pretraining", "pruning", "retraining"]  # the other method's, and the control's
    assert small_context._fit_counts[0.5] == 2  # two files of progress, not one


def test_a_prune_only_context_sets_masks(small_context: Context, small_parent: nn.Module) -> None:
    context = PruneOnlyContext(small_context.train, small_context.recipe, seed=0)
    model = copy.deepcopy(small_parent).train()
    masks = global_masks(model, magnitudes(model), 100)
    context.fit(model, 0.5, masks=masks)
    assert all(torch.equal(nonzero_masks(model)[name], mask) for name, mask in masks.items())
    assert not model.training
    assert history(model) == history(small_parent)


def test_dense_parents_get_the_extra_epochs(small_context: Context, small_parent: nn.Module) -> None:
    digest = weights_digest(small_parent)
    iterative = [
        copy.deepcopy(one) for one in DenseRetrained().produce(small_parent, (0.3, 0.6), small_context)
    ]
    assert [count_nonzero(one) for one in iterative] == [count_nonzero(small_parent)] * 2
    assert [len(history(one) or ()) for one in iterative] == [2, 3]
    assert len({digest, *map(weights_digest, iterative)}) == 3
    from_parent = [
        copy.deepcopy(one)
        for one in DenseRetrained(schedule="one-shot").produce(small_parent, (0.3, 0.6), small_context)
    ]
    assert [len(history(one) or ()) for one in from_parent] == [2, 2]
    assert weights_digest(from_parent[0]) == weights_digest(iterative[0])


def candidate(parent: nn.Module) -> Candidate:
    return Candidate("dense", 0, 0.0, 0.0, 0.0, cost(parent, (3, 32, 32)), weights_digest(parent), {})


@dataclass(frozen=True)
class PrunesAfterAll(DenseRetrained):
    """A method that prunes although it declares that it does not."""

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        return Magnitude().produce(parent, ratios, context)


@pytest.mark.usefixtures("fits")
def test_only_dense_methods_may_stay_at_ratio_zero(small_context: Context, small_parent: nn.Module) -> None:
    record, ratios = candidate(small_parent), (0.3, 0.6)
    assert len([*checked(DenseRetrained(), record, small_parent, ratios, small_context)]) == 2
    with pytest.raises(ContractError, match=r"^a method that prunes nothing has ratio 0\.2997, expected 0$"):
        list(checked(PrunesAfterAll(), record, small_parent, ratios, small_context))


def test_inner_producers_and_refused_controls() -> None:
    assert from_table(
        PRODUCERS, {"name": "inverted", "of": {"name": "sipp", "images": 7}}, where="x"
    ).plugin.inner_producers
    assert Inverted(of="lamp").inner_producers == (Lamp(),)
    assert LayerShuffled().inner_producers == (Magnitude(),)
    assert Magnitude().inner_producers == ()
    assert code_digest((Lamp,)) != code_digest((type(LayerShuffled(of="sipp").inner_producers[0]),))
    with pytest.raises(SuiteError, match="expected a method that prunes by itself"):
        LayerShuffled(of="reinitialised")
    with pytest.raises(SuiteError, match="expected a method that scores trained weights"):
        Inverted(of="snip")
    with pytest.raises(SuiteError, match="did you mean 'magnitude'"):
        from_table(PRODUCERS, {"name": "layer-shuffled", "of": "magnitud"}, where="x")


@pytest.mark.usefixtures("fits")
def test_smaller_networks_have_no_mask(small_context: Context, small_parent: nn.Module) -> None:
    for kind in (LayerShuffled, Reinitialised):
        with pytest.raises(SkippedError, match="the other method removes whole channels"):
            one_shot(kind(of="filter-l1"), small_parent, 0.5, small_context)
