"""Archives in miniature: the official layout with its 10,000 rows per severity, but images of one pixel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from evalsuite.compat.robustbench import robustbench
from evalsuite.datasets.base import Place
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.transforms import archives
from evalsuite.datasets.transforms.archives import ARCHIVES, CIFAR10_C, CIFAR100_C, OfficialCorruption, md5
from evalsuite.datasets.transforms.common_corruptions.kinds import CORRUPTIONS, EXTRA
from evalsuite.datasets.transforms.corruption import Corruption
from evalsuite.datasets.views import View
from evalsuite.errors import DataError
from evalsuite.models.inference import logits
from evalsuite.types import Array, ImageSet

ROWS = 10_000
LABELS = np.random.default_rng(1).integers(0, 10, ROWS)
IMAGES = ImageSet(
    "cifar10", np.random.default_rng(2).integers(0, 256, (300, 3, 1, 1), dtype=np.uint8), LABELS[:300], 10
)
PIXELS = {
    kind: np.random.default_rng([3, place]).integers(0, 256, (5 * ROWS, 1, 1, 3), dtype=np.uint8)
    for place, kind in enumerate(("fog", "spatter"))
}
FOG = View(transform=OfficialCorruption("fog", 3))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with two kinds of CIFAR-10-C and the sums that are theirs."""
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(LABELS, 5).astype(np.uint8))
    for kind, pixels in PIXELS.items():
        np.save(folder / f"{kind}.npy", pixels)
    sums = {path.stem: md5(path) for path in folder.iterdir()}
    monkeypatch.setattr(
        archives, "ARCHIVES", {**ARCHIVES, "cifar10": replace(ARCHIVES["cifar10"], checksums=sums)}
    )
    archives.list_pictures.cache_clear()
    return tmp_path


def image_source(root: Path | None, **changes: Any) -> ImageSource:
    return ImageSource(replace(IMAGES, **changes), Place(root=root))


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["fog", "spatter"])
def test_the_rows_are_those_that_robustbench_reads(root: Path, kind: str, severity: int) -> None:
    expected, labels = robustbench().data.load_cifar10c(300, severity, str(root), False, [kind])
    image_set = image_source(root).images(View(transform=OfficialCorruption(kind, severity)))
    np.testing.assert_array_equal(image_set.images.astype(np.float32) / 255, expected.numpy())
    assert image_set.labels is not None
    np.testing.assert_array_equal(image_set.labels, labels.numpy())
    assert image_set.images.dtype == np.uint8
    assert image_set.name == f"{kind} official/{severity}"


def test_the_file_is_mapped_and_the_rows_are_a_view_of_it(root: Path) -> None:
    rows: Any = image_source(root).images(FOG).images
    assert rows._mmap is not None  # NumPy's own mark of arrays that share the file's memory
    few = image_source(root).images(replace(FOG, first=7))
    np.testing.assert_array_equal(few.images[:, :, 0, 0], PIXELS["fog"][2 * ROWS :][:7, 0, 0])


def test_generated_and_official_never_share_a_name() -> None:
    kinds = [(kind, level) for kind in (*CORRUPTIONS, *EXTRA) for level in range(1, 6)]
    official = {OfficialCorruption(*cell).name(Place()) for cell in kinds}
    assert len(official) == 95
    assert not official & {
        Corruption(kind, level).name(Place()) for kind, level in kinds if kind in CORRUPTIONS
    }
    assert image_source(None).condition(FOG) == "fog official/3"


def test_the_published_sums_are_of_19_corruptions_and_the_labels() -> None:
    for sums in (CIFAR10_C, CIFAR100_C):
        assert set(sums) == {*CORRUPTIONS, *EXTRA, "labels"}
        assert all(len(one) == 32 and int(one, 16) for one in sums.values())
    assert len({*CIFAR10_C.values(), *CIFAR100_C.values()}) == 40


class TestChecksum:
    def test_of_the_published_files_is_verified(self, root: Path) -> None:
        assert image_source(root).origin(FOG) == "official, MD5 verified"
        assert image_source(root).origin(View(transform=Corruption("fog", 3))) == "generated, seed 0"
        assert image_source(root).origin(View()) == ""

    def test_finds_rows_in_another_order(self, root: Path) -> None:
        path = root / "CIFAR-10-C" / "fog.npy"
        expected = md5(path)
        np.save(path, PIXELS["fog"][::-1])
        with pytest.raises(DataError) as caught:
            image_source(root).images(FOG)
        sentence = str(caught.value)
        assert sentence.startswith(
            f"{path}: found MD5 {md5(path)} (uint8, shape (50000, 1, 1, 3)), expected {expected};"
        )
        assert md5(path) != expected

    def test_is_not_checked_if_the_user_allows_other_files(self, root: Path) -> None:
        np.save(root / "CIFAR-10-C" / "fog.npy", PIXELS["fog"][::-1])
        unverified = View(transform=OfficialCorruption("fog", 3, verify=False))
        shown = image_source(root)
        np.testing.assert_array_equal(
            shown.images(unverified).images[0, :, 0, 0], PIXELS["fog"][::-1][2 * ROWS, 0, 0]
        )
        assert shown.origin(unverified) == "official, MD5 not verified"
        assert shown.origin(View(transform=OfficialCorruption("spatter", 3))) == "official, MD5 verified"

    def test_of_the_labels_counts_too(self, root: Path) -> None:
        np.save(root / "CIFAR-10-C" / "labels.npy", np.tile(LABELS, 5).astype(np.int64))
        assert image_source(root).origin(FOG) == "official, MD5 not verified"
        with pytest.raises(DataError, match=r"labels\.npy: found MD5"):
            image_source(root).images(FOG)

    def test_is_part_of_the_digest(self, root: Path) -> None:
        unverified = View(transform=OfficialCorruption("fog", 3, verify=False))
        views = (
            unverified,
            replace(unverified, first=9),
            View(transform=OfficialCorruption("fog", 4, verify=False)),
            View(),
        )
        before = [image_source(root).digest(view) for view in views]
        assert before == [image_source(root).digest(view) for view in views]
        assert len({*before, image_source(root, labels=LABELS[1:301]).digest(unverified)}) == 5
        changed = PIXELS["fog"].copy()
        changed[-1] ^= 1
        np.save(root / "CIFAR-10-C" / "fog.npy", changed)
        after = [image_source(root).digest(view) for view in views]
        assert [one != other for one, other in zip(before, after, strict=True)] == [True, True, True, False]


SHORT = PIXELS["fog"][:-1]


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("fog.npy", None, r"fog\.npy: no such file, expected that of CIFAR-10-C \(Zenodo record 2535967\)"),
        ("labels.npy", None, r"labels\.npy: no such file"),
        ("fog.npy", SHORT, r"fog\.npy: found uint8 of shape \(49999, 1, 1, 3\), expected uint8 of shape \(50000, "),
        ("fog.npy", PIXELS["fog"].astype(np.float32), r"fog\.npy: found float32 of shape \(50000, .* expected uint8"),
        ("fog.npy", PIXELS["fog"].transpose(0, 3, 1, 2), r"fog\.npy: found uint8 of shape \(50000, 3, 1, 1\), exp"),
        ("fog.npy", b"<!doctype html>", r"fog\.npy: found 15 bytes that are no complete NumPy array"),
        ("fog.npy", b"cut", r"fog\.npy: found 100000 bytes that are no complete NumPy array"),
        ("labels.npy", np.tile(LABELS, 5)[::-1], r"labels\.npy, severity 1: found label . for image \d+, expected"),
        ("labels.npy", LABELS, r"labels\.npy: found int64 of shape \(10000,\), expected integers of shape \(50000,\)"),
        ("labels.npy", np.tile(LABELS, 5) + 0.5, r"labels\.npy: found float64 of shape \(50000,\), expected integers"),
        (
            "labels.npy",
            np.concatenate([np.tile(LABELS, 4), np.roll(LABELS, 1)]),
            r"labels\.npy, severity 5: found label . for image 0, expected \d, the label of test image 0 of 'cifar10'",
        ),
    ],
    ids=[
        *("missing", "no labels", "short", "float", "channels first", "web page", "cut off"),
        *("labels reversed", "labels once", "labels of floats", "last severity shuffled"),
    ],
)  # fmt: skip
def test_a_malformed_archive_is_named(
    root: Path, file: str, content: Array | bytes | None, sentence: str
) -> None:
    path = root / "CIFAR-10-C" / file
    content_before = path.read_bytes()
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content_before[:100_000] if content == b"cut" else content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(DataError, match=sentence) as caught:
        image_source(root).images(View(transform=OfficialCorruption("fog", 3, verify=False)))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "changes", "sentence"),
    [
        ({"folder": "elsewhere"}, {}, r"elsewhere: no such folder, expected that of CIFAR-10-C .*source = 'generated'"),
        ({}, {"name": "mine"}, "no official corruptions of the data set 'mine' are known, only of cifar10, cifar100"),
        ({}, {"name": "cifar100"}, r"CIFAR-100-C: no such folder, expected that of CIFAR-100-C"),
        ({}, {"images": np.zeros((300, 3, 2, 2), np.uint8)}, r"fog\.npy: found .*, expected uint8 of shape \(50000, 2"),
        ({}, {"labels": None, "classes": 0}, "data set 'cifar10' has no labels"),
    ],
    ids=["no folder", "unknown data set", "other archive", "other size", "no labels"],
)  # fmt: skip
def test_an_archive_of_something_else(
    root: Path, settings: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        image_source(root, **changes).images(View(transform=OfficialCorruption("fog", 3, **settings)))


def test_the_data_set_of_a_user_may_have_an_archive(root: Path) -> None:
    image_set = image_source(root, name="mine").images(
        View(transform=OfficialCorruption("fog", 2, "CIFAR-10-C"))
    )
    np.testing.assert_array_equal(image_set.images[:, :, 0, 0], PIXELS["fog"][ROWS:][:300, 0, 0])
    assert (
        image_source(root, name="mine")
        .origin(View(transform=OfficialCorruption("fog", 2, "CIFAR-10-C")))
        .endswith("not verified")
    )


@pytest.mark.parametrize("count", [12, 37, 300])
def test_an_archive_of_ones_own_has_five_times_the_rows_of_its_test_set(count: int, tmp_path: Path) -> None:
    folder = tmp_path / "mine-C"
    folder.mkdir()
    pixels = PIXELS["fog"][: 5 * count]
    np.save(folder / "fog.npy", pixels)
    np.save(folder / "labels.npy", np.tile(LABELS[:count], 5))
    mine = ImageSource(
        replace(IMAGES, name="mine", images=IMAGES.images[:count], labels=LABELS[:count]), Place(tmp_path)
    )
    for severity in (1, 4, 5):
        rows = mine.images(View(transform=OfficialCorruption("fog", severity, "mine-C"))).images
        expected = pixels[(severity - 1) * count : severity * count]
        np.testing.assert_array_equal(rows, expected.transpose(0, 3, 1, 2))
    np.save(folder / "fog.npy", pixels[:-1])
    sentence = rf"fog\.npy: found uint8 of shape \({5 * count - 1}, 1, 1, 3\), expected uint8 of shape \({5 * count}, "
    with pytest.raises(DataError, match=sentence):
        mine.images(View(transform=OfficialCorruption("fog", 2, "mine-C")))


def test_in_an_empty_folder_the_missing_file_or_folder_is_named(tmp_path: Path) -> None:
    for name in ("CIFAR-10-C", "ImageNet-C"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"CIFAR-10-C/fog\.npy: no such file"):
        image_source(tmp_path).images(FOG)
    with pytest.raises(DataError, match="ImageNet-C: found 0 folders 'fog' in it or one deeper"):
        image_source(tmp_path, name="imagenet").images(FOG)


def test_without_a_data_root_the_error_tells_how_to_name_one() -> None:
    with pytest.raises(
        DataError,
        match=r"the archive CIFAR-10-C needs a data folder .* --data-root, .* EVALSUITE_DATA, or data_root",
    ):
        image_source(None).images(FOG)


CLASSES = ("n02", "n01", "n03")  # not in order


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ImageNet-C with three classes of two pictures of 12 x 10 px, in a folder of its family."""
    for place, name in enumerate(CLASSES):
        folder = tmp_path / "ImageNet-C" / "weather" / "fog" / "3" / name
        folder.mkdir(parents=True)
        for number in (1, 0):
            pixels = np.full((12, 10, 3), 10 * place + number, np.uint8)
            pixels[0], pixels[:, 0] = 255, 255  # what the centre leaves out
            Image.fromarray(pixels).save(folder / f"{number}.png")
            (folder / "thumbs.db").write_text("no picture")
    listed = Path.iterdir  # folders list in any order: here in the worst
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(listed(self), reverse=True)))
    archives.list_pictures.cache_clear()
    return tmp_path


def pictured(root: Path, **changes: Any) -> ImageSource:
    plain = ImageSet("imagenet", np.zeros((6, 3, 8, 8), np.uint8), np.array([0, 0, 1, 1, 2, 2]), 3)
    return ImageSource(replace(plain, **changes), Place(root=root))


class TestTree:
    def test_shows_the_centre_of_pictures_in_the_order_of_sorted_classes(self, tree: Path) -> None:
        image_set = pictured(tree).images(FOG)
        assert image_set.images.dtype == np.uint8
        assert (image_set.images.shape, image_set.images.ndim, image_set.images.nbytes) == (
            (6, 3, 8, 8),
            4,
            1152,
        )
        expected = [10, 11, 0, 1, 20, 21]
        for rows in (slice(None), slice(2, 5), np.array([5, 0]), np.arange(6) % 2 == 0, slice(0, 0)):
            shown = image_set.images[rows]
            assert shown.shape[1:] == (3, 8, 8)
            assert shown.reshape(len(shown), 192).tolist() == [
                [one] * 192 for one in np.array(expected)[rows]
            ]
        assert image_set.images[1].tolist() == np.full((3, 8, 8), 11).tolist()
        np.testing.assert_array_equal(np.asarray(image_set.images)[:, 0, 0, 0], expected)

    def test_is_decoded_on_access(self, tree: Path) -> None:
        image_set = pictured(tree).images(FOG)
        broken = tree / "ImageNet-C" / "weather" / "fog" / "3" / "n03" / "1.png"
        broken.write_bytes(b"\x89PNG and then nothing")
        assert len(image_set.images[:5]) == 5
        with pytest.raises(DataError, match=r"n03/1\.png: not a readable picture"):
            image_set.images[5:]

    def test_goes_through_a_model_like_an_array(self, tree: Path) -> None:
        pictures = pictured(tree).images(FOG).images
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
        shown = logits(model, pictures, batch_size=4)
        np.testing.assert_array_equal(shown, logits(model, np.asarray(pictures), batch_size=4))
        assert len(np.unique(shown, axis=0)) == 6

    def test_is_official_and_not_verified(self, tree: Path) -> None:
        assert pictured(tree).origin(FOG) == "official, MD5 not verified"

    def test_has_a_digest_of_its_listing(self, tree: Path) -> None:
        before = pictured(tree).digest(FOG)
        archives.list_pictures.cache_clear()
        assert pictured(tree).digest(FOG) == before
        picture = tree / "ImageNet-C" / "weather" / "fog" / "3" / "n03" / "1.png"
        Image.new("RGB", (10, 12)).save(picture)
        assert pictured(tree).digest(FOG) != before

    @pytest.mark.parametrize(
        ("view", "changes", "sentence"),
        [
            (
                View(transform=OfficialCorruption("snow", 3)),
                {},
                "ImageNet-C: found 0 folders 'snow' in it or one deeper, expected one",
            ),
            (
                View(transform=OfficialCorruption("fog", 4)),
                {},
                r"fog/4: no such folder, expected one folder of images per class",
            ),
            (FOG, {"classes": 4}, r"fog/3: found 3 folders of classes with 6 images, expected 4 with 6"),
            (
                FOG,
                {"images": np.zeros((7, 3, 8, 8), np.uint8), "labels": np.array([0, 0, 1, 1, 2, 2, 2])},
                "found 3 folders of classes with 6 images, expected 3 with 7",
            ),
            (FOG, {"labels": np.array([0, 1, 2, 0, 1, 2])}, "fog/3: found label 0 for image 1, expected 1"),
        ],
        ids=["no kind", "no severity", "classes", "images", "order"],
    )
    def test_that_is_malformed_is_named(
        self, tree: Path, view: View, changes: dict[str, Any], sentence: str
    ) -> None:
        with pytest.raises(DataError, match=sentence):
            pictured(tree, **changes).images(view)

    def test_pictures_that_are_too_small_are_named(self, tree: Path) -> None:
        shown = pictured(tree, images=np.zeros((6, 3, 11, 11), np.uint8)).images(FOG)
        with pytest.raises(DataError, match=r"n01/0\.png: found 12 x 10 px, expected at least 11 x 11"):
            shown.images[:1]

    def test_has_the_labels_of_classes_of_its_names(self, tree: Path) -> None:
        """Where the test set has other classes than the archive has folders: a tree in part, and a subset."""
        names = ("n01", "n015", "n02", "n03")
        changes: dict[str, Any] = {"classes": 4, "names": names, "labels": np.array([0, 0, 2, 2, 3, 3])}
        np.testing.assert_array_equal(
            pictured(tree, **changes).images(FOG).images[:][:, 0, 0, 0], [10, 11, 0, 1, 20, 21]
        )
        few: dict[str, Any] = {"classes": 2, "names": ("n03", "n01"), "labels": np.array([1, 1, 0, 0])}
        few["images"] = np.zeros((4, 3, 8, 8), np.uint8)
        np.testing.assert_array_equal(
            pictured(tree, **few).images(FOG).images[:][:, 0, 0, 0], [10, 11, 20, 21]
        )
        digest = pictured(tree, **few).digest(FOG)
        archives.list_pictures.cache_clear()
        Image.new("RGB", (10, 12)).save(tree / "ImageNet-C" / "weather" / "fog" / "3" / "n02" / "1.png")
        assert pictured(tree, **few).digest(FOG) == digest  # it is of no class of this set
