"""Parents and candidates: made once, checked, saved, and read back; a killed production goes on where it was."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evalsuite.choices import Choice
from evalsuite.data.views import Gallery, View
from evalsuite.errors import CheckpointError, ContractError, EvalsuiteError
from evalsuite.models.architecture import assemble
from evalsuite.models.checkpoints import load_weights, read_weights
from evalsuite.models.cost import cost, nonzero, weights_digest
from evalsuite.models.saving import load, save
from evalsuite.producers.contract import Context, Producer
from evalsuite.provenance import PRODUCING, code_digest
from evalsuite.randomness import address
from evalsuite.records import Candidate
from evalsuite.store import Key, Store, candidate_digest, digest_of
from evalsuite.suite import DENSE, Suite
from evalsuite.training.loop import train, training_seed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Made:
    """Is one candidate, or the reason why there is none.

    Attributes:
        key: Which one.
        candidate: ``None`` if its production failed.
        reason: Why it failed.
        computed: False if it was in the store already.
        digest: Of what it depends on.
    """

    key: Key
    candidate: Candidate | None
    reason: str = ""
    computed: bool = True
    digest: str = ""


class Production:
    """Makes the candidates of a suite.

    Args:
        suite: What to make.
        store: Where finished candidates are.
        gallery: Training images.
        device: Where to train.
    """

    def __init__(self, suite: Suite, store: Store, gallery: Gallery, *, device: torch.device) -> None:
        self.suite, self.store, self.gallery, self.device = suite, store, gallery, device

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
        model = self._trained(seed) if path is None else self._read(path)
        return self._saved(key, model, None, digest=digest), True

    def parent_digest(self, seed: int) -> str:
        """Returns the digest of what the parent of one seed depends on.

        Raises:
            CheckpointError: If the checkpoint is not there.
        """
        path = self.checkpoint(seed)
        origin = {"seed": seed, **self._training} if path is None else {"checkpoint": _file_digest(path)}
        return digest_of({"model": self.suite.model.table, **origin, "code": code_digest(PRODUCING)})

    def producer_digest(self, choice: Choice[Producer]) -> str:
        """Returns the digest of a method and of how it retrains."""
        code = code_digest(PRODUCING, type(choice.plugin))
        return digest_of({"producer": choice.table, **self._training, "code": code})

    def module(self, key: Key, candidate: Candidate) -> nn.Module:
        """Returns the network of a finished candidate as it is on disk, in evaluation mode."""
        return load(candidate.model, self.store.weights_path(key)).to(self.device)

    def candidates(self, choice: Choice[Producer], parent: Candidate, module: nn.Module) -> Iterator[Made]:
        """Yields one producer's candidates at rising ratios: those in the store, then those still to be made.

        A failure ends the chain: every ratio from there on has its reason.
        """
        keys = [Key(choice.label, parent.seed, ratio) for ratio in self.suite.ratios]
        method = self.producer_digest(choice)
        digests = [candidate_digest(parent, method, self.suite.ratios[: i + 1]) for i in range(len(keys))]
        stored = (self._stored(key, digest) for key, digest in zip(keys, digests, strict=True))
        ready = [found for found in takewhile(lambda found: found is not None, stored) if found is not None]
        for key, found in zip(keys, ready, strict=False):
            yield Made(key, found, computed=False)
        if len(ready) < len(keys):
            chain = self._chain(choice, parent, module, ready)
            yield from self._rest(chain, list(zip(keys, digests, strict=True))[len(ready) :], parent)

    def _chain(
        self, choice: Choice[Producer], parent: Candidate, module: nn.Module, ready: Sequence[Candidate]
    ) -> Iterator[nn.Module]:
        """The producer's own models from the first missing ratio on, each checked."""
        last = ready[-1] if ready else None
        previous = None if last is None else self.module(Key(last.method, last.seed, last.target_ratio), last)
        seed = address(parent.seed, "producer", choice.name)
        context = Context(self.gallery.images(View(split="train")), self.suite.recipe, seed, previous)
        floor = 0.0 if last is None else last.ratio
        ratios = self.suite.ratios[len(ready) :]
        models = choice.plugin.produce(module, ratios, context)
        for ratio in ratios:
            model = _module(next(models, None), ratio)
            floor = _checked(model, parent, module, above=floor, target=ratio)
            yield model

    def _rest(
        self, chain: Iterator[nn.Module], wanted: Sequence[tuple[Key, str]], parent: Candidate
    ) -> Iterator[Made]:
        reason = ""
        for key, digest in wanted:
            found = None
            if not reason:
                try:
                    found = self._saved(key, next(chain), parent, digest=digest)
                except Exception as error:
                    log.info("production of %s at %s failed", key.method, key.target_ratio, exc_info=True)
                    reason = f"production failed at ratio {key.target_ratio:g}: {_sentence(error)}"
            yield Made(key, found, reason, digest=digest)

    def _saved(self, key: Key, model: nn.Module, parent: Candidate | None, *, digest: str) -> Candidate:
        """Record of a network after saving it; the ratio is counted on what was saved."""
        path = self.store.weights_path(key)
        self.store.forget_candidate(key)  # its record must not outlive its weights
        save(model, self.suite.model.table, path)
        spent = cost(model, self.gallery.images(View()).images.shape[1:])
        candidate = Candidate(
            method=key.method,
            seed=key.seed,
            target_ratio=key.target_ratio,
            ratio=0.0 if parent is None else 1 - spent.nonzero / parent.cost.nonzero,
            prunable_ratio=0.0
            if parent is None
            else 1 - spent.prunable_nonzero / parent.cost.prunable_nonzero,
            cost=spent,
            weights=weights_digest(model),
            model=self.suite.model.table,
        )
        self.store.write_candidate(key, candidate, digest=digest)
        return candidate

    def _trained(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training_seed(seed, "initialise"))
            model = assemble(self.suite.model.plugin).to(self.device)
        train(
            model,
            self.gallery.images(View(split="train")),
            self.suite.recipe,
            seed=training_seed(seed, "parent"),
        )
        return model

    def _read(self, path: Path) -> nn.Module:
        model = assemble(self.suite.model.plugin)
        load_weights(model, read_weights(path))
        return model.eval().to(self.device)

    def _stored(self, key: Key, digest: str) -> Candidate | None:
        """A finished candidate whose weights are there as well."""
        return self.store.candidate(key, digest) if self.store.has_weights(key) else None

    def checkpoint(self, seed: int) -> Path | None:
        """Returns where the parent's weights are: beside the suite, in the data root, or as given.

        Raises:
            CheckpointError: If the suite names a file that is not there.
        """
        if not self.suite.checkpoint:
            return None
        named = Path(self.suite.checkpoint.replace("{seed}", str(seed))).expanduser()
        root = self.gallery.place.root
        tried = [self.suite.source.parent / named, *([root / named] if root else [])]
        for path in tried:
            if path.is_file():
                return path
        raise CheckpointError(
            f"checkpoint {named}: no such file in {' or '.join(str(path.parent) for path in tried)}; "
            "put it there, name the data folder with --data, or correct the suite's key 'checkpoint'"
        )

    @property
    def _training(self) -> dict[str, Any]:
        """What any training in this suite depends on, beside its seed."""
        return {
            "recipe": dataclasses.asdict(self.suite.recipe),
            "train": self.gallery.digest(View(split="train")),
            "threads": self.suite.threads,
            "device": self.device.type,
        }


def _module(model: object, target: float) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise ContractError(
            f"the producer yielded {type(model).__name__} for ratio {target:g}, expected a module"
        )
    return model


def _checked(model: nn.Module, parent: Candidate, module: nn.Module, *, above: float, target: float) -> float:
    """Measured ratio of what a producer yielded.

    Raises:
        ContractError: If the producer broke its contract.
    """
    if weights_digest(module) != parent.weights:
        raise ContractError("the producer changed the parent; it must work on a copy")
    if not all(bool(value.isfinite().all()) for value in model.state_dict().values()):
        raise ContractError(f"the producer yielded weights that are not finite at ratio {target:g}")
    ratio = 1 - nonzero(model) / parent.cost.nonzero
    if ratio < above:
        raise ContractError(
            f"measured ratios must rise: {ratio:.4f} at target {target:g} follows {above:.4f}"
        )
    return ratio


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, EvalsuiteError) else f"{type(error).__name__}: {error}"


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
