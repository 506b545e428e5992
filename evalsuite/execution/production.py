"""Parents and candidates: made once, checked, saved, and read back; a killed production goes on where it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evalsuite.config.suite import DENSE, Suite
from evalsuite.cost_axes import DEFAULT_AXIS, ratio_on_axis
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.views import View
from evalsuite.errors import CheckpointError, ContractError, EvalsuiteError, StoreError
from evalsuite.execution.external_candidates import PROGRAM, ExternalCandidateLoader, program_candidate
from evalsuite.execution.limits import TimeLimitError
from evalsuite.execution.parent_training import TrainingInputs
from evalsuite.execution.tasks import ProductionResult, WeightsLostError
from evalsuite.models.checkpoints.loading import load_candidate
from evalsuite.models.checkpoints.saving import load, save
from evalsuite.models.cost import cost, counted, weights_digest
from evalsuite.plugin_config import PluginConfig
from evalsuite.producers.base import Context, Producer
from evalsuite.runs.digests import candidate_digest, digest_of, file_digest
from evalsuite.runs.provenance import PRODUCING, code_digest
from evalsuite.runs.store import Key, Store
from evalsuite.training.history import history, remember
from evalsuite.types import Candidate, ExternalCandidate, Phase

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
        self.suite, self.store, self.image_source, self.device, self.trust = (
            suite,
            store,
            image_source,
            device,
            trust,
        )

    def parent(self, seed: int) -> tuple[Candidate, bool]:
        """Returns the unpruned network of one seed, read from the suite's checkpoint or trained, and if it is new.

        Raises:
            CheckpointError: If the checkpoint is not there or does not fit.
        """
        key = Key(DENSE, seed, 0.0)
        digest = self.parent_digest(seed)
        found = self._stored(key, digest)
        if found is not None:
            return found, False
        path = self.checkpoint(seed)
        if path is None:
            model = self._trainings.parent(seed, digest)
        else:
            model = load_candidate(path, self.suite.model.plugin, image_shape=self._shape)
        return self._saved(key, model, None, digest=digest, lineage=history(model) or ()), True

    def parent_digest(self, seed: int) -> str:
        """Returns the digest of what the parent of one seed depends on.

        Raises:
            CheckpointError: If the checkpoint is not there.
        """
        path = self.checkpoint(seed)
        trained = {"seed": seed, **self._trainings.inputs(self.suite.recipe)}
        origin = trained if path is None else {"checkpoint": file_digest(path)}
        return digest_of({"model": self.suite.model.table, **origin, "code": code_digest(PRODUCING)})

    def producer_digest(self, choice: PluginConfig[Producer]) -> str:
        """Returns the digest of a method and of how it retrains."""
        plugin = choice.plugin
        code = [code_digest(PRODUCING, type(one)) for one in (plugin, *plugin.parts)]
        # what rewinds follows the parent's own training
        way = None if self.suite.checkpoint else asdict(self.suite.recipe)
        training = self._trainings.inputs(self.suite.retraining_of(choice.label))
        return digest_of({"producer": choice.table, **training, "parent": way, "code": code})

    def module(self, key: Key, candidate: Candidate) -> nn.Module:
        """Returns the network of a finished candidate as it is on disk, in evaluation mode."""
        if candidate.model["name"] == PROGRAM:
            return self._intake.program(candidate.model).to(self.device)
        return load(candidate.model, self.store.weights_path(key)).to(self.device)

    def sound_module(self, key: Key, candidate: Candidate) -> nn.Module:
        """Returns the network of a finished candidate, if it is still the one that was recorded.

        Raises:
            LostError: If it is not: nothing may be made of it or measured.
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

    def given(self, seed: int, parent: Candidate) -> list[ProductionResult]:
        """Returns the finished models of one seed, all of them read before any is measured.

        Raises:
            CheckpointError: If one cannot be read, does not fit, or has another ratio than it claims.
        """
        mine = [one for one in self.suite.candidates if one.seed == seed]
        found = [self._opened(one, parent) for one in mine]
        for made, one in zip(found, mine, strict=True):
            if sum(other.key == made.key for other in found) > 1:
                raise CheckpointError(
                    f"{one.file}: another file of method {one.method!r} has the same ratio "
                    f"{made.key.target_ratio:.4f}; give one of them another method"
                )
        return found

    def _opened(self, one: ExternalCandidate, parent: Candidate) -> ProductionResult:
        path = self._located(one.file, "candidate")
        opened = self._intake.opened(one, path, self._located(one.masks, "masks") if one.masks else None)
        if opened.is_program:
            made = program_candidate(one, opened, parent)
            ratio = made.ratio
        else:
            ratio = ratio_of(opened.model, parent, DEFAULT_AXIS)
        origin = digest_of({"files": opened.files, "model": opened.settings, "code": code_digest(PRODUCING)})
        key, digest = Key(one.method, one.seed, ratio), candidate_digest(parent, origin, (ratio,))
        found = self.store.candidate(key, digest) if opened.is_program else self._stored(key, digest)
        if found is None and opened.is_program:
            self.store.write_candidate(key, made, digest=digest)
        elif found is None:
            made = self._saved(key, opened.model, parent, digest=digest, settings=opened.settings)
        kept = found or made
        check_claim(one, kept)
        return ProductionResult(key, kept, computed=found is None, digest=digest, notes=opened.notes)

    @cached_property
    def _trainings(self) -> TrainingInputs:
        return TrainingInputs(self.suite, self.store, self.image_source, device=self.device)

    @cached_property
    def _intake(self) -> ExternalCandidateLoader:
        return ExternalCandidateLoader(self.suite.model, self._shape, trust=self.trust)

    def candidates(
        self, choice: PluginConfig[Producer], parent: Candidate, module: nn.Module
    ) -> Iterator[ProductionResult]:
        """Yields one producer's candidates at rising ratios: those in the store, then those still to be made.

        A failure ends the chain: every ratio from there on has its reason.
        """
        keys = [Key(choice.label, parent.seed, ratio) for ratio in self.suite.ratios]
        method = self.producer_digest(choice)
        digests = [candidate_digest(parent, method, self.suite.ratios[: i + 1]) for i in range(len(keys))]
        stored = (self._stored(key, digest) for key, digest in zip(keys, digests, strict=True))
        ready = [found for found in takewhile(lambda found: found is not None, stored) if found is not None]
        for key, found in zip(keys, ready, strict=False):
            yield ProductionResult(key, found, computed=False)
        if len(ready) < len(keys):
            missing = list(zip(keys, digests, strict=True))[len(ready) :]
            last = ready[-1] if ready else None
            context = self._trainings.context(choice, parent, last, digest=method)
            if last is not None:
                previous = self.sound_module(Key(last.method, last.seed, last.target_ratio), last)
                remember(previous, last.history)
                context = replace(context, previous=previous)
            remember(module, parent.history)
            ratios = [key.target_ratio for key, _ in missing]
            chain = checked(choice.plugin, parent, module, ratios, context)
            yield from self._rest(chain, missing, parent, context)

    def _rest(
        self,
        chain: Iterator[nn.Module],
        wanted: Sequence[tuple[Key, str]],
        parent: Candidate,
        context: Context,
    ) -> Iterator[ProductionResult]:
        reason, again = "", False
        for key, digest in wanted:
            found = None
            if not reason:
                try:
                    model = next(chain)
                    lineage = context.history(model)
                    found = self._saved(key, model, parent, digest=digest, lineage=lineage)
                except StoreError:
                    raise  # a full disk is no failure of the method
                except Exception as error:
                    again = isinstance(error, TimeLimitError) or not isinstance(error, EvalsuiteError)
                    log.info("production of %s at %s failed", key.method, key.target_ratio, exc_info=True)
                    reason = f"production failed at ratio {key.target_ratio:g}: {sentence(error)}"
            yield ProductionResult(key, found, reason, digest=digest, again=again)

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
        settings = settings or self.suite.model.table
        path = self.store.weights_path(key)
        self.store.forget_candidate(key)  # its record must not outlive its weights
        save(model, settings, path)
        spent = cost(model, self._shape)
        whole = spent if parent is None else parent.cost
        axis = next(
            (one.plugin.axis for one in self.suite.producers if one.label == key.method), DEFAULT_AXIS
        )
        candidate = Candidate(
            method=key.method,
            seed=key.seed,
            target_ratio=key.target_ratio,
            ratio=ratio_on_axis(spent, whole, axis) or 0.0,
            prunable_ratio=ratio_on_axis(spent, whole, "prunable_nonzero") or 0.0,
            cost=spent,
            weights=weights_digest(model),
            model=settings,
            history=lineage,
            axis=axis,
        )
        self.store.write_candidate(key, candidate, digest=digest)
        for left in path.parent.glob(f"{key.target_ratio!r}.*.training"):
            left.unlink(missing_ok=True)  # it is finished
        return candidate

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
        named = self.suite.checkpoint.replace("{seed}", str(seed))
        return self._located(named, "checkpoint") if named else None

    def _located(self, name: str, what: str) -> Path:
        """A file that the suite names: beside the suite, in the data root, or absolute."""
        named = Path(name).expanduser()
        root = self.image_source.place.root
        tried = [self.suite.source.parent / named, *([root / named] if root else [])]
        for path in tried:
            if path.exists():
                return path
        raise CheckpointError(
            f"{what} {named}: no such file in {' or '.join(str(path.parent) for path in tried)}; "
            "put it there, name the data folder with --data (of check: --data-root), or correct the path"
        )


DENSE_TOLERANCE = 0.001
"""Share of the parent's non-zero parameters that a method that prunes nothing may lose or gain."""
CLAIM = 0.01
"""How far a claimed ratio may be from a measured one, over all parameters or over prunable weights."""


def check_claim(one: ExternalCandidate, found: Candidate) -> None:
    """Checks the ratio that a finished model is said to have.

    Raises:
        CheckpointError: If neither measured ratio is within `CLAIM` of it.
    """
    if one.ratio is None or min(abs(one.ratio - r) for r in (found.ratio, found.prunable_ratio)) <= CLAIM:
        return
    raise CheckpointError(
        f"{one.file} is said to have ratio {one.ratio:g}, but {found.ratio:.4f} of all parameters and "
        f"{found.prunable_ratio:.4f} of the prunable weights are gone; correct the claim or leave it out"
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
    return 1 - counted(model, axis) / int(getattr(parent.cost, axis))


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

    The ratio of a method that prunes nothing (`Producer.dense`) must stay at 0 instead of rising.

    Raises:
        ContractError: If the producer broke its contract.
    """
    before = context.previous
    floor = 0.0 if before is None else ratio_of(before, parent, producer.axis)
    models = producer.produce(module, ratios, context)
    for ratio in ratios:
        model = module_of(next(models, None), ratio)
        above = -DENSE_TOLERANCE if producer.dense else floor
        floor = accepted(model, parent, module, above=above, goal=(producer.axis, ratio))
        if producer.dense and floor > DENSE_TOLERANCE:
            raise ContractError(f"a method that prunes nothing has ratio {floor:.4f}, expected 0")
        yield model


def sentence(error: Exception) -> str:
    """Returns why a production failed."""
    return str(error) if isinstance(error, EvalsuiteError) else f"{type(error).__name__}: {error}"
