"""Calls into third-party code: checked inputs, a frozen model, temporary replacements of names."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from evalsuite.errors import DataError, InvalidModelError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from evalsuite.types import Array

_MISSING = object()


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Ignores the warnings that imports of third-party packages raise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def replaced(module: ModuleType, **names: Any) -> Iterator[None]:
    """Replaces names of a module for the duration of the context."""
    before = {name: vars(module).get(name, _MISSING) for name in names}
    vars(module).update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is _MISSING:
                del vars(module)[name]
            else:
                vars(module)[name] = value


@contextmanager
def frozen_eval(model: nn.Module) -> Iterator[torch.device]:
    """Freezes a model in evaluation mode for the duration of the context, and restores it.

    Inside, gradients are enabled, whatever modes the caller has set, parameters are frozen, so that attacks neither
    compute their gradients nor leave any in ``.grad``, and torch's global generators are forked.

    Yields:
        The device of the model.

    Raises:
        InvalidModelError: If the model or a part of it is in training mode.
    """
    require_eval(model)
    device = device_of(model)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.inference_mode(mode=False),
        torch.enable_grad(),
    ):
        try:
            for parameter in trainable:
                parameter.requires_grad_(False)
            yield device
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)


def require_eval(model: nn.Module) -> None:
    """Checks that no part of a model is in training mode.

    Raises:
        InvalidModelError: If one is.
    """
    training = next((name or "the model" for name, part in model.named_modules() if part.training), None)
    if training is not None:
        raise InvalidModelError(
            f"{training} is in training mode, expected evaluation mode: call model.eval()"
        )


def device_of(model: nn.Module) -> torch.device:
    """Returns the device of the first parameter or buffer of a model; the CPU if it has neither."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def unit_images(images: Tensor | Array) -> Tensor:
    """Returns images as float32 in [0, 1], shape (N, C, H, W).

    Args:
        images: uint8 in 0..255 or floating point in [0, 1], shape (N, C, H, W), possibly memory-mapped.

    Raises:
        DataError: If they are anything else, or if there are none.
    """
    # numpy arrays are copied: torch warns of read-only ones, and memory-mapped ones are
    tensor = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
    if tensor.ndim != 4 or tensor.shape[0] == 0:
        raise DataError(
            f"images have shape {tuple(tensor.shape)}, expected (N, C, H, W) with at least one image"
        )
    if tensor.dtype == torch.uint8:
        return tensor.float() / 255
    if not tensor.is_floating_point():
        raise DataError(f"images are {tensor.dtype}, expected uint8 in 0..255 or floating point in [0, 1]")
    low, high = (float(end) for end in tensor.aminmax())
    if not (low >= 0 and high <= 1):  # NaN fails this too
        raise DataError(
            f"images range over [{low:g}, {high:g}], expected [0, 1]: models do their own normalisation, "
            "so divide by 255 or drop the normalisation from the data"
        )
    return tensor.float()


def class_labels(labels: Tensor | Array, *, count: int) -> Tensor:
    """Returns labels as int64, shape (N,).

    Raises:
        DataError: If they are not whole numbers from 0 on, or not `count` of them.
    """
    tensor = labels if isinstance(labels, Tensor) else torch.from_numpy(np.array(labels))
    if tensor.shape != (count,):
        raise DataError(f"labels have shape {tuple(tensor.shape)}, expected one per image: ({count},)")
    if tensor.is_floating_point() or tensor.is_complex() or bool((tensor < 0).any()):
        raise DataError(f"labels are {tensor.dtype}, expected class numbers 0, 1, ...")
    return tensor.long()


def logits_of(model: nn.Module, images: Tensor, *, labels: Tensor) -> Tensor:
    """Returns a model's logits without gradients, checked.

    Returns:
        Shape (N, K).

    Raises:
        InvalidModelError: If they are not finite or not of shape (N, K).
        DataError: If a label is not below K.
    """
    with torch.no_grad():
        logits: Tensor = model(images)
    if logits.ndim != 2 or logits.shape[0] != len(images):
        raise InvalidModelError(
            f"the model returned shape {tuple(logits.shape)}, expected logits of shape ({len(images)}, K)"
        )
    if not bool(logits.isfinite().all()):  # argmax takes NaN for class 0: every attack would seem to succeed
        raise InvalidModelError("the model returned logits that are not finite, expected finite ones")
    if int(labels.max()) >= logits.shape[1]:
        raise DataError(
            f"found label {int(labels.max())}, expected labels below the {logits.shape[1]} classes"
        )
    return logits
