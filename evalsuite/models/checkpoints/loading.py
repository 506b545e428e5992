"""Models from weights and an architecture: resized to the weights, loaded, verified by a forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from evalsuite.errors import CheckpointError, first_few
from evalsuite.models.architectures.base import Architecture, build_model, unwrap_model
from evalsuite.models.checkpoints.reading import check_class_count, load_weights, read_weights
from evalsuite.models.checkpoints.state_dict_keys import match_keys
from evalsuite.models.checkpoints.training_state import without_training_state
from evalsuite.models.surgery.attention import attention_modules
from evalsuite.models.surgery.head_counts import infer_head_counts
from evalsuite.models.surgery.low_rank_factors import factorize_like
from evalsuite.models.surgery.width_inference import check_widths, resize_like

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def load_candidate(
    weights: Path | Mapping[str, Tensor], architecture: Architecture, *, image_shape: Sequence[int]
) -> nn.Module:
    """Returns the model of `architecture` with a candidate's weights, in evaluation mode.

    Weights with fewer channels than the architecture shrink it; a forward pass verifies that they fit
    together. Torch's global random state is left as it was.

    Args:
        weights: A file for `read_weights`, or what that returned.
        architecture: What the weights were trained as; its `bypass` names layers to skip, whose weights are
            left out. See `evalsuite.models.architectures.uris` and
            `evalsuite.models.checkpoints.architecture_detection`.
        image_shape: Of one image of the data set, (C, H, W).

    Raises:
        CheckpointError: If the file cannot be read, or its weights do not fit; the sentence names the first
            layer that does not.
        SuiteError: If the architecture cannot be built.
    """
    tensors = read_weights(weights) if isinstance(weights, Path) else weights
    if len(architecture.mean) != image_shape[0]:
        raise CheckpointError(
            f"the model takes images of {len(architecture.mean)} channels (its mean has as many numbers), "
            f"those of the data set have {image_shape[0]}: give mean and std for each channel"
        )
    try:
        model = build_with_weights(architecture, tensors)
    except CheckpointError as error:
        if isinstance(weights, Path):
            raise CheckpointError(f"{weights}: {error}") from error
        raise
    check_widths(model, image_shape, classes=architecture.classes)
    return model


def build_with_weights(architecture: Architecture, weights: Mapping[str, Tensor]) -> nn.Module:
    """Returns the model of `architecture` with `weights`, their widths and factors, in evaluation mode.

    As `load_candidate`, without the forward pass: for weights that have passed it before.

    Raises:
        CheckpointError: If the weights do not fit.
        SuiteError: If the architecture cannot be built.
    """
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten and must cost no draw
        model = build_model(architecture)
    weights, _ = without_training_state(weights, unwrap_model(model).state_dict())
    remaining = _without_bypassed(model, weights, architecture.bypass)
    factorize_like(model, remaining)
    check_class_count(model, remaining)
    stated = attention_modules(unwrap_model(model)) if architecture.num_heads else architecture.heads
    infer_head_counts(unwrap_model(model), remaining, stated)
    resize_like(model, remaining)
    load_weights(model, remaining)
    return model.eval()


def _without_bypassed(
    model: nn.Module, weights: Mapping[str, Tensor], bypass: Sequence[str]
) -> Mapping[str, Tensor]:
    """Returns `weights` without those of skipped layers."""
    if not bypass:
        return weights
    skipped = tuple(f"{name}." for name in bypass)
    remaining = {
        name: tensor
        for name, tensor in match_keys(weights, model.state_dict()).items()
        if not name.removeprefix("network.").startswith(skipped)
    }
    if not remaining:
        raise CheckpointError(f"nothing is left of the weights without the layers {first_few(bypass)}")
    return remaining
