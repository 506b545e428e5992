"""What a user calls a data set, resolved in one place: a registered name, a path, or either with settings.

``cifar10``, ``photos`` (a folder of class folders, of ``.npy`` files, of Hugging Face's `datasets`, or the root of a
known data set),
``photos:side=64``, ``folder:path=photos,class_map=classes.json``: in the table ``[data]`` of a suite, and as ``--data``
of a command.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

from evalsuite.config.settings import number_or_text
from evalsuite.datasets import DATASETS
from evalsuite.datasets.decoding import holds_pictures, subfolders
from evalsuite.datasets.tables import holds_tables
from evalsuite.datasets.wordnet_ids import WORDNET_ID
from evalsuite.errors import SuiteError, first_few
from evalsuite.registry import unknown_name

KNOWN_SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cifar10": ("cifar10/test_images.npy", "cifar-10-batches-py/test_batch"),
        "cifar100": ("cifar100/test_images.npy", "cifar-100-python/test"),
    }
)
"""Data sets that are recognised in a folder, by files of which one must be there."""
SUBSETS = ("imagenet-a", "imagenet-r")
"""Data sets whose rule of scoring is not that of a folder of their pictures; recognised by the folder's name."""
_SETTINGS = re.compile(r":(?=$|[A-Za-z_]\w*=)")
_NEXT_KEY = re.compile(r",(?=[A-Za-z_]\w*=)")
SPLITS = {"train", "test", "val", "validation"}
"""Folders that are splits and no classes."""
FOLDER = "folder"
"""Registered name of a folder of pictures."""


@dataclass(frozen=True)
class ResolvedData:
    """A data set that a user named.

    Attributes:
        table: Registered name and settings.
        root: The data root, where what was named is one; else ``None``.
        warning: A sentence for the user, where what was named was taken for something else; empty otherwise.
    """

    table: dict[str, Any]
    root: Path | None = None
    warning: str = ""


def resolve_data(data: str | Mapping[str, Any], *, where: str, root: Path | None = None) -> ResolvedData:
    """Returns the data set that a text or a table stands for.

    Args:
        data: ``NAME``, ``PATH``, either followed by ``:KEY=VALUE,...``, or a table whose ``name`` is one of these.
            Relative paths start at the working directory, else at the data root.
        where: What messages call it: ``--data``, or a suite and its table.
        root: Data root that the user named.

    Raises:
        SuiteError: If there is no such data set, or the text means two.
    """
    if isinstance(data, str):
        return _of_text(data, where, root)
    name = data.get("name")
    if not isinstance(name, str) or (name in DATASETS and ":" not in name):
        return ResolvedData(_with_defaults(dict(data)))
    resolved = _of_text(name, where, root)
    rest = {key: value for key, value in data.items() if key != "name"}
    return dataclasses.replace(resolved, table={**resolved.table, **rest})


def _of_text(text: str, where: str, root: Path | None) -> ResolvedData:
    head, *rest = _SETTINGS.split(text, maxsplit=1)
    if not head:
        raise SuiteError(f"{where} {text!r}: expected the name of a data set, or a path")
    resolved = _of_head(head, where, root, is_name=bool(rest))
    settings = _settings(resolved.table["name"], rest[0]) if rest and rest[0] else {}
    return dataclasses.replace(resolved, table=_with_defaults({**resolved.table, **settings}))


def _of_head(head: str, where: str, root: Path | None, *, is_name: bool) -> ResolvedData:
    """A name or a path; `is_name` where settings follow, so that a registered name is no folder."""
    path = _folder(head, root)
    if head in DATASETS:
        path = None if is_name or path is None else _checked_choice(head, path, where, root)
        return ResolvedData({"name": head}) if path is None else _of_folder(path, where)
    if path is None:
        if "/" in head:
            tried = ", ".join(
                str(folder / Path(head).expanduser()) for folder in (Path.cwd(), root) if folder
            )
            raise SuiteError(f"{where} {head}: there is no such folder, looked for {tried}; correct the path")
        raise SuiteError(
            f"{where}: there is no folder {head}{_near_folder(head, root)}, and "
            f"{unknown_name('data set', head, DATASETS)}"
        )
    return _of_folder(path, where)


def _near_folder(head: str, root: Path | None) -> str:
    """A question after the folder with the nearest name; empty if none is near."""
    homes = [home for home in (Path.cwd(), root) if home is not None and home.is_dir()]
    names = [child.name for home in homes for child in home.iterdir() if child.is_dir()]
    near = difflib.get_close_matches(head, names, n=1, cutoff=0.7)
    return f" (did you mean the folder {near[0]}?)" if near else ""


def _folder(head: str, root: Path | None) -> Path | None:
    """The folder that a text names; a registered name means one in the working directory alone."""
    named = Path(head).expanduser()
    places = [Path.cwd()] if head in DATASETS or root is None else [Path.cwd(), root]
    path = next((place / named for place in places if (place / named).exists()), None)
    return None if path is None else Path(os.path.normpath(path))


def _checked_choice(name: str, path: Path, where: str, root: Path | None) -> Path | None:
    """The folder of a registered name in the working directory; ``None`` where it is what the name reads."""
    if not path.is_dir() or (root is not None and root.resolve() == path.parent.resolve()):
        return None  # it is what the name reads
    if root is None and any((path.parent / file).exists() for file in KNOWN_SETS.get(name, ())):
        return path
    raise SuiteError(
        f"{where} {name}: this is both the data set {name!r} and the folder {path}; write ./{name} for the folder, or "
        f"{name}: with a colon for the data set"
    )


def _check_not_above(path: Path, where: str) -> None:
    """Refuses a folder whose pictures are all in one of its folders: as a rule it is the one above the data set."""
    names = subfolders(path)
    if len(names) < 2 or SPLITS & {*names}:
        return
    filled = tuple(islice((name for name in names if holds_pictures(path / name)), 2))
    if len(filled) != 1:
        return
    empty = [name for name in names if name not in filled]
    inside = path / filled[0]
    deeper = sum(holds_pictures(inside / name) for name in subfolders(inside)) > 1
    raise SuiteError(
        f"{where} {path}: all pictures are in the folder {filled[0]!r}, and {first_few(empty)} "
        f"{'has' if len(empty) == 1 else 'have'} none; expected pictures of at least two classes: give the folder of "
        "the folders of classes" + (f", perhaps {inside}" if deeper else "")
    )


def _of_folder(path: Path, where: str) -> ResolvedData:
    if not path.is_dir():
        raise SuiteError(
            f"{where} {path}: found a file, expected a folder of class folders, of .npy or of parquet files"
            f"{_way_out(path)}"
        )
    held_sets = _held_sets(path)
    if len(held_sets) > 1:
        names = " and ".join(name for name, _ in held_sets)
        raise SuiteError(
            f"{where} {path} holds {names}; name one of them, and give the folder by --data-root {path}"
        )
    if held_sets:
        name, root = held_sets[0]
        command = f"--data {name} --data-root {root}"
        warning = f"{path} holds the data set {name}, which is read from there, as with {command}"
        return ResolvedData({"name": name}, root, warning)
    if path.name in SUBSETS and all(map(WORDNET_ID.fullmatch, subfolders(path))):
        warning = (
            f"{path} is the data set {path.name}, which is scored by its rule on the logits of 200 classes, as with "
            f"--data {path.name}:path={path}; a folder of other classes is --data folder:path={path}"
        )
        return ResolvedData({"name": path.name, "path": str(path)}, warning=warning)
    if any(path.glob("*.npy")):
        return ResolvedData({"name": "arrays", "folder": str(path)})
    if holds_pictures(path):
        _check_not_above(path, where)
        return ResolvedData({"name": FOLDER, "path": str(path)})
    if holds_tables(path):
        return ResolvedData({"name": "huggingface", "path": str(path)})
    raise SuiteError(
        f"{where} {path}: found {_content(path)}, expected pictures in class folders, test_images.npy, a folder of "
        f"save_to_disk() or of parquet files, or a known data set ({', '.join(KNOWN_SETS)}); name another folder"
    )


def _held_sets(path: Path) -> list[tuple[str, Path]]:
    """The known data sets that a folder holds, or is the folder of, each with its root."""
    inside = [
        (name, path) for name, files in KNOWN_SETS.items() if any((path / file).exists() for file in files)
    ]
    beside = [
        (name, path.parent)
        for name, files in KNOWN_SETS.items()
        if any(file.startswith(f"{path.name}/") and (path.parent / file).exists() for file in files)
    ]
    return inside + beside


def _content(folder: Path) -> str:
    """What is in a folder that is no data set, in words."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    endings = sorted({path.suffix.lower() or "no ending" for path in files})
    inside = f"{len(files)} files of types that are not read ({first_few(endings)})" if files else "no file"
    folders = sum(path.is_dir() for path in folder.iterdir())
    return f"{inside} in {folders} folders" if folders else inside


def _way_out(file: Path) -> str:
    """What to do with a file in the place of a folder."""
    if file.suffix == ".npz":
        return "; save its arrays with numpy.save as test_images.npy and test_labels.npy in one"
    if file.suffix in (".zip", ".tar", ".gz", ".tgz"):
        return "; unpack it"
    if file.suffix == ".parquet":
        return f"; name the folder that it is in: {file.parent}"
    return ""


def _with_defaults(table: dict[str, Any]) -> dict[str, Any]:
    """The table; pictures of a suite's own data are labelled unless it says otherwise."""
    return {**table, "labelled": table.get("labelled", True)} if table.get("name") == FOLDER else table


def _settings(name: str, text: str) -> dict[str, Any]:
    """Settings of a data set, each of the type of its field; keys are checked where the data set is built."""
    hints = get_type_hints(DATASETS.get(name))
    pairs = (part.partition("=") for part in _NEXT_KEY.split(text))
    return {key: _value(hints.get(key, str), value.strip()) for key, _, value in pairs}


def _value(hint: Any, text: str) -> Any:
    if hint is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    return number_or_text(text) if hint in (int, float) else text
