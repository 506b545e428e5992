from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.compat.robustbench import corruption_benchmark, robustbench
from evalsuite.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from evalsuite.types import Array

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


class Threshold(nn.Module):
    """A classifier: class 1 where an image of one pixel is brighter than grey, else 0."""

    def forward(self, images: Tensor) -> Tensor:
        bright = images.mean((1, 2, 3))
        return torch.stack([1 - bright, bright], 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10-C in its official layout, with images of one pixel."""
    place: Path = tmp_path_factory.mktemp("data") / "some-name"
    place.mkdir()
    labels = np.arange(50_000) % 2
    np.save(place / "labels.npy", labels)
    draws = np.random.default_rng(0)
    for name in robustbench().data.CORRUPTIONS:
        pixels = draws.integers(0, 256, (50_000, 1, 1, 3), dtype=np.uint8)
        np.save(place / f"{name}.npy", pixels)
    return place


def test_corruption_benchmark_is_a_count(folder: Path) -> None:
    labels = torch.arange(20) % 2
    images = torch.full((20, 3, 1, 1), 0.75)
    found = corruption_benchmark(Threshold().eval(), images, labels, folder=folder, batch_size=7)
    expected = {}
    for name in robustbench().data.CORRUPTIONS:
        pixels = np.load(folder / f"{name}.npy")
        for severity in range(1, 6):
            first = (severity - 1) * 10_000
            bright = pixels[first : first + 20].mean((1, 2, 3)) / 255 > 0.5
            expected[name, severity] = float((bright == labels.numpy()).mean())
    assert found.clean == 0.5
    assert len(found.cells) == 75
    assert found.cells == expected
    assert found.robust == pytest.approx(np.mean(list(expected.values())), abs=1e-12)
    assert len(set(expected.values())) > 5


def test_corruption_benchmark_twice_does_not_add_up(folder: Path) -> None:
    labels = torch.arange(4) % 2
    images = torch.full((4, 3, 1, 1), 0.75)
    first = corruption_benchmark(Threshold().eval(), images, labels, folder=folder)
    assert corruption_benchmark(Threshold().eval(), images, labels, folder=folder) == first


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("fog", None, r"fog\.npy: no such file"),
        ("labels", None, r"labels\.npy: no such file"),
        ("snow", np.zeros((49_999, 1, 1, 3), np.uint8), r"snow\.npy: found uint8 of shape \(49999"),
        ("snow", np.zeros((50_000, 1, 1, 3), np.float32), r"snow\.npy: found float32"),
        ("frost", b"<html>", r"frost\.npy: not an array"),
        ("labels", np.zeros(50_000, np.int64), "same images in the same order"),
    ],
    ids=["missing", "no labels", "short", "float", "html", "other labels"],
)
def test_malformed_folder(
    name: str, content: Array | bytes | None, message: str, folder: Path, tmp_path: Path
) -> None:
    place = tmp_path / "copy"
    place.mkdir()
    for path in folder.iterdir():
        if path.stem != name:
            (place / path.name).symlink_to(path)
    if isinstance(content, bytes):
        (place / f"{name}.npy").write_bytes(content)
    elif content is not None:
        np.save(place / f"{name}.npy", content)
    with pytest.raises(DataError, match=message):
        corruption_benchmark(
            Threshold().eval(), torch.full((4, 3, 1, 1), 0.75), torch.arange(4) % 2, folder=place
        )
