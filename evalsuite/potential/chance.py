"""Where a tolerance asks for nothing: a parent that is hardly better than a guess."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from evalsuite.potential.curves import Curves, Flags


def at_chance(pairs: pd.DataFrame, curves: Curves) -> Flags:
    """Returns whether what is tolerated reaches down to the value of a network that guesses.

    Args:
        pairs: A row for each place of axis 2, with columns higher_is_better and chance (NaN where nobody knows).
        curves: Curves of shape (methods, seeds, pairs, slots).

    Returns:
        Shape (methods, seeds, pairs).
    """
    sign = np.where(pairs["higher_is_better"].to_numpy(dtype=bool), 1.0, -1.0)
    above = sign * (curves.reference - pairs["chance"].to_numpy(dtype=np.float64))
    return np.asarray(above <= curves.limits)
