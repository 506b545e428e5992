"""Samples of test images: seeded, stratified by class, the same rows in every view; without a limit nothing changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalsuite.datasets.base import Place, digest
from evalsuite.datasets.digits import Digits
from evalsuite.datasets.sampling import sample_rows
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.transforms.archives import OfficialCorruption
from evalsuite.datasets.transforms.corruption import Corruption
from evalsuite.datasets.views import View
from evalsuite.types import ImageSet


@settings(suppress_health_check=[HealthCheck.too_slow])  # its first draw imports
@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=12),
    limit=st.integers(1, 300),
    seed=st.integers(0, 3),
)
def test_a_sample_has_of_each_class_its_share_within_one_image(
    counts: list[int], limit: int, seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    total = len(labels)
    rows = sample_rows(labels, total, limit, seed)
    assert len(rows) == len(set(rows.tolist())) == min(limit, total)
    taken = np.bincount(labels[rows], minlength=len(counts))
    exact = np.array(counts) * min(limit, total) / total
    assert (np.abs(taken - exact) < 1).all()


def test_a_sample_is_the_same_on_every_machine_and_another_for_another_seed() -> None:
    labels = np.arange(100) % 4
    assert sample_rows(labels, 100, 8, 0, "sample", "").tolist() == FIRST
    assert sample_rows(labels, 100, 8, 1, "sample", "").tolist() != FIRST
    assert sample_rows(None, 100, 100, 0).tolist() == list(range(100))
    assert len(set(sample_rows(None, 100, 7, 0).tolist())) == 7


FIRST = [43, 0, 6, 24, 25, 35, 1, 94]


def test_a_sample_is_not_sorted_by_class_so_that_its_first_images_show_all() -> None:
    labels = np.repeat(np.arange(10), 100)
    rows = sample_rows(labels, 1000, 200, 0)
    assert len(set(labels[rows[:60]].tolist())) == 10


def test_all_views_of_the_test_images_show_the_same_rows_and_other_sets_no_more_than_the_limit() -> None:
    every, some = ImageSource(Digits(), Place()), ImageSource(Digits(), Place(), limit=50)
    clean, sample = every.images(View()), some.images(View())
    rows = sample_rows(clean.labels, 899, 50, 0, "sample", "")
    np.testing.assert_array_equal(sample.images, clean.images[rows])
    assert sample.labels is not None
    assert clean.labels is not None
    np.testing.assert_array_equal(sample.labels, clean.labels[rows])
    assert len(some.images(View(data="letters")).images) == 50
    assert len(some.images(View(transform=Corruption("contrast", 3))).images) == 50
    assert len(some.images(View(first=20)).images) == 20
    np.testing.assert_array_equal(some.images(View(first=20)).images, sample.images[:20])
    train = View(split="train")
    assert some.digest(train) == every.digest(train)
    assert some.digest(View()) != every.digest(View())
    text = some.sample()
    assert text is not None
    assert text.text.startswith("a seeded sample, stratified by class, of 50 of the 899 test images")


def test_a_limit_that_leaves_nothing_out_changes_nothing() -> None:
    every, same = ImageSource(Digits(), Place()), ImageSource(Digits(), Place(), limit=10_000)
    assert same.sample() is None
    for view in (View(), View(data="uniform-noise"), View(transform=Corruption("contrast", 3))):
        assert same.digest(view) == every.digest(view)
        assert digest(same.images(view)) == digest(every.images(view))


def test_the_rows_of_an_official_archive_are_those_of_the_clean_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    count = 10_000
    labels = np.arange(count) % 3
    plain = ImageSet("cifar10", rng.integers(0, 256, (count, 3, 1, 1), np.uint8), labels, 3)
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    stored = rng.integers(0, 256, (5 * count, 1, 1, 3), np.uint8)
    np.save(folder / "fog.npy", stored)
    np.save(folder / "labels.npy", np.tile(labels, 5))
    view = View(transform=OfficialCorruption("fog", 2, "", verify=False))
    source = ImageSource(plain, Place(root=tmp_path), limit=12)
    rows = sample_rows(labels, count, 12, 0, "sample", "")
    shown = source.images(view)
    np.testing.assert_array_equal(shown.images, stored[count : 2 * count][rows].transpose(0, 3, 1, 2))
    assert shown.labels is not None
    np.testing.assert_array_equal(shown.labels, labels[rows])
    first = source.images(replace(view, first=5))
    np.testing.assert_array_equal(first.images, shown.images[:5])
    assert source.digest(view) != ImageSource(plain, Place(root=tmp_path)).digest(view)
    assert source.origin(view) == ImageSource(plain, Place(root=tmp_path)).origin(view)


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    from evalsuite.config.options import Options
    from evalsuite.config.suite_file import load_suite
    from evalsuite.errors import UserError

    with pytest.raises(UserError, match=rf"found --limit {limit}, expected a number of images from 1 on"):
        Options(limit=limit).applied(load_suite("digits"))
