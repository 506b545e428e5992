from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from evalsuite.datasets import DATASETS
from evalsuite.datasets.base import DataSet, Place, load_checked
from evalsuite.datasets.digits import Digits
from evalsuite.datasets.outliers import LETTERS, GaussianNoise, Letters, Photographs, UniformNoise
from evalsuite.errors import DataError
from evalsuite.types import Array, Split

MADE: dict[str, Callable[..., DataSet]] = {
    "photographs": Photographs,
    "letters": Letters,
    "uniform-noise": UniformNoise,
    "gaussian-noise": GaussianNoise,
}


def images(name: str, **settings: int) -> Array:
    return load_checked(MADE[name](**settings), "test", Place()).images


@pytest.mark.parametrize("name", MADE)
class TestEverySet:
    def test_holds_images_without_labels_under_its_registered_name(self, name: str) -> None:
        assert DATASETS.get(name) is MADE[name]
        found = load_checked(MADE[name](count=24), "test", Place())
        assert (found.name, found.labels, found.classes) == (name, None, 0)
        assert found.images.shape == (24, 3, 32, 32)
        assert found.images.dtype == np.uint8

    def test_is_the_same_every_time_and_longer_sets_go_on(self, name: str) -> None:
        few, more = images(name, count=24), images(name, count=48)
        np.testing.assert_array_equal(few, images(name, count=24))
        np.testing.assert_array_equal(few, more[:24])
        assert len(np.unique(more.reshape(48, -1), axis=0)) == 48  # no image comes twice

    def test_does_not_depend_on_the_seed_of_the_run(self, name: str) -> None:
        other = MADE[name](count=4).load("test", Place(seed=7)).images
        np.testing.assert_array_equal(other, images(name, count=4))

    @pytest.mark.parametrize("split", ["train", "validation"])
    def test_has_test_images_only(self, name: str, split: Split) -> None:
        with pytest.raises(
            DataError, match=rf"^data set '{name}' has no split '{split}': it is out of distribution"
        ):
            MADE[name](count=4).load(split, Place())

    @pytest.mark.parametrize("count", [0, -3])
    def test_needs_images(self, name: str, count: int) -> None:
        with pytest.raises(
            DataError, match=rf"^data set '{name}': found count = {count}, expected at least one"
        ):
            MADE[name](count=count).load("test", Place())


def test_letters_look_like_digits_and_are_none() -> None:
    assert set("IO").isdisjoint(LETTERS)
    assert len(LETTERS) == 24
    letters = images("letters", count=240)
    assert (letters == letters[:, :1]).all()  # grey
    digits = Digits().load("test", Place()).images
    assert 0.5 < letters.mean() / digits.mean() < 1.5  # about as much ink
    assert letters[:, :, :1].mean() < 40  # and no ink at the border
    same = letters[::24].astype(float)  # ten times the letter A: alike, but not equal
    assert (
        np.corrcoef(same.reshape(10, -1))[0, 1:].mean()
        > np.corrcoef(letters[:10].reshape(10, -1))[0, 1:].mean()
    )


def test_photographs_are_colour_patches_of_two_pictures() -> None:
    patches = images("photographs", count=40).astype(float)
    assert (patches != patches[:, :1]).any(axis=(1, 2, 3)).all()
    assert abs(patches[::2].mean() - patches[1::2].mean()) > 10  # they alternate


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    # U(0..255): 127.5 and sqrt((256^2 - 1) / 12); N(127.5, 63.75^2) clipped at two sigma has std 0.9594 sigma
    [("uniform-noise", 127.5, 73.9), ("gaussian-noise", 127.5, 61.2)],
)
def test_noise_has_its_moments(name: str, mean: float, std: float) -> None:
    values = images(name, count=100).astype(float)
    assert values.mean() == pytest.approx(mean, abs=0.5)
    assert values.std() == pytest.approx(std, rel=0.01)
    assert (values.min(), values.max()) == (0, 255)
    neighbours = np.corrcoef(values[..., :-1].ravel(), values[..., 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.01
