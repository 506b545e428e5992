"""``inspect``: prints what is in a checkpoint or a program."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from evalsuite.cli import console
from evalsuite.cli.options import AsJson, Entry, Weights, weight_set
from evalsuite.errors import UserError

if TYPE_CHECKING:
    from evalsuite.models.checkpoints.architecture_detection import ArchitectureMatch
    from evalsuite.models.checkpoints.inspection import CheckpointInspection, LayerInspection
    from evalsuite.models.exported.inspection import ProgramInspection


def inspect_command(
    file: Annotated[Path, typer.Argument(help="A file of weights, or a whole program.")],
    parent: Annotated[Path | None, typer.Option(help="The dense network, to measure ratios.")] = None,
    masks: Annotated[Path | None, typer.Option(help="A separate file of masks.")] = None,
    weights: Weights = "",
    entry: Entry = "",
    image: Annotated[
        str, typer.Option(help="Count MACs for such images: 3x32x32; else the architecture's usual.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Print what is in a checkpoint or a program, without running anything that is in it."""
    from evalsuite.models.checkpoints.architecture_detection import match_architecture, parse_image_shape
    from evalsuite.models.checkpoints.inspection import inspect_checkpoint
    from evalsuite.models.checkpoints.reading import read_weights
    from evalsuite.models.exported.inspection import inspect_program, is_program

    shape = parse_image_shape(image) if image else None
    if is_program(file):
        if entry or weights:
            raise UserError(
                f"{file} is a whole program, of which --weights and --entry choose nothing; leave them out"
            )
        program = inspect_program(file, parent=parent, masks=masks)
        if as_json:
            console.print_json(json.dumps(dataclasses.asdict(program)))
        else:
            print_program(program)
        return
    choice = weight_set(weights)
    inspection = inspect_checkpoint(file, parent=parent, masks=masks, choice=choice, entry=entry)
    tensors = read_weights(file, masks=masks, choice=choice, entry=entry)
    match = match_architecture(tensors, image_shape=shape, file=file)
    if as_json:
        console.print_json(json.dumps({**dataclasses.asdict(inspection), **dataclasses.asdict(match)}))
    else:
        print_inspection(inspection, match)


def print_inspection(inspection: CheckpointInspection, match: ArchitectureMatch) -> None:
    """Prints what a file of weights holds: first its totals, then a line per layer."""
    ratio, prunable_ratio = inspection.ratio, inspection.prunable_ratio
    console.print_facts(
        {
            "format": inspection.format + (f", under {inspection.wrapper}" if inspection.wrapper else ""),
            "parameters": f"{inspection.parameters:,}, of which {inspection.nonzero:,} are not zero",
            "MACs": _macs(match),
            "bytes": f"{inspection.bytes:,} on disk, {inspection.packed:,} losslessly packed",
            "ratio": "" if ratio is None else f"{ratio:.2%} of the parent's parameters are gone",
            "prunable": "" if prunable_ratio is None else f"{prunable_ratio:.2%} of its prunable weights",
            "structure": _structure(inspection),
            "pattern": inspection.pattern,
            "fits": match.fits,
            "a guess": match.doubt,
            "folded": ", ".join(inspection.folded),
            "also there": ", ".join(inspection.extras),
            "missing": ", ".join(inspection.missing),
            "note": inspection.note,
        }
    )
    _print_layers(inspection.layers)


def _structure(inspection: CheckpointInspection) -> str:
    if inspection.structured:
        return "whole channels"
    return "single weights" if inspection.prunable_nonzero < inspection.prunable else "dense"


def _macs(match: ArchitectureMatch) -> str:
    if match.macs is None or match.image is None:
        return f"not counted: {match.uncounted}"
    image = "x".join(map(str, match.image))
    return f"{match.macs:,} for an image of {image}, of which {match.macs_nonzero:,} are not by a zero weight"


def print_program(program: ProgramInspection) -> None:
    """Prints what a whole program shows of itself: first its totals, then a line per layer."""
    operators = sorted(program.operators.items(), key=lambda pair: (-pair[1], pair[0]))
    console.print_facts(
        {
            "format": f"{program.format}, a whole program",
            "opset": program.opset,
            "inputs": "; ".join(program.inputs),
            "outputs": "; ".join(program.outputs),
            "operators": ", ".join(f"{count} {name}" for name, count in operators),
            "parameters": "unknown"
            if program.parameters is None
            else f"{program.parameters:,}, of which {program.nonzero:,} are not zero",
            "ratio": ""
            if program.ratio is None
            else f"{program.ratio:.2%} of the parent's parameters are gone",
            "note": " ".join(program.notes),
        }
    )
    if program.layers:
        _print_layers(program.layers)


def _print_layers(layers: Sequence[LayerInspection]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("layer", "shape", "weights", "zeros", "zero filters", "pattern"):
        table.add_column(title, justify="left" if title == "layer" else "right", no_wrap=True)
    for layer in layers:
        shape = "x".join(map(str, layer.shape))
        counts = (f"{layer.weights:,}", f"{layer.sparsity:.1%}", str(layer.zero_filters), layer.pattern)
        table.add_row(escape(layer.name), shape, *counts)
    console.out.print(table)
