"""Everything that a training carries from one epoch to the next: what is saved is what is here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evalsuite.errors import DataError
from evalsuite.models.inference import evaluation_mode
from evalsuite.training import progress as saving
from evalsuite.training.batches import pixels
from evalsuite.training.progress import TrainingCheckpoint
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet

ROWS = 512
"""Validation images per forward pass."""


class State:
    """Is a training under way.

    Args:
        model: What is trained.
        recipe: How.
        memory: What hooks remember; written to in place.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, memory: dict[str, Tensor]) -> None:
        self.model, self.recipe, self.memory = model, recipe, memory
        self.device = next(model.parameters()).device
        self.optimiser = optimiser(model, recipe)
        self.mean = _copied(model) if recipe.ema else {}
        self.best: dict[str, Tensor] = {}
        self.curve: list[float] = []
        self._written = time.monotonic()

    def average(self) -> None:
        """Moves the average of weights and statistics one step on; counts are copied."""
        if not self.mean:
            return
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                if value.is_floating_point():
                    self.mean[name].lerp_(value, 1 - self.recipe.ema)
                else:
                    self.mean[name].copy_(value)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Puts the averaged weights into the model for a while, if the recipe keeps an average."""
        if not self.mean:
            yield
            return
        current = _copied(self.model)
        self.model.load_state_dict(self.mean)
        try:
            yield
        finally:
            self.model.load_state_dict(current)

    def judge(self, found: float) -> None:
        """Writes down the validation accuracy of an epoch, and keeps the model if it is the best so far."""
        if self.recipe.select == "validation" and found > max(self.curve, default=-1.0):
            self.best = _copied(self.model)
        self.curve.append(found)

    def settle(self) -> None:
        """Gives the model the weights that the recipe wants kept."""
        if chosen := self.best or self.mean:
            self.model.load_state_dict(chosen)

    def saved(self, progress: TrainingCheckpoint | None, key: str, epochs: int, *, last: bool) -> None:
        """Saves how far the training is, unless little would be lost."""
        late = time.monotonic() - self._written >= saving.INTERVAL
        if progress is not None and (late or (last and progress.path.exists())):
            progress.write(key, epochs, self._tensors())
            self._written = time.monotonic()

    def resumed(self, progress: TrainingCheckpoint | None, key: str, *, otherwise: int) -> int:
        """Takes up a saved training of the same key; returns the epoch to go on with."""
        found = None if progress is None else progress.read(key)
        if found is None:
            return otherwise
        epoch, tensors = found
        self.model.load_state_dict(_part(tensors, "model"))
        self.mean = {name: value.to(self.device) for name, value in _part(tensors, "mean").items()}
        self.best = {name: value.to(self.device) for name, value in _part(tensors, "best").items()}
        self.curve = tensors["curve"].tolist()
        self.memory.clear()
        self.memory.update({name: value.to(self.device) for name, value in _part(tensors, "memory").items()})
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, "optimiser").items():
            index, _, slot = name.partition("/")
            slots.setdefault(int(index), {})[slot] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": slots, "param_groups": groups})
        return epoch

    def _tensors(self) -> dict[str, Tensor]:
        parts: dict[str, dict[str, Tensor]] = {
            "model": self.model.state_dict(),
            "mean": self.mean,
            "best": self.best,
            "memory": self.memory,
            "optimiser": {
                f"{index}/{slot}": value
                for index, slots in self.optimiser.state_dict()["state"].items()
                for slot, value in slots.items()
                if isinstance(value, Tensor)
            },
        }
        tensors = {f"{part}/{name}": value for part, found in parts.items() for name, value in found.items()}
        return {**tensors, "curve": torch.tensor(self.curve, dtype=torch.float64)}


def optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Returns the optimiser that `recipe` names, over all parameters of `model`."""
    groups = _groups(model, recipe)
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(
            groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov
        )
    kind = torch.optim.Adam if recipe.optimiser == "adam" else torch.optim.AdamW
    return kind(groups, lr=recipe.learning_rate, betas=(recipe.momentum, recipe.second_moment))


def accuracy(model: nn.Module, images: ImageSet, recipe: Recipe) -> float:
    """Returns the share of `images` that `model` classifies correctly; its mode is left as it was.

    Raises:
        DataError: If the images have no labels.
    """
    if images.labels is None:
        raise DataError(f"image set {images.name!r} has no labels: expected a labelled set to select by")
    device = next(model.parameters()).device
    right = 0
    with evaluation_mode(model), torch.inference_mode(), autocast(device, recipe):
        for start in range(0, len(images.labels), ROWS):
            rows = np.arange(start, min(start + ROWS, len(images.labels)))
            found = model(pixels(images.images, rows).to(device)).argmax(1).cpu().numpy()
            right += int((found == images.labels[rows]).sum())
    return right / len(images.labels)


def autocast(device: torch.device, recipe: Recipe) -> contextlib.AbstractContextManager[Any]:
    """Returns the context of a forward pass in the recipe's precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bfloat16")


def _groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters with their weight decay; biases and norms by themselves where they do not decay."""
    parameters = [*model.parameters()]
    if recipe.decay_norms:
        return [{"params": parameters, "weight_decay": recipe.weight_decay}]
    decayed = [one for one in parameters if one.dim() > 1]
    spared = [one for one in parameters if one.dim() <= 1]
    pairs = ((decayed, recipe.weight_decay), (spared, 0.0))
    return [{"params": some, "weight_decay": decay} for some, decay in pairs if some]


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{part}/"): value for name, value in tensors.items() if name.startswith(f"{part}/")
    }
