"""Means and worst cases over all corruptions, on an archive of one pixel per image where they can be counted."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from evalsuite.compat.robustbench import corruption_benchmark
from evalsuite.datasets.base import Place
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.transforms import archives
from evalsuite.datasets.transforms.archives import CORRUPTIONS_3D, md5
from evalsuite.datasets.transforms.common_corruptions.kinds import CORRUPTIONS, EXTRA, FAMILIES
from evalsuite.errors import DataError, SuiteError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.corruptions import Corruptions
from evalsuite.execution.measuring import scored
from evalsuite.metrics import ece_equal_width
from evalsuite.types import Array, ImageSet, Score

ROWS, N = 10_000, 80
LABELS = np.arange(ROWS) % 2
BORDER, PARENTS = 0.5, 0.4
ALL = (*CORRUPTIONS, *EXTRA)


def official(**settings: Any) -> Corruptions:
    """The evaluator on files without published checksums."""
    return Corruptions(**{"source": "official", "verify": False, **settings})


class Bright(nn.Module):
    """A classifier: class 1 where an image is brighter than a border, else 0."""

    def __init__(self, border: float) -> None:
        super().__init__()
        self.border = border

    def forward(self, images: Tensor) -> Tensor:
        excess = 4 * (images.mean((1, 2, 3)) - self.border)
        return torch.stack([-excess, excess], 1)


@cache
def pixels(kind: str) -> Array:
    """Levels that are right more often at a low severity; another share in each kind."""
    random = np.random.default_rng([7, ALL.index(kind)])
    noise = random.integers(0, 256, (5 * ROWS, 1, 1, 3)) - 128
    strength = (0.5 + 0.3 * np.repeat(np.arange(5), ROWS) + 0.1 * random.random())[:, None, None, None]
    signal = np.where(np.tile(LABELS, 5) == 1, 150, 90)[:, None, None, None]
    found: Array = (signal + strength * noise).clip(0, 255).astype(np.uint8)
    return found


CLEAN = np.where(LABELS[:N] == 1, 150, 90).astype(np.uint8)
CLEAN[[3, 8, 12, 14]] = 40, 200, 110, 110  # every network misclassifies the first two, the parent the others
IMAGES = ImageSet("cifar10", np.broadcast_to(CLEAN[:, None, None, None], (N, 3, 1, 1)), LABELS[:N], 2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data")
    (place / "CIFAR-10-C").mkdir()
    np.save(place / "CIFAR-10-C" / "labels.npy", np.tile(LABELS, 5))
    for kind in ALL:
        np.save(place / "CIFAR-10-C" / f"{kind}.npy", pixels(kind))
    return place


def bench(root: Path, images: ImageSet = IMAGES, *, border: float = BORDER) -> Bench:
    shown = ImageSource(images, Place(root=root))
    return Bench(Bright(border), shown, parent=Bench(Bright(PARENTS), shown))


def right(kind: str, severity: int, border: float) -> Array:
    shown = pixels(kind)[(severity - 1) * ROWS :][:N]
    answer: Array = (shown.mean((1, 2, 3)) / 255 > border) == LABELS[:N]
    return answer


def by_name(scores: tuple[Score, ...]) -> dict[tuple[str, str], Score]:
    return {(score.metric, score.condition): score for score in scores}


@pytest.fixture(scope="module")
def everything(root: Path) -> dict[tuple[str, str], Score]:
    return by_name(scored(official(extra=True), bench(root)))


def test_every_condition_is_counted(everything: dict[tuple[str, str], Score]) -> None:
    for kind in ALL:
        for severity in range(1, 6):
            expected = right(kind, severity, BORDER)
            score = everything["accuracy", f"{kind} official/{severity}"]
            np.testing.assert_array_equal(score.evidence["test"], expected)
            group = "corruptions-extra official" if kind in EXTRA else "corruptions official"
            assert score.group == group
            sure = everything["ece_equal_width", f"{kind} official/{severity}"]
            excess = 8 * (pixels(kind)[(severity - 1) * ROWS :][:N].mean((1, 2, 3)) / 255 - BORDER)
            confidence = 1 / (1 + np.exp(-np.abs(excess)))
            assert sure.value == pytest.approx(float(ece_equal_width(confidence, expected)), abs=1e-6)
    assert len({score.value for (metric, _), score in everything.items() if metric == "accuracy"}) > 15


def test_means_are_over_the_15_and_over_their_families(everything: dict[tuple[str, str], Score]) -> None:
    groups = {
        "corruptions": CORRUPTIONS,
        **{f"{name} corruptions": kinds for name, kinds in FAMILIES.items()},
    }
    assert len(groups) == 5
    for name, kinds in groups.items():
        expected = np.mean([right(kind, s, BORDER) for kind in kinds for s in range(1, 6)], axis=0)
        score = everything["accuracy", f"{name} official"]
        np.testing.assert_allclose(score.evidence["test"], expected)
        assert score.value == pytest.approx(expected.mean())
        assert ("nll", f"{name} official") in everything
        assert ("agreement", f"{name} official") in everything
    assert len({everything["accuracy", f"{name} official"].value for name in groups}) == 5


def test_the_worst_condition_and_the_worst_of_each_image(everything: dict[tuple[str, str], Score]) -> None:
    cells = {(kind, s): right(kind, s, BORDER) for kind in CORRUPTIONS for s in range(1, 6)}
    worst = everything["accuracy_worst_corruption", "corruptions official"]
    assert worst.value == pytest.approx(min(cell.mean() for cell in cells.values()))
    assert worst.value is not None
    for severity in range(1, 6):
        under_all = np.all([cells[kind, severity] for kind in CORRUPTIONS], axis=0)
        score = everything["accuracy_all_corruptions", f"corruptions official/{severity}"]
        np.testing.assert_array_equal(score.evidence["test"], under_all)
        assert score.value == pytest.approx(under_all.mean())
        assert score.value <= min(cells[kind, severity].mean() for kind in CORRUPTIONS)


def wrong(kind: str, border: float, *, clean: bool) -> float:
    """Sum of the errors of all severities, perhaps with the clean error taken off each."""
    base = np.not_equal(border < CLEAN / 255, LABELS[:N]).mean() if clean else 0.0
    return float(sum((~right(kind, severity, border)).mean() - base for severity in range(1, 6)))


@pytest.mark.parametrize("metric", ["mce_parent", "relative_mce_parent"])
def test_corruption_errors_relative_to_the_parent(
    everything: dict[tuple[str, str], Score], root: Path, metric: str
) -> None:
    clean = metric.startswith("relative")
    ratios = [wrong(kind, BORDER, clean=clean) / wrong(kind, PARENTS, clean=clean) for kind in CORRUPTIONS]
    score = everything[metric, "corruptions official"]
    assert score.value == pytest.approx(np.mean(ratios), rel=1e-12)
    assert abs(np.mean(ratios) - 1) > 0.01
    assert score.n == N
    itself = by_name(scored(official(), bench(root, border=PARENTS)))
    assert itself[metric, "corruptions official"].value == 1


def test_ratios_to_a_parent_without_errors_have_a_reason(root: Path) -> None:
    few = ImageSet("cifar10", IMAGES.images[:12], LABELS[:12], 2)
    scores = by_name(scored(official(severities=(1,), kinds=("fog", "snow")), bench(root, few)))
    mce, relative = (scores[name, "corruptions official"] for name in ("mce_parent", "relative_mce_parent"))
    assert (mce.value, relative.value) == (None, None)
    assert mce.reason == (
        "the parent has fewer than 20 images wrong under fog, snow: a ratio to it means nothing"
    )
    assert relative.reason.startswith(
        "the parent has an error that is not clearly above its clean one under "
    )


def test_the_library_finds_the_same_cells_and_the_same_mean(
    everything: dict[tuple[str, str], Score], root: Path
) -> None:
    clean = torch.from_numpy(np.array(IMAGES.images)).float() / 255
    oracle = corruption_benchmark(
        Bright(BORDER).eval(), clean, torch.from_numpy(LABELS[:N]), folder=root / "CIFAR-10-C"
    )
    assert len(oracle.cells) == 75
    for (kind, severity), accuracy in oracle.cells.items():
        assert everything["accuracy", f"{kind} official/{severity}"].value == pytest.approx(
            accuracy, abs=1e-7
        )
    assert everything["accuracy", "corruptions official"].value == pytest.approx(oracle.robust, abs=1e-7)


def test_37_of_80_right_everywhere_are_an_error_of_53_75_percent(tmp_path: Path) -> None:
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(LABELS, 5))
    good = np.tile(np.arange(ROWS) < 37, 5)
    level = np.where(good == (np.tile(LABELS, 5) == 1), 200, 50).astype(np.uint8)
    for kind in CORRUPTIONS:
        np.save(folder / f"{kind}.npy", np.broadcast_to(level[:, None, None, None], (5 * ROWS, 1, 1, 3)))
    scores = by_name(scored(official(), bench(tmp_path)))
    assert scores["accuracy", "corruptions official"].value == pytest.approx(0.4625, abs=1e-15)
    clean = torch.from_numpy(np.array(IMAGES.images)).float() / 255
    oracle = corruption_benchmark(Bright(BORDER).eval(), clean, torch.from_numpy(LABELS[:N]), folder=folder)
    assert 1 - oracle.robust == pytest.approx(0.5375)


def test_files_whose_checksum_is_not_published_are_flagged_once(
    everything: dict[tuple[str, str], Score], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flagged = {name: score.flags for name, score in everything.items() if score.flags}
    assert {condition for _, condition in flagged} == {"corruptions official"}
    assert set(flagged.values()) == {
        ("official files whose MD5 is not verified: gaussian_noise, shot_noise, impulse_noise and 12 more",)
    }
    sums = {path.stem: md5(path) for path in (root / "CIFAR-10-C").iterdir()}
    known = archives.Archive("CIFAR-10-C", "a test", sums)
    monkeypatch.setattr(archives, "ARCHIVES", {"cifar10": known})
    scores = scored(Corruptions((1,), ("fog",), source="official"), bench(root))
    assert not any("MD5" in flag for score in scores for flag in score.flags)


def test_the_extra_four_are_a_separate_group_when_they_are_generated_too() -> None:
    random = np.random.default_rng(0)
    images = ImageSet("mine", random.integers(0, 256, (70, 3, 32, 32), dtype=np.uint8), np.arange(70) % 2, 2)
    shown = ImageSource(images, Place())
    test = Corruptions((2,), ("fog", "contrast"), extra=True)
    scores = by_name(scored(test, Bench(Bright(0.5), shown, parent=Bench(Bright(0.4), shown))))
    assert {one.group for (_, condition), one in scores.items() if condition.split("/")[0] in EXTRA} == {
        "corruptions-extra"
    }
    pair = [scores["accuracy", f"{kind}/2"].evidence["test"] for kind in ("fog", "contrast")]
    np.testing.assert_allclose(scores["accuracy", "corruptions"].evidence["test"], np.mean(pair, axis=0))
    assert {condition for _, condition in scores} == {
        *(f"{kind}/2" for kind in ("fog", "contrast", *EXTRA)),
        *("corruptions", "corruptions/2", "weather corruptions", "digital corruptions"),
    }


@pytest.mark.parametrize("missing", ["labels", "snow"])
def test_an_official_file_that_is_missing_is_named(root: Path, tmp_path: Path, missing: str) -> None:
    (tmp_path / "CIFAR-10-C").mkdir()
    for path in (root / "CIFAR-10-C").iterdir():
        if path.stem != missing:
            (tmp_path / "CIFAR-10-C" / path.name).symlink_to(path)
    with pytest.raises(DataError, match=rf"{missing}\.npy: no such file, expected that of CIFAR-10-C"):
        scored(official(), bench(tmp_path))


def test_3d_corruptions_are_a_group_of_their_own(tmp_path: Path) -> None:
    """ImageNet-3DCC has the layout of ImageNet-C; its first kinds here are right, its last ones wrong."""
    names = ("n01440764", "n01443537")
    for place, kind in enumerate(CORRUPTIONS_3D):
        for label, name in enumerate(names):
            folder = tmp_path / "ImageNet-3DCC" / kind / "3" / name
            folder.mkdir(parents=True)
            level = 200 if (label == 1) == (place < 9) else 50
            for number in range(2):
                Image.new("RGB", (8, 8), (level, level, level)).save(folder / f"{number}.JPEG")
    clean = np.repeat(np.array([50, 50, 200, 200], np.uint8), 3 * 8 * 8).reshape(4, 3, 8, 8)
    images = ImageSet("imagenet", clean, np.array([0, 0, 1, 1]), 2, names)
    settings = {"folder": "ImageNet-3DCC", "kinds": CORRUPTIONS_3D, "severities": (3,)}
    scores = by_name(scored(official(**settings), bench(tmp_path, images)))
    assert scores["accuracy", "near_focus official/3"].value == 1
    assert scores["accuracy", "z_motion_blur official/3"].group == "corruptions-3d official"
    assert scores["accuracy", "corruptions-3d official"].value == 9 / 12
    assert scores["accuracy_worst_corruption", "corruptions-3d official"].value == 0
    assert not [name for _, name in scores if name.endswith(" corruptions official")]  # there are no families
    assert any("severity 3 alone" in flag for flag in scores["accuracy", "corruptions-3d official"].flags)


@pytest.mark.parametrize(
    "settings",
    [
        {"source": "generated"}, {"folder": ""}, {"extra": True}, {"kinds": ("flash", "fog")},
    ],
)  # fmt: skip
def test_3d_corruptions_are_read_from_their_archive_alone(settings: dict[str, Any]) -> None:
    given = {"source": "official", "folder": "ImageNet-3DCC", "kinds": ("flash",), **settings}
    with pytest.raises(SuiteError, match=r"ImageNet-3DCC|unknown corruption 'fog'|needs source = 'official'"):
        Corruptions(**given)
