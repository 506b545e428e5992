"""External candidates: models that were made elsewhere, as weights of an architecture or as whole programs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evalsuite.compat.transformers import CONFIG, is_model_folder
from evalsuite.compat.transformers_names import with_current_names
from evalsuite.config.settings import model_with_settings
from evalsuite.errors import (
    CheckpointError,
    EvalsuiteError,
    InvalidModelError,
    StoreError,
    SuiteError,
    UserError,
    first_few,
)
from evalsuite.execution.limits import TimeLimitError
from evalsuite.models.architectures.base import Architecture, Normalized, build_model, unwrap_model
from evalsuite.models.architectures.huggingface import HuggingFaceNetwork
from evalsuite.models.architectures.settings import to_settings
from evalsuite.models.architectures.uris import architecture_from_uri
from evalsuite.models.checkpoints.loading import load_candidate
from evalsuite.models.checkpoints.reading import key_note, read_checkpoint
from evalsuite.models.exported.loading import load_program, program_format
from evalsuite.models.exported.program import ExportedProgram, program_weights
from evalsuite.models.surgery.bypass import DEAD, bypass_dead_layers, dead_layers, with_bypass
from evalsuite.models.surgery.head_counts import head_note
from evalsuite.models.uri_tables import FOLDER, settings_of_uri
from evalsuite.plugin_config import PluginConfig
from evalsuite.preprocessing import Preprocessing
from evalsuite.runs.digests import file_digest
from evalsuite.types import PROGRAM, Candidate, Cost, ExternalCandidate

_NORMALISED = ("torchvision", "timm", "robustbench", FOLDER)
"""Libraries that state how images are normalised for their networks; others are as their parent."""
_OF_WEIGHTS = ("masks", "bypass", "model", "weights", "entry", "num_heads")
"""Keys of a candidate that say how its weights are read."""


@dataclass(frozen=True)
class LoadedModel:
    """A finished model in memory.

    Attributes:
        model: In evaluation mode, with its preprocessing.
        settings: Settings that rebuild it.
        files: Digests of the files that it was read from.
        notes: Sentences for readers of its numbers.
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
    """Loads the external candidates of one suite.

    Args:
        architecture: The architecture of weights; its preprocessing is applied before programs as well.
        image_shape: Of one image, (C, H, W).
        trust: Whether programs may be loaded that may run code.
    """

    def __init__(
        self, architecture: PluginConfig[Architecture], image_shape: Sequence[int], *, trust: bool
    ) -> None:
        self.architecture, self.image_shape, self.trust = architecture, image_shape, trust

    def loaded(self, external: ExternalCandidate, path: Path, masks: Path | None) -> LoadedModel:
        """Returns the model in `path`.

        Raises:
            CheckpointError: If it cannot be read, does not fit, or is a program that is not trusted.
            SuiteError: If its preprocessing is not valid.
        """
        plugin = self._architecture(external, path)
        architecture = _preprocessed(plugin, external)
        if path.is_file() and program_format(path) is not None:
            return self._program(external, path, architecture)
        checkpoint = read_checkpoint(path, masks=masks, choice=external.weights, entry=external.entry)
        weights = current_weights(plugin, checkpoint.weights)
        notes = [checkpoint.note] if checkpoint.note else []
        settings = self.architecture.table
        if plugin != self.architecture.plugin:  # another network
            settings, notes = (
                to_settings(architecture),
                [*notes, *self._other_architecture_notes(architecture)],
            )
        architecture = with_bypass(architecture, tuple(name for name in external.bypass if name != DEAD))
        if DEAD in external.bypass:
            architecture = bypass_dead_layers(weights, architecture)
        network = load_candidate(weights, architecture, image_shape=self.image_shape)
        files = tuple(file_digest(file) for file in (path, masks) if file is not None)
        changed: dict[str, Any] = {
            name: list(getattr(architecture, name)) for name in ("bypass", "mean", "std")
        }
        if architecture.num_heads:
            changed["num_heads"] = architecture.num_heads
        notes += filter(None, [key_note(weights, network), head_note(architecture, network)])
        notes += _layer_notes(network, architecture.bypass)
        return LoadedModel(network, {**settings, **changed}, files, tuple(notes))

    def _program(self, external: ExternalCandidate, path: Path, architecture: Architecture) -> LoadedModel:
        if unused := [name for name in _OF_WEIGHTS if getattr(external, name) not in ("", ())]:
            raise SuiteError(
                f"{external.file} is a whole program, which takes no {', '.join(unused)}; leave out what is for weights"
            )
        preprocessing = {"mean": list(architecture.mean), "std": list(architecture.std)}
        settings = {"name": PROGRAM, "file": str(path.resolve()), **preprocessing}
        network = self.program(settings, is_known=False)
        program = unwrap_model(network)
        notes = program.notes if isinstance(program, ExportedProgram) else ()
        return LoadedModel(network, settings, (file_digest(path),), notes)

    def _architecture(self, external: ExternalCandidate, path: Path) -> Architecture:
        """The candidate's architecture: one of its own, or the parent's.

        Raises:
            SuiteError: If its own is not known or not valid.
        """
        parent = self.architecture.plugin
        try:
            if external.model:
                uri, settings = model_with_settings(external.model)
                named = settings_of_uri(uri)["name"]
                normalised = {} if named in _NORMALISED else {"mean": parent.mean, "std": parent.std}
                return architecture_from_uri(uri, **{"classes": parent.classes, **normalised, **settings})
            if not is_model_folder(path) or _has_config_of(parent, path):
                return parent
            return architecture_from_uri(f"{FOLDER}:{path}", classes=parent.classes)
        except UserError as error:
            raise SuiteError(f"candidate {external.file}: {error}") from error

    def _other_architecture_notes(self, architecture: Architecture) -> list[str]:
        """Notes about a candidate that is another network than its parent."""
        parent = self.architecture.plugin
        published, shared = architecture.preprocessing, parent.preprocessing
        notes = [*architecture.notes()]
        if published is not None and shared is not None and published != shared:
            notes.append(
                f"It sees the parent's pixels ({_geometry(shared)}); its own weights were published with "
                f"{_geometry(published)}."
            )
        return notes

    def program(self, settings: Mapping[str, Any], *, is_known: bool = True) -> nn.Module:
        """Returns a program with its preprocessing; of one that is planned already its limits were checked."""
        file = Path(settings["file"])
        network = load_program(file, trust=self.trust, image_shape=self.image_shape, is_known=is_known)
        return Normalized(network, mean=settings["mean"], std=settings["std"]).eval()


def current_weights(architecture: Architecture, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns weights under the names that the network has today: transformers renames tensors between releases.

    Args:
        architecture: Of the network.
        weights: As they were read.
    """
    if not isinstance(architecture, HuggingFaceNetwork):
        return dict(weights)
    with torch.random.fork_rng(devices=[]):
        return dict(with_current_names(unwrap_model(build_model(architecture)), weights))


@contextmanager
def named_candidate(model: ExternalCandidate) -> Iterator[None]:
    """Names the file of a finished model in every refusal inside the block: it is one of several.

    Raises:
        UserError: In place of any error about the model: one that cannot be planned is a mistake in the question.
    """
    try:
        yield
    except (StoreError, TimeLimitError):
        raise
    except EvalsuiteError as error:
        if isinstance(error, UserError) and model.file in str(error):
            raise
        kind = type(error) if isinstance(error, SuiteError | CheckpointError) else CheckpointError
        named = str(error) if model.file in str(error) else f"candidate {model.file}: {error}"
        raise kind(named) from error


def _preprocessed(architecture: Architecture, external: ExternalCandidate) -> Architecture:
    """An architecture with a candidate's own preprocessing and number of heads, if it has them."""
    mean, std = external.mean or architecture.mean, external.std or architecture.std
    num_heads = external.num_heads or architecture.num_heads
    try:
        return replace(architecture, mean=mean, std=std, num_heads=num_heads)
    except SuiteError as error:
        raise SuiteError(f"candidate {external.file}: {error}") from error


def _has_config_of(parent: Architecture, folder: Path) -> bool:
    """Whether a model folder has the configuration of the parent's: then it is the same network."""
    digest = hashlib.sha256((folder / CONFIG).read_bytes()).hexdigest()
    return isinstance(parent, HuggingFaceNetwork) and parent.config == digest


def _geometry(preprocessing: Preprocessing) -> str:
    sizes = {"resize": preprocessing.resize, "crop": preprocessing.crop}
    words = [f"{name} {'x'.join(map(str, size))}" for name, size in sizes.items() if size]
    return ", ".join([*words, preprocessing.interpolation])


def _layer_notes(model: nn.Module, bypass: Sequence[str]) -> tuple[str, ...]:
    """Notes about layers that are skipped, or that perhaps should be."""
    notes = [f"{len(bypass)} layers are skipped: {first_few(bypass, 4)}."] if bypass else []
    try:
        dead = dead_layers(model)
    except InvalidModelError:  # which layer feeds which is not known
        return tuple(notes)
    if dead:
        notes.append(
            f"{len(dead)} layers hold only zeros and what follows them, and are kept ({first_few(dead, 4)}); "
            "if the tool that removed them skips them, say bypass = dead in a manifest."
        )
    return tuple(notes)


def program_candidate(external: ExternalCandidate, loaded: LoadedModel, parent: Candidate) -> Candidate:
    """Returns the record of a whole program: counted over the tensors that it shows, else as it is claimed.

    Raises:
        CheckpointError: If it shows no tensors and its ratio is not given.
    """
    shown = program_weights(loaded.model)
    weights = [tensor for tensor in shown if tensor.dim() > 1]
    nonzero = sum(int(tensor.count_nonzero()) for tensor in shown)
    if not nonzero and external.ratio is None:
        raise CheckpointError(
            f"{external.file} is a program that shows none of its weights, so its ratio cannot be measured; "
            "say it in a manifest (column ratio)"
        )
    ratio = 1 - nonzero / parent.cost.nonzero if nonzero else float(external.ratio or 0.0)
    prunable_nonzero = sum(int(weight.count_nonzero()) for weight in weights)
    cost = Cost(
        parameters=sum(tensor.numel() for tensor in shown),
        nonzero=nonzero,
        prunable=sum(weight.numel() for weight in weights),
        prunable_nonzero=prunable_nonzero,
        macs=None,  # the multiplications of a program cannot be counted from outside
        macs_nonzero=None,
        bytes=Path(loaded.settings["file"]).stat().st_size,
    )
    return Candidate(
        method=external.method,
        seed=external.seed,
        target_ratio=ratio,
        ratio=ratio,
        prunable_ratio=1 - prunable_nonzero / parent.cost.prunable_nonzero if nonzero else ratio,
        cost=cost,
        weights=loaded.files[0],
        model=loaded.settings,
    )
