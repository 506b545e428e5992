"""Finished models in the formats that people send: weights for an architecture, or whole programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from evalsuite.errors import CheckpointError, InvalidModelError, SuiteError
from evalsuite.models.architectures.base import Architecture, Normalized, core
from evalsuite.models.checkpoints.loading import load_candidate
from evalsuite.models.checkpoints.names import some
from evalsuite.models.checkpoints.reading import read_weights
from evalsuite.models.cost import nonzero
from evalsuite.models.exported.input_spec import ExportedProgram
from evalsuite.models.exported.programs import load_program, program_format
from evalsuite.models.surgery.bypass import DEAD, bypassed, dead_layers, without_dead
from evalsuite.plugin_config import PluginConfig
from evalsuite.runs.digests import file_digest
from evalsuite.types import Candidate, Cost, ExternalCandidate

PROGRAM = "program"
"""Model name of candidates that are whole programs: they stay in their own files."""


@dataclass(frozen=True)
class LoadedModel:
    """Is a finished model in memory.

    Attributes:
        model: In evaluation mode, with its preprocessing.
        settings: What rebuilds it.
        files: Digests of what it was read from.
        notes: Sentences that whoever reads its numbers should know.
    """

    model: nn.Module
    settings: Mapping[str, Any]
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_program(self) -> bool:
        """Whether the file is the model, and not only its weights."""
        return bool(self.settings["name"] == PROGRAM)


class ExternalCandidateLoader:
    """Opens finished models of one suite.

    Args:
        architecture: What weights were trained as; its preprocessing goes around programs as well.
        image_shape: Of one image, (C, H, W).
        trust: Whether programs may be loaded that may run code.
    """

    def __init__(
        self, architecture: PluginConfig[Architecture], image_shape: Sequence[int], *, trust: bool
    ) -> None:
        self.architecture, self.image_shape, self.trust = architecture, image_shape, trust

    def opened(self, one: ExternalCandidate, path: Path, masks: Path | None) -> LoadedModel:
        """Returns the model in `path`.

        Raises:
            CheckpointError: If it cannot be read, does not fit, or is a program that nobody trusts.
            SuiteError: If its preprocessing is none.
        """
        plugin = self._preprocessed(one)
        if path.is_file() and program_format(path) is not None:
            return self._program(one, path, plugin)
        weights = read_weights(path, masks=masks)
        fitted = bypassed(plugin, tuple(name for name in one.bypass if name != DEAD))
        if DEAD in one.bypass:
            fitted = without_dead(weights, fitted)
        model = load_candidate(weights, fitted, image_shape=self.image_shape)
        files = tuple(file_digest(file) for file in (path, masks) if file is not None)
        own = {"bypass": list(fitted.bypass), "mean": list(fitted.mean), "std": list(fitted.std)}
        return LoadedModel(model, self.architecture.table | own, files, _layer_notes(model, fitted.bypass))

    def _program(self, one: ExternalCandidate, path: Path, plugin: Architecture) -> LoadedModel:
        if one.masks or one.bypass:
            raise SuiteError(
                f"{one.file} is a whole program, which takes neither masks nor bypass; leave them out"
            )
        preprocessing = {"mean": list(plugin.mean), "std": list(plugin.std)}
        settings = {"name": PROGRAM, "file": str(path.resolve()), **preprocessing}
        model = self.program(settings)
        inside = core(model)
        notes = inside.notes if isinstance(inside, ExportedProgram) else ()
        return LoadedModel(model, settings, (file_digest(path),), notes)

    def _preprocessed(self, one: ExternalCandidate) -> Architecture:
        """The architecture with a candidate's own preprocessing, if it has one."""
        plugin = self.architecture.plugin
        try:
            return replace(plugin, mean=one.mean or plugin.mean, std=one.std or plugin.std)
        except SuiteError as error:
            raise SuiteError(f"candidate {one.file}: {error}") from error

    def program(self, settings: Mapping[str, Any]) -> nn.Module:
        """Returns a program with its preprocessing."""
        network = load_program(Path(settings["file"]), trust=self.trust, image_shape=self.image_shape)
        return Normalized(network, mean=settings["mean"], std=settings["std"]).eval()


def _layer_notes(model: nn.Module, bypass: Sequence[str]) -> tuple[str, ...]:
    """What to know about layers that are skipped, or that perhaps should be."""
    notes = [f"{len(bypass)} layers are skipped: {some(bypass, 4)}."] if bypass else []
    try:
        dead = dead_layers(model)
    except InvalidModelError:  # nobody can say what feeds what
        return tuple(notes)
    if dead:
        notes.append(
            f"{len(dead)} layers hold only zeros and what follows them, and are kept ({some(dead, 4)}); "
            "if the tool that removed them skips them, say bypass = dead in a manifest."
        )
    return tuple(notes)


def program_candidate(one: ExternalCandidate, found: LoadedModel, parent: Candidate) -> Candidate:
    """Returns the record of a whole program: counted over the tensors that it shows, else as it is claimed.

    Raises:
        CheckpointError: If it shows no tensors and nobody says its ratio.
    """
    weights = [parameter for parameter in found.model.parameters() if parameter.dim() > 1]
    shown = nonzero(found.model)
    if not shown and one.ratio is None:
        raise CheckpointError(
            f"{one.file} is a program that shows none of its weights, so its ratio cannot be measured; "
            "say it in a manifest (column ratio)"
        )
    ratio = 1 - shown / parent.cost.nonzero if shown else float(one.ratio or 0.0)
    kept = sum(int(weight.count_nonzero()) for weight in weights)
    spent = Cost(
        parameters=sum(parameter.numel() for parameter in found.model.parameters()),
        nonzero=shown,
        prunable=sum(weight.numel() for weight in weights),
        prunable_nonzero=kept,
        macs=None,  # what a program multiplies cannot be seen from outside
        macs_nonzero=None,
        bytes=Path(found.settings["file"]).stat().st_size,
    )
    return Candidate(
        method=one.method,
        seed=one.seed,
        target_ratio=ratio,
        ratio=ratio,
        prunable_ratio=1 - kept / parent.cost.prunable_nonzero if shown else ratio,
        cost=spent,
        weights=found.files[0],
        model=found.settings,
    )
