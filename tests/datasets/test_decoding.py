"""Picture files to pixels: modes, damaged files, hidden ones, and the cache that processes share."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from evalsuite.cache_folder import cache_folder
from evalsuite.datasets import picture_cache
from evalsuite.datasets.base import Place, digest, load_checked
from evalsuite.datasets.decoding import decode_pictures, list_folder
from evalsuite.datasets.folders import Folder
from evalsuite.datasets.picture_cache import CachedArray
from evalsuite.errors import DataError
from evalsuite.preprocessing import Preprocessing
from evalsuite.types import Array

PLACE = Place()
rng = np.random.default_rng(0)


def photos(folder: Path, count: int = 12, side: int = 16) -> Path:
    """Noise in two class folders; returns the folder."""
    for index in range(count):
        home = folder / ("cat", "dog")[index % 2]
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(home / f"{index:03}.png")
    return folder


def decoded(path: Path) -> Array:
    images: Array = decode_pictures([path], None, PLACE).images[0]
    return images


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    grey = np.array([[0, 257 * 100], [65535, 300]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(decoded(tmp_path / "deep.png")[0], [[0, 100], [255, 1]])


def test_palettes_and_alpha_become_the_colours_that_are_seen(tmp_path: Path) -> None:
    colours = rng.integers(0, 256, (4, 4, 4), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "alpha.png")
    result = decode_pictures([tmp_path / "alpha.png"], None, PLACE, name="mine")
    np.testing.assert_array_equal(result.images[0], colours[..., :3].transpose(2, 0, 1))
    assert any("1 pictures have an alpha channel" in note for note in result.notes)
    flat = Image.fromarray(np.zeros((4, 4, 3), np.uint8) + np.array([200, 10, 30], np.uint8))
    flat.quantize(4).save(tmp_path / "palette.png", transparency=b"\x00\xff")
    np.testing.assert_array_equal(decoded(tmp_path / "palette.png")[:, 0, 0], [200, 10, 30])


def test_cmyk_is_converted_as_torchvision_converts_it(tmp_path: Path) -> None:
    from torchvision.datasets.folder import default_loader

    Image.new("CMYK", (8, 8), (10, 200, 30, 40)).save(tmp_path / "print.jpg")
    expected = np.asarray(default_loader(str(tmp_path / "print.jpg"))).transpose(2, 0, 1)
    np.testing.assert_array_equal(decoded(tmp_path / "print.jpg"), expected)


def test_thirty_two_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(rng.random((4, 4)).astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match=r"float\.tif: found a picture of mode F .*convert it"):
        decoded(tmp_path / "float.tif")


def test_an_orientation_is_not_applied_but_said(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    result = decode_pictures([tmp_path / "a.jpg"], None, PLACE, name="mine")
    assert result.images.shape == (1, 3, 4, 6)
    assert any("1 pictures carry an EXIF orientation, which is not applied" in note for note in result.notes)


@pytest.mark.parametrize("kept", [0, 40, -30])
def test_an_unreadable_picture_is_named_or_left_out(tmp_path: Path, kept: int) -> None:
    folder = photos(tmp_path / "photos")
    broken = folder / "cat" / "002.png"
    broken.write_bytes(broken.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"002\.png: not a readable picture .*--skip-unreadable"):
        Folder(str(folder), side=8, labelled=True).load("test", PLACE)
    found = Folder(str(folder), side=8, labelled=True, skip_unreadable=True).load("test", PLACE)
    assert found.labels is not None
    assert found.labels.tolist() == [0] * 5 + [1] * 6
    assert any("1 unreadable pictures are left out (002.png)" in note for note in found.notes)
    whole = Folder(str(folder), side=8, labelled=True).load("test", replace(PLACE, skip_unreadable=True))
    np.testing.assert_array_equal(whole.images, found.images)


def test_hidden_files_and_folders_are_counted_and_not_read(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / "__MACOSX").mkdir()
    (folder / "cat" / "._002.png").write_bytes(b"\0\5")
    (folder / "cat" / "Thumbs.db").write_bytes(b"")
    (folder / "cat" / "notes.txt").write_text("")
    images = load_checked(Folder(str(folder), labelled=True), "test", PLACE)
    assert (images.names, len(images.images)) == (("cat", "dog"), 12)
    assert any("4 hidden files or folders are ignored" in note for note in images.notes)
    assert any("1 files that are no pictures are ignored" in note for note in images.notes)


def test_folders_behind_links_are_read_and_loops_end(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    (tmp_path / "linked").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "linked" / name).symlink_to(folder / name)
    (folder / "cat" / "again").symlink_to(folder)
    assert len(list_folder(tmp_path / "linked").paths) == 12


def test_mixed_sizes_need_a_size(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    Image.new("RGB", (5, 9)).save(folder / "dog" / "x.png")
    with pytest.raises(DataError, match=r"different sizes \(000\.png is 16x16, x\.png is 5x9\) .*side = 32"):
        Folder(str(folder), labelled=True).load("test", PLACE)
    network = replace(PLACE, preprocessing=Preprocessing(crop=(7, 6), resize=(8,)))
    assert Folder(str(folder), labelled=True).load("test", network).images.shape == (13, 3, 7, 6)


@pytest.fixture
def no_small_sets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Puts also small sets into a cache, which is the folder returned."""
    monkeypatch.setattr(picture_cache, "SMALL", 0)
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))
    return cache_folder()


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The pictures that were decoded."""
    from evalsuite.datasets import decoding

    seen: list[Path] = []
    decode = decoding._decode_or_reason

    def counting(path: Path, preprocessing: Preprocessing, *, grey: bool, border: int) -> object:
        seen.append(path)
        return decode(path, preprocessing, grey=grey, border=border)

    monkeypatch.setattr(decoding, "_decode_or_reason", counting)
    return seen


def test_pictures_are_decoded_once_and_digested_once(
    tmp_path: Path, no_small_sets: Path, decodings: list[Path]
) -> None:
    data = Folder(str(photos(tmp_path / "photos")), side=8, labelled=True)
    plain = digest(replace(data.load("test", PLACE), images=np.array(data.load("test", PLACE).images)))
    assert len(decodings) == 12  # the second time they came from the cache
    first = data.load("test", PLACE)
    assert isinstance(first.images, CachedArray)
    assert not first.images.flags.writeable
    assert digest(first) == plain
    remembered = next(path for path in no_small_sets.iterdir() if len(path.suffix) == 17)
    remembered.write_text("remembered")
    assert digest(data.load("test", PLACE)) == "remembered"
    assert (
        digest(data.load("test", replace(PLACE, verify=True))) == plain
    )  # and read again where it is asked for
    assert len(decodings) == 24


@pytest.mark.usefixtures("no_small_sets")
def test_a_changed_file_is_decoded_again(tmp_path: Path, decodings: list[Path]) -> None:
    folder = photos(tmp_path / "photos")
    data = Folder(str(folder), side=8, labelled=True)
    before = digest(data.load("test", PLACE))
    os.utime(folder / "cat" / "002.png", ns=(1, 1))
    assert digest(data.load("test", PLACE)) == before  # times key the cache, contents the result
    assert len(decodings) == 24
    (folder / "cat" / "002.png").write_bytes((folder / "dog" / "001.png").read_bytes())
    assert digest(data.load("test", PLACE)) != before


def test_damaged_caches_and_full_disks_cost_only_time(
    tmp_path: Path, no_small_sets: Path, decodings: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Folder(str(photos(tmp_path / "photos")), side=8, labelled=True)
    expected = np.array(data.load("test", PLACE).images)
    (pixels,) = no_small_sets.glob("*.pixels")
    pixels.write_bytes(pixels.read_bytes()[:-1])
    np.testing.assert_array_equal(data.load("test", PLACE).images, expected)
    assert len(decodings) == 24
    monkeypatch.setattr(picture_cache, "has_room", lambda *_: False)
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "other"))
    found = data.load("test", PLACE).images
    assert not isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, expected)


def test_the_cache_is_bounded(tmp_path: Path, no_small_sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = photos(tmp_path / "photos")
    monkeypatch.setenv("EVALSUITE_CACHE_GB", str((2 * 12 * 3 * 64 + 100) / 1e9))
    for split_seed, side in enumerate((8, 7, 6)):
        Folder(str(folder), side=side, labelled=True, split_seed=split_seed).load("test", PLACE)
    assert len([*no_small_sets.glob("*.pixels")]) == 2


def test_the_size_of_the_cache_is_the_users(
    tmp_path: Path, no_small_sets: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = Folder(str(photos(tmp_path / "photos")), side=8, labelled=True)
    monkeypatch.setenv("EVALSUITE_CACHE_GB", "1e-6")
    data.load("test", PLACE)
    assert "set EVALSUITE_CACHE_GB" in caplog.text
    caplog.clear()
    monkeypatch.setenv("EVALSUITE_CACHE_GB", "1")
    Folder(str(tmp_path / "photos"), side=7, labelled=True).load("test", PLACE)
    assert caplog.text == ""
    monkeypatch.setenv("EVALSUITE_CACHE_GB", "lots")
    with pytest.raises(DataError, match="found EVALSUITE_CACHE_GB = lots, expected gigabytes above 0"):
        Folder(str(tmp_path / "photos"), side=6, labelled=True).load("test", PLACE)
    assert len([*no_small_sets.glob("*.pixels")]) == 2


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGB", "RGBA", "CMYK"])
def test_a_network_of_one_channel_sees_pictures_as_pillow_makes_them_grey(tmp_path: Path, mode: str) -> None:
    colours = Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).convert(mode)
    colours.save(tmp_path / "x.tif")
    images = decode_pictures([tmp_path / "x.tif"], None, Place(channels=1)).images
    with Image.open(tmp_path / "x.tif") as opened:
        np.testing.assert_array_equal(images, np.asarray(opened.convert("L"))[None, None])


def test_grey_pictures_are_repeated_for_three_channels_and_refused_for_two(tmp_path: Path) -> None:
    grey = rng.integers(0, 256, (6, 5), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "x.png")
    np.testing.assert_array_equal(decoded(tmp_path / "x.png"), np.stack([grey] * 3))
    with pytest.raises(DataError, match=r"a network of 2 channels, expected 1 \(grey\) or 3 \(RGB\)"):
        decode_pictures([tmp_path / "x.png"], None, Place(channels=2))


@pytest.mark.parametrize("engine", ["pil", "torch"])
def test_grey_pixels_are_padded_with_the_luminance_of_the_fill(engine: Literal["pil", "torch"]) -> None:
    pixels = Preprocessing((6, 6), (4,), engine=engine, fill=(255, 0, 0)).pixels(
        Image.new("L", (8, 8), 9), grey=True
    )
    expected = np.full((1, 6, 6), 76)
    expected[:, 1:5, 1:5] = 9
    np.testing.assert_array_equal(pixels, expected)
