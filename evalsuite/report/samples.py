"""The images that a report shows: those that pruning breaks, one under every corruption and noise, attacked ones.

Cells keep no pixels. When a run has ended, the images are had again from its data set: changes of images have
addresses, so that what is shown is what was measured. They go into one small file beside the cells, ``pictures.json``,
so that a report can be written again where neither data nor models are at hand.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from evalsuite.config.suite import DENSE
from evalsuite.datasets.pictures import encode_png
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.transforms.archives import OfficialCorruption
from evalsuite.datasets.transforms.noise import RandomNoise
from evalsuite.datasets.views import Transform, View
from evalsuite.errors import DataError, UserError
from evalsuite.report.wording import percent
from evalsuite.runs.store import Key, write_atomically
from evalsuite.types import Picture, PictureKind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from evalsuite.results.run import Run
    from evalsuite.types import Array, ImageSet

NAME = "pictures.json"
KINDS: tuple[PictureKind, ...] = get_args(PictureKind)
_LACKING: Mapping[PictureKind, str] = {
    "broken": "the run has kept none; start it again, nothing is computed twice",
    "corruption": "the run has kept none; start it again, nothing is computed twice",
    "attack": "no attack with gradients was run, or it broke none of the images that were looked at",
}
BROKEN = 12
"""How many broken images are shown."""
_CORRUPTED = re.compile(r"(?P<kind>\w+)\*?(?P<official> official)?/(?P<severity>[1-5])")
_NOISE = re.compile(r"(?P<kind>uniform|gaussian)/(?P<epsilon>[\d.]+):255")
Found = tuple[tuple[Picture, ...], Mapping[PictureKind, str]]


def keep(run: Run, image_source: ImageSource, *, attacks: Sequence[Picture] = ()) -> Path:
    """Writes the pictures of a run into its folder, and returns the path of the file.

    Args:
        run: A run that has ended.
        image_source: Its images.
        attacks: Pictures that need the models; see `evalsuite.execution.attacked_samples`.

    Raises:
        StoreError: If the folder cannot be written.
    """
    found, missing = _collected(run, image_source)
    content = {
        "of": _of(run),
        "pictures": [
            {**asdict(one), "png": base64.b64encode(one.png).decode()} for one in (*found, *attacks)
        ],
        "missing": missing,
    }
    path = run.path / NAME
    write_atomically(path, json.dumps(content, indent=1).encode())
    return path


def is_kept(run: Run) -> bool:
    """Says whether the file holds the pictures of what is measured now."""
    return bool(_read(run.path / NAME).get("of") == _of(run))


def kept(path: Path) -> Found:
    """Returns the pictures in a run folder, and why there are none, by kind."""
    content = _read(path / NAME)
    try:
        found = tuple(
            Picture(**{**one, "png": base64.b64decode(one["png"], validate=True)})
            for one in content.get("pictures", ())
        )
        missing = dict(content.get("missing", {}))
    except (TypeError, KeyError, ValueError, binascii.Error):
        found, missing = (), {}
    there = {one.kind for one in found} | set(missing)
    return found, missing | {kind: _LACKING[kind] for kind in KINDS if kind not in there}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _of(run: Run) -> str:
    """What the pictures depend on."""
    weights = [
        (*map(str, (key.method, key.seed, key.target_ratio)), c.weights) for key, c in run.candidates.items()
    ]
    text = json.dumps([run.record["inputs"], weights], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _collected(run: Run, image_source: ImageSource) -> tuple[list[Picture], dict[PictureKind, str]]:
    found: list[Picture] = []
    missing: dict[PictureKind, str] = {}
    try:
        found += broken(run, image_source.images(View()))
    except UserError as error:
        missing["broken"] = str(error)
    try:
        found += changed(run, image_source)
    except UserError as error:
        missing["corruption"] = str(error)
    return found, missing


def broken(run: Run, plain: ImageSet) -> list[Picture]:
    """Returns the test images that the parent has right and the most candidates have wrong, of the first seed.

    Raises:
        DataError: If the data set has other images than were measured, or no image was broken.
    """
    seed = run.record["suite"]["seeds"][0]
    right = {key: array for key, array in _right(run) if key.seed == seed}
    parent = right.pop(Key(DENSE, seed, 0.0), None)
    if parent is None or not right or plain.labels is None:
        raise DataError("no accuracy was measured on clean images")
    if len(parent) != len(plain.images):
        raise DataError(
            f"data set {plain.name!r} has {len(plain.images)} test images now, and {len(parent)} were measured"
        )
    wrong = np.stack([~array for array in right.values()]) & parent
    often = wrong.sum(axis=0)
    chosen = np.argsort(-often, kind="stable")[:BROKEN]
    keys = list(right)
    found = [
        Picture(
            "broken",
            "",
            plain.called(int(plain.labels[i])),
            _first_wrong([key for key, one in zip(keys, wrong[:, i], strict=True) if one]),
            encode_png(plain.images[i]),
        )
        for i in chosen
        if often[i]
    ]
    if not found:
        raise DataError("no candidate has an image wrong that its parent has right")
    return found


def changed(run: Run, image_source: ImageSource) -> list[Picture]:
    """Returns the first test image as it is, and under every corruption and noise that was measured.

    Raises:
        DataError: If the official images cannot be read, or nothing was changed.
    """
    conditions = dict.fromkeys(condition for _, _, condition in run.comparison.scores)
    plain = image_source.images(View())
    found = [
        Picture("corruption", row, column, "", encode_png(_shown(image_source, plain, change)))
        for row, column, change in _changes(run, conditions)
    ]
    if not found:
        raise DataError("no corruption and no noise was measured")
    return [Picture("corruption", "", "as it is", "", encode_png(plain.images[0])), *found]


def _right(run: Run) -> Iterator[tuple[Key, Array]]:
    for (key, metric, condition), score in run.comparison.scores.items():
        if (metric, condition) == ("accuracy", "clean") and score.evidence:
            yield key, next(iter(score.evidence.values())).astype(bool)


def _first_wrong(keys: Iterable[Key]) -> str:
    """From which ratio on each method has an image wrong, as far as it was tested."""
    first: dict[str, float] = {}
    for key in keys:
        first[key.method] = min(key.target_ratio, first.get(key.method, 1.0))
    return ", ".join(f"{method} at {percent(ratio)}" for method, ratio in first.items())


def _changes(
    run: Run, conditions: Iterable[str]
) -> Iterator[tuple[str, str, Transform | OfficialCorruption]]:
    """Row, column and change of every condition that is a corruption or a noise."""
    # torch takes seconds to import
    from evalsuite.datasets.transforms.common_corruptions.kinds import CORRUPTIONS, EXTRA
    from evalsuite.datasets.transforms.corruption import Corruption

    for condition in conditions:
        if found := _CORRUPTED.fullmatch(condition):
            kind, severity = found["kind"], int(found["severity"])
            if kind in CORRUPTIONS or kind in EXTRA:
                change = _official(run, kind, severity) if found["official"] else Corruption(kind, severity)
                yield condition.rpartition("/")[0], f"severity {severity}", change
        elif found := _NOISE.fullmatch(condition):
            noise = RandomNoise(
                "gaussian" if found["kind"] == "gaussian" else "uniform", float(found["epsilon"])
            )
            yield f"{found['kind']} noise", f"ε = {found['epsilon']}/255", noise


def _official(run: Run, kind: str, severity: int) -> OfficialCorruption:
    tables: list[dict[str, Any]] = run.record["suite"]["evaluators"]
    named = (one.get("folder", "") for one in tables if one.get("source") == "official")
    return OfficialCorruption(kind, severity, next(named, ""), verify=False)


def _shown(image_source: ImageSource, plain: ImageSet, change: Transform | OfficialCorruption) -> Array:
    """The first image under a change: a row depends on its own index and pixels alone."""
    if isinstance(change, OfficialCorruption):
        return np.asarray(image_source.images(View(transform=change)).images[0])
    first: Array = change.apply(plain.images[:1], image_source.place)[0]
    return first
