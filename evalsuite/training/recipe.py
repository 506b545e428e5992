"""Training recipes: their settings, and the learning rate at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from evalsuite.condition_splits import corruption_kinds
from evalsuite.errors import SuiteError

Precision = Literal["float32", "bfloat16", "auto"]
"""Of the forward passes of a training."""

_DROPS = ("step", "piecewise")
_FALLS = ("cosine", "linear")
_STRONGEST = {"none": 0, "randaugment": 30, "augmix": 10}
_LARGEST = (2 - 2**-23) * 2.0**127  # of float32, in which networks are trained


@dataclass(frozen=True)
class Recipe:
    """The settings of a training by stochastic gradient descent.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step; the last, smaller batch of an epoch is used too.
        optimiser: ``sgd``, ``adam`` (weight decay as an L2 penalty) or ``adamw`` (decoupled).
        learning_rate: Learning rate at the end of the warm-up.
        momentum: Momentum of SGD; the first beta of Adam.
        second_moment: The second beta of Adam; SGD has none.
        nesterov: Whether the momentum is Nesterov's.
        weight_decay: Weight decay of all parameters, or of all except biases and norms, see `decay_norms`.
        decay_norms: Whether parameters with one dimension (biases and norms) decay as well.
        schedule: ``cosine`` or ``linear`` to `floor`, ``step`` (times `gamma` at each milestone),
            ``piecewise`` (one of `rates` from each milestone on) or ``constant``; a step has the rate of its
            middle.
        milestones: Epochs at which ``step`` and ``piecewise`` change the learning rate.
        gamma: Factor of each ``step``.
        rates: Learning rates of ``piecewise``, one from each milestone on.
        floor: Learning rate at the end of ``cosine`` and ``linear``.
        warmup_epochs: Linear rise from zero; may be a fraction.
        augment: ``none``, ``crop`` (pad with zeros, crop at random) or ``crop-flip``.
        padding: Pixels on each side before a crop; 0 is an eighth of the height: 4 for 32 pixels.
        label_smoothing: Share of the target that is spread over all classes.
        mixup: Alpha of mixup (arXiv 1710.09412); 0 is none.
        cutmix: Alpha of CutMix (arXiv 1905.04899); 0 is none; with both, each batch draws one of them.
        corruptions: Corruptions of training images, pruning data and the validation images of a training: the published
            sets ``mix1`` and ``mix2``, or single ones such as ``fog``. Each image has one of them at a severity from
            0 (clean) to 5, drawn anew in every epoch.
        auto_augment: After the crop: ``randaugment`` (arXiv 1909.13719), ``augmix`` (arXiv 1912.02781, without its
            consistency loss), or ``none``.
        augment_magnitude: Strength of `auto_augment`: up to 30 for RandAugment, 1 to 10 for AugMix.
        erasing: Probability that a box of an image is erased (arXiv 1708.04896).
        stochastic_depth: Probability that the deepest residual branch is left out for an image (arXiv 1603.09382); it
            rises linearly from the first branch.
        distillation: Targets from the parent beside the labels: its most likely class (``hard``) or its softmax
            (``soft``), as in DeiT (arXiv 2012.12877, equations 2 and 3, without the distillation token); for
            retraining.
        distillation_weight: Share of that loss in the sum.
        temperature: Of the softmax of ``soft``.
        ema: Decay per step of an average of the weights, which the training returns; 0 returns the weights themselves.
        precision: ``float32``, or ``bfloat16``: autocast of the forward pass; weights stay float32. ``auto`` is
            bfloat16 where the device has units for it and float32 elsewhere; the record of a run says which.
        select: ``last`` epoch, or the epoch that is best on the ``validation`` split; never the test images. A
            training that prunes always ends with its last epoch.
        track: Whether the accuracy on the validation split is recorded after each epoch.
    """

    epochs: int = 10
    batch_size: int = 64
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    second_moment: float = 0.999
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_norms: bool = True
    schedule: Literal["cosine", "linear", "step", "piecewise", "constant"] = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    rates: tuple[float, ...] = ()
    floor: float = 0.0
    warmup_epochs: float = 0.0
    augment: Literal["none", "crop", "crop-flip"] = "none"
    padding: int = 0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    corruptions: tuple[str, ...] = ()
    auto_augment: Literal["none", "randaugment", "augmix"] = "none"
    augment_magnitude: int = 0
    erasing: float = 0.0
    stochastic_depth: float = 0.0
    distillation: Literal["none", "soft", "hard"] = "none"
    distillation_weight: float = 0.5
    temperature: float = 1.0
    ema: float = 0.0
    precision: Precision = "float32"
    select: Literal["last", "validation"] = "last"
    track: bool = False

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_schedule()
        self._check_augmentation()
        if self.nesterov and not (self.momentum and self.optimiser == "sgd"):
            raise SuiteError("recipe: nesterov needs optimiser = 'sgd' and a momentum above 0")
        if self.padding and self.augment == "none":
            raise SuiteError(
                "recipe: padding has no effect with augment = 'none'; use 'crop' or remove padding"
            )

    @property
    def all_corruptions(self) -> tuple[str, ...]:
        """The single corruptions that `corruptions` means, those of sets too."""
        return corruption_kinds(self.corruptions, where="recipe")

    def _check_numbers(self) -> None:
        if math.isfinite(self.learning_rate) and 1e6 < self.learning_rate <= _LARGEST:
            raise SuiteError(
                f"recipe: found learning_rate = {self.learning_rate:g}, expected at most 1e6; lower learning_rate"
            )
        for name, value in (*vars(self).items(), *(("rates", rate) for rate in self.rates)):
            if isinstance(value, float) and value > _LARGEST:
                raise SuiteError(
                    f"recipe: found {name} = {value}, expected a number that is finite in float32"
                )
        for name in ("epochs", "batch_size", "learning_rate"):
            value = getattr(self, name)
            if not value > 0:
                raise SuiteError(f"recipe: found {name} = {value}, expected a number above 0")
        for name in ("momentum", "second_moment", "gamma", "label_smoothing", "stochastic_depth", "ema"):
            share = getattr(self, name)
            if not 0 <= share < 1:
                raise SuiteError(f"recipe: found {name} = {share}, expected at least 0 and below 1")
        for name in ("weight_decay", "warmup_epochs", "floor", "padding", "mixup", "cutmix"):
            value = getattr(self, name)
            if not value >= 0:
                raise SuiteError(f"recipe: found {name} = {value}, expected a number from 0 on")

    def _check_augmentation(self) -> None:
        _ = self.all_corruptions  # names are checked
        strongest = _STRONGEST[self.auto_augment]
        if not (0 if strongest == 0 else 1) <= self.augment_magnitude <= strongest:
            raise SuiteError(
                f"recipe: found augment_magnitude = {self.augment_magnitude} with auto_augment = "
                f"{self.auto_augment!r}, expected "
                + (f"1 to {strongest}" if strongest else "it left out, as it has no effect")
            )
        for name in ("erasing", "distillation_weight"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise SuiteError(f"recipe: found {name} = {share}, expected a share from 0 to 1")
        if not self.temperature > 0:
            raise SuiteError(f"recipe: found temperature = {self.temperature}, expected a number above 0")
        if self.temperature != 1 and self.distillation != "soft":
            raise SuiteError("recipe: temperature has no effect without distillation = 'soft'; leave it out")
        if self.distillation_weight != Recipe.distillation_weight and self.distillation == "none":
            raise SuiteError("recipe: distillation_weight has no effect without distillation; leave it out")

    def _check_schedule(self) -> None:
        if self.warmup_epochs > self.epochs:
            raise SuiteError(
                f"recipe: found warmup_epochs = {self.warmup_epochs:g} and epochs = {self.epochs}, expected a warm-up "
                "within the training; lower warmup_epochs"
            )
        if self.milestones and self.schedule not in _DROPS:
            raise SuiteError(
                f"recipe: milestones have no effect with schedule {self.schedule!r}; use 'step' or 'piecewise'"
            )
        if list(self.milestones) != sorted(set(self.milestones)) or min(self.milestones, default=0) < 0:
            raise SuiteError(
                f"recipe: found milestones = {list(self.milestones)}, expected rising epochs from 0 on"
            )
        if len(self.rates) != (len(self.milestones) if self.schedule == "piecewise" else 0):
            raise SuiteError(
                f"recipe: found {len(self.rates)} rates and {len(self.milestones)} milestones; "
                "schedule = 'piecewise' takes one rate per milestone, and no other schedule takes rates"
            )
        if any(not rate >= 0 for rate in self.rates):
            raise SuiteError(f"recipe: found rates = {list(self.rates)}, expected numbers from 0 on")
        if self.floor and self.schedule not in _FALLS:
            raise SuiteError(
                f"recipe: floor has no effect with schedule {self.schedule!r}; use 'cosine' or 'linear'"
            )


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """Returns the learning rate at a (fractional) `epoch`.

    >>> [round(learning_rate(Recipe(epochs=10, learning_rate=1.0), e), 3) for e in (0, 5, 10)]
    [1.0, 0.5, 0.0]
    """
    peak = recipe.learning_rate
    if epoch < recipe.warmup_epochs:
        return peak * epoch / recipe.warmup_epochs
    if recipe.schedule in _DROPS:
        passed = sum(epoch >= milestone for milestone in recipe.milestones)
        if recipe.schedule == "step":
            return peak * recipe.gamma**passed
        return (peak, *recipe.rates)[passed]
    if recipe.schedule == "constant":
        return peak
    length = max(recipe.epochs - recipe.warmup_epochs, 1e-12)
    position = (epoch - recipe.warmup_epochs) / length
    share = 0.5 * (1 + math.cos(math.pi * position)) if recipe.schedule == "cosine" else 1 - position
    return recipe.floor + (peak - recipe.floor) * share


def first_stage(recipe: Recipe, *, start: float = 0.0) -> int:
    """Returns the epochs of the first learning-rate stage: up to the first drop, or all of them.

    Args:
        recipe: Its schedule; the warm-up belongs to the first stage.
        start: Epoch at which the training begins, where it was rewound: a partial epoch counts as one.

    References:
        Wang et al. 2023, arXiv 2301.05219: trainability accuracy is the mean accuracy over these epochs.
    """
    earliest = max(recipe.warmup_epochs, start)
    drops = [milestone for milestone in recipe.milestones if earliest < milestone < recipe.epochs]
    return min(drops, default=recipe.epochs) - int(start)


def describe_schedule(recipe: Recipe) -> str:
    """Returns the learning-rate schedule of `recipe` in words.

    >>> describe_schedule(Recipe(epochs=182, schedule="step", milestones=(91, 136), warmup_epochs=5))
    '0.1, x0.1 at 91, 136, warm-up 5'
    """
    peak = f"{recipe.learning_rate:g}"
    if recipe.schedule in _FALLS:
        schedule = f"{peak} {recipe.schedule} to {recipe.floor:g}"
    elif recipe.schedule == "piecewise":
        changes = zip(recipe.rates, recipe.milestones, strict=True)
        schedule = ", ".join([peak, *(f"{rate:g} at {epoch}" for rate, epoch in changes)])
    elif recipe.milestones:
        schedule = f"{peak}, x{recipe.gamma:g} at {', '.join(map(str, recipe.milestones))}"
    else:
        schedule = f"{peak} constant"
    return schedule + (f", warm-up {recipe.warmup_epochs:g}" if recipe.warmup_epochs else "")
