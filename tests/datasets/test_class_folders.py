"""Folders to labels: numbers, names, class maps, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evalsuite.datasets.class_folders import folder_classes, read_class_map
from evalsuite.datasets.wordnet_ids import wnids
from evalsuite.errors import DataError

HERE = Path("photos")


def test_numbers_are_labels_and_are_not_sorted_as_text() -> None:
    classes = folder_classes(HERE, sorted(str(number) for number in range(12)))
    assert classes.labels == {str(number): number for number in range(12)}
    assert classes.names == tuple(str(number) for number in range(12))
    assert "12 classes, the numbers of the folders: 0 0, 1 1, 2 2" in classes.text


def test_numbers_may_be_few_of_the_classes_of_a_network() -> None:
    classes = folder_classes(HERE, ["0007", "3"], count=1000)
    assert (classes.labels, len(classes.names), classes.names[7]) == ({"0007": 7, "3": 3}, 1000, "0007")


def test_names_are_numbered_in_sorted_order_or_as_the_data_they_belong_to() -> None:
    assert folder_classes(HERE, ["dog", "cat"]).labels == {"cat": 0, "dog": 1}
    known = folder_classes(HERE, ["dog"], known=["ant", "cat", "dog"])
    assert (known.labels, len(known.names)) == ({"dog": 2}, 3)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.json", '{"n01": 1, "n02": "0"}'), ("list.json", '["n02", "n01"]'),
        ("map.csv", "folder,class\nn01,1\nn02,0\n"),
        ("map.txt", "n01 1\nn02 0\n"), ("tabs.txt", "n01\t1\nn02\t0\n"), ("list.txt", "n02\nn01\n"),
    ],
)  # fmt: skip
def test_a_class_map_is_json_csv_or_text(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    assert folder_classes(HERE, ["n01", "n02"], class_map=tmp_path / name).labels == {"n01": 1, "n02": 0}


ODD = ("a;b", "c,d", "class 1", "class 2")


@pytest.mark.parametrize(
    "text",
    [
        'folder,label\n"a;b",0\n"c,d",1\nclass 1,2\nclass 2,3\n', "a;b\nc,d\nclass 1\nclass 2\n",
        "a;b\t0\nc,d\t1\nclass 1\t2\nclass 2\t3\n", "a;b 0\nc,d 1\nclass 1 2\nclass 2 3\n",
    ],
    ids=["csv", "list", "tabs", "spaces"],
)  # fmt: skip
def test_names_may_hold_what_separates_other_lines(tmp_path: Path, text: str) -> None:
    (tmp_path / "map.csv").write_text(text)
    assert read_class_map(tmp_path / "map.csv") == dict(zip(ODD, range(4), strict=True))


def test_a_list_of_numbered_names_is_a_list(tmp_path: Path) -> None:
    (tmp_path / "map.txt").write_text("class 2\nclass 1\n")
    assert read_class_map(tmp_path / "map.txt") == {"class 2": 0, "class 1": 1}


@pytest.mark.parametrize("text", ["a,0\nb,1\na,2\n", "a\nb\na\n"])
def test_a_folder_of_two_classes_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "map.csv").write_text(text)
    with pytest.raises(DataError, match="the classes 0 and 2 of the folder 'a', expected one"):
        read_class_map(tmp_path / "map.csv")


def test_wordnet_ids_are_classes_of_a_network_of_a_thousand() -> None:
    some = [wnids()[index] for index in (3, 500, 999)]
    classes = folder_classes(HERE, some, count=1000)
    assert ([*classes.labels.values()], len(classes.names)) == ([3, 500, 999], 1000)
    assert "in the order of their WordNet ids" in classes.text
    assert [*folder_classes(HERE, some, count=3).labels.values()] == [0, 1, 2]  # a network of these alone
    others = folder_classes(HERE, ["n00000001", "n01443537"], count=1000)
    assert others.labels == {"n00000001": 0, "n01443537": 1}


def test_numbers_among_names_are_sorted_as_text_which_is_said() -> None:
    classes = folder_classes(HERE, ["2", "10", "other"])
    assert classes.labels == {"10": 0, "2": 1, "other": 2}
    assert "as text, since not all names are numbers" in classes.text


def test_a_class_map_of_names_puts_folders_together(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(json.dumps({"tabby": "cat", "siamese": "cat", "beagle": "dog"}))
    classes = folder_classes(HERE, ["beagle", "tabby"], class_map=tmp_path / "map.json")
    assert (classes.labels, classes.names) == ({"beagle": 1, "tabby": 0}, ("cat", "dog"))


@pytest.mark.parametrize(
    ("folders", "count", "text", "sentence"),
    [
        ([], 0, None, "found no folders of classes"),
        (["cat"], 0, None, "found the folder of one class, 'cat', expected at least two"),
        (["7", "07"], 0, None, "folders 07, 7, which are the same number"),
        (["1", "10"], 10, None, "the folder '10' is label 10 .*, expected 0 to 9 for the 10 classes of the network"),
        (["a", "b"], 0, '{"a": 0}', r"has no class for 1 of 2 folders in photos \(b\)"),
        (["a", "b"], 5, '{"a": 0, "b": 5}', "the folder 'b' is label 5 .*, expected 0 to 4"),
        (["a", "b"], 0, '{"a": 0, "b": "dog"}', "found both indices and names"),
        (["a", "b"], 0, '{"a": 0, "b": -1}', "is label -1"),
        (["-1", "0", "1"], 3, None, "'-1' is label -1 .*, expected 0 to 2 for the 3 classes"),
        (["a", "b"], 2, '{"a": 1, "b": 2}', r"class map map.json\), expected 0 to 1 .*; number the classes"),
        (["a", "b"], 0, '{"a": 0.5}', "expected an object of folder to index"),
        (["a", "b"], 0, "{", "cannot be read"),
    ],
    ids=["none", "one", "twice", "outside", "uncovered", "mapped outside", "mixed", "negative", "below zero",
         "map from 1", "fraction", "broken"],
)  # fmt: skip
def test_what_is_refused(
    tmp_path: Path, folders: list[str], count: int, text: str | None, sentence: str
) -> None:
    class_map = None
    if text is not None:
        class_map = tmp_path / "map.json"
        class_map.write_text(text)
    with pytest.raises(DataError, match=sentence):
        folder_classes(HERE, folders, count=count, class_map=class_map)


def test_lines_of_three_words_are_refused(tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text("a,1,2\n")
    with pytest.raises(DataError, match="found the line 'a 1 2'"):
        read_class_map(tmp_path / "map.csv")
    (tmp_path / "map.csv").write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        read_class_map(tmp_path / "map.csv")
