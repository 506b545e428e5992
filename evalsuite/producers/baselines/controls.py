"""Controls and baselines: what another method's masks and shapes are worth without the rest of it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from evalsuite.errors import ContractError, SkippedError, SuiteError
from evalsuite.plugin_config import from_table
from evalsuite.producers import PRODUCERS
from evalsuite.producers.at_init.scores import first_recipe
from evalsuite.producers.base import NO_HOOKS, Context, Producer
from evalsuite.producers.unstructured.global_threshold import (
    Schedule,
    Scores,
    WeightProducer,
    enforce,
    masks_of,
)
from evalsuite.random_streams import address, generator
from evalsuite.training.hooks import Hooks
from evalsuite.training.loop import Masks
from evalsuite.training.recipe import Recipe


@dataclass(frozen=True)
class Finding(Context):
    """Is the context of a method of which only masks or shapes are wanted: plain retraining is left out."""

    def fit(
        self,
        model: nn.Module,
        ratio: float,
        *,
        masks: Masks | None = None,
        recipe: Recipe | None = None,
        start: float = 0.0,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        """Trains where a hook prunes on the way; else the masks are set and that is all."""
        if hooks.phase != "retraining":
            super().fit(model, ratio, masks=masks, recipe=recipe, start=start, hooks=hooks)
        enforce(model, masks or {})
        model.eval()


@dataclass(frozen=True)
class Control(Producer):
    """Takes what another producer finds at each ratio, and trains something else with it.

    The other one prunes the parent in one shot at each ratio, and its retraining is left out, so compare
    with its one-shot schedule.

    Attributes:
        of: Name of the other producer, or its table with name and settings.
    """

    of: str | dict[str, Any] = "magnitude"

    def __post_init__(self) -> None:
        if isinstance(self.inner, Control):
            raise SuiteError(f"found a control of {self.of!r}, expected a method that prunes by itself")

    @property
    def inner(self) -> Producer:
        """The other producer."""
        return from_table(PRODUCERS, self.of, where="of").plugin

    @property
    def parts(self) -> tuple[Producer, ...]:
        """The other producer: what is found depends on its code."""
        return (self.inner,)

    def found(self, parent: nn.Module, ratio: float, context: Context) -> nn.Module:
        """Returns what the other producer makes of the parent, before it retrains."""
        given = {
            field.name: getattr(context, field.name) for field in dataclasses.fields(Context) if field.init
        }
        finding = Finding(**given | {"previous": None})
        model = copy.deepcopy(next(iter(self.inner.produce(parent, (ratio,), finding))))
        context._fits.update(finding._fits)  # later trainings keep their progress beside the finder's
        return model


@dataclass(frozen=True)
class LayerShuffled(Control):
    """Layer-shuffled mask, a control: another method's mask with its places permuted inside each layer.

    References:
        Frankle et al. 2021, arXiv 2009.08576, section 5: what is left of a method is how much each layer
        loses. The parent's weights are kept under the new mask and retrained.
    """

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models with as many weights in each layer as the other method's.

        Raises:
            SkippedError: If the other method yields a smaller network, which has no mask.
            ContractError: If no permutation changed anything.
        """
        for ratio in ratios:
            found = self.found(parent, ratio, context)
            model = copy.deepcopy(parent)
            masks = shuffled(masks_on(found, parent), context.seed, ratio)
            context.credit(model, found)
            context.retrain(model, ratio, masks=masks)
            yield model


def shuffled(masks: Masks, seed: int, *key: str | int | float) -> dict[str, Tensor]:
    """Returns each mask with its entries in another order.

    Raises:
        ContractError: If nothing changed.
    """
    mixed = {}
    for name, mask in masks.items():
        order = torch.from_numpy(generator(seed, "shuffled", name, *key).permutation(mask.numel()))
        mixed[name] = mask.flatten()[order.to(mask.device)].view_as(mask)
    if all(torch.equal(mask, mixed[name]) for name, mask in masks.items()):
        raise ContractError("shuffling changed no mask: each layer is empty, whole, or of one weight")
    return mixed


def masks_on(found: nn.Module, parent: nn.Module) -> dict[str, Tensor]:
    """Returns the masks of `found`, which must have the parent's shapes.

    Raises:
        SkippedError: If it is a smaller network.
    """
    masks = masks_of(found)
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
            SkippedError: If nobody knows the parent's architecture, or the other method has no masks.
        """
        if context.origin is None:
            raise SkippedError("nobody knows how the parent was built, so no new weights can be drawn")
        elsewhere = replace(context.origin, seed=address(context.seed, "reinitialised"))
        for ratio in ratios:
            found = self.found(parent, ratio, context)
            masks = masks_on(found, parent)
            model = elsewhere.initial()
            context.credit(model, found)
            context.fit(model, ratio, masks=masks, recipe=first_recipe(context))
            yield model


@dataclass(frozen=True)
class Inverted(WeightProducer):
    """Inverted score, a control: another method's most important weights go first.

    Attributes:
        of: Name of a producer that scores the weights of a trained network, or its table.

    References:
        A control in Frankle et al. 2021, arXiv 2009.08576. Under one global threshold; the weight that a
        layer keeps at least is the one that the other method finds least important.
    """

    of: str | dict[str, Any] = "magnitude"

    def __post_init__(self) -> None:
        if not isinstance(self.inner, WeightProducer) or isinstance(self.inner, Inverted):
            raise SuiteError(
                f"inverted: found of = {self.of!r}, expected a method that scores trained weights"
            )

    @property
    def inner(self) -> Producer:
        """The other producer."""
        return from_table(PRODUCERS, self.of, where="of").plugin

    @property
    def parts(self) -> tuple[Producer, ...]:
        """The other producer: what is found depends on its code."""
        return (self.inner,)

    def scores(self, model: nn.Module, context: Context) -> Scores:
        """Returns the other method's scores with the sign changed."""
        inner = self.inner
        assert isinstance(inner, WeightProducer)  # noqa: S101  # checked when it was made
        return {name: -score for name, score in inner.scores(model, context).items()}


@dataclass(frozen=True)
class DenseRetrained(Producer):
    """Dense parent, retrained: what more training alone does, without any pruning; its ratio is 0 everywhere.

    Attributes:
        schedule: ``iterative`` retrains once more for each ratio, as an iterative method does; ``one-shot``
            retrains the parent once for each.

    References:
        "FakeNet" of lucaslie/torchprune; control of Liebenwein et al. 2021, "Lost in Pruning".
    """

    dense: ClassVar[bool] = True
    schedule: Schedule = "iterative"

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields the parent with the extra epochs of a candidate at each of `ratios`."""
        model = copy.deepcopy(context.previous or parent)
        for ratio in ratios:
            if self.schedule == "one-shot":
                model = copy.deepcopy(parent)
            context.retrain(model, ratio, masks=masks_of(parent))
            yield model
