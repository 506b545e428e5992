from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalsuite.datasets.base import Place
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.transforms.sequences import PERTURBATIONS, PerturbationSequences
from evalsuite.datasets.views import View
from evalsuite.errors import DataError
from evalsuite.types import ImageSet

FILMS = np.random.default_rng(0).integers(0, 256, (5, 4, 2, 2, 3), dtype=np.uint8)
PLAIN = ImageSet("cifar10", np.zeros((3, 3, 2, 2), np.uint8), np.array([0, 1, 2]), 3)
TILT = View(transform=PerturbationSequences("tilt"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "CIFAR-10-P").mkdir()
    np.save(tmp_path / "CIFAR-10-P" / "tilt.npy", FILMS)
    return tmp_path


def image_source(root: Path | None, **changes: Any) -> ImageSource:
    return ImageSource(
        ImageSet(**{**{f: getattr(PLAIN, f) for f in PLAIN.__slots__}, **changes}), Place(root=root)
    )


def test_the_frames_come_video_after_video(root: Path) -> None:
    image_set = image_source(root).images(TILT)
    assert (image_set.name, image_set.labels, image_set.classes) == ("tilt video", None, 0)
    assert image_set.images.shape == (20, 3, 2, 2)
    for video in range(5):
        for frame in range(4):
            frame_image = image_set.images[4 * video + frame]
            np.testing.assert_array_equal(frame_image, FILMS[video, frame].transpose(2, 0, 1))
    few = image_source(root).images(View(transform=PerturbationSequences("tilt", count=2)))
    np.testing.assert_array_equal(few.images, image_set.images[:8])


def test_the_file_is_not_copied(root: Path) -> None:
    frames: Any = image_source(root).images(TILT).images
    assert frames._mmap is not None  # NumPy's own mark of arrays that share the file's memory


def test_the_digest_is_that_of_the_frames_that_are_shown(root: Path) -> None:
    few = View(transform=PerturbationSequences("tilt", count=2))
    before = [image_source(root).digest(view) for view in (TILT, few)]
    assert before[0] != before[1]
    changed = FILMS.copy()
    changed[4] ^= 1
    np.save(root / "CIFAR-10-P" / "tilt.npy", changed)
    after = [image_source(root).digest(view) for view in (TILT, few)]
    assert (after[0] != before[0], after[1] == before[1]) == (True, True)
    assert image_source(root).origin(TILT) == "official, MD5 not verified"


def test_there_are_ten_perturbations() -> None:
    assert len(set(PERTURBATIONS)) == 10


@pytest.mark.parametrize(
    ("content", "changes", "sentence"),
    [
        (None, {}, r"tilt\.npy: no such file, expected that of CIFAR-10-P \(Zenodo record 2535967\)"),
        (b"<html>", {}, r"tilt\.npy: found 6 bytes that are no complete NumPy array"),
        (
            FILMS[0],
            {},
            r"tilt\.npy: found uint8 of shape \(4, 2, 2, 3\), expected uint8 of shape \(sequences, frames",
        ),
        (FILMS[:, :1], {}, r"found uint8 of shape \(5, 1, 2, 2, 3\), .* at least two frames"),
        (FILMS / np.float32(255), {}, "found float32 of shape"),
        (
            FILMS,
            {"images": np.zeros((3, 3, 4, 4), np.uint8)},
            r"found frames of shape \(2, 2, 3\), expected \(4, 4, 3\), the images'",
        ),
    ],
    ids=["missing", "web page", "no frames", "one frame", "float", "other size"],
)
def test_a_malformed_file_is_named(root: Path, content: Any, changes: dict[str, Any], sentence: str) -> None:
    path = root / "CIFAR-10-P" / "tilt.npy"
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(DataError, match=sentence) as caught:
        image_source(root, **changes).images(TILT)
    assert str(path) in str(caught.value)


def test_without_a_data_root_the_error_tells_how_to_name_one() -> None:
    with pytest.raises(DataError, match="CIFAR-10-P needs a data folder"):
        image_source(None).images(TILT)
