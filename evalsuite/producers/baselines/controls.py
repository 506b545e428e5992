"""Controls: what another method's masks are worth without its criterion, and retraining without any pruning."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn

from evalsuite.errors import ContractError, SkippedError, SuiteError
from evalsuite.plugin_config import from_table
from evalsuite.producers import PRODUCERS
from evalsuite.producers.base import NO_HOOKS, Context, FitOptions, Producer
from evalsuite.producers.unstructured.base import (
    PruningSchedule,
    WeightProducer,
    WeightScores,
    apply_masks,
    nonzero_masks,
)
from evalsuite.random_streams import address, generator
from evalsuite.training.loop import Masks


@dataclass(frozen=True)
class PruneOnlyContext(Context):
    """The context of a method of which only masks or shapes are used: plain retraining is left out."""

    def fit(self, model: nn.Module, ratio: float, **options: Unpack[FitOptions]) -> None:
        """Trains where a hook prunes during the training; else the masks are set and nothing is trained."""
        if options.get("hooks", NO_HOOKS).phase != "retraining":
            super().fit(model, ratio, **options)
        apply_masks(model, options.get("masks") or {})
        model.eval()


@dataclass(frozen=True)
class OfAnother:
    """The part of a producer that uses another one.

    Attributes:
        of: Name of the other producer, or its table with name and settings.
    """

    of: str | dict[str, Any] = "magnitude"

    @property
    def inner(self) -> Producer:
        """The other producer."""
        return from_table(PRODUCERS, self.of, where="of").plugin

    @property
    def inner_producers(self) -> tuple[Producer, ...]:
        """The other producer: the masks depend on its code."""
        return (self.inner,)


@dataclass(frozen=True)
class Control(OfAnother, Producer):
    """A method that takes what another producer finds at each ratio, and trains something else with it.

    The other one prunes the parent in one shot at each ratio, and its retraining is left out, so compare
    with its one-shot schedule.

    Attributes:
        of: Name of the other producer, or its table with name and settings.
    """

    def __post_init__(self) -> None:
        if isinstance(self.inner, Control):
            raise SuiteError(f"found a control of {self.of!r}, expected a method that prunes by itself")

    def pruned(self, parent: nn.Module, ratio: float, context: Context) -> nn.Module:
        """Returns what the other producer makes of the parent, before it retrains."""
        fields = [field.name for field in dataclasses.fields(Context) if field.init]
        arguments = {name: getattr(context, name) for name in fields}
        prune_only = PruneOnlyContext(**arguments | {"previous": None})
        model = copy.deepcopy(next(iter(self.inner.produce(parent, (ratio,), prune_only))))
        context._fit_counts.update(prune_only._fit_counts)  # later trainings save their progress beside these
        return model


@dataclass(frozen=True)
class LayerShuffled(Control):
    """Layer-shuffled mask, a control: another method's mask with its places permuted inside each layer.

    References:
        Frankle et al. 2021, arXiv 2009.08576, section 5: all that remains of a method is how much each
        layer loses. The parent's weights are kept under the new mask and retrained.
    """

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models with as many weights in each layer as the other method's.

        Raises:
            SkippedError: If the other method yields a smaller network, which has no mask.
            ContractError: If no permutation changed anything.
        """
        for ratio in ratios:
            pruned = self.pruned(parent, ratio, context)
            model = copy.deepcopy(parent)
            masks = shuffle_masks(masks_for_parent(pruned, parent), context.seed, ratio)
            context.inherit_history(model, pruned)
            context.retrain(model, ratio, masks=masks)
            yield model


def shuffle_masks(masks: Masks, seed: int, *key: str | int | float) -> dict[str, Tensor]:
    """Returns each mask with its entries in another order.

    Raises:
        ContractError: If nothing changed.
    """
    shuffled = {}
    for name, mask in masks.items():
        order = torch.from_numpy(generator(seed, "shuffled", name, *key).permutation(mask.numel()))
        shuffled[name] = mask.flatten()[order.to(mask.device)].view_as(mask)
    if all(torch.equal(mask, shuffled[name]) for name, mask in masks.items()):
        raise ContractError("shuffling changed no mask: each layer is empty, dense, or of one weight")
    return shuffled


def masks_for_parent(pruned: nn.Module, parent: nn.Module) -> dict[str, Tensor]:
    """Returns the masks of `pruned`, which must have the parent's shapes.

    Raises:
        SkippedError: If it is a smaller network.
    """
    masks = nonzero_masks(pruned)
    if any(mask.shape != parent.get_parameter(name).shape for name, mask in masks.items()):
        raise SkippedError(
            "this control permutes or fills a mask, but the other method removes whole channels; "
            "use 'scratch-e' or 'scratch-b' for it"
        )
    return masks


@dataclass(frozen=True)
class Reinitialised(Control):
    """Re-initialised mask, a control: another method's mask on newly drawn first weights, trained once.

    References:
        Frankle and Carbin 2019, arXiv 1803.03635, "random reinit"; Frankle et al. 2021, arXiv 2009.08576.
        The architecture's own initialisation, another draw than the parent's, and the parent's recipe.
    """

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models with the other method's masks.

        Raises:
            SkippedError: If the parent's architecture is unknown, or the other method has no masks.
        """
        redrawn = replace(context.known_origin, seed=address(context.seed, "reinitialised"))
        for ratio in ratios:
            pruned = self.pruned(parent, ratio, context)
            masks = masks_for_parent(pruned, parent)
            model = redrawn.initial()
            context.inherit_history(model, pruned)
            context.fit(model, ratio, masks=masks, recipe=context.parent_recipe)
            yield model


@dataclass(frozen=True)
class Inverted(OfAnother, WeightProducer):
    """Inverted score, a control: another method's most important weights are pruned first.

    Attributes:
        of: Name of a producer that scores the weights of a trained network, or its table.

    References:
        A control in Frankle et al. 2021, arXiv 2009.08576. Under one global threshold; the weight that a
        layer keeps at least is the one that the other method finds least important.
    """

    def __post_init__(self) -> None:
        if not isinstance(self.inner, WeightProducer) or isinstance(self.inner, Inverted):
            raise SuiteError(
                f"inverted: found of = {self.of!r}, expected a method that scores trained weights"
            )

    def scores(self, model: nn.Module, context: Context) -> WeightScores:
        """Returns the other method's scores with the sign changed."""
        inner = self.inner
        assert isinstance(inner, WeightProducer)  # noqa: S101  # checked when it was made
        return {name: -score for name, score in inner.scores(model, context).items()}


@dataclass(frozen=True)
class DenseRetrained(Producer):
    """Dense parent, retrained: the effect of more training alone, without any pruning; its ratio is 0 everywhere.

    Attributes:
        schedule: ``iterative`` retrains once more for each ratio, as an iterative method does; ``one-shot``
            retrains the parent once for each.

    References:
        "FakeNet" of lucaslie/torchprune; control of Liebenwein et al. 2021, "Lost in Pruning".
    """

    dense: ClassVar[bool] = True
    schedule: PruningSchedule = "iterative"

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields the parent with the extra epochs of a candidate at each of `ratios`."""
        model = copy.deepcopy(context.previous or parent)
        for ratio in ratios:
            if self.schedule == "one-shot":
                model = copy.deepcopy(parent)
            context.retrain(model, ratio, masks=nonzero_masks(parent))
            yield model
