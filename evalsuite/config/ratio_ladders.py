"""Ratios by a rule: each step keeps the same share of what the step before has kept."""

from __future__ import annotations

from dataclasses import dataclass

from evalsuite.errors import SuiteError


@dataclass(frozen=True)
class RatioLadder:
    """The table ``ratios = { geometric = 0.85, steps = 20 }`` of a suite.

    Attributes:
        geometric: Share of the parameters that one step keeps of those that the step before has kept, in (0, 1).
        steps: Number of steps.
        first: Share that the first step keeps; 0 for `geometric`.
        retrain_every: Steps from one retraining to the next. Those between are pruned and not retrained, measured or
            saved: the candidates are those of every such step, and of the last one.

    References:
        Liebenwein et al. 2021, arXiv 2103.03014: geometric steps, with two that only prune between two retrainings.
    """

    geometric: float
    steps: int
    first: float = 0.0
    retrain_every: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.geometric < 1 or not 0 <= self.first < 1:
            raise SuiteError(
                f"found geometric = {self.geometric} and first = {self.first}, expected shares that stay, in (0, 1)"
            )
        if self.steps < 1 or not 1 <= self.retrain_every <= self.steps:
            raise SuiteError(
                f"found steps = {self.steps} and retrain_every = {self.retrain_every}, expected a number of steps, and "
                "one from 1 to it"
            )

    @property
    def all_ratios(self) -> tuple[float, ...]:
        """The ratio of each step, rising, rounded to six places.

        >>> RatioLadder(geometric=0.5, steps=3).all_ratios
        (0.5, 0.75, 0.875)
        """
        first = self.first or self.geometric
        return tuple(round(1 - first * self.geometric**step, 6) for step in range(self.steps))

    @property
    def retrained(self) -> tuple[float, ...]:
        """The ratios of the candidates.

        >>> RatioLadder(geometric=0.5, steps=5, retrain_every=2).retrained
        (0.75, 0.9375, 0.96875)
        """
        last = self.steps - 1
        every = self.retrain_every
        return tuple(
            ratio for step, ratio in enumerate(self.all_ratios) if (step + 1) % every == 0 or step == last
        )
