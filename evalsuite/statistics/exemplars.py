"""Pruning-identified exemplars (PIE): images whose most frequent prediction over many networks changes with pruning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evalsuite.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evalsuite.types import Array


def pruning_identified_exemplars(dense: Array, pruned: Array) -> NDArray[np.bool_]:
    """Returns whether each image is a pruning-identified exemplar: the populations' modal predictions differ.

    A class is modal if no other is predicted by more networks. Published populations have 30 networks, and the
    publication does not define ties; with a few seeds they are common. Here an image is an exemplar only if no class
    is modal in both populations, so that ties make none. With one seed these are the images on which the two networks
    disagree.

    Args:
        dense: Predicted classes of the unpruned networks, int (S, N), a row per seed.
        pruned: Of the pruned networks at one ratio, int (T, N), for the same images in the same order.

    Returns:
        bool (N,).

    Raises:
        DataError: If a population is empty, or they do not have the same images, or hold no classes.

    References:
        Hooker et al. 2019, "What do compressed deep neural networks forget?", arXiv 1911.05248, section 3.2.

    >>> dense, pruned = np.array([[0, 1], [0, 1], [0, 2]]), np.array([[0, 2], [1, 2], [0, 1]])
    >>> pruning_identified_exemplars(dense, pruned).tolist()
    [False, True]
    """
    before, after = np.asarray(dense), np.asarray(pruned)
    for array in (before, after):
        if array.ndim != 2 or not array.size or not np.issubdtype(array.dtype, np.integer) or array.min() < 0:
            raise DataError(
                f"found predictions of shape {array.shape} and type {array.dtype}, expected a class from 0 on for each "
                "network and image, (networks, images)"
            )
    if before.shape[1] != after.shape[1]:
        raise DataError(
            f"found predictions for {before.shape[1]} and for {after.shape[1]} images, expected the same images"
        )
    classes = int(max(before.max(), after.max())) + 1
    shared = _modal(before, classes) & _modal(after, classes)
    return np.asarray(~shared.any(axis=1))


def _modal(predictions: Array, classes: int) -> NDArray[np.bool_]:
    """Whether each class is modal for each image, (N, K)."""
    images = predictions.shape[1]
    bins = predictions + classes * np.arange(images)
    counts = np.bincount(bins.ravel(), minlength=classes * images).reshape(images, classes)
    modal: NDArray[np.bool_] = counts == counts.max(axis=1, keepdims=True)
    return modal
