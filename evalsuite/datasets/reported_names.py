"""What image sets on disk are called in reports."""

from __future__ import annotations

from pathlib import Path


def reported_name(path: str) -> str:
    """Returns the name of a data set in reports: the last part of an absolute path, else the path as it was given."""
    return Path(path).name if Path(path).expanduser().is_absolute() else path
