"""The contract of a producer, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from evalsuite.records import ImageSet
from evalsuite.training.loop import Masks, train, training_seed
from evalsuite.training.recipe import Recipe


@dataclass(frozen=True)
class Context:
    """Is what a producer may use.

    Attributes:
        train: Labelled training images.
        recipe: How to retrain.
        seed: Address of the producer's own draws: ``evalsuite.randomness.generator(context.seed, ...)``.
        previous: The last candidate of an interrupted run, at a smaller ratio than the first that is asked
            for; ``None`` at the start.
    """

    train: ImageSet
    recipe: Recipe
    seed: int
    previous: nn.Module | None = None

    def retrain(self, model: nn.Module, ratio: float, *, masks: Masks | None = None) -> None:
        """Retrains `model` in place with the recipe's full schedule; masked weights stay zero."""
        seed = training_seed(self.seed, "retrain", ratio)
        train(model, self.train, self.recipe, seed=seed, masks=masks)


class Producer(ABC):
    """Makes pruned models of a parent; derive a frozen dataclass whose fields are the keys of the suite's table."""

    @abstractmethod
    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields one pruned and retrained model for each of the rising `ratios`.

        The caller measures the ratio of what is yielded, saves it, and checks that the parent is untouched
        and that measured ratios rise. A ratio is the share of the parent's non-zero parameters, biases and
        norms included, that is gone.

        Args:
            parent: The trained network, in evaluation mode; copy it.
            ratios: Rising, in (0, 1).
            context: Training images, recipe, seed, and where to go on.

        Raises:
            UserError: If a ratio cannot be reached.
        """
