"""Weights and an architecture to a model: resized, loaded, proven by a forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from evalsuite.errors import CheckpointError
from evalsuite.models.architectures.base import Architecture, assemble
from evalsuite.models.checkpoints.names import some
from evalsuite.models.checkpoints.reading import check_classes, load_weights, matched, read_weights
from evalsuite.models.surgery.low_rank_factors import factorise_to
from evalsuite.models.surgery.width_inference import check_widths, resize_to

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def load_candidate(
    weights: Path | Mapping[str, Tensor], architecture: Architecture, *, image_shape: Sequence[int]
) -> nn.Module:
    """Returns the model of `architecture` with somebody's weights, in evaluation mode.

    Weights with fewer channels than the architecture shrink it; a forward pass proves that they fit
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
        model = rebuilt(architecture, tensors)
    except CheckpointError as error:
        if isinstance(weights, Path):
            raise CheckpointError(f"{weights}: {error}") from error
        raise
    check_widths(model, image_shape, classes=architecture.classes)
    return model


def rebuilt(architecture: Architecture, weights: Mapping[str, Tensor]) -> nn.Module:
    """Returns the model of `architecture` with `weights`, their widths and factors, in evaluation mode.

    As `load_candidate`, without the forward pass: for weights that are known to work.

    Raises:
        CheckpointError: If the weights do not fit.
        SuiteError: If the architecture cannot be built.
    """
    with torch.random.fork_rng(devices=[]):  # the initial weights are thrown away and must cost no draw
        model = assemble(architecture)
    kept = _kept(model, weights, architecture.bypass)
    factorise_to(model, kept)
    check_classes(model, kept)
    resize_to(model, kept)
    load_weights(model, kept)
    return model.eval()


def _kept(model: nn.Module, weights: Mapping[str, Tensor], bypass: Sequence[str]) -> Mapping[str, Tensor]:
    """`weights` without those of skipped layers."""
    if not bypass:
        return weights
    skipped = tuple(f"{name}." for name in bypass)
    kept = {
        name: tensor
        for name, tensor in matched(weights, model.state_dict()).items()
        if not name.removeprefix("network.").startswith(skipped)
    }
    if not kept:
        raise CheckpointError(f"nothing is left of the weights without the layers {some(bypass)}")
    return kept
