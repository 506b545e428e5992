"""Parents and candidates: made once, checked, saved, and read back; a killed production goes on where it was."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evalsuite.compat.transformers import is_model_folder
from evalsuite.config.suite import Suite
from evalsuite.cost_axes import DEFAULT_AXIS, ratio_on_axis
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.views import View
from evalsuite.errors import CheckpointError, ContractError, EvalsuiteError, StoreError
from evalsuite.execution.external_candidates import (
    ExternalCandidateLoader,
    LoadedModel,
    current_weights,
    named_candidate,
    program_candidate,
)
from evalsuite.execution.limits import TimeLimitError
from evalsuite.execution.parent_training import TrainingInputs
from evalsuite.execution.tasks import ProductionResult, WeightsLostError
from evalsuite.models import MODELS
from evalsuite.models.checkpoints.loading import load_candidate
from evalsuite.models.checkpoints.parent_weights import parent_checkpoint
from evalsuite.models.checkpoints.reading import Checkpoint
from evalsuite.models.checkpoints.saving import load_model, save_model
from evalsuite.models.cost import COUNT_VERSION, cost, count_version, weight_cost, weights_digest
from evalsuite.models.exported.loading import load_program
from evalsuite.models.surgery.head_counts import with_head_counts
from evalsuite.plugin_config import PluginConfig
from evalsuite.producers.base import Context, Producer
from evalsuite.runs.code_digest import Entry, code_digest
from evalsuite.runs.digests import candidate_digest, digest_of
from evalsuite.runs.plan import PlannedCandidate
from evalsuite.runs.store import Key, Store
from evalsuite.training.history import history, set_history
from evalsuite.types import DENSE, PROGRAM, Candidate, Cost, ExternalCandidate, Phase

log = logging.getLogger(__name__)


class Production:
    """Makes the candidates of a suite.

    Args:
        suite: What to make.
        store: Where finished candidates are.
        image_source: Training images.
        device: Where to train.
        trust: Whether whole programs may be loaded that may run code.
    """

    def __init__(
        self,
        suite: Suite,
        store: Store,
        image_source: ImageSource,
        *,
        device: torch.device,
        trust: bool = False,
    ) -> None:
        self.suite, self.store, self.image_source = suite, store, image_source
        self.device, self.trust = device, trust
        self._costs: dict[tuple[object, ...], Cost] = {}

    @cached_property
    def trainings(self) -> TrainingInputs:
        """What the trainings of the suite start from and depend on."""
        return TrainingInputs(self.suite, self.store, self.image_source, device=self.device)

    @property
    def loading_code(self) -> tuple[Entry, ...]:
        """The code that turns a file of weights, or a whole program, into a network."""
        return (load_candidate.__module__, load_program.__module__)

    def parent(self, seed: int, digest: str) -> tuple[Candidate, bool]:
        """Returns the unpruned network of one seed, read from the suite's checkpoint or trained, and if it is new.

        Args:
            seed: Of the parent.
            digest: Of all that it depends on, from the plan.

        Raises:
            CheckpointError: If the checkpoint is not there or does not fit.
        """
        key = Key(DENSE, seed, 0.0)
        stored = self._stored(key, digest)
        if stored is not None:
            return stored, False
        path = self.checkpoint(seed)
        model = self.trainings.parent(seed, digest) if path is None else self._loaded_parent(path)
        return self._saved(key, model, None, digest=digest, lineage=history(model) or ()), True

    def parent_record(self, seed: int, digest: str) -> Candidate | None:
        """Returns the record of a seed's parent without writing anything; ``None`` if it is still to be trained.

        Raises:
            CheckpointError: If its checkpoint is not there or does not fit.
        """
        key = Key(DENSE, seed, 0.0)
        stored = self._stored(key, digest)
        path = self.checkpoint(seed)
        if stored is not None or path is None:
            return stored
        return self._record(key, self._loaded_parent(path), None, self.suite.model.table)

    def module(self, key: Key, candidate: Candidate) -> nn.Module:
        """Returns the network of a finished candidate as it is on disk, in evaluation mode."""
        if candidate.model["name"] == PROGRAM:
            return self._loader.program(candidate.model).to(self.device)
        return load_model(candidate.model, self.store.weights_path(key)).to(self.device)

    def sound_module(self, key: Key, candidate: Candidate) -> nn.Module:
        """Returns the network of a finished candidate, if it is still the one that was recorded.

        Raises:
            WeightsLostError: If it is not: nothing may be made of it or measured.
        """
        if candidate.model["name"] == PROGRAM:
            return self.module(key, candidate)
        try:
            model = self.module(key, candidate)
        except CheckpointError as error:
            raise WeightsLostError(key, str(error)) from error
        if weights_digest(model) != candidate.weights:
            raise WeightsLostError(
                key, f"the weights of {key.method} at {key.target_ratio:g} are not those of its record"
            )
        return model

    def external(self, seed: int, parent: Candidate) -> list[ProductionResult]:
        """Returns the external models of one seed, all of them read before any is measured.

        Raises:
            CheckpointError: If one cannot be read, does not fit, or has another ratio than it claims.
        """
        models = [model for model in self.suite.candidates if model.seed == seed]
        return [self._saved_external(model, parent) for model in models]

    def planned_external(self, seed: int, parent: Candidate) -> list[PlannedCandidate]:
        """Returns the plan of the external models of one seed: each is read and checked, nothing is written.

        Raises:
            CheckpointError: If one cannot be read, does not fit, or has another ratio than it claims.
        """
        models = [model for model in self.suite.candidates if model.seed == seed]
        rows: dict[Key, PlannedCandidate] = {}
        for model in models:
            with named_candidate(model):
                row = self._planned(model, self._read(model), parent)
            if row.key in rows:
                raise CheckpointError(
                    f"{model.file}: another file of method {model.method!r} has the same ratio "
                    f"{row.key.target_ratio:.4f}; give one of them another method"
                )
            rows[row.key] = row
        return list(rows.values())

    def check_external(self, seed: int) -> None:
        """Reads the external models of one seed whose parent is still to be trained.

        Raises:
            CheckpointError: If one cannot be read or does not fit.
        """
        for model in self.suite.candidates:
            if model.seed == seed:
                with named_candidate(model):
                    self._read(model)

    def _read(self, model: ExternalCandidate) -> LoadedModel:
        path = self._located(model.file, "candidate")
        masks = self._located(model.masks, "masks") if model.masks else None
        return self._loader.loaded(model, path, masks)

    def _planned(self, model: ExternalCandidate, loaded: LoadedModel, parent: Candidate) -> PlannedCandidate:
        record = self._external_record(model, loaded, parent)
        check_claim(model, record)
        kind = load_program.__module__ if loaded.is_program else MODELS.get(str(loaded.settings["name"]))
        architecture = type(self.suite.model.plugin) if loaded.is_program else kind
        version = COUNT_VERSION if loaded.is_program else count_version(loaded.model, self._shape)
        origin = {"files": loaded.files, "model": loaded.settings, "cost": version}
        if model.weights:
            origin["weights"] = model.weights
        if model.entry != "":
            origin["entry"] = str(model.entry)
        key = Key(model.method, model.seed, record.ratio)
        return PlannedCandidate(
            key,
            "external",
            digest_of({**origin, "code": code_digest((*self.loading_code, architecture))}),
            code_digest((kind,)),
            path=(record.ratio,),
        )

    def _external_record(self, model: ExternalCandidate, loaded: LoadedModel, parent: Candidate) -> Candidate:
        if loaded.is_program:
            return program_candidate(model, loaded, parent)
        key = Key(model.method, model.seed, ratio_of(loaded.model, parent, DEFAULT_AXIS))
        return self._record(key, loaded.model, parent, loaded.settings)

    def _saved_external(self, model: ExternalCandidate, parent: Candidate) -> ProductionResult:
        with named_candidate(model):
            loaded = self._read(model)
            row = self._planned(model, loaded, parent)
        digest = candidate_digest(parent, row.inputs, row.path)
        stored = self.store.candidate(row.key, digest) if loaded.is_program else self._stored(row.key, digest)
        candidate = stored
        if candidate is None and loaded.is_program:
            candidate = program_candidate(model, loaded, parent)
            self.store.write_candidate(row.key, candidate, digest=digest)
        elif candidate is None:
            candidate = self._saved(row.key, loaded.model, parent, digest=digest, settings=loaded.settings)
        return ProductionResult(
            row.key, candidate, computed=stored is None, digest=digest, notes=loaded.notes, planned=row
        )

    @cached_property
    def _loader(self) -> ExternalCandidateLoader:
        return ExternalCandidateLoader(self.suite.model, self._shape, trust=self.trust)

    def candidates(
        self, config: PluginConfig[Producer], parent: Candidate, module: nn.Module, *, inputs: str
    ) -> Iterator[ProductionResult]:
        """Yields one producer's candidates at rising ratios: those in the store, then those still to be made.

        A failure ends the chain: every ratio from there on has its reason.

        Args:
            config: The producer.
            parent: Record of the parent.
            module: The parent.
            inputs: Digest of the method and of how it retrains, from the plan.
        """
        ratios, steps = self.suite.ratios, self.suite.steps_of(config)
        keys = [Key(config.label, parent.seed, ratio) for ratio in ratios]
        paths = [tuple(step for step in steps if step <= ratio) for ratio in ratios]
        digests = [candidate_digest(parent, inputs, path) for path in paths]
        stored = (self._stored(key, digest) for key, digest in zip(keys, digests, strict=True))
        ready = list(takewhile(lambda candidate: candidate is not None, stored))
        for key, candidate in zip(keys, ready, strict=False):
            yield ProductionResult(key, candidate, computed=False)
        if len(ready) < len(keys):
            missing = list(zip(keys, digests, strict=True))[len(ready) :]
            last = ready[-1] if ready else None
            context = self.trainings.context(config, parent, last, digest=inputs)
            if last is not None:
                previous = self.sound_module(Key(last.method, last.seed, last.target_ratio), last)
                set_history(previous, last.history)
                context = replace(context, previous=previous)
            if context.recipe.distillation != "none":
                context = replace(context, teacher=module)
            set_history(module, parent.history)
            start = 0.0 if last is None else last.target_ratio
            left = [step for step in steps if start < step <= ratios[-1]]
            models = checked(config.plugin, parent, module, left, context)
            chain = (model for step, model in zip(left, models, strict=True) if step in ratios)
            yield from self._rest(chain, missing, parent, context)

    def _rest(
        self,
        chain: Iterator[nn.Module],
        wanted: Sequence[tuple[Key, str]],
        parent: Candidate,
        context: Context,
    ) -> Iterator[ProductionResult]:
        reason, retryable = "", False
        for key, digest in wanted:
            candidate = None
            if not reason:
                try:
                    model = next(chain)
                    lineage = context.history(model)
                    candidate = self._saved(key, model, parent, digest=digest, lineage=lineage)
                except StoreError:
                    raise  # a full disk is no failure of the method
                except Exception as error:
                    retryable = isinstance(error, TimeLimitError) or not isinstance(error, EvalsuiteError)
                    log.info("production of %s at %s failed", key.method, key.target_ratio, exc_info=True)
                    reason = f"production failed at ratio {key.target_ratio:g}: {sentence(error)}"
            yield ProductionResult(key, candidate, reason, digest=digest, retryable=retryable)

    def _saved(
        self,
        key: Key,
        model: nn.Module,
        parent: Candidate | None,
        *,
        digest: str,
        settings: Mapping[str, Any] | None = None,
        lineage: tuple[Phase, ...] = (),
    ) -> Candidate:
        """Record of a network after saving it; the ratio is counted on what was saved."""
        settings = with_head_counts(settings or self.suite.model.table, model)
        path = self.store.weights_path(key)
        self.store.forget_candidate(key)  # its record must not outlive its weights
        save_model(model, settings, path)
        candidate = replace(self._record(key, model, parent, settings), history=lineage)
        self.store.write_candidate(key, candidate, digest=digest)
        for left in path.parent.glob(f"{key.target_ratio!r}.*.training"):
            left.unlink(missing_ok=True)  # it is finished
        return candidate

    def _record(
        self, key: Key, model: nn.Module, parent: Candidate | None, settings: Mapping[str, Any]
    ) -> Candidate:
        """What is written down about a network: its costs and measured ratios."""
        weights = weights_digest(model)
        spent = self._cost(model, weights, settings)
        reference = spent if parent is None else parent.cost
        axis = next((c.plugin.axis for c in self.suite.producers if c.label == key.method), DEFAULT_AXIS)
        return Candidate(
            method=key.method,
            seed=key.seed,
            target_ratio=key.target_ratio,
            ratio=ratio_on_axis(spent, reference, axis) or 0.0,
            prunable_ratio=ratio_on_axis(spent, reference, "prunable_nonzero") or 0.0,
            cost=spent,
            weights=weights,
            model=settings,
            axis=axis,
        )

    def _cost(self, model: nn.Module, weights: str, settings: Mapping[str, Any]) -> Cost:
        """What a network costs, counted once: it is planned, then saved, and packing large weights takes seconds."""
        layers = tuple((name, type(layer)) for name, layer in model.named_modules())
        key = (weights, repr(settings), layers)
        if key not in self._costs:
            self._costs[key] = cost(model, self._shape)
        return self._costs[key]

    def _loaded_parent(self, path: Path) -> nn.Module:
        weights = current_weights(self.suite.model.plugin, self.parent_checkpoint(path).weights)
        try:
            return load_candidate(weights, self.suite.model.plugin, image_shape=self._shape)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def parent_checkpoint(self, path: Path) -> Checkpoint:
        """What a checkpoint of the suite holds, of the network and set of weights that the suite names."""
        suite = self.suite
        return parent_checkpoint(path, choice=suite.checkpoint_weights, entry=suite.checkpoint_entry)

    @property
    def _shape(self) -> Sequence[int]:
        """(C, H, W) of one image."""
        return self.image_source.images(View()).images.shape[1:]

    def _stored(self, key: Key, digest: str) -> Candidate | None:
        """A finished candidate whose weights are there as well."""
        return self.store.candidate(key, digest) if self.store.has_weights(key) else None

    def checkpoint(self, seed: int) -> Path | None:
        """Returns where the parent's weights are; ``None`` if it is trained here.

        Raises:
            CheckpointError: If the suite names a file that is not there.
        """
        name = self.suite.checkpoint.replace("{seed}", str(seed))
        return self._located(name, "checkpoint") if name else None

    def _located(self, name: str, what: str) -> Path:
        """A file that the suite names: beside the suite, in the data root, or absolute."""
        named = Path(name).expanduser()
        root = self.image_source.place.root
        tried = [self.suite.source.parent / named, *([root / named] if root else [])]
        for path in tried:
            if path.is_dir() and not is_model_folder(path):
                raise CheckpointError(
                    f"{what} {path}: found a directory without config.json, expected weights, or a model folder "
                    "as save_pretrained writes it"
                )
            if path.exists():
                return path
        raise CheckpointError(
            f"{what} {named}: no such file in {' or '.join(str(path.parent) for path in tried)}; "
            "put it there, name the data folder with --data-root, or correct the path"
        )


DENSE_TOLERANCE = 0.001
"""Share of the parent's non-zero parameters that a method that prunes nothing may lose or gain."""
CLAIM = 0.01
"""How far a claimed ratio may be from a measured one, over all parameters or over prunable weights."""


def check_claim(external: ExternalCandidate, candidate: Candidate) -> None:
    """Checks the ratio that a finished model is said to have.

    Raises:
        CheckpointError: If neither measured ratio is within `CLAIM` of it.
    """
    measured = (candidate.ratio, candidate.prunable_ratio)
    if external.ratio is None or min(abs(external.ratio - ratio) for ratio in measured) <= CLAIM:
        return
    raise CheckpointError(
        f"{external.file} is said to have ratio {external.ratio:g}, but {candidate.ratio:.4f} of all parameters and "
        f"{candidate.prunable_ratio:.4f} of the prunable weights are gone; correct the claim or leave it out"
    )


def module_of(model: object, target: float) -> nn.Module:
    """Returns what a producer yielded.

    Raises:
        ContractError: If that is no module.
    """
    if not isinstance(model, nn.Module):
        raise ContractError(
            f"the producer yielded {type(model).__name__} for ratio {target:g}, expected a module"
        )
    return model


def ratio_of(model: nn.Module, parent: Candidate, axis: str) -> float:
    """Returns the measured ratio of `model` on an axis that weights alone decide."""
    return 1 - weight_cost(model, axis) / int(getattr(parent.cost, axis))


def accepted(
    model: nn.Module, parent: Candidate, module: nn.Module, *, above: float, goal: tuple[str, float]
) -> float:
    """Returns the measured ratio of what a producer yielded.

    Args:
        model: What it yielded.
        parent: Record of the parent.
        module: The parent.
        above: The ratio that it may not be below.
        goal: The axis, and the target there.

    Raises:
        ContractError: If the producer broke its contract.
    """
    axis, target = goal
    if weights_digest(module) != parent.weights:
        raise ContractError("the producer changed the parent; it must work on a copy")
    if not all(bool(value.isfinite().all()) for value in model.state_dict().values()):
        raise ContractError(f"the producer yielded weights that are not finite at ratio {target:g}")
    ratio = ratio_of(model, parent, axis)
    if ratio < above:
        raise ContractError(
            f"measured ratios must rise: {ratio:.4f} at target {target:g} follows {above:.4f}"
        )
    return ratio


def checked(
    producer: Producer, parent: Candidate, module: nn.Module, ratios: Sequence[float], context: Context
) -> Iterator[nn.Module]:
    """Yields what a producer makes of `module` for each of `ratios`, each of it accepted.

    The ratio of a method that prunes nothing (`Producer.dense`) must not be above 0 instead of rising; it is below
    where retraining moves weights of the parent that were exactly zero.

    Raises:
        ContractError: If the producer broke its contract.
    """
    before = context.previous
    floor = 0.0 if before is None else ratio_of(before, parent, producer.axis)
    models = producer.produce(module, ratios, context)
    for ratio in ratios:
        model = module_of(next(models, None), ratio)
        above = -math.inf if producer.dense else floor
        floor = accepted(model, parent, module, above=above, goal=(producer.axis, ratio))
        if producer.dense and floor > DENSE_TOLERANCE:
            raise ContractError(f"a method that prunes nothing has ratio {floor:.4f}, expected 0")
        yield model


def sentence(error: Exception) -> str:
    """Returns why a production failed."""
    return str(error) if isinstance(error, EvalsuiteError) else f"{type(error).__name__}: {error}"
