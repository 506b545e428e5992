"""Where corrupted images come from in a suite that says ``source = "auto"``: an official archive if it is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evalsuite.config.suite import Suite
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.transforms.archives import ARCHIVES
from evalsuite.datasets.views import View
from evalsuite.evaluators import EVALUATORS
from evalsuite.plugin_config import from_table


def with_corruption_sources(suite: Suite, image_source: ImageSource) -> Suite:
    """Returns the suite with a source for each test that leaves it open, and a note of what was chosen.

    Args:
        suite: The suite; its tests with an open source are set to ``generated``.
        image_source: Its images, and the data root where archives are.
    """
    if not suite.automatic:
        return suite
    evaluators, notes = [], list(suite.notes)
    for config in suite.evaluators:
        table = suite.automatic.get(config.label)
        folder = "" if table is None else _archive(table, image_source)
        if table is not None and folder:
            official = {**table, "source": "official"}
            config = from_table(EVALUATORS, official, where=f"{suite.source}, [[evaluators]]")
            notes.append(f"{config.label}: source = 'auto' is the official archive {folder}, which is there.")
        elif table is not None:
            notes.append(
                f"{config.label}: source = 'auto' is generated here: no official archive is in the data root."
            )
        evaluators.append(config)
    return replace(suite, evaluators=tuple(evaluators), notes=tuple(notes))


def _archive(table: Mapping[str, Any], image_source: ImageSource) -> str:
    """The folder of the archive that belongs to the test images, if it is in the data root; else an empty text."""
    published = ARCHIVES.get(image_source.images(View()).name)
    folder = str(table.get("folder") or (published.folder if published else ""))
    root = image_source.place.root
    return folder if folder and root is not None and (root / folder).is_dir() else ""
