"""What a candidate loses beyond its control: a dense network of the same seed that was trained in the same way.

A network that is only trained again changes as well, and is sometimes shown to fail; what is left is pruning. A control
is one that went through the same trainings, by the record of both: as many, as long, with the same learning rates and
the same settings. Candidates that have none, those from other tools and methods that train otherwise, have no such
numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from evalsuite.runs.store import Key
from evalsuite.statistics.bounds import mean_evidence
from evalsuite.statistics.contrasts import Contrast, contrast_bounds
from evalsuite.statistics.resampling import one_thread
from evalsuite.thresholds.seeds import ALL_SEEDS
from evalsuite.types import DENSE, Array, Candidate

if TYPE_CHECKING:
    from evalsuite.results.comparison import Comparison

COLUMNS = (
    *("beyond_control", "beyond_control_low", "beyond_control_high"),
    *("beyond_control_noninferiority_p", "beyond_control_inferiority_p"),
)
"""How much worse the candidate is than its control, its 95 % interval, and p-values; as those of the drop."""
PLACE = ("method", "seed", "target_ratio", "metric", "condition")

Trainings = tuple[tuple[str, float, str, str], ...]


def matching_controls(candidates: Mapping[Key, Candidate], unpruned: Collection[str]) -> dict[Key, Key]:
    """Returns the control of each candidate that has one.

    Args:
        candidates: All networks of a run.
        unpruned: Methods that prune nothing.
    """
    trained: dict[tuple[int, float, Trainings], Key] = {}
    for key, candidate in candidates.items():
        if key.method in unpruned and (trainings := _trainings(candidate)):
            trained.setdefault((key.seed, key.target_ratio, trainings), key)
    controls = {
        key: trained.get((key.seed, key.target_ratio, _trainings(candidate)))
        for key, candidate in candidates.items()
        if key.method != DENSE and key.method not in unpruned
    }
    return {key: control for key, control in controls.items() if control is not None}


def _trainings(candidate: Candidate) -> Trainings:
    """What a candidate went through after the training of its parent."""
    return tuple(
        (phase.what, phase.epochs, phase.schedule, phase.rest)
        for phase in candidate.history
        if phase.what != "pretraining"
    )


def beyond_control(comparison: Comparison, controls: Mapping[Key, Key]) -> pd.DataFrame:
    """Returns the differences of candidates and their controls: of each check, and of the mean over each group.

    Args:
        comparison: The scores of a run with their evidence.
        controls: Candidate to control.

    Returns:
        Columns `PLACE`, with seed ``all`` for means over several seeds and the group's name as the condition of means
        over a group, `COLUMNS`, and ``beyond_control_test``, equal numbers where the evidence is the same.
    """
    places = [*_single_places(comparison, controls), *_group_places(comparison, controls)]
    places += _means_over_seeds(places, len({key.seed for key in controls}))
    contrasts = [_contrast(comparison, controls, place) for place in places]
    with one_thread():
        bounds = contrast_bounds(contrasts, replicates=comparison.replicates)
    arrays = (bounds.difference, bounds.low, bounds.high, bounds.noninferiority_p, bounds.inferiority_p)
    labels = [(p.keys[0].method, p.seed, p.keys[0].target_ratio, p.metric, p.condition) for p in places]
    table = pd.DataFrame(labels, columns=list(PLACE)).assign(**dict(zip(COLUMNS, arrays, strict=True)))
    codes: dict[tuple[int, ...], int] = {}
    tests = [codes.setdefault(_code(comparison, controls, place), len(codes)) for place in places]
    return table.assign(beyond_control_test=tests)


@dataclass(frozen=True, slots=True)
class _Place:
    """One difference: candidates of one method and target ratio, a metric, and the conditions that it is the mean over.

    Attributes:
        keys: The candidate of each seed.
        metric: Its name.
        condition: Name of the condition, or of the group.
        members: Conditions.
        seed: Seed of the only candidate, or ``all``.
    """

    keys: tuple[Key, ...]
    metric: str
    condition: str
    members: tuple[str, ...]
    seed: Any


def _single_places(comparison: Comparison, controls: Mapping[Key, Key]) -> Iterator[_Place]:
    for key, metric, condition in comparison.tested:
        control = controls.get(key)
        if control is not None and (control, metric, condition) in comparison.scores:
            yield _Place((key,), metric, condition, (condition,), key.seed)


def _group_places(comparison: Comparison, controls: Mapping[Key, Key]) -> Iterator[_Place]:
    """Means over groups; those that a test reports itself are single checks already."""
    for (_, metric, group), curves in comparison.groups.items():
        for key in dict.fromkeys(key for keys in curves.values() for key in keys):
            control = controls.get(key)
            complete = control is not None and all(
                key in keys and (control, metric, condition) in comparison.scores
                for condition, keys in curves.items()
            )
            if complete and (key, metric, group) not in comparison.tested:
                yield _Place((key,), metric, group, tuple(curves), key.seed)


def _means_over_seeds(places: Sequence[_Place], seeds: int) -> Iterator[_Place]:
    """The means over all seeds of differences that every seed has."""
    by_place: dict[tuple[Any, ...], list[_Place]] = defaultdict(list)
    for place in places:
        (key,) = place.keys
        by_place[key.method, key.target_ratio, place.metric, place.condition].append(place)
    for same in by_place.values():
        if len(same) == seeds > 1:
            yield replace(same[0], keys=tuple(key for place in same for key in place.keys), seed=ALL_SEEDS)


def _contrast(comparison: Comparison, controls: Mapping[Key, Key], place: _Place) -> Contrast:
    metric = comparison.metrics[place.metric]

    def evidence(keys: Iterable[Key]) -> tuple[Mapping[str, Array], ...]:
        of_seeds = [
            [comparison.scores[key, place.metric, name].evidence for name in place.members] for key in keys
        ]
        same_images = len({tuple(one) for each in of_seeds for one in each}) == 1
        if metric.functional == "mean" and same_images and len(place.members) > 1:
            return tuple(mean_evidence(each) for each in of_seeds)
        return tuple(one for each in of_seeds for one in each)

    tolerances = [
        comparison.tolerance_of(key, place.metric, name) for key in place.keys for name in place.members
    ]
    return Contrast(
        metric,
        evidence(controls[key] for key in place.keys),
        evidence(place.keys),
        float(np.mean(tolerances)),
    )


def _code(comparison: Comparison, controls: Mapping[Key, Key], place: _Place) -> tuple[int, ...]:
    """Equal where the evidence behind two differences is the same."""
    networks = ([controls[key] for key in place.keys], place.keys)
    return tuple(
        comparison.code(keys, place.metric, condition) for condition in place.members for keys in networks
    )
