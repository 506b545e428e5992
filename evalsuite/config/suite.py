"""A suite: everything that a run depends on, as one value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from evalsuite.condition_splits import ConditionSplits
from evalsuite.config.retraining import is_retrained
from evalsuite.errors import SuiteError
from evalsuite.plugin_config import PluginConfig
from evalsuite.tolerances import Tolerance
from evalsuite.training.recipe import Recipe
from evalsuite.types import DENSE, PRODUCTION, ExternalCandidate, InferencePrecision, Metric, WeightSet

if TYPE_CHECKING:  # the contracts import torch, and listing suites must not
    from evalsuite.datasets.base import DataSet
    from evalsuite.evaluators.base import Evaluator
    from evalsuite.models.architectures.base import Architecture
    from evalsuite.producers.base import Producer

RESERVED = MappingProxyType({DENSE: "the parent", PRODUCTION: "the making of a candidate"})
COUNTED_LATER = ("torchvision", "timm", "python")
"""Where networks come from that take any number of classes; evalsuite's own have ten unless a setting says more."""
DATA_VARIABLE = "EVALSUITE_DATA"
"""Environment variable with the folder of data."""


@dataclass(frozen=True)
class Resources:
    """The table ``[resources]`` of a suite: what one cell may take; no number depends on it beyond its last digits.

    Attributes:
        time_limit: Seconds that one test of one candidate may take; ``None`` for any number.
        production_limit: Seconds that making one candidate may take; ``None`` for any number.
        cpus: Processors that Ray keeps for one task; 0 for the suite's number of threads.
        gpus: Graphics cards that Ray keeps for one task; a fraction lets several tasks share one.
        batch_size: Images per forward pass; 0 for the usual number on a processor, and on a graphics card for the one
            that a short probe finds fastest. Numbers may depend on it in their last digits, as on ``threads``.
        engine: What computes forward passes: ``eager`` (PyTorch), ``openvino`` on a processor, ``cuda-graphs`` on a
            graphics card, or ``auto``: OpenVINO where it is installed, or CUDA graphs, if a short probe shows that they
            pay. Kept in the run folder once it is chosen.
        precision: ``exact``: single precision. ``screened``: where predictions suffice, as for the accuracy under
            corruptions, bfloat16 with single precision for images of small margin, if a short probe shows that it
            pays; NLL and ECE then have no numbers on those images.
    """

    time_limit: float | None = None
    production_limit: float | None = None
    cpus: float = 0.0
    gpus: float = 0.0
    batch_size: int = 0
    engine: Literal["auto", "eager", "openvino", "cuda-graphs"] = "auto"
    precision: InferencePrecision = "exact"

    def __post_init__(self) -> None:
        for name in ("time_limit", "production_limit"):
            limit = getattr(self, name)
            if limit is not None and not (math.isfinite(limit) and limit > 0):
                raise SuiteError(f"found {name} = {limit}, expected seconds above 0, or leave it out")
        for name in ("cpus", "gpus"):
            share = getattr(self, name)
            if not (math.isfinite(share) and share >= 0):
                raise SuiteError(f"found {name} = {share}, expected a number from 0 on")
        if self.batch_size < 0:
            raise SuiteError(
                f"found batch_size = {self.batch_size}, expected images per forward pass, or leave it out"
            )


@dataclass(frozen=True)
class Suite:
    """Everything that a run depends on; read one with `evalsuite.config.suite_file.load_suite`.

    Attributes:
        name: Also the name of the report's folder.
        description: One line for listings.
        seeds: One parent and one set of candidates per seed; the first also addresses all changes of images.
        ratios: Target ratios, rising, in (0, 1).
        data: The labelled data set.
        model: The parent's architecture, with its preprocessing.
        checkpoint: The parent's weights, ``{seed}`` stands for the seed; empty: it is trained with `recipe`.
        checkpoint_weights: Which set of weights of a checkpoint that holds two: ``ema`` or ``raw``; empty for averaged
            ones where there are both.
        checkpoint_entry: Which network of a checkpoint that holds several: its place in the list, or its key.
        recipe: How the parent is trained.
        retraining: How candidates are retrained; `recipe`, but for the keys of ``[retraining]``.
        retrainings: The same by producer's label, where its own table says ``retraining``.
        producers: Pruning methods.
        candidates: Finished models made elsewhere.
        evaluators: Tests: those of the depth, as the suite's own tables change them, and its own.
        tolerances: Metric name to tolerance: a number in the metric's unit, ``5%`` of the parent's value, or such
            rules by condition or group (``*`` for the rest); what has none gets no thresholds.
        threads: Threads of each computation; results may depend on it in the last digits.
        data_root: Folder with data; empty for none.
        plugins: Python files with further plug-ins.
        source: Where the suite was read from.
        resources: What one cell may take; no number depends on it beyond its last digits.
        text: The TOML text that it was read from; empty where it was not read from a file.
        limit: Size of a sample of every test set, an option of the command and no key of the suite; 0 for all images.
        sequential: Whether `check` measures in stages of doubling size and stops each check when its verdict is
            decided (`evalsuite.execution.stages`); no run of producers does.
        parent_accuracy: The parent's accuracy on the clean test images, where it was published; ``None`` for no claim.
        check: What a check of finished models asked beside its tests, ``undecided`` and ``controls``; empty of a run.
        automatic: Tables, by label, of the tests that leave the source of corrupted images open (``source = "auto"``):
            official where the archive is there, else generated.
        notes: Sentences on what was chosen for this suite.
        classes_stated: Whether the suite says how many classes its network has.
        control: Whether a dense network is retrained beside the methods, for each way in which they retrain; the
            controls are among `producers`.
        pruned_only: Ratios between those of `ratios` at which methods prune and do not retrain; see `steps_of`.
        conditions: Which conditions networks were trained on and which are held out; ``None`` where the suite does not
            keep them apart.
    """

    name: str
    description: str
    seeds: tuple[int, ...]
    ratios: tuple[float, ...]
    data: PluginConfig[DataSet]
    model: PluginConfig[Architecture]
    checkpoint: str
    recipe: Recipe
    retraining: Recipe
    producers: tuple[PluginConfig[Producer], ...]
    candidates: tuple[ExternalCandidate, ...]
    evaluators: tuple[PluginConfig[Evaluator], ...]
    tolerances: Mapping[str, Tolerance]
    threads: int
    data_root: str
    plugins: tuple[str, ...]
    source: Path
    resources: Resources = dataclasses.field(default_factory=Resources)
    retrainings: Mapping[str, Recipe] = dataclasses.field(default_factory=dict)
    text: str = ""
    limit: int = 0
    sequential: bool = False
    parent_accuracy: float | None = None
    checkpoint_weights: WeightSet = ""
    checkpoint_entry: int | str = ""
    control: bool = True
    conditions: ConditionSplits | None = None
    pruned_only: tuple[float, ...] = ()
    check: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    classes_stated: bool = True
    automatic: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def retraining_of(self, producer: str) -> Recipe:
        """Returns how the candidates of a producer are retrained."""
        return self.retrainings.get(producer, self.retraining)

    def steps_of(self, config: PluginConfig[Producer]) -> tuple[float, ...]:
        """Returns the ratios that a producer prunes to, rising: `ratios`, and those between where it only prunes.

        A method that starts each ratio from first or earlier weights has no steps between.
        """
        return tuple(sorted({*self.ratios, *self.pruned_only})) if is_retrained(config) else self.ratios

    @property
    def known_classes(self) -> int:
        """The number of classes of the network; 0 where weights or data will tell it."""
        counted = self.classes_stated or self.model.name not in COUNTED_LATER
        return self.model.plugin.classes if counted else 0

    @property
    def metrics(self) -> dict[str, Metric]:
        """Every metric that an evaluator of the suite may report, by name."""
        return {metric.name: metric for config in self.evaluators for metric in config.plugin.metrics}
