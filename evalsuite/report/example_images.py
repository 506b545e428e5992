"""Example images of a report: images that candidates misclassify, corrupted images, attacked images.

Cells hold no pixels. At the end of a run its images are loaded again: the random draws of transforms have addresses,
so that the pictures show what was measured. They are written into one small file beside the cells, ``pictures.json``,
so that a report can be written again without data and models.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from evalsuite.atomic_files import write_atomically
from evalsuite.datasets.pictures import encode_png
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.transforms.archives import CORRUPTIONS_3D, OfficialCorruption
from evalsuite.datasets.transforms.noise import RandomNoise
from evalsuite.datasets.views import Transform, View
from evalsuite.errors import DataError, UserError
from evalsuite.legacy_names import current_condition
from evalsuite.report.labels import percent
from evalsuite.runs.store import Key
from evalsuite.types import DENSE, Picture, PictureKind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from evalsuite.report.data import ReportData
    from evalsuite.results.run import Run
    from evalsuite.types import Array, ImageSet

FILE = "pictures.json"
KINDS: tuple[PictureKind, ...] = get_args(PictureKind)
_NO_PICTURES: Mapping[PictureKind, str] = {
    "misclassified": "the run folder has none; start the run again, nothing is computed twice",
    "corruption": "the run folder has none; start the run again, nothing is computed twice",
    "attack": "no attack with gradients was run, or none of the first images became adversarial",
}
"""Why there are no pictures of a kind, where the file does not say it."""
_OLD_KINDS = {"broken": "misclassified"}
"""Kinds of pictures in files of earlier versions."""
MOST_MISCLASSIFIED = 12
"""Number of misclassified images that are shown."""
_CORRUPTED = re.compile(r"(?P<kind>\w+)(-synthetic)?(?P<official> official)?/(?P<severity>[1-5])")
_NOISE = re.compile(r"(?P<kind>uniform|gaussian)/(?P<epsilon>[\d.]+):255")
Examples = tuple[tuple[Picture, ...], Mapping[PictureKind, str]]
"""Pictures, and why there are none, by kind."""


def save_examples(run: Run, image_source: ImageSource, *, attacks: Sequence[Picture] = ()) -> Path:
    """Writes the pictures of a run into its folder, and returns the path of the file.

    Args:
        run: A run that has ended.
        image_source: Its images.
        attacks: Pictures that need the models; see `evalsuite.execution.attacked_samples`.

    Raises:
        StoreError: If the folder cannot be written.
    """
    pictures, missing = _collected(run, image_source)
    content = {
        "of": _dependencies(run),
        "pictures": [
            {**asdict(picture), "png": base64.b64encode(picture.png).decode()}
            for picture in (*pictures, *attacks)
        ],
        "missing": missing,
    }
    path = run.path / FILE
    write_atomically(path, json.dumps(content, indent=1).encode())
    return path


def without_pictures(data: ReportData) -> ReportData:
    """Returns the data of a report that shows no test images, and says so."""
    reason = "this page was written without test images (report --no-pictures)"
    return replace(data, pictures=(), no_pictures=dict.fromkeys(KINDS, reason))


def examples_are_current(run: Run) -> bool:
    """Returns whether the file in the run folder holds the pictures of the present candidates and images."""
    return bool(_content(run.path / FILE).get("of") == _dependencies(run))


def load_examples(folder: Path) -> Examples:
    """Returns the pictures in a run folder, and why there are none, by kind; a damaged file holds none."""
    content = _content(folder / FILE)
    missing: dict[Any, str]
    try:
        pictures = tuple(_picture(fields) for fields in content.get("pictures", ()))
        reasons = dict(content.get("missing", {}))
        missing = {_OLD_KINDS.get(kind, kind): reason for kind, reason in reasons.items()}
    except (AttributeError, TypeError, KeyError, ValueError, binascii.Error):
        pictures, missing = (), {}
    known = {picture.kind for picture in pictures} | set(missing)
    return pictures, missing | {kind: _NO_PICTURES[kind] for kind in KINDS if kind not in known}


def _picture(fields: Mapping[str, Any]) -> Picture:
    """A picture of the file, under its present names."""
    kind, row = _OLD_KINDS.get(fields["kind"], fields["kind"]), current_condition(fields["row"])
    png = base64.b64decode(fields["png"], validate=True)
    return Picture(**{**fields, "kind": kind, "row": row, "png": png})


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _dependencies(run: Run) -> str:
    """Digest of what the pictures depend on."""
    weights = [
        (*map(str, (key.method, key.seed, key.target_ratio)), c.weights) for key, c in run.candidates.items()
    ]
    text = json.dumps([[test.inputs for test in run.plan.tests], weights], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _collected(run: Run, image_source: ImageSource) -> tuple[list[Picture], dict[PictureKind, str]]:
    pictures: list[Picture] = []
    missing: dict[PictureKind, str] = {}
    try:
        pictures += misclassified_examples(run, image_source.images(View()))
    except UserError as error:
        missing["misclassified"] = str(error)
    try:
        pictures += corrupted_examples(run, image_source)
    except UserError as error:
        missing["corruption"] = str(error)
    return pictures, missing


def misclassified_examples(run: Run, clean: ImageSet) -> list[Picture]:
    """Returns the test images that the parent classifies right and most candidates wrong, of the first seed.

    Raises:
        DataError: If the data set has other images than were measured, or no candidate misclassifies an image that its
            parent classifies right.
    """
    seed = run.record["suite"]["seeds"][0]
    correct = {key: array for key, array in _correct(run) if key.seed == seed}
    parent = correct.pop(Key(DENSE, seed, 0.0), None)
    if parent is None or not correct or clean.labels is None:
        raise DataError("no accuracy was measured on all clean images")
    if len(parent) != len(clean.images):
        raise DataError(
            f"data set {clean.name!r} has {len(clean.images)} test images now, and {len(parent)} were measured"
        )
    lost = np.stack([~array for array in correct.values()]) & parent
    counts = lost.sum(axis=0)
    chosen = [i for i in np.argsort(-counts, kind="stable")[:MOST_MISCLASSIFIED] if counts[i]]
    if not chosen:
        raise DataError("no candidate misclassifies an image that its parent classifies right")
    keys = list(correct)
    return [
        Picture(
            "misclassified",
            "",
            clean.class_name(int(clean.labels[i])),
            _smallest_ratios([key for key, wrong in zip(keys, lost[:, i], strict=True) if wrong]),
            encode_png(clean.images[i]),
        )
        for i in chosen
    ]


def corrupted_examples(run: Run, image_source: ImageSource) -> list[Picture]:
    """Returns the first test image as it is, and under every corruption and noise that was measured.

    Raises:
        DataError: If the official images cannot be read, or no corruption and no noise was measured.
    """
    conditions = dict.fromkeys(
        condition for (_, _, condition), score in run.comparison.scores.items() if not score.reason
    )
    clean = image_source.images(View())
    pictures = [
        Picture("corruption", row, column, "", encode_png(_first_image(image_source, clean, transform)))
        for row, column, transform in _transforms(run, conditions)
    ]
    if not pictures:
        raise DataError("no corruption and no noise was measured")
    return [Picture("corruption", "", "as it is", "", encode_png(clean.images[0])), *pictures]


def _correct(run: Run) -> Iterator[tuple[Key, Array]]:
    """Which test images each network classifies right."""
    for (key, metric, condition), score in run.comparison.on_all_images.items():
        if (metric, condition) == ("accuracy", "clean") and score.evidence:
            yield key, next(iter(score.evidence.values())).astype(bool)


def _smallest_ratios(keys: Iterable[Key]) -> str:
    """The smallest tested ratio at which each method misclassifies an image."""
    ratios: dict[str, float] = {}
    for key in keys:
        ratios[key.method] = min(key.target_ratio, ratios.get(key.method, 1.0))
    return ", ".join(f"{method} at {percent(ratio)}" for method, ratio in ratios.items())


def _transforms(
    run: Run, conditions: Iterable[str]
) -> Iterator[tuple[str, str, Transform | OfficialCorruption]]:
    """Row, column and transform of every condition that is a corruption or a noise."""
    # torch takes seconds to import
    from evalsuite.datasets.transforms.common_corruptions.kinds import CORRUPTIONS, EXTRA
    from evalsuite.datasets.transforms.corruption import Corruption

    for condition in conditions:
        if match := _CORRUPTED.fullmatch(condition):
            kind, severity = match["kind"], int(match["severity"])
            if kind in CORRUPTIONS or kind in EXTRA:
                corruption = Corruption(kind, severity)
                transform = _official(run, kind, severity) if match["official"] else corruption
                yield condition.rpartition("/")[0], f"severity {severity}", transform
        elif match := _NOISE.fullmatch(condition):
            epsilon = float(match["epsilon"])
            noise = RandomNoise("gaussian" if match["kind"] == "gaussian" else "uniform", epsilon)
            yield f"{match['kind']} noise", f"ε = {match['epsilon']}/255", noise


def _official(run: Run, kind: str, severity: int) -> OfficialCorruption:
    evaluators: list[dict[str, Any]] = run.record["suite"]["evaluators"]
    official = [table for table in evaluators if table.get("source") == "official"]
    folders = (
        table.get("folder", "") for table in official if not {*table.get("kinds", ())} & {*CORRUPTIONS_3D}
    )
    return OfficialCorruption(kind, severity, next(folders, ""), verify=False)


def _first_image(
    image_source: ImageSource, clean: ImageSet, transform: Transform | OfficialCorruption
) -> Array:
    """The first image under a transform, which depends on the index and the pixels of an image alone."""
    if isinstance(transform, OfficialCorruption):
        return np.asarray(image_source.images(View(transform=transform)).images[0])
    first: Array = transform.apply(clean.images[:1], image_source.place)[0]
    return first
