"""Lists of finished models: a manifest in CSV or TOML, or paths on a command line."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evalsuite.config.settings import placed_model
from evalsuite.config.suite import RESERVED
from evalsuite.config.toml import decoded_text, toml_tables
from evalsuite.errors import CheckpointError, SuiteError
from evalsuite.plugin_config import build
from evalsuite.types import ExternalCandidate


def read_manifest(path: Path) -> tuple[ExternalCandidate, ...]:
    """Returns the models that a manifest lists: CSV with a header, or TOML with ``[[candidates]]``.

    Columns or keys are those of `evalsuite.types.ExternalCandidate`; relative paths start at the manifest. A model
    without a method is named after its file.

    Raises:
        SuiteError: If the file cannot be read, or a line is not as it must be.
    """
    try:
        text = decoded_text(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"manifest {path} cannot be read: {error}") from error
    toml = path.suffix == ".toml"
    rows = toml_tables(text, where=f"manifest {path}").get("candidates", []) if toml else _lines(text)
    if not rows:
        raise SuiteError(
            f"manifest {path} lists no candidates; expected a header with 'file' and a line for each"
        )
    rows = [{"method": Path(str(row.get("file", ""))).name.partition(".")[0], **row} for row in rows]
    candidates = (
        build(ExternalCandidate, row, where=f"{path}, candidate {index}")
        for index, row in enumerate(rows, start=1)
    )
    return tuple(_beside(path.parent, candidate) for candidate in candidates)


def candidates_of_paths(paths: Iterable[str]) -> tuple[ExternalCandidate, ...]:
    """Returns one model per path, each a method of its own, named after the file as briefly as is unique."""
    files = list(paths)
    stems = [Path(path).name.partition(".")[0] for path in files]
    names = [
        stem if stems.count(stem) == 1 and stem not in RESERVED else path
        for stem, path in zip(stems, files, strict=True)
    ]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CheckpointError(f"--candidate {twice} is there twice; name each file once")
    return tuple(ExternalCandidate(path, name) for path, name in zip(files, names, strict=True))


def _lines(text: str) -> list[dict[str, Any]]:
    """Rows of a CSV manifest with numbers where numbers belong, empty cells left out."""
    rows = []
    header = text.lstrip().partition("\n")[0]
    others = (
        mark for mark in ";\t" if mark in header and "," not in header
    )  # where a comma is a decimal point
    between = next(others, ",")
    for row in csv.DictReader(text.splitlines(), skipinitialspace=True, delimiter=between):
        filled: dict[str, Any] = {
            key: value.strip() for key, value in row.items() if key and value and value.strip()
        }
        for key, kind in (("seed", int), ("ratio", float)):
            if key in filled:
                filled[key] = _number(filled[key], kind, between)
        if "bypass" in filled:
            filled["bypass"] = filled["bypass"].split()
        for key, kind in (("mean", float), ("std", float), ("num_heads", int)):
            if key in filled:
                filled[key] = [_number(part, kind, between) for part in filled[key].split()]
        rows.append(filled)
    return rows


def _number(text: str, kind: type[int] | type[float], between: str) -> float | str:
    try:
        return kind(text.replace(",", ".") if between != "," else text)
    except ValueError:
        return text  # refused below, with its key


def _beside(folder: Path, candidate: ExternalCandidate) -> ExternalCandidate:
    """The candidate with paths relative to the manifest where such files exist; else they are left as they are."""

    def placed(name: str) -> str:
        return str((folder / name).resolve()) if name and (folder / name).exists() else name

    return dataclasses.replace(
        candidate,
        file=placed(candidate.file),
        masks=placed(candidate.masks),
        model=placed_model(candidate.model, folder),
    )
