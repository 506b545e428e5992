"""What is certified for a method errs as rarely as it says, whatever the noise consists of."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from evalsuite.thresholds.threshold import thresholds


@pytest.mark.parametrize(
    ("of_seeds", "common", "own"), [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1), (0.3, 1, 0.3)]
)
@pytest.mark.parametrize("seeds", [3, 5])
def test_the_method_is_certified_too_far_in_at_most_one_in_twenty(
    of_seeds: float, common: float, own: float, seeds: int
) -> None:
    """Simulated tests are the conditions of one table; the true drop is just above the tolerance."""
    random, count, tolerance = np.random.default_rng(seeds), 3000, 0.5
    shape = (count, seeds)
    drops = tolerance + 1e-6 + of_seeds * random.normal(size=shape) + common * random.normal(size=(count, 1))
    drops += own * random.normal(size=shape)
    image_error = math.sqrt(common**2 + own**2 / seeds)
    conditions = np.arange(count)
    candidates = pd.DataFrame(
        {
            "method": "m",
            "seed": np.repeat(np.arange(seeds), count),
            "condition": np.tile(conditions, seeds),
            "ratio": 0.5,
            "value": -drops.T.ravel(),
        }
    )
    parents = candidates.assign(method="dense", ratio=0.0, value=0.0)
    table = pd.concat([parents, candidates]).assign(metric="accuracy", higher_is_better=True)
    upper = drops.mean(axis=1) + 1.6449 * image_error
    given = pd.DataFrame(
        {"condition": conditions, "drop_upper_95": upper, "drop_lower_simultaneous": -9.0, "drop_high": upper}
    )
    given = given.assign(method="m", metric="accuracy", target_ratio=0.5, drop_low=-9.0)
    answers = thresholds(table, tolerance=tolerance, over_seeds=given)
    wrong = answers.loc[answers["seed"] == "all", "certified_method"] > 0
    assert len(wrong) == count
    assert wrong.mean() < 0.05 + 3 * math.sqrt(0.05 * 0.95 / count)
    if not common and not own:
        assert wrong.mean() > 0.05 - 3 * math.sqrt(0.05 * 0.95 / count)  # Student's t is exact
    if of_seeds and (common or own):
        networks = answers.loc[answers["seed"] == "all", "certified"] > 0
        assert networks.mean() > wrong.mean()  # the other question has another answer


def test_a_limit_that_moves_with_the_parent_of_a_seed_varies_over_seeds_too() -> None:
    """Parents differ, their children do not: half of the parent's error may be added, and truly is."""
    random, count, seeds = np.random.default_rng(0), 3000, 5
    conditions = np.arange(count)
    own = 2 + 0.2 * random.normal(size=(seeds, count))
    parents = pd.DataFrame(
        {
            "method": "dense",
            "seed": np.repeat(np.arange(seeds), count),
            "condition": np.tile(conditions, seeds),
            "ratio": 0.0,
            "value": own.ravel(),
        }
    )
    candidates = parents.assign(method="m", ratio=0.5, value=3 + 1e-6 + 0.02 * random.normal(size=own.size))
    table = pd.concat([parents, candidates]).assign(metric="error", higher_is_better=False)
    upper = 3 - own.mean(axis=0)
    given = pd.DataFrame(
        {"condition": conditions, "drop_upper_95": upper, "drop_lower_simultaneous": -9.0, "drop_high": upper}
    )
    given = given.assign(method="m", metric="error", target_ratio=0.5, drop_low=-9.0)
    answers = thresholds(table, tolerance="50%", over_seeds=given)
    wrong = answers.loc[answers["seed"] == "all", "certified_method"] > 0
    assert len(wrong) == count
    assert wrong.mean() == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / count))
