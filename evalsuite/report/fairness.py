"""How fairly methods are compared: which of the published comparison setups holds between each two of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from evalsuite.cost_axes import AXES
from evalsuite.report.findings import records
from evalsuite.types import Candidate, PhaseName

if TYPE_CHECKING:
    import pandas as pd

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
"""The setups, each with what it adds to those before it."""
TOTALS: Mapping[str, str] = MappingProxyType(
    {
        "SX-A": "same total epochs of pretraining, pruning and retraining",
        "SX-B": "same total compute of pretraining, pruning and retraining",
    }
)
"""Two more demands, which may hold beside any setup."""
LEAST = "S3.2"
"""The weakest setup in which an advantage can come from pruning itself."""
SLACK = 0.02
"""How far ratios, or costs relative to each other, may be apart and still be called the same."""
LEFT = 0.1
"""How far the shares of parameters that are left may be apart, relative to each other: 98 % is not 96 %."""


@dataclass(frozen=True, slots=True)
class Fairness:
    """Is how fairly two methods are compared with each other.

    Attributes:
        first: A method.
        second: Another one.
        pairs: How many pairs of candidates of one seed and one target ratio were looked at.
        holds: Whether each of `SETUPS` and `TOTALS` holds for every pair, by itself; ``None`` where nobody knows.
        why: What the first setup that does not hold lacks, in words; empty if all hold.
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
        """Whether at least `LEAST` holds."""
        return all(self.holds[name] for name in list(SETUPS)[: list(SETUPS).index(LEAST) + 1])


def fairness(candidates: Iterable[Candidate], *, made: Collection[str]) -> list[Fairness]:
    """Returns for each two methods which comparison setups hold between them.

    Candidates of one run share its data. Two have the same base model if both stand on the parent of their seed, after
    the same pretraining: a network that is trained from new weights has none. Of a finished model from elsewhere
    nobody knows that, nor how it was trained; nor what a parent went through that was read from a checkpoint.

    Args:
        candidates: Of one run; parents (target ratio 0) are left out.
        made: Methods whose candidates were made from the run's parents, so that their histories are complete.

    References:
        Wang et al. 2023, "Why is the state of neural network pruning so confusing?", arXiv 2301.05219. Its S3.2 and
        S4.2 name the learning rates alone; here batch, optimiser, weight decay, augmentation and average must be the
        same too, for the same rates mean another training without them.
    """
    ladders: dict[str, dict[tuple[int, float], Candidate]] = {}
    for one in candidates:
        if one.target_ratio > 0:
            ladders.setdefault(one.method, {})[one.seed, one.target_ratio] = one
    return [_compared((first, second), ladders, made) for first, second in combinations(ladders, 2)]


def before_and_after(retraining: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns what retraining was worth to each method at each target ratio, as means over the seeds.

    Args:
        retraining: See `evalsuite.results.tables`.
    """
    if retraining.empty:
        return []
    grouped = retraining.groupby(["method", "target_ratio"], sort=False)
    means = grouped[["ratio", "before", "recalibrated", "after"]].mean()
    return records(means.assign(seeds=grouped.size()).reset_index())


def _compared(
    methods: tuple[str, str],
    ladders: Mapping[str, Mapping[tuple[int, float], Candidate]],
    made: Collection[str],
) -> Fairness:
    mine, other = (ladders[method] for method in methods)
    pairs = [(mine[place], other[place]) for place in mine if place in other]
    known = all(method in made for method in methods)
    holds = {name: _everywhere(test(pair) for pair in pairs) for name, test in _TESTS.items()}
    if not known:
        holds |= {name: None for name in holds if name != "S1"}
    return Fairness(*methods, len(pairs), holds, _why(pairs, holds, known=known))


def _everywhere(found: Iterator[bool]) -> bool | None:
    each = list(found)
    return all(each) if each else None


def _alike(a: float, b: float, slack: float = SLACK) -> bool:
    return abs(a - b) <= slack * max(abs(a), abs(b))


def _same_size(pair: Pair) -> bool:
    a, b = pair
    if a.model.get("name") != b.model.get("name"):
        return False
    smaller = _same_compression(a, b)
    mine, other = a.cost.macs_nonzero, b.cost.macs_nonzero  # with zeros, all sparse networks were as fast
    return smaller or (mine is not None and other is not None and _alike(mine, other))


def _same_compression(a: Candidate, b: Candidate) -> bool:
    """Whether two ratios say the same; those of other things do not, and then what both are stored in decides."""
    if a.axis == b.axis:
        return abs(a.ratio - b.ratio) <= SLACK and _alike(1 - a.ratio, 1 - b.ratio, LEFT)
    mine, other = a.cost.packed, b.cost.packed
    return mine is not None and other is not None and _alike(mine, other)


def _same_base(pair: Pair) -> bool:
    """Whether both stand on the same trained network: methods that start from new weights stand on none."""
    return pair[0].seed == pair[1].seed and _rates(pair[0], "pretraining") == _rates(pair[1], "pretraining")


def _same_epochs(pair: Pair, what: PhaseName | None = None) -> bool:
    return math.isclose(_epochs(pair[0], what), _epochs(pair[1], what), rel_tol=1e-9, abs_tol=1e-9)


def _epochs(candidate: Candidate, what: PhaseName | None = None) -> float:
    return sum(phase.epochs for phase in candidate.history if what in (None, phase.what))


def _rates(candidate: Candidate, what: PhaseName) -> list[tuple[str, str, int]]:
    return [(one.schedule, one.rest, one.images) for one in candidate.history if one.what == what]


def _compute(candidate: Candidate) -> float:
    return float(sum(phase.macs for phase in candidate.history))


_TESTS: Mapping[str, Callable[[Pair], bool]] = MappingProxyType(
    {
        "S1": _same_size,
        "S2": _same_base,
        "S3.1": lambda pair: _same_epochs(pair, "retraining"),
        "S3.2": lambda pair: _rates(pair[0], "retraining") == _rates(pair[1], "retraining"),
        "S4.1": lambda pair: _same_epochs(pair, "pruning"),
        "S4.2": lambda pair: _rates(pair[0], "pruning") == _rates(pair[1], "pruning"),
        "SX-A": _same_epochs,
        "SX-B": lambda pair: _alike(_compute(pair[0]), _compute(pair[1])),
    }
)


def _why(pairs: Sequence[Pair], holds: Mapping[str, bool | None], *, known: bool) -> str:
    if not pairs:
        return "no ratio and seed was measured with both"
    missing = next((name for name in SETUPS if not holds[name]), None)
    if missing is None:
        return ""
    if holds[missing] is None and not known:
        return "one of them was made elsewhere: nobody knows its base model and its training"
    a, b = next(pair for pair in pairs if not _TESTS[missing](pair))
    return f"at {100 * a.target_ratio:.3g} %: {_difference(missing, a, b)}"


def _difference(setup: str, a: Candidate, b: Candidate) -> str:
    if setup == "S1":
        names = (a.model.get("name"), b.model.get("name"))
        sizes = f"ratios {_size(a, b)} and {_size(b, a)}"
        return f"networks {names[0]} and {names[1]}" if names[0] != names[1] else sizes
    if setup == "S2":
        starts = [f"{_epochs(one, 'pretraining'):g}" for one in (a, b)]
        return f"base models after {starts[0]} and {starts[1]} epochs of pretraining"
    what: PhaseName = "retraining" if setup.startswith("S3") else "pruning"
    if setup.endswith(".1"):
        return f"{_epochs(a, what):g} and {_epochs(b, what):g} epochs of {what}"
    told = [
        ", then ".join(phase.rates for phase in one.history if phase.what == what) or "none" for one in (a, b)
    ]
    if told[0] != told[1]:
        return f"learning rates in {what}: {told[0]}, against {told[1]}"
    rests = [[phase.rest for phase in one.history if phase.what == what] for one in (a, b)]
    if rests[0] == rests[1]:
        return f"other training images in {what}"
    return (
        f"the learning rates of {what} are the same, but not the rest of the recipe "
        "(batch, optimiser, weight decay, augmentation or average)"
    )


def _size(one: Candidate, other: Candidate) -> str:
    """A ratio, with what it is of where that is not the same for both."""
    of = "" if one.axis == other.axis else f" of the {AXES[one.axis].noun}"
    return f"{100 * one.ratio:.3g} %{of}"
