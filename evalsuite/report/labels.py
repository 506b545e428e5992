"""What a report calls a method: with what its ratios are counted in, where that is not what all others' are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from evalsuite.cost_axes import AXES
from evalsuite.results.cost_axis import axes_of

if TYPE_CHECKING:
    import pandas as pd

    from evalsuite.results.run import Run

NAMED = ("method", "first", "second")
"""Columns that hold names of methods."""


def labels(run: Run) -> dict[str, str]:
    """Returns names of methods to what they are called, where that is more than the name.

    One axis for all is said once, in the report's answer; nobody may read saved bytes as zeros.
    """
    own = {} if run.axis else axes_of(run.record["suite"])
    return {method: f"{method} ({AXES[axis].noun})" for method, axis in own.items()}


def labelled(table: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Returns a table with methods called as `names` says."""
    columns = [name for name in NAMED if name in table]
    return table.assign(**{name: [names.get(str(one), one) for one in table[name]] for name in columns})
