"""Options that several commands have, and what their texts mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from evalsuite.cost_axes import AXES
from evalsuite.errors import UserError
from evalsuite.types import WeightSet

RunFolder = Annotated[Path, typer.Argument(help="A run folder, for example reports/digits.")]
Axis = Annotated[
    str,
    typer.Option(help=f"Count ratios in another cost: {', '.join(AXES)}. [default: what each method saves]"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Folder with data. [default: $EVALSUITE_DATA]")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:<n>, or several: cuda:0,1.")]
Limit = Annotated[
    int | None,
    typer.Option(
        help="Test a seeded sample of N test images, stratified by class. [default: all images]", metavar="N"
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        help="Images per forward pass. [default: the suite's; else 32, on a GPU by a probe]", metavar="N"
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done and what it costs.")]
Workers = Annotated[
    str, typer.Option(help="Tasks at once: a number, or auto for all processors. [default: one per device]")
]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave out pictures that cannot be read, and count them.")
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Read all pictures again that an earlier run has decoded.")
]
Precision = Annotated[
    str,
    typer.Option(
        help="exact, or screened: bfloat16 where predictions suffice and it pays, single precision for small margins. "
        "[default: the suite's, else exact]",
    ),
]
NoCache = Annotated[
    bool,
    typer.Option(
        "--no-cache", help="Take nothing that an earlier run computed of a parent, and keep nothing."
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        help="Of a file with two sets of weights: ema for averaged ones, raw for the others. [default: ema]"
    ),
]
Entry = Annotated[
    str,
    typer.Option(
        help="Of a file with several networks: the place in the list, from 0 on, or the key. [default: the only one]"
    ),
]


def written_path(text: str | Path) -> Path:
    """The path of something that a command writes."""
    if not str(text).strip():
        raise UserError(
            f"found the empty path {str(text)!r} of something to write, expected a folder or file; name it"
        )
    return Path(text)


def worker_count(workers: str) -> int | None:
    """How many workers, as in `evalsuite.config.options.Options`."""
    if not workers:
        return None
    if workers != "auto" and not (workers.isdecimal() and int(workers)):
        raise UserError(f"found --workers {workers}, expected a number from 1 on, or auto")
    return 0 if workers == "auto" else int(workers)


def weight_set(text: str) -> WeightSet:
    """Which set of weights a file with two is read as."""
    for choice in get_args(WeightSet):
        if text == choice:
            return choice  # type: ignore[no-any-return]  # what it is compared with has the type
    raise UserError(f"found --weights {text}, expected ema or raw")
