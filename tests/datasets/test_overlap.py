"""Images that two sets share, by hand."""

from __future__ import annotations

import numpy as np

from evalsuite.datasets.overlap import count_shared


def test_equal_pixels_are_counted_once_for_each_image() -> None:
    images = np.arange(5 * 12, dtype=np.uint8).reshape(5, 3, 2, 2)
    others = np.concatenate([images[[1, 1, 4]], np.full((1, 3, 2, 2), 255, np.uint8)])
    assert count_shared(images, others) == 2
    assert count_shared(others, images) == 3  # both copies of image 1
    assert count_shared(images, others.astype(np.float32)) == 0
    assert count_shared(images, others[:, :1]) == 0
