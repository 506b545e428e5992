"""The state of a training between epochs: weights, their average, optimiser, selection, and how it is saved."""

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
from evalsuite.training import checkpoint as checkpoints
from evalsuite.training.batches import pixels
from evalsuite.training.checkpoint import TrainingCheckpoint
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet

VALIDATION_BATCH = 512
"""Validation images per forward pass."""


_SAFE_CHANNELS = 8
"""Inputs of a strided 1x1 convolution from which on its weight gradient is sound; see `memory_format`."""


class TrainingState:
    """The state of one training.

    Args:
        model: The model that is trained, in place.
        recipe: Its recipe.
        hook_state: State of the hooks; written to in place.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, hook_state: dict[str, Tensor]) -> None:
        self.memory_format = memory_format(model)
        self.model, self.recipe, self.hook_state = model, recipe, hook_state
        self.device = next(model.parameters()).device
        self.optimiser = optimiser(model, recipe)
        self.average = _weights(model) if recipe.ema else {}
        self.best: dict[str, Tensor] = {}
        self.curve: list[float] = []
        self._saved_at = time.monotonic()

    def update_average(self) -> None:
        """Moves the exponential average of weights and statistics one step on; counts are copied."""
        if not self.average:
            return
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - self.recipe.ema)
                else:
                    self.average[name].copy_(value)

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Loads the averaged weights into the model within the block, if the recipe uses an average."""
        if not self.average:
            yield
            return
        current = _weights(self.model)
        self.model.load_state_dict(self.average)
        try:
            yield
        finally:
            self.model.load_state_dict(current)

    def record_validation(self, share: float) -> None:
        """Appends the validation accuracy of an epoch to the curve, and copies the weights if it is the best so far."""
        if self.recipe.select == "validation" and share > max(self.curve, default=-1.0):
            self.best = _weights(self.model)
        self.curve.append(share)

    def load_selected_weights(self) -> None:
        """Loads the weights that the recipe selects into the model: the best ones, the average or the last ones."""
        if selected := self.best or self.average:
            self.model.load_state_dict(selected)

    def save(self, checkpoint: TrainingCheckpoint | None, key: str, epochs: int, *, last: bool) -> None:
        """Saves the state after `epochs` epochs, unless the last saved one is recent."""
        late = time.monotonic() - self._saved_at >= checkpoints.SAVE_INTERVAL
        if checkpoint is not None and (late or (last and checkpoint.path.exists())):
            checkpoint.write(key, epochs, self._tensors())
            self._saved_at = time.monotonic()

    def resume(self, checkpoint: TrainingCheckpoint | None, key: str) -> int | None:
        """Loads the saved state of the training `key`; returns its finished epochs, or ``None`` without one."""
        saved = None if checkpoint is None else checkpoint.read(key)
        if saved is None:
            return None
        epochs, tensors = saved
        self.model.load_state_dict(_part(tensors, "model"))
        self.average = {name: value.to(self.device) for name, value in _part(tensors, "mean").items()}
        self.best = {name: value.to(self.device) for name, value in _part(tensors, "best").items()}
        self.curve = tensors["curve"].tolist()
        self.hook_state.clear()
        self.hook_state.update(
            {name: value.to(self.device) for name, value in _part(tensors, "memory").items()}
        )
        parameters: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, "optimiser").items():
            index, _, buffer = name.partition("/")
            parameters.setdefault(int(index), {})[buffer] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": parameters, "param_groups": groups})
        return epochs

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors of the state, by part and name; the names of parts are those of earlier versions' files."""
        parts: dict[str, dict[str, Tensor]] = {
            "model": self.model.state_dict(),
            "mean": self.average,
            "best": self.best,
            "memory": self.hook_state,
            "optimiser": {
                f"{index}/{buffer}": value
                for index, buffers in self.optimiser.state_dict()["state"].items()
                for buffer, value in buffers.items()
                if isinstance(value, Tensor)
            },
        }
        tensors = {
            f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()
        }
        return {**tensors, "curve": torch.tensor(self.curve, dtype=torch.float64)}


def optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Returns the optimiser that `recipe` names, over all parameters of `model`."""
    groups = _parameter_groups(model, recipe)
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
    correct = 0
    with evaluation_mode(model), torch.inference_mode(), autocast(device, recipe):
        for start in range(0, len(images.labels), VALIDATION_BATCH):
            rows = np.arange(start, min(start + VALIDATION_BATCH, len(images.labels)))
            predictions = model(pixels(images.images, rows).to(device)).argmax(1).cpu().numpy()
            correct += int((predictions == images.labels[rows]).sum())
    return correct / len(images.labels)


def autocast(device: torch.device, recipe: Recipe) -> contextlib.AbstractContextManager[Any]:
    """Returns the context of a forward pass in the recipe's precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bfloat16")


def _parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters with their weight decay; biases and norms in a group of their own where they do not decay."""
    parameters = [*model.parameters()]
    if recipe.decay_norms:
        return [{"params": parameters, "weight_decay": recipe.weight_decay}]
    decayed = [parameter for parameter in parameters if parameter.dim() > 1]
    undecayed = [parameter for parameter in parameters if parameter.dim() <= 1]
    groups = ((decayed, recipe.weight_decay), (undecayed, 0.0))
    return [{"params": group, "weight_decay": decay} for group, decay in groups if group]


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's state dict."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part, by name."""
    return {
        name.removeprefix(f"{part}/"): value for name, value in tensors.items() if name.startswith(f"{part}/")
    }


def memory_format(model: nn.Module) -> torch.memory_format:
    """Returns the layout of images that a network is trained with: channels last, which is faster.

    oneDNN (torch 2.14, one thread, processors without AVX-512) writes outside its buffer in the weight gradient of a
    strided 1x1 convolution with fewer than 8 inputs in this layout, as pruned shortcuts have them: the process dies or
    computes on. Networks with such a layer keep the usual layout.
    """
    unsafe = any(
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and max(layer.stride) > 1
        and layer.in_channels < _SAFE_CHANNELS
        for layer in model.modules()
    )
    return torch.contiguous_format if unsafe else torch.channels_last
