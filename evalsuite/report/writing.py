"""The page into its folder; light to import, for what makes the page is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from evalsuite.report.findings import Findings


def write(findings: Findings, folder: Path) -> Path:
    """Writes ``index.html`` into `folder`, whole or not at all.

    Args:
        findings: The numbers of a run and what was concluded from them.
        folder: An existing folder, or one that can be made.

    Returns:
        The path of the page.

    Raises:
        StoreError: If the folder cannot be written.
    """
    from evalsuite.report.page import written  # pandas, jinja2 and altair take a second to import

    return written(findings, folder)
