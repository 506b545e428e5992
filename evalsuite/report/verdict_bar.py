"""The interval of a threshold as a bar in three states: shown to hold, undecided, shown to fail."""

from __future__ import annotations

from dataclasses import dataclass

from evalsuite.report.labels import percent


@dataclass(frozen=True, slots=True)
class VerdictBar:
    """The interval of the true potential of a check, or of a group of checks, on the axis of ratios.

    Attributes:
        label: What is checked.
        checks: Number of checks.
        never_decided: How many of them have no sound bounds, and are left out.
        holds: Ratio up to which all are shown to be non-inferior; 0 if none, ``None`` where nothing can be decided.
        fails: Ratio from which they are shown to be inferior; ``None`` if there is none.
        last: Largest tested ratio.
    """

    label: str
    checks: int
    never_decided: int
    holds: float | None
    fails: float | None
    last: float

    @property
    def open_until(self) -> float:
        """Where the undecided part ends."""
        return self.last if self.fails is None else self.fails

    @property
    def tip(self) -> str:
        """The bar in words."""
        subject = f"{self.checks} checks" if self.checks > 1 else "1 check"
        if self.holds is None:
            undecidable = self.never_decided == self.checks
            return (
                f"{subject}, {'which images cannot decide' if undecidable else 'not measured at every ratio'}"
            )
        left_out = f", {self.never_decided} of them never decided" if self.never_decided else ""
        shown = (
            f"shown to hold up to {percent(self.holds)}"
            if self.holds
            else "not shown to hold at any tested ratio"
        )
        failing = (
            f"shown to fail from {percent(self.fails)}" if self.fails is not None else "not shown to fail"
        )
        return f"{subject}{left_out}: {shown}, {failing}"
