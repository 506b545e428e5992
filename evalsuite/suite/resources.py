"""What one cell of a run may take: time, processors, graphics cards. No number depends on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from evalsuite.errors import SuiteError


@dataclass(frozen=True)
class Resources:
    """Is the table ``[resources]`` of a suite.

    Attributes:
        time_limit: Seconds that one test of one candidate may take; ``None`` for any number.
        production_limit: Seconds that making one candidate may take; ``None`` for any number.
        cpus: Processors that Ray keeps for one task; 0 for the suite's number of threads.
        gpus: Graphics cards that Ray keeps for one task; a fraction lets several tasks share one.
    """

    time_limit: float | None = None
    production_limit: float | None = None
    cpus: float = 0.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        for name in ("time_limit", "production_limit"):
            limit = getattr(self, name)
            if limit is not None and not (math.isfinite(limit) and limit > 0):
                raise SuiteError(f"found {name} = {limit}, expected seconds above 0, or leave it out")
        for name in ("cpus", "gpus"):
            share = getattr(self, name)
            if not (math.isfinite(share) and share >= 0):
                raise SuiteError(f"found {name} = {share}, expected a number from 0 on")
