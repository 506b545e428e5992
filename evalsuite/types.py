"""Records that all of evalsuite shares: frozen, without behaviour, and without torch at run time.

A *condition* is a distribution of images, a *metric* a function of a model's outputs on it, a *candidate* a
model at a measured prune ratio, a *score* one number with the per-image evidence behind it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Floats = NDArray[np.float64]
else:  # types say nothing at run time, and numpy takes longer to import than ``--help`` to print
    Array = Floats = Any
Split = Literal["train", "validation", "test"]
PictureKind = Literal["misclassified", "corruption", "attack"]
InferencePrecision = Literal["exact", "screened"]
"""In which networks are passed: see `evalsuite.models.screening`."""
CellStatus = Literal["ok", "skipped", "invalid", "error"]
WeightSet = Literal["", "ema", "raw"]
PhaseName = Literal["pretraining", "pruning", "retraining"]

DENSE = "dense"
"""Method name of the parent: the unpruned network."""
PRODUCTION = "production"
"""Name of the cell in which a candidate is made."""
PROGRAM = "program"
"""Model name of candidates that are whole programs: they stay in their own files."""
SYNTHETIC_FROST = "frost-synthetic"
"""Corruption in place of ``frost`` where its photographs are missing: reported, but in no family and no mean."""

NO_EVIDENCE: Mapping[str, Array] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Metric:
    """A kind of number that evaluators report, with its direction.

    Attributes:
        name: The field's standard term in snake case, with the convention in it, for example
            ``fpr95_ood_positive``.
        higher_is_better: Direction; ``None`` for numbers that only describe.
        unit: What one unit is, for example ``fraction`` or ``nats``.
        text: One sentence with the definition and its source; the report prints it.
        functional: Name in `evalsuite.metrics.FUNCTIONALS` of the function that turns per-image evidence into
            the number.
        tolerance: Default tolerance, in `unit`; ``None`` if the metric has no usual one.
    """

    name: str
    higher_is_better: bool | None
    unit: str
    text: str
    functional: str = "mean"
    tolerance: float | None = None


@dataclass(frozen=True, slots=True)
class ScoringRule:
    """How a network of `outputs` logits is scored on images of other classes.

    Attributes:
        kind: ``subset``: the logits of the classes alone are looked at, before the softmax. ``many_to_one``: several
            outputs mean one class, and the answer is the class of the largest of all logits, perhaps none.
        outputs: Number of logits of the network.
        indices: Of a subset, the output of each class, shape (K,). Many to one, the class of each output, -1 for
            outputs that are no class of these images, shape (outputs,).
        source: Where the rule is published.
    """

    kind: Literal["subset", "many_to_one"]
    outputs: int
    indices: tuple[int, ...]
    source: str = ""


@dataclass(frozen=True, slots=True)
class ImageSet:
    """A set of images, labelled or (out of distribution) not.

    Attributes:
        name: Its name in reports.
        images: uint8 in 0..255 or float32 in [0, 1], shape (N, C, H, W), possibly memory-mapped.
        labels: int64 in 0..classes-1, shape (N,); ``None`` for images of no known class.
        classes: Number of classes K; 0 where there are no labels.
        names: Names of the classes, one each; empty where they have none.
        notes: Sentences for readers of its numbers: files that were left out, what was not applied.
        labelling: How labels were found and which class each is, in words; empty where they are published.
        rule: How a network of more classes is scored on it; ``None`` where its logits are those of the classes.
        files: Names of the pictures' files, without folders and endings, which pair them with corrupted ones; empty for
            images that are no files.
    """

    name: str
    images: Array
    labels: NDArray[np.int64] | None
    classes: int
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    labelling: str = ""
    rule: ScoringRule | None = None
    files: tuple[str, ...] = ()

    def class_name(self, label: int) -> str:
        """Returns the name of a class.

        >>> import numpy as np
        >>> pets = ImageSet("pets", np.zeros((1, 3, 8, 8)), np.array([1]), 2, ("cat", "dog"))
        >>> pets.class_name(1), ImageSet("pets", pets.images, pets.labels, 2).class_name(1)
        ('dog', 'class 1')
        """
        return self.names[label] if self.names else f"class {label}"

    def called(self, label: int) -> str:
        """Calls `class_name`, whose name it was up to evalsuite 0.1."""
        warnings.warn("ImageSet.called is now ImageSet.class_name", DeprecationWarning, stacklevel=2)
        return self.class_name(label)


@dataclass(frozen=True, slots=True)
class Score:
    """One number that an evaluator reports.

    Attributes:
        metric: Name of one of the evaluator's metrics.
        condition: The distribution of the images: ``clean``, ``fog/3``, ``letters``, ``linf-pgd/2:255``.
        value: The number; leave it out where `evidence` is given, it is then computed from that.
        n: Number of images behind it; taken from `evidence` where that is given.
        evidence: Per-image outputs by population, in the order in which the metric's functional takes them.
            Each array has one row per image; populations that share a name are the same images in the same
            order for every candidate, so that comparisons are paired. Several columns are several arguments.
        group: Conditions to summarise together, for example ``corruptions``; empty for none.
        reason: Why this number does not exist for this model, where the others do; then nothing else is given.
        flags: Validity checks that this number did not pass, one sentence each.
    """

    metric: str
    condition: str
    value: float | None = None
    n: int | None = None
    evidence: Mapping[str, Array] = field(default_factory=lambda: NO_EVIDENCE)
    group: str = ""
    reason: str = ""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """The costs of a model.

    Attributes:
        parameters: Number of parameters, zeros included.
        nonzero: Number of parameters that are not exactly zero.
        prunable: Number of weights of convolutions and linear layers.
        prunable_nonzero: Those of them that are not zero.
        macs: Multiply-accumulates of convolutions and linear layers for one image, zeros included; ``None``
            for whole programs, where they cannot be counted.
        macs_nonzero: The same without the multiplications by a zero weight (theoretical: no kernel skips
            them).
        bytes: Size of the weights on disk.
        packed: Bytes of the weights, losslessly packed so that zeros and shared magnitudes take no space
            (`evalsuite.models.packing`); ``None`` for whole programs, and where an older evalsuite wrote the record.
    """

    parameters: int
    nonzero: int
    prunable: int
    prunable_nonzero: int
    macs: int | None
    macs_nonzero: int | None
    bytes: int
    packed: int | None = None


@dataclass(frozen=True)
class ExternalCandidate:
    """A finished model from outside of the run: a ``[[candidates]]`` table of a suite, a line of a manifest.

    Attributes:
        file: Path of its weights, or of a whole program; relative to the suite or the data root.
        method: Its pruning method; models of one method and seed are one curve.
        seed: Seed of the parent that it is compared with.
        masks: Path of separate masks; empty for none.
        bypass: Names of layers that its tool removed and its network skipped; ``dead`` for all convolutions
            whose weights are all zero.
        ratio: Its declared prune ratio; the ratio that counts is measured, and must agree.
        mean: Per channel, where its preprocessing is not the parent's: a program may bring its own.
        std: As `mean`; zeros and ones are no preprocessing.
        model: Its architecture where that is not the parent's, as ``--model`` takes it, perhaps with settings behind
            it: ``timm:vit_tiny_patch16_224 options.depth=6``.
        weights: Which set of weights of a file that has two: ``ema`` for averaged ones, ``raw`` for the others; empty
            for the averaged ones where there are both.
        entry: Which network of a file that holds several: its place in the list, from 0 on, or its key.
        num_heads: Heads of all its attention modules, or of each in their order, where a tool removed some: weights do
            not record how many are left.
    """

    file: str
    method: str
    seed: int = 0
    masks: str = ""
    bypass: tuple[str, ...] = ()
    ratio: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    model: str = ""
    weights: WeightSet = ""
    entry: int | str = ""
    num_heads: int | tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Phase:
    """One training of a model.

    Attributes:
        what: ``pretraining`` made the parent, ``pruning`` is one during which weights were penalised or removed,
            ``retraining`` is every other training of a candidate.
        epochs: Passes over the training images; a fraction where weights were rewound into an epoch.
        images: Training images per epoch.
        macs: Multiply-accumulates of the whole phase, calculated as 3 (forward once, backward twice) times
            those of one forward pass, zeros included, times images, times epochs.
        rates: The learning-rate schedule in words.
        schedule: Digest of the learning rates along the phase: equal for equal schedules.
        curve: Validation accuracy after each epoch, where the recipe tracks it.
        stage: How many epochs of it belong to its first learning-rate stage: up to the first drop, or all.
        rest: Digest of all of the recipe but its epochs and learning rates: batch, optimiser, augmentation.
        before: Accuracy on the validation split with which the training began, after pruning; ``None`` where it
            was not measured.
        recalibrated: The same with batch norms that were re-estimated on training images, nothing else trained;
            ``None`` without such norms.
        after: Accuracy on the validation split with which it ended.
    """

    what: PhaseName
    epochs: float
    images: int
    macs: int
    rates: str
    schedule: str
    curve: tuple[float, ...] = ()
    stage: int = 0
    rest: str = ""
    before: float | None = None
    recalibrated: float | None = None
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model at a measured prune ratio, on disk.

    Attributes:
        method: Label of the producer, or ``dense`` for the parent.
        seed: Training seed of parent and candidate.
        target_ratio: The requested ratio; 0 for the parent.
        ratio: ``1 - nonzero(candidate) / nonzero(parent)`` over all parameters, counted, never the target; of
            a method that saves another cost, ``1 - cost(candidate) / cost(parent)`` on its `axis`.
        prunable_ratio: The share of non-zero prunable weights that was removed, whatever the axis.
        cost: Its costs.
        weights: Digest of the weights, hexadecimal.
        model: Registered architecture and its settings, from which the module is rebuilt.
        history: All its trainings, the parent's first; empty where they are unknown.
        axis: The field of `Cost` that `ratio` is counted in; see `evalsuite.cost_axes`.
    """

    method: str
    seed: int
    target_ratio: float
    ratio: float
    prunable_ratio: float
    cost: Cost
    weights: str
    model: Mapping[str, Any]
    history: tuple[Phase, ...] = ()
    axis: str = "nonzero"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Confidence bounds on the drops of some candidates.

    The networks are fixed and the images a sample. Each array has one number per candidate, in the metric's
    unit, positive = worse, shape (R,).

    Attributes:
        drop: Drops, as estimated.
        low: Lower ends of their two-sided 95 % intervals.
        high: Upper ends of these.
        upper: One-sided 95 % upper bounds: a candidate is non-inferior where it is at most the tolerance; NaN
            where no bound is sound.
        lower_simultaneous: Lower bounds that all hold together with 97.5 % confidence: a candidate is inferior
            where it is above the tolerance; NaN where no bound is sound.
        noninferiority_p: One-sided p-values of "the drop is larger than the tolerance": at most 0.05 exactly where
            `upper` is at most the tolerance; 1 where the measured drop itself is above it; NaN where no bound is
            sound.
        inferiority_p: One-sided p-values of "the drop is at most the tolerance"; 1 where the measured drop itself is;
            NaN where no bound is sound.
        tolerance: The largest drop that is commensurate, in the metric's unit.
    """

    drop: Floats
    low: Floats
    high: Floats
    upper: Floats
    lower_simultaneous: Floats
    noninferiority_p: Floats
    inferiority_p: Floats
    tolerance: float


@dataclass(frozen=True, slots=True)
class Threshold:
    """The thresholds of one curve of drops over the ratio.

    Attributes:
        potential: Largest tested ratio such that it and every smaller tested ratio are commensurate; 0 if
            none.
        potential_any: Largest tested ratio that is commensurate, whatever lies between; 0 if none. The
            published definition (Liebenwein et al. 2021, "Lost in Pruning").
        first_failure: Smallest tested ratio that is not commensurate; ``None`` if there is none.
        censored: No tested ratio failed: the true value may be higher.
        infeasible: The smallest tested ratio failed.
        non_monotone: A ratio above a failing one passed.
        incomplete: A ratio could not be measured; it counts as not commensurate.
        underpowered: The 95 % interval of a drop that decides is wider than the tolerance; ``None`` without
            intervals.
        tested: The tested ratios, rising.
        certified: Largest tested ratio such that it and every smaller one are shown to be non-inferior, by
            one-sided 95 % tests in rising order that stop at the first failure: it exceeds the true potential
            in at most 5 % of samples of images. 0 if none; ``None`` without bounds.
        interval: At least 95 % confidence for the true potential, given the seeds: certified at 97.5 %, to
            the largest tested ratio below the first that is shown to fail; ``None`` without bounds.
    """

    potential: float
    potential_any: float
    first_failure: float | None
    censored: bool
    infeasible: bool
    non_monotone: bool
    incomplete: bool
    underpowered: bool | None
    tested: tuple[float, ...]
    certified: float | None = None
    interval: tuple[float, float] | None = None

    def _repr_html_(self) -> str:
        """The threshold in words, as notebooks show it."""
        parts = [
            "commensurate at no tested ratio"
            if self.infeasible
            else f"commensurate up to {self.potential:.1%}"
        ]
        if self.interval is not None:
            parts.append("95 % interval {:.1%} to {:.1%}".format(*self.interval))
        parts.append(
            "no failure" if self.first_failure is None else f"first failure at {self.first_failure:.1%}"
        )
        parts.append("tested at " + ", ".join(f"{ratio:.1%}" for ratio in self.tested))
        return f"<p>Threshold: {'; '.join(parts)}.</p>"


@dataclass(frozen=True, slots=True)
class Picture:
    """An image for the page.

    Attributes:
        kind: What it is an example of.
        row: Which row of a sheet it belongs to: the corruption, the attack; empty where there are no rows.
        column: Which column: the severity, ``clean``; a title where there are no rows.
        note: Its caption.
        png: The image as a PNG file.
    """

    kind: PictureKind
    row: str
    column: str
    note: str
    png: bytes
