"""Test images in stages: an order of which every beginning represents the classes, and the image sets of a stage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from evalsuite.datasets.base import Place
from evalsuite.datasets.digits import Digits
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.stages import StageSource, is_staged_view, stratified_order
from evalsuite.datasets.transforms.corruption import Corruption
from evalsuite.datasets.transforms.noise import RandomNoise
from evalsuite.datasets.views import View
from evalsuite.errors import ContractError
from evalsuite.types import Array


@pytest.fixture(scope="module")
def whole() -> ImageSource:
    return ImageSource(Digits(), Place(seed=3))


def stages(whole: ImageSource) -> list[StageSource]:
    order = stratified_order(whole.images(View()).labels, 899, 3, "stages")
    return [StageSource(whole, rows, stage) for stage, rows in enumerate(np.split(order, [225, 450]))]


def test_every_beginning_has_the_classes_in_their_shares() -> None:
    labels = np.random.default_rng(0).choice(5, 1000, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    shares = np.bincount(labels) / 1000
    order = stratified_order(labels, 1000, 7)
    assert sorted(order.tolist()) == list(range(1000))
    for n in (20, 125, 250, 500, 999):
        counts = np.bincount(labels[order[:n]], minlength=5)
        assert (np.abs(counts - n * shares) <= 1 + 1e-9).all()
    assert not np.array_equal(order, stratified_order(labels, 1000, 8))
    np.testing.assert_array_equal(order, stratified_order(labels, 1000, 7))
    assert sorted(stratified_order(None, 50, 0).tolist()) == list(range(50))


def test_rows_of_a_class_are_in_random_order() -> None:
    """Not in that of the file, where images that were taken one after another may be alike."""
    order = stratified_order(np.repeat([0, 1], 500), 1000, 0)
    of_first = order[order < 500]
    assert abs(np.corrcoef(np.arange(500), of_first)[0, 1]) < 0.2


def test_stages_are_the_images_once_each(whole: ImageSource) -> None:
    parts = [source.images(View()) for source in stages(whole)]
    rows = np.concatenate([source.rows for source in stages(whole)])
    images = whole.images(View())
    np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), images.images[rows])
    assert images.labels is not None
    np.testing.assert_array_equal(np.concatenate([part.labels for part in parts]), images.labels[rows])
    assert len({source.digest(View()) for source in stages(whole)}) == 3


@pytest.mark.parametrize("transform", [Corruption("fog", 3), RandomNoise("uniform", 32.0, 0)])
def test_each_stage_draws_its_own_changes_and_draws_them_again(
    whole: ImageSource, transform: Corruption | RandomNoise
) -> None:
    view = View(transform=transform)

    def change(source: ImageSource) -> Array:
        return source.images(view).images[:64].astype(float) - source.images(View()).images[:64]

    first, again = stages(whole), stages(whole)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.images(view).images, other.images(view).images)
        assert one.digest(view) == other.digest(view)
        assert one.condition(view) == whole.condition(view)
    assert len({source.digest(view) for source in (whole, *first)}) == 4
    assert not np.array_equal(change(first[0]), change(first[1]))


UNSTAGED: list[Callable[[], View]] = [
    lambda: View(split="validation"),
    lambda: View(data="letters"),
    lambda: View(first=10),
]


@pytest.mark.parametrize("view", UNSTAGED)
def test_other_image_sets_have_no_stages(whole: ImageSource, view: Callable[[], View]) -> None:
    assert not is_staged_view(view())
    with pytest.raises(ContractError, match="not shown in stages"):
        stages(whole)[0].images(view())
