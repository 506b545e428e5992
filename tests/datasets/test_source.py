from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evalsuite.datasets import DATASETS, shared_cache, source
from evalsuite.datasets.base import Place
from evalsuite.datasets.digits import Digits
from evalsuite.datasets.outliers import Letters
from evalsuite.datasets.shared_cache import SharedArrayCache
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.transforms.common_corruptions.kinds import corrupt
from evalsuite.datasets.transforms.corruption import Corruption, frost_textures
from evalsuite.datasets.transforms.noise import RandomNoise
from evalsuite.datasets.views import Transform, View
from evalsuite.errors import DataError, UnknownNameError
from evalsuite.types import Array, ImageSet

FOG = View(transform=Corruption("fog", 3))
NOISE = View(transform=RandomNoise("uniform", 8.0))
rng = np.random.default_rng(0)
IMAGES = ImageSet("mine", rng.integers(0, 256, (70, 3, 16, 16), dtype=np.uint8), np.arange(70) % 10, 10)


def image_source(*, seed: int = 0, root: Path | None = None, **changes: Any) -> ImageSource:
    return ImageSource(replace(IMAGES, **changes), Place(root=root, seed=seed))


@dataclass
class Inverted(Transform):
    """Counts how often it is applied."""

    calls: int = 0

    def name(self, place: Place) -> str:  # noqa: ARG002  # the same everywhere
        return "inverted"

    def apply(self, images: Array, place: Place) -> Array:  # noqa: ARG002  # nothing is drawn
        self.calls += 1
        return 255 - images

    __hash__ = object.__hash__


@pytest.fixture
def textures(tmp_path: Path) -> Iterator[Path]:
    """A data root with six photographs of frost, numbered by their grey."""
    (tmp_path / "frost").mkdir()
    for number in range(1, 7):
        Image.new("RGB", (200, 150), (30 * number,) * 3).save(tmp_path / "frost" / f"frost{number}.png")
    frost_textures.cache_clear()
    yield tmp_path
    frost_textures.cache_clear()


def test_a_view_is_a_split_of_the_suites_data_or_a_registered_set_without_labels() -> None:
    image_sets = ImageSource(Digits(), Place())
    assert image_sets.images(View()) is image_sets.images(View())  # loaded once
    assert len(image_sets.images(View(split="train")).images) == 718
    letters = image_sets.images(View(data="letters"))
    np.testing.assert_array_equal(letters.images, Letters().load("test", Place()).images)
    digits = image_sets.images(View(data="digits"))  # a labelled set that serves as outliers loses its labels
    assert (digits.labels, digits.classes) == (None, 0)


class TestLabelled:
    def test_sets_keep_their_labels_and_others_lose_them(self) -> None:
        image_sets = ImageSource(Digits(), Place())
        suite_images, other = image_sets.images(View()), image_sets.images(View(data="digits", labelled=True))
        np.testing.assert_array_equal(other.labels, suite_images.labels)
        assert other.classes == 10
        assert image_sets.images(View(data="digits")).labels is None
        assert image_sets.digest(View(data="digits", labelled=True)) != image_sets.digest(View(data="digits"))
        few = image_sets.images(View(data="digits", labelled=True, first=9))
        assert few.labels is not None
        assert (len(few.images), len(few.labels)) == (9, 9)

    @pytest.mark.parametrize(
        ("data", "changes", "sentence"),
        [
            ("letters", {"images": np.zeros((70, 3, 32, 32), np.uint8)}, "data set 'letters': found no labels and"),
            ("digits", {}, r"data set 'digits': found 10 classes and images of shape \(3, 32, 32\), expected the 10 "
             r"classes and the shape \(3, 16, 16\) of 'mine'"),
            ("digits", {"images": np.zeros((70, 3, 32, 32), np.uint8), "classes": 11}, "found 10 classes .* the 11 "),
        ],
        ids=["no labels", "other size", "other classes"],
    )  # fmt: skip
    def test_sets_have_the_classes_and_the_shape_of_the_suites_images(
        self, data: str, changes: dict[str, Any], sentence: str
    ) -> None:
        with pytest.raises(DataError, match=sentence):
            image_source(**changes).images(View(data=data, labelled=True))

    def test_folders_of_arrays_end_with_a_slash(self, tmp_path: Path) -> None:
        (tmp_path / "ours").mkdir()
        np.save(tmp_path / "ours" / "test_images.npy", IMAGES.images.transpose(0, 2, 3, 1)[::-1])
        np.save(tmp_path / "ours" / "test_labels.npy", np.arange(70)[::-1] % 10)
        view = View(data="ours/", labelled=True)
        image_sets = image_source(root=tmp_path)
        np.testing.assert_array_equal(image_sets.images(view).images, IMAGES.images[::-1])
        np.testing.assert_array_equal(image_sets.images(view).labels, np.arange(70)[::-1] % 10)
        assert image_sets.condition(view) == "ours"
        assert image_sets.images(View(data="ours/")).labels is None
        with pytest.raises(DataError, match=r"found none of theirs/test_images\.npy"):
            image_sets.images(View(data="theirs/", labelled=True))


@pytest.mark.parametrize(
    ("view", "condition"),
    [
        (View(), "clean"),
        (View(split="validation"), "clean"),
        (View(data="letters"), "letters"),
        (FOG, "fog/3"),
        (View(transform=Corruption("frost", 2)), "frost-synthetic/2"),
        (View(transform=RandomNoise("uniform", 8.0)), "uniform/8:255"),
        (View(transform=RandomNoise("uniform", 0.5)), "uniform/0.5:255"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_conditions_have_names(view: View, condition: str) -> None:
    assert image_source().condition(view) == condition
    if view.transform is not None:
        assert image_source().images(view).name == condition


def test_a_corruption_is_drawn_with_the_seed_of_the_run() -> None:
    for seed in (0, 3):
        expected = corrupt(IMAGES.images, "fog", 3, seed=seed)
        fog = image_source(seed=seed).images(FOG)
        np.testing.assert_array_equal(fog.images, expected)
        assert fog.labels is IMAGES.labels


def test_transforms_are_computed_once_while_memory_lasts_and_again_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = View(transform=Inverted()), View(transform=Inverted())
    monkeypatch.setattr(source, "MEMORY_BUDGET", IMAGES.images.nbytes)  # enough for one transformed set
    image_sets = image_source()
    for view, calls in ((first, 1), (second, 3)):
        results = [image_sets.images(view).images for _ in range(3)]
        assert view.transform == Inverted(calls)
        for images in results:
            np.testing.assert_array_equal(images, 255 - IMAGES.images)


@pytest.mark.parametrize("view", [FOG, NOISE], ids=["fog", "noise"])
def test_a_full_memory_changes_no_pixel(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = image_source().images(view).images
    monkeypatch.setattr(source, "MEMORY_BUDGET", 0)
    full = image_source()
    for _ in range(2):
        np.testing.assert_array_equal(full.images(view).images, expected)


class TestUniformNoise:
    @pytest.mark.parametrize("epsilon", [2.0, 64.0])
    def test_is_uniform_within_epsilon_and_clipped_to_the_unit(self, epsilon: float) -> None:
        grey = np.full((70, 3, 16, 16), 128, np.uint8)
        noisy = RandomNoise("uniform", epsilon).apply(grey, Place())
        assert noisy.dtype == np.float32
        offset = (noisy.astype(np.float64) - 128 / 255) * 255 / epsilon
        assert np.abs(offset).max() <= 1 + 1e-4
        assert offset.std() == pytest.approx(1 / np.sqrt(3), rel=0.01)
        assert abs(offset.mean()) < 0.01
        ends = RandomNoise("uniform", epsilon).apply(
            np.where(grey[:, :, :, :] > 0, np.uint8(255), grey), Place()
        )
        assert ends.max() == 1
        assert 0.45 < (ends == 1).mean() < 0.55  # what would leave the unit is cut off

    def test_of_an_image_depends_on_its_index_alone(self) -> None:
        noise = RandomNoise("uniform", 8.0)
        noisy = noise.apply(IMAGES.images, Place())
        np.testing.assert_array_equal(noise.apply(IMAGES.images[:66], Place()), noisy[:66])
        assert not np.array_equal(noise.apply(IMAGES.images[::-1].copy(), Place())[::-1], noisy)
        grey = np.full_like(IMAGES.images, 128)
        drawn = noise.apply(grey, Place())
        assert len(np.unique(drawn.reshape(70, -1), axis=0)) == 70

    def test_depends_on_seed_and_epsilon(self) -> None:
        grey = np.full_like(IMAGES.images, 128)
        base = RandomNoise("uniform", 8.0).apply(grey, Place()) - np.float32(128 / 255)
        assert not np.allclose(
            RandomNoise("uniform", 8.0).apply(grey, Place(seed=1)) - np.float32(128 / 255), base
        )
        assert not np.allclose(
            (RandomNoise("uniform", 16.0).apply(grey, Place()) - np.float32(128 / 255)) / 2, base
        )

    def test_integers_are_the_same_view_and_the_same_noise(self) -> None:
        assert View(transform=RandomNoise("uniform", 8)) == NOISE
        np.testing.assert_array_equal(
            RandomNoise("uniform", 8).apply(IMAGES.images, Place()),
            RandomNoise("uniform", 8.0).apply(IMAGES.images, Place()),
        )

    def test_of_float_images_is_that_of_bytes(self) -> None:
        floats = (IMAGES.images / np.float32(255)).astype(np.float32)
        np.testing.assert_allclose(
            RandomNoise("uniform", 8.0).apply(floats, Place()),
            RandomNoise("uniform", 8.0).apply(IMAGES.images, Place()),
            atol=1e-7,
        )


class TestDigest:
    def test_is_the_same_for_the_same_pixels(self) -> None:
        for view in (View(), FOG, NOISE):
            assert image_source().digest(view) == image_source(images=IMAGES.images.copy()).digest(view)

    def test_differs_where_anything_differs(self) -> None:
        other = IMAGES.images.copy()
        other[69, 2, 15, 15] ^= 1
        digests = [
            *(
                image_sets.digest(view)
                for image_sets in (image_source(), image_source(images=other))
                for view in (View(), FOG, NOISE)
            ),
            *(image_source(seed=1).digest(view) for view in (FOG, NOISE)),
            image_source(labels=(np.arange(70) + 1) % 10).digest(View()),
            image_source().digest(View(transform=Corruption("fog", 4))),
            image_source().digest(View(transform=Corruption("snow", 3))),
            image_source().digest(View(transform=RandomNoise("uniform", 9.0))),
            image_source().digest(View(data="letters")),
        ]
        assert len(set(digests)) == len(digests)

    def test_of_clean_images_does_not_depend_on_the_seed(self) -> None:
        assert image_source(seed=0).digest(View()) == image_source(seed=1).digest(View())

    def test_of_frost_depends_on_its_photographs(self, textures: Path) -> None:
        frost, fog = View(transform=Corruption("frost", 3)), FOG
        before = [image_source(root=textures).digest(view) for view in (frost, fog)]
        assert before[0] != image_source().digest(frost)
        Image.new("RGB", (200, 150), (200, 10, 10)).save(textures / "frost" / "frost3.png")
        frost_textures.cache_clear()
        after = [image_source(root=textures).digest(view) for view in (frost, fog)]
        assert after[0] != before[0]
        assert after[1] == before[1]


def test_photographs_of_frost_are_the_first_five_of_the_data_root(textures: Path) -> None:
    (textures / "frost" / "readme.txt").write_text("not a picture")
    photographs = frost_textures(textures)
    assert [int(photograph[0, 0, 0]) for photograph in photographs] == [30, 60, 90, 120, 150]
    assert {photograph.shape for photograph in photographs} == {(150, 200, 3)}
    place = Place(root=textures)
    assert Corruption("frost", 3).name(place) == "frost/3"
    expected = corrupt(IMAGES.images, "frost", 3, seed=0, textures=photographs)
    np.testing.assert_array_equal(
        image_source(root=textures).images(View(transform=Corruption("frost", 3))).images, expected
    )
    assert not np.array_equal(expected, corrupt(IMAGES.images, "frost", 3, seed=0))


class Cropped(Inverted):
    def apply(self, images: Array, place: Place) -> Array:
        return super().apply(images, place)[:, :, 1:]


@pytest.mark.parametrize(
    ("view", "error", "sentence"),
    [
        (View(data="leters"), UnknownNameError, "unknown data set 'leters': did you mean 'letters'"),
        (View(data="arrays"), DataError, "data set 'arrays' cannot be used by its name alone .*'folder'"),
        (View(data="letters", split="train"), DataError, "data set 'letters' has no split 'train'"),
        (View(split="validation"), DataError, "there are test images only, no split 'validation'"),
        (View(transform=Cropped()), DataError, r"turned images \(70, 3, 16, 16\) into \(70, 3, 15, 16\)"),
        (View(transform=Corruption("fog", 6)), DataError, "corruption severity: found 6"),
    ],
    ids=["unknown", "needs settings", "no such split", "images in memory", "shape", "severity"],
)  # fmt: skip
def test_an_impossible_view_is_an_error(view: View, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        image_source().images(view)


def test_images_in_memory_are_checked() -> None:
    with pytest.raises(DataError, match="found labels from 0 to 9, expected 0 to 4 for 5 classes"):
        image_source(classes=5).images(View())


def test_every_registered_data_set_has_a_description() -> None:
    for entry in DATASETS.entries():
        # Those that other tests register owe none.
        assert not entry.defined.startswith("evalsuite.") or entry.text.endswith("."), entry


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda folder: [path.unlink() for path in folder.glob("frost[3-6].png")],
            "found 2 frost photographs, expected",
        ),
        (
            lambda folder: (folder / "frost4.png").write_text("no"),
            "a frost photograph is not a readable picture",
        ),
    ],
    ids=["some are missing", "one is broken"],
)
def test_an_incomplete_set_of_photographs_of_frost_is_refused(
    textures: Path, change: Callable[[Path], object], sentence: str
) -> None:
    """Two of five are other probabilities and other ice: neither the published corruption nor the synthetic one."""
    change(textures / "frost")
    frost_textures.cache_clear()
    with pytest.raises(DataError, match=sentence):
        Corruption("frost", 3).name(Place(root=textures))


@pytest.mark.parametrize(
    "transform", [Corruption("gaussian_noise", 3), Corruption("fog", 2), RandomNoise("uniform", 8)], ids=repr
)
def test_memory_for_transformed_images_does_not_grow_with_the_set(
    tmp_path: Path, transform: Transform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are written a few at a time; rows are those of `apply`, which makes all of them at once."""
    monkeypatch.setattr(shared_cache, "SMALL", 0)
    pixels = np.random.default_rng(0).integers(0, 256, (2600, 3, 32, 32), dtype=np.uint8)
    peaks = []
    for count in (260, 2600):
        few = ImageSet("few", pixels[:count], np.arange(count) % 10, 10)
        image_sets = ImageSource(few, Place(), cache=SharedArrayCache(tmp_path / str(count)))
        image_sets.digest(View(transform=transform))
        tracemalloc.start()
        images = image_sets.images(View(transform=transform)).images
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert isinstance(images, np.memmap)
        np.testing.assert_array_equal(images, transform.apply(few.images, Place()))
    assert peaks[1] < 1.2 * peaks[0] + 1e6, peaks


def test_mapped_images_are_corrupted_without_a_warning(tmp_path: Path) -> None:
    code = """
import numpy as np, sys
from evalsuite.datasets.arrays import Arrays
from evalsuite.datasets.base import Place
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.transforms.corruption import Corruption
from evalsuite.datasets.views import View
images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
np.save(sys.argv[1] + "/test_images.npy", images)
np.save(sys.argv[1] + "/test_labels.npy", np.array([0, 1, 0, 1]))
source = ImageSource(Arrays(sys.argv[1]), Place())
assert not source.images(View()).images.flags.writeable
assert len(source.images(View(transform=Corruption("jpeg_compression", 3))).images) == 4
"""  # torch warns of it once in a process
    command = [sys.executable, "-W", "error::UserWarning", "-c", code, str(tmp_path)]
    subprocess.run(command, check=True)
