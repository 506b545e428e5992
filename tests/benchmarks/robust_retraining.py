"""Does training on corruptions raise the prune potential on others? Two runs side by side, as the published tables.

Run from the root of the checkout, after both suites (3 to 10 minutes of one idle core each, by their dry runs)::

    python -m evalsuite run robust-digits
    python -m evalsuite run robust-digits-nominal
    python tests/benchmarks/robust_retraining.py reports/robust-digits reports/robust-digits-nominal

It prints mean and minimum of the prune potential (`potential_any`, the published definition) over the conditions of the
training and over those held out, mean and standard deviation (ddof 0) over the seeds; their difference with Student's
95 % interval over the seeds, which both runs share; and the slope of the excess error.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import stdtrit

PLACE = ["method", "split", "aggregate"]


def potentials(folder: Path) -> pd.DataFrame:
    """Potential of each method, side, aggregate and seed, in percent: rows by place, columns by seed."""
    table = pd.read_csv(folder / "splits.csv", dtype={"seed": str})
    table = table[(table["metric"] == "accuracy") & (table["seed"] != "all")]
    return 100 * table.pivot_table(index=PLACE, columns="seed", values="potential_any", sort=False)


def difference(robust: pd.Series, nominal: pd.Series) -> str:
    """Mean difference over the seeds that both have, with its 95 % interval."""
    values = (robust - nominal).dropna().to_numpy()
    margin = stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():+.1f} ({values.mean() - margin:+.1f} to {values.mean() + margin:+.1f})"


def spread(values: pd.Series) -> str:
    """Mean and standard deviation."""
    return f"{values.mean():.1f} ± {values.std(ddof=0):.1f}"


def slopes(folder: Path) -> pd.Series:
    """Slope of the excess error of the held-out conditions, over all seeds, with the interval over seeds."""
    table = pd.read_csv(folder / "excess.csv", dtype={"seed": str})
    table = table[(table["condition"] == "held-out conditions") & (table["seed"] == "all")].set_index(
        "method"
    )
    words = [f"{row.slope:.1f} ({row.seeds_low:.1f} to {row.seeds_high:.1f})" for row in table.itertuples()]
    return pd.Series(words, index=table.index)


def main() -> None:
    """Prints the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("robust", type=Path)
    parser.add_argument("nominal", type=Path)
    folders = parser.parse_args()
    robust, nominal = potentials(folders.robust), potentials(folders.nominal)
    lines = [
        "| method | conditions | potential over them | robust | nominal | difference |",
        "|---|---|---|---|---|---|",
    ]
    for place in robust.index:
        pair = robust.loc[place], nominal.loc[place]
        lines.append(f"| {' | '.join([*place, *map(spread, pair), difference(*pair)])} |")
    lines += ["", "| method | slope of the excess error, robust | nominal |", "|---|---|---|"]
    ours, theirs = slopes(folders.robust), slopes(folders.nominal)
    lines += [f"| {method} | {ours[method]} | {theirs[method]} |" for method in ours.index]
    sys.stdout.write("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
