"""What a candidate loses beyond its control: a dense network of the same seed that was trained in the same way.

A network that is only trained again changes as well, and is sometimes shown to fail; what is left is pruning. A control
is one that went through the same trainings, by the record of both: as many, as long, with the same learning rates and
the same settings. Candidates that have none, those from other tools and methods that train otherwise, have no such
numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from evalsuite.runs.store import Key
from evalsuite.statistics.contrasts import Contrast, contrast_bounds
from evalsuite.statistics.resampling import one_thread
from evalsuite.thresholds.seeds import ALL_SEEDS
from evalsuite.types import DENSE, Candidate

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
        if key.method in unpruned and (own := _trainings(candidate)):
            trained.setdefault((key.seed, key.target_ratio, own), key)
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
    """Returns the differences of candidates and their controls, one row per test, and of their means over the seeds.

    Args:
        comparison: The scores of a run with their evidence.
        controls: Candidate to control.

    Returns:
        Columns `PLACE`, with seed ``all`` for means over several seeds, `COLUMNS`, and ``beyond_control_test``, equal
        numbers where the evidence is the same.
    """
    places = list(_places(comparison, controls))
    contrasts = [_contrast(comparison, controls, keys, *of) for keys, of, _ in places]
    with one_thread():
        found = contrast_bounds(contrasts, replicates=comparison.replicates)
    arrays = (found.difference, found.low, found.high, found.noninferiority_p, found.inferiority_p)
    labels = [(keys[0].method, seed, keys[0].target_ratio, *of) for keys, of, seed in places]
    table = pd.DataFrame(labels, columns=list(PLACE)).assign(**dict(zip(COLUMNS, arrays, strict=True)))
    codes = [comparison.code([controls[key] for key in keys], *of) for keys, of, _ in places]
    own = [comparison.code(keys, *of) for keys, of, _ in places]
    table["beyond_control_test"] = pd.factorize(pd.MultiIndex.from_arrays([codes, own]))[0] if codes else []
    return table


def _places(
    comparison: Comparison, controls: Mapping[Key, Key]
) -> Iterator[tuple[tuple[Key, ...], tuple[str, str], Any]]:
    """Yields the candidates of each difference, its metric and condition, and its seed, ``all`` for several."""
    seeds: dict[tuple[str, float, str, str], list[Key]] = {}
    for key, metric, condition in comparison.tested:
        control = controls.get(key)
        if control is not None and (control, metric, condition) in comparison.scores:
            yield (key,), (metric, condition), key.seed
            seeds.setdefault((key.method, key.target_ratio, metric, condition), []).append(key)
    count = len({key.seed for key in controls})
    for (_, _, metric, condition), keys in seeds.items():
        if len(keys) == count > 1:
            yield tuple(keys), (metric, condition), ALL_SEEDS


def _contrast(
    comparison: Comparison, controls: Mapping[Key, Key], keys: Sequence[Key], metric: str, condition: str
) -> Contrast:
    def evidence(key: Key) -> Mapping[str, Any]:
        return comparison.scores[key, metric, condition].evidence

    tolerances = [comparison.tolerance_of(key, metric, condition) for key in keys]
    return Contrast(
        comparison.metrics[metric],
        tuple(evidence(controls[key]) for key in keys),
        tuple(evidence(key) for key in keys),
        float(np.mean(tolerances)),
    )
