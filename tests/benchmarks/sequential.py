"""Sequential checks beside full ones on CIFAR-10: the same verdicts, and how many images they take.

    EVALSUITE_DATA=DATA python tests/benchmarks/sequential.py [--severities 3] [--tolerance 0.02] [--limit N]

DATA has ``cifar10`` and ``checkpoints``: the published ResNet-20 of akamaster, and distiller's dense network with what
was pruned from it. Of the first an equal copy and magnitude pruning of 90 and 98 % without retraining are made; the
second has candidates of its own. Each family is checked twice, with `accuracy` and `corruptions`: on all images, and
with ``--sequential``. For each candidate the table has how many checks have the same verdict, how many are decided both
times but differently (0 is the claim), how many only one of them decides, and the share of images that the sequential
check took, over all checks and over those whose truth is clear: at least three points beyond the tolerance in the full
check, or an equal copy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file

from evalsuite.models.checkpoints.reading import read_weights

CLEAR = 0.03
"""By how much a drop is beyond its tolerance where the truth is clear."""
NORMALISED = {
    "akamaster": ("0.485,0.456,0.406", "0.229,0.224,0.225"),
    "distiller": ("0.5,0.5,0.5", "0.5,0.5,0.5"),
}
DISTILLER = (
    "checkpoint_trained_ch_regularized_dense.pth.tar",
    "channel_regularized_resnet20_state_dict.pt",
    "channel_regularized_resnet20_finetuned_state_dict.pt",
    "checkpoint_trained_4D_regularized_5Lremoved.pth.tar",
)
SUITE = """
name = "sequential"
[data]
name = "cifar10"
[[evaluators]]
name = "accuracy"
[[evaluators]]
name = "corruptions"
severities = [{severities}]
[tolerances]
accuracy = {tolerance}
"""


def families(root: Path, folder: Path) -> dict[str, tuple[Path, list[Path], list[str]]]:
    """Parent, candidates and options of each family."""
    published = next((root / "akamaster").glob("resnet20-*.th"))
    made = [folder / "equal.safetensors"]
    state = {
        name: value.clone().contiguous() for name, value in read_weights(published).items() if value.dim()
    }
    save_file(state, made[0])
    for share in (90, 98):
        made.append(folder / f"magnitude_{share}.safetensors")
        save_file(pruned(state, share / 100), made[-1])
    dense = root / "distiller" / "checkpoint_trained_dense.pth.tar"
    return {
        "akamaster": (published, made, ["--model", "resnet20", "--setting", "shortcut=A"]),
        "distiller": (dense, [root / "distiller" / name for name in DISTILLER], []),
    }


def pruned(state: dict[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    """The weights of convolutions and linear layers with the smallest of all set to zero."""
    weights = [name for name, value in state.items() if value.dim() > 1]
    sizes = torch.cat([state[name].abs().flatten() for name in weights])
    threshold, _ = sizes.kthvalue(int(share * len(sizes)))
    return {
        name: torch.where(value.abs() > threshold, value, 0) if name in weights else value
        for name, value in state.items()
    }


def checked(family: str, words: list[str], suite: Path, *more: str) -> pd.DataFrame:
    """The checks of all candidates of a family, one row each."""
    mean, std = NORMALISED[family]
    command = [sys.executable, "-m", "evalsuite", "check", "--suite", str(suite), "--json", "--no-cache"]
    command += ["--mean", mean, "--std", std, *words, *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode > 1:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}")
    document: dict[str, Any] = json.loads(done.stdout)
    return pd.DataFrame(document["checks"]).set_index(["candidate", "metric", "condition"])


def table(full: pd.DataFrame, sequential: pd.DataFrame) -> pd.DataFrame:
    """A row for each candidate."""
    both = full.join(sequential[["verdict", "images", "images_available"]].add_suffix("_sequential"))
    decided = (both["verdict"] != "undecided") & (both["verdict_sequential"] != "undecided")
    same = both["verdict"] == both["verdict_sequential"]
    clear = both["drop"] - both["tolerance"] >= CLEAR
    clear |= both.index.get_level_values("candidate") == "equal"
    share = both["images_sequential"] / both["images_available_sequential"]
    columns = {
        "checks": same.groupby(level=0).size(),
        "same": same.groupby(level=0).sum(),
        "contrary": (decided & ~same).groupby(level=0).sum(),
        "one decides": (~decided & ~same).groupby(level=0).sum(),
        "share of images": share.groupby(level=0).mean(),
        "clear": clear.groupby(level=0).sum(),
        "share where clear": share[clear].groupby(level=0).mean(),
    }
    return pd.DataFrame(columns).round(3)


def main() -> None:
    """Prints a table for each family."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--severities", default="3", help="of the corruptions: 1,3,5")
    parser.add_argument("--tolerance", type=float, default=0.02)
    parser.add_argument("--limit", type=int, help="test images")
    parser.add_argument("--workers", default="1")
    options = parser.parse_args()
    data = Path(os.environ["EVALSUITE_DATA"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        suite = folder / "suite.toml"
        suite.write_text(SUITE.format(severities=options.severities, tolerance=options.tolerance))
        for family, (parent, candidates, more) in families(data / "checkpoints", folder).items():
            words = ["--parent", str(parent), *more, "--workers", options.workers]
            words += [word for candidate in candidates for word in ("--candidate", str(candidate))]
            words += [] if options.limit is None else ["--limit", str(options.limit)]
            full = checked(family, words, suite, "--out", str(folder / family))
            sequential = checked(
                family, words, suite, "--out", str(folder / f"{family}-sequential"), "--sequential"
            )
            sys.stdout.write(f"{family}\n{table(full, sequential).to_string()}\n\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
