"""Comparability of methods: which of the published comparison setups hold between each two of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType

from evalsuite.cost_axes import AXES
from evalsuite.types import Candidate, PhaseName

Pair = tuple[Candidate, Candidate]

SETUPS: Mapping[str, str] = MappingProxyType(
    {
        "S1": "same data, network, and compression or speed-up",
        "S2": "same base model",
        "S3.1": "same epochs of retraining",
        "S3.2": "same learning rates in retraining, and all else of the recipe",
        "S4.1": "same epochs of pruning",
        "S4.2": "same learning rates in pruning, and all else of the recipe",
    }
)
"""The setups, each with the demand that it adds to those before it."""
TOTALS: Mapping[str, str] = MappingProxyType(
    {
        "SX-A": "same total epochs of pretraining, pruning and retraining",
        "SX-B": "same total compute of pretraining, pruning and retraining",
    }
)
"""Two more demands, which may hold with any setup."""
FAIR_FROM = "S3.2"
"""The weakest setup in which an advantage must come from pruning and not from training."""
RATIO_SLACK = 0.02
"""Largest difference of ratios, and largest relative difference of costs, that count as the same."""
REMAINING_SLACK = 0.1
"""Largest relative difference of the remaining shares of parameters that count as the same: 98 % is not 96 %."""


@dataclass(frozen=True, slots=True)
class Comparability:
    """The comparison setups that hold between two methods.

    Attributes:
        first: A method.
        second: Another one.
        pairs: Number of pairs of candidates of one seed and one target ratio.
        holds: Whether each of `SETUPS` and `TOTALS` holds for every pair, by itself; ``None`` where it is unknown.
        why: The difference in the first setup that does not hold, in words; empty if all hold.
    """

    first: str
    second: str
    pairs: int
    holds: Mapping[str, bool | None]
    why: str

    @property
    def setup(self) -> str:
        """The strictest setup that holds with all those before it; empty if none does."""
        strictest = ""
        for name in SETUPS:
            if not self.holds[name]:
                break
            strictest = name
        return strictest

    @property
    def fair(self) -> bool:
        """Whether at least `FAIR_FROM` holds."""
        return all(self.holds[name] for name in list(SETUPS)[: list(SETUPS).index(FAIR_FROM) + 1])


def comparability(candidates: Iterable[Candidate], *, produced: Collection[str]) -> list[Comparability]:
    """Returns for each two methods which comparison setups hold between them.

    Candidates of one run share its data. Two have the same base model if both were pruned from the parent of their
    seed, after the same pretraining: a network that is trained from new weights has none. The base model and the
    training of an external candidate are unknown, and so is the training of a parent that was read from a checkpoint.

    Args:
        candidates: Of one run; parents (target ratio 0) are left out.
        produced: Methods whose candidates the run produced from its parents, so that their histories are complete.

    References:
        Wang et al. 2023, "Why is the state of neural network pruning so confusing?", arXiv 2301.05219. Its S3.2 and
        S4.2 name the learning rates alone; here batch, optimiser, weight decay, augmentation and average must be the
        same too, since the same rates are another training without them.
    """
    by_method: dict[str, dict[tuple[int, float], Candidate]] = {}
    for candidate in candidates:
        if candidate.target_ratio > 0:
            place = candidate.seed, candidate.target_ratio
            by_method.setdefault(candidate.method, {})[place] = candidate
    return [_compared(pair, by_method, produced) for pair in combinations(by_method, 2)]


def _compared(
    methods: tuple[str, str],
    by_method: Mapping[str, Mapping[tuple[int, float], Candidate]],
    produced: Collection[str],
) -> Comparability:
    first, second = (by_method[method] for method in methods)
    pairs = [(first[place], second[place]) for place in first if place in second]
    are_produced = all(method in produced for method in methods)
    holds = {name: _holds_everywhere(test(pair) for pair in pairs) for name, test in _TESTS.items()}
    if not are_produced:
        holds |= {name: None for name in holds if name != "S1"}
    return Comparability(
        *methods, len(pairs), holds, _first_difference(pairs, holds, are_produced=are_produced)
    )


def _holds_everywhere(outcomes: Iterator[bool]) -> bool | None:
    """Whether a demand holds for all pairs; ``None`` without pairs."""
    of_pairs = list(outcomes)
    return all(of_pairs) if of_pairs else None


def _nearly_equal(a: float, b: float, slack: float = RATIO_SLACK) -> bool:
    return abs(a - b) <= slack * max(abs(a), abs(b))


def _same_size(pair: Pair) -> bool:
    a, b = pair
    if a.model.get("name") != b.model.get("name"):
        return False
    macs = (
        a.cost.macs_nonzero,
        b.cost.macs_nonzero,
    )  # counting zeros, all sparse networks would be equally fast
    return _same_compression(a, b) or _same_known(*macs)


def _same_compression(a: Candidate, b: Candidate) -> bool:
    """Whether two ratios are the same; on different cost axes the packed bytes are compared instead."""
    if a.axis == b.axis:
        return abs(a.ratio - b.ratio) <= RATIO_SLACK and _nearly_equal(
            1 - a.ratio, 1 - b.ratio, REMAINING_SLACK
        )
    return _same_known(a.cost.packed, b.cost.packed)


def _same_known(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and _nearly_equal(a, b)


def _same_base(pair: Pair) -> bool:
    """Whether both were pruned from the same trained network: methods that start from new weights have none."""
    a, b = pair
    return a.seed == b.seed and _schedules(a, "pretraining") == _schedules(b, "pretraining")


def _same_epochs(pair: Pair, what: PhaseName | None = None) -> bool:
    return math.isclose(_epochs(pair[0], what), _epochs(pair[1], what), rel_tol=1e-9, abs_tol=1e-9)


def _epochs(candidate: Candidate, what: PhaseName | None = None) -> float:
    return sum(phase.epochs for phase in candidate.history if what in (None, phase.what))


def _schedules(candidate: Candidate, what: PhaseName) -> list[tuple[str, str, int]]:
    return [(phase.schedule, phase.rest, phase.images) for phase in candidate.history if phase.what == what]


def _compute(candidate: Candidate) -> float:
    return float(sum(phase.macs for phase in candidate.history))


_TESTS: Mapping[str, Callable[[Pair], bool]] = MappingProxyType(
    {
        "S1": _same_size,
        "S2": _same_base,
        "S3.1": lambda pair: _same_epochs(pair, "retraining"),
        "S3.2": lambda pair: _schedules(pair[0], "retraining") == _schedules(pair[1], "retraining"),
        "S4.1": lambda pair: _same_epochs(pair, "pruning"),
        "S4.2": lambda pair: _schedules(pair[0], "pruning") == _schedules(pair[1], "pruning"),
        "SX-A": _same_epochs,
        "SX-B": lambda pair: _nearly_equal(_compute(pair[0]), _compute(pair[1])),
    }
)


def _first_difference(pairs: Sequence[Pair], holds: Mapping[str, bool | None], *, are_produced: bool) -> str:
    if not pairs:
        return "no ratio and seed was measured with both"
    missing = next((name for name in SETUPS if not holds[name]), None)
    if missing is None:
        return ""
    if holds[missing] is None and not are_produced:
        return "one of them was made elsewhere: its base model and its training are unknown"
    a, b = next(pair for pair in pairs if not _TESTS[missing](pair))
    return f"at {100 * a.target_ratio:.3g} %: {_difference(missing, a, b)}"


def _difference(setup: str, a: Candidate, b: Candidate) -> str:
    if setup == "S1":
        names = (a.model.get("name"), b.model.get("name"))
        sizes = f"ratios {_ratio_text(a, b)} and {_ratio_text(b, a)}"
        return f"networks {names[0]} and {names[1]}" if names[0] != names[1] else sizes
    if setup == "S2":
        epochs = [f"{_epochs(candidate, 'pretraining'):g}" for candidate in (a, b)]
        return f"base models after {epochs[0]} and {epochs[1]} epochs of pretraining"
    what: PhaseName = "retraining" if setup.startswith("S3") else "pruning"
    if setup.endswith(".1"):
        return f"{_epochs(a, what):g} and {_epochs(b, what):g} epochs of {what}"
    phases = [[phase for phase in candidate.history if phase.what == what] for candidate in (a, b)]
    rates = [", then ".join(phase.rates for phase in of_one) or "none" for of_one in phases]
    if rates[0] != rates[1]:
        return f"learning rates in {what}: {rates[0]}, against {rates[1]}"
    rests = [[phase.rest for phase in of_one] for of_one in phases]
    if rests[0] == rests[1]:
        return f"other training images in {what}"
    return (
        f"the learning rates of {what} are the same, but not the rest of the recipe "
        "(batch, optimiser, weight decay, augmentation or average)"
    )


def _ratio_text(candidate: Candidate, other: Candidate) -> str:
    """A ratio, with the cost that it is a share of if that differs between the two."""
    of_cost = "" if candidate.axis == other.axis else f" of the {AXES[candidate.axis].noun}"
    return f"{100 * candidate.ratio:.3g} %{of_cost}"
