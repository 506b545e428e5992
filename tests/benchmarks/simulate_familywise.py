"""How often any of several thresholds is certified too far, each by itself and all together.

Families of eight metrics: four rates, two mean losses, two areas under the ROC curve, with the models of
`simulate_thresholds.py`. Run from the root of the repository::

    python tests/benchmarks/simulate_familywise.py --simulations 2000

Printed for each number of metrics that truly fail, by a hair, at every ratio but the first: how often any of them
is certified beyond it, each by itself (`certified`) and together (`certified_jointly`), and how often all
metrics that never fail are certified to the last ratio.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evalsuite.statistics import bootstrap_weights, bounds
from evalsuite.thresholds.familywise import FAMILYWISE_ERROR, holm_fixed_sequences

if TYPE_CHECKING:
    from evalsuite.types import Floats

FAMILY = ("accuracy", "accuracy", "accuracy", "accuracy", "nll", "nll", "auroc", "auroc")
RATIOS = np.array([0.5, 0.7, 0.9])
TOLERANCE = {"accuracy": 0.02, "nll": 0.02, "auroc": 0.02}
HARMLESS, HAIR = -2.0, 1.001
"""True drops in multiples of the tolerance."""
REPLICATES = 1000


def model() -> Any:
    """The script with the models of evidence."""
    spec = spec_from_file_location("simulate_thresholds", Path(__file__).with_name("simulate_thresholds.py"))
    if spec is None or spec.loader is None:
        raise ImportError("simulate_thresholds.py is not beside this script")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def chances(models: Any, random: np.random.Generator, n: int, failing: int, weights: Any) -> Floats:
    """p-values of one sample of images, (8, 3); the last `failing` of the metrics fail."""
    p_values = []
    for place, metric in enumerate(FAMILY):
        shape = [HARMLESS, *2 * [HAIR if place >= len(FAMILY) - failing else HARMLESS]]
        drops = TOLERANCE[metric] * np.array([shape])
        if metric == "auroc":
            ((parent, candidates),) = models.scores(random, n, models.shifts(metric, drops))
        else:
            draw = models.accuracy if metric == "accuracy" else models.nll
            ((correct, table),) = draw(random, n, drops)
            parent, candidates = {"x": correct}, [{"x": column} for column in table.T]
        result = bounds(
            models.METRICS[metric], parent, candidates, weights=weights, tolerance=TOLERANCE[metric]
        )
        p_values.append(result.noninferiority_p)
    return np.array(p_values)


def simulated(n: int, failing: int, simulations: int, *, seed: int = 0) -> tuple[int, int, int]:
    """Numbers of simulations: one threshold too far by itself, one too far jointly, and all certified completely."""
    models = model()
    models.RATIOS = RATIOS
    weights = bootstrap_weights({"x": n, "inside": n, "outside": n}, replicates=REPLICATES, seed=0)
    random = np.random.default_rng([seed, n, failing])
    singly = together = complete = 0
    wrong = slice(len(FAMILY) - failing, len(FAMILY))
    for _ in range(simulations):
        p = chances(models, random, n, failing, weights)
        jointly = holm_fixed_sequences(np.broadcast_to(RATIOS, p.shape), p)
        singly += bool((p[wrong, :2] <= FAMILYWISE_ERROR).all(axis=1).any())
        together += bool((jointly[wrong] > RATIOS[0]).any())
        complete += bool((jointly[: wrong.start] == RATIOS[-1]).all())
    return singly, together, complete


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--images", type=int, nargs="+", default=[1000])
    options = parser.parse_args()
    sys.stdout.write(
        "| images | metrics that fail | any too far, each by itself | together | all others complete |\n"
    )
    sys.stdout.write("|---|---|---|---|---|\n")
    for n in options.images:
        for failing in (1, 2, 4, 8):
            shares = [count / options.simulations for count in simulated(n, failing, options.simulations)]
            sys.stdout.write(
                f"| {n} | {failing} | " + " | ".join(f"{share:.1%}" for share in shares) + " |\n"
            )


if __name__ == "__main__":
    main()
