"""Running statistics of batch norms, estimated again for a network that has changed since they were."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from evalsuite.errors import DataError

if TYPE_CHECKING:
    from evalsuite.types import Array


def has_batch_norms(model: nn.Module) -> bool:
    """Returns whether `model` has batch norms with running statistics."""
    return bool(_batch_norms(model))


def reestimate_batch_norms(model: nn.Module, images: Array, *, batch_size: int = 200) -> nn.Module:
    """Returns a copy of `model` whose batch norms have the mean and variance of their inputs for `images`.

    In a network that lost channels without fine-tuning, the inputs of batch norms have another distribution than
    in training; their running statistics are wrong then, and no other weight need be. Each batch counts the
    same; images behind the last full batch are left out. All else stays in evaluation mode.

    Args:
        model: Takes float images in [0, 1]; it is left as it was.
        images: uint8, or float32 in [0, 1], (N, C, H, W): of the training set, never those of the test.
        batch_size: Images per batch; there should be at least two batches.

    Raises:
        DataError: If there are fewer than two images.

    References:
        Li et al. 2020, "EagleEye: fast sub-net evaluation for efficient neural network pruning", arXiv
        2007.02491, section 3.3 (adaptive batch normalization).
    """
    size = min(batch_size, len(images))
    if size < 2:
        raise DataError(
            f"found batches of {size} images, expected at least 2: a single image has no variance"
        )
    with torch.inference_mode(mode=False), torch.no_grad():
        changed = copy.deepcopy(model).eval()
        norms = _batch_norms(changed)
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over batches instead of a moving average
            norm.train()
        device = next((tensor.device for tensor in changed.parameters()), torch.device("cpu"))
        for start in range(0, len(images) - size + 1, size):
            part = np.array(images[start : start + size])  # a copy: torch must not see read-only memory
            batch = torch.from_numpy(part).to(device, torch.float32)
            changed(batch / 255 if part.dtype == np.uint8 else batch)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return changed.eval()


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [
        module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
