"""What a user calls a data set: names, paths, settings, and what means two things."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalsuite.config.data import resolve_data
from evalsuite.config.suite_file import parse_suite
from evalsuite.errors import SuiteError

HERE = "--data"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a folder of pictures in two classes, and one of arrays."""
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name / "1.png")
    (tmp_path / "arrays of mine").mkdir()
    np.save(tmp_path / "arrays of mine" / "test_images.npy", np.zeros((4, 8, 8, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "spelling",
    [
        "photos", "{home}/photos", "./photos/", "folder:path={home}/photos,labelled=true", {"name": "photos"},
        {"name": "folder", "path": "{home}/photos"},
    ],
    ids=["relative", "absolute", "dot", "settings", "table", "table of a folder"],
)  # fmt: skip
def test_five_spellings_are_one_data_set(home: Path, spelling: str | dict[str, str]) -> None:
    def filled(text: str) -> str:
        return text.replace("{home}", str(home))

    data = filled(spelling) if isinstance(spelling, str) else {k: filled(v) for k, v in spelling.items()}
    expected = {"name": "folder", "path": str(home / "photos"), "labelled": True}
    assert resolve_data(data, where=HERE).table == expected


@pytest.mark.usefixtures("home")
def test_settings_have_the_types_of_their_fields() -> None:
    found = resolve_data(
        "photos:side=64,class_map=a,b.json,test_share=1,skip_unreadable=true", where=HERE
    ).table
    assert found["side"] == 64
    assert found["class_map"] == "a,b.json"
    assert (found["test_share"], found["skip_unreadable"]) == (1, True)
    assert resolve_data("folder:path=2024", where=HERE).table["path"] == "2024"
    assert resolve_data("cifar10:test_limit=400", where=HERE).table == {"name": "cifar10", "test_limit": 400}


def test_arrays_and_paths_under_the_data_root(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"name": "arrays", "folder": str(home / "arrays of mine")}
    assert resolve_data("arrays of mine", where=HERE).table == arrays
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    assert resolve_data("arrays of mine", where=HERE, root=home).table == arrays
    with pytest.raises(SuiteError, match="there is no folder arrays of mine, and unknown"):
        resolve_data("arrays of mine", where=HERE)


@pytest.mark.parametrize("path", ["sets", "sets/cifar10"])
def test_a_folder_that_holds_a_known_set_is_its_root(home: Path, path: str) -> None:
    (home / "sets" / "cifar10").mkdir(parents=True)
    np.save(home / "sets" / "cifar10" / "test_images.npy", np.zeros((4, 32, 32, 3), np.uint8))
    found = resolve_data(path, where=HERE)
    assert (found.table, found.root) == ({"name": "cifar10"}, home / "sets")
    assert (
        f"holds the data set cifar10, which is read from there, as with --data cifar10 --data-root {found.root}"
        in found.warning
    )
    (home / "sets" / "cifar-100-python").mkdir()
    (home / "sets" / "cifar-100-python" / "test").write_bytes(b"")
    with pytest.raises(SuiteError, match=r"sets holds cifar10 and cifar100; name one of them"):
        resolve_data("sets", where=HERE)


def test_a_published_subset_of_imagenet_keeps_its_rule(home: Path) -> None:
    folder = home / "sets" / "imagenet-r"
    for wnid in ("n01443537", "n01484850"):
        (folder / wnid).mkdir(parents=True)
        (folder / wnid / "art_0.jpg").touch()
    found = resolve_data("sets/imagenet-r:side=32", where=HERE)
    assert found.table == {"name": "imagenet-r", "path": str(folder), "side": 32}
    assert "scored by its rule on the logits of 200 classes" in found.warning
    (folder / "cat").mkdir()
    assert resolve_data("sets/imagenet-r", where=HERE).table["name"] == "folder"


def test_what_is_a_name_and_a_folder_is_refused_with_how_to_say_which(home: Path) -> None:
    (home / "photos").rename(home / "digits")
    with pytest.raises(
        SuiteError, match=r"both the data set 'digits' and the folder .*; write \./digits .* or digits: "
    ):
        resolve_data("digits", where=HERE)
    assert resolve_data("./digits", where=HERE).table["name"] == "folder"
    assert resolve_data("digits:", where=HERE).table == {"name": "digits"}
    assert resolve_data({"name": "digits"}, where=HERE).table == {
        "name": "digits"
    }  # as in every suite before
    assert resolve_data("digits", where=HERE, root=home).table == {
        "name": "digits"
    }  # what lies in its own root


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("digit", "there is no folder digit, and unknown data set 'digit': did you mean 'digits'"),
        ("fotos", r"there is no folder fotos \(did you mean the folder photos\?\), and unknown"),
        ("photo", r"there is no folder photo \(did you mean the folder photos\?\), and unknown"),
        ("./photo", r"--data \./photo: there is no such folder, looked for .*photo; correct the path"),
        ("photos/cat/1.png", "found a file, expected a folder of class folders"),
        (
            "empty",
            "found no file, expected pictures in class folders, test_images.npy, a folder of save_to_disk",
        ),
        ("other", r"found 2 files of types that are not read \(.gif, .txt\) in 1 folders, expected pictures"),
        (
            "all.npz",
            "found a file, .*; save its arrays with numpy.save as test_images.npy and test_labels.npy",
        ),
        ("all.tar.gz", "found a file, .*; unpack it"),
        (":side=3", "expected the name of a data set, or a path"),
    ],
)
def test_what_is_nothing_is_refused(home: Path, text: str, sentence: str) -> None:
    (home / "empty").mkdir()
    (home / "other" / "cat").mkdir(parents=True)
    for name in ("other/cat/1.gif", "other/notes.txt", "all.npz", "all.tar.gz"):
        (home / name).touch()
    with pytest.raises(SuiteError, match=sentence):
        resolve_data(text, where=HERE)


SUITE = """
name = "own"
{data}
[model]
name = "small-cnn"
classes = 2
[[candidates]]
file = "x.pt"
method = "m"
[[evaluators]]
name = "accuracy"
"""


@pytest.mark.parametrize("data", ['data = "photos:side=8"', '[data]\nname = "photos"\nside = 8'])
def test_a_suite_says_it_in_the_same_words(home: Path, data: str) -> None:
    suite = parse_suite(SUITE.format(data=data), source=home / "s.toml")
    assert suite.data.name == "folder"
    assert {"path": str(home / "photos"), "labelled": True, "side": 8}.items() <= suite.data.settings.items()
    with pytest.raises(SuiteError, match=r"unknown key 'sides': did you mean 'side'"):
        parse_suite(SUITE.format(data='data = "photos:sides=8"'), source=home / "s.toml")


def test_pictures_in_one_folder_among_others_are_no_classes(home: Path) -> None:
    """The folder above the data set: its class folders are beside others without pictures."""
    (home / "arrays of mine" / "test_images.npy").unlink()
    sentence = (
        r"--data .*: all pictures are in the folder 'photos', and arrays of mine has none; expected pictures of at "
        r"least two classes: give the folder of the folders of classes, perhaps .*/photos$"
    )
    with pytest.raises(SuiteError, match=sentence):
        resolve_data(str(home), where=HERE)
    (home / "photos" / "dog" / "1.png").unlink()
    with pytest.raises(
        SuiteError, match=r"are in the folder 'cat', and dog has none; .* folders of classes$"
    ):
        resolve_data("photos", where=HERE)
    (home / "photos").rename(home / "test")
    (home / "train").mkdir()
    assert resolve_data(str(home), where=HERE).table["path"] == str(home)  # splits are no classes
