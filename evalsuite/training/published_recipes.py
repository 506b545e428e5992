"""Recipes by name: those of published studies, as far as they are documented, and one of ours.

All differ from their sources in this: "Lost in Pruning" trains in half precision, these in float32; "Rethinking"
keeps the best test epoch, these the last one; recipes for ImageNet crop at random sizes there, padded images here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from evalsuite.errors import SuiteError, UnknownNameError
from evalsuite.registry import unknown_name
from evalsuite.training.recipe import Recipe

SCHEDULE_KEYS = ("milestones", "gamma", "rates", "floor")
"""Keys that belong to one schedule, and are dropped with it when a table overrides the schedule."""


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe with a name.

    Attributes:
        text: Source, with differences from it and details that it leaves open.
        keys: Keys of `Recipe` with their values, where they differ from its defaults.
    """

    text: str
    keys: Mapping[str, Any] = field(default_factory=dict)


def named_recipe(name: str) -> Recipe:
    """Returns the recipe with a name.

    Raises:
        UnknownNameError: If there is none.
    """
    if name not in RECIPES:
        raise UnknownNameError(unknown_name("recipe", name, RECIPES))
    return Recipe(**RECIPES[name].keys)


def merge_recipe(table: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the keys of a recipe: those of `table`, then those of the recipe that it names, or else `defaults`.

    Args:
        table: ``name`` is one of `RECIPES`; the other keys are those of `Recipe`.
        defaults: Keys of a recipe, for a table that names none.

    Raises:
        SuiteError: If no recipe has the name.

    >>> merge_recipe({"name": "rethinking-cifar-finetune", "epochs": 5})["learning_rate"]
    0.001
    """
    overrides = dict(table)
    name = overrides.pop("name", None)
    base = dict(defaults or {})
    if name is not None:
        if name not in RECIPES:
            raise SuiteError(unknown_name("recipe", str(name), RECIPES))
        base = dict(RECIPES[name].keys)
    if "schedule" in overrides:
        base = {key: value for key, value in base.items() if key not in SCHEDULE_KEYS}
    return {**base, **overrides}


def _step(epochs: int, rate: float, milestones: tuple[int, ...], **more: Any) -> dict[str, Any]:
    """Keys of a recipe with a step schedule, crops and flips."""
    schedule = {"epochs": epochs, "learning_rate": rate, "schedule": "step", "milestones": milestones}
    return {**schedule, "augment": "crop-flip", **more}


DEIT = "Touvron et al. 2021, arXiv 2012.12877"
_DEIT: dict[str, Any] = {
    "epochs": 300,
    "batch_size": 1024,
    "optimiser": "adamw",
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "momentum": 0.9,
    "decay_norms": False,
    "warmup_epochs": 5.0,
    "floor": 1e-5,
    "augment": "crop-flip",
    "auto_augment": "randaugment",
    "augment_magnitude": 9,
    "erasing": 0.25,
    "label_smoothing": 0.1,
    "mixup": 0.8,
    "cutmix": 1.0,
    "stochastic_depth": 0.1,
}
LOST = 'Liebenwein et al. 2021, "Lost in Pruning": parents and retraining'
LIU = "Liu et al. 2019, arXiv 1810.05270"
WANG = "Wang et al. 2023, arXiv 2301.05219"

RECIPES: Mapping[str, NamedRecipe] = MappingProxyType(
    {
        "lost-cifar-resnet": NamedRecipe(
            f"{LOST}; ResNet-20, 56 and 110.",
            _step(182, 0.1, (91, 136), batch_size=128, warmup_epochs=5.0),
        ),
        "lost-vgg16": NamedRecipe(
            f"{LOST}; VGG16 with batch normalisation; retrain with lost-vgg16-retraining.",
            _step(
                300,
                0.05,
                tuple(range(30, 300, 30)),
                gamma=0.5,
                batch_size=256,
                warmup_epochs=10.0,
                weight_decay=5e-4,
            ),
        ),
        "lost-vgg16-retraining": NamedRecipe(
            f"{LOST}; 150 epochs of lost-vgg16.",
            _step(
                150,
                0.05,
                tuple(range(30, 150, 30)),
                gamma=0.5,
                batch_size=256,
                warmup_epochs=10.0,
                weight_decay=5e-4,
            ),
        ),
        "lost-wrn16-8": NamedRecipe(
            f"{LOST}; WRN16-8.",
            _step(
                200,
                0.1,
                (60, 120, 160),
                gamma=0.2,
                batch_size=128,
                warmup_epochs=5.0,
                weight_decay=5e-4,
                nesterov=True,
            ),
        ),
        "lost-densenet22": NamedRecipe(
            f"{LOST}; DenseNet-22.", _step(300, 0.1, (150, 225), warmup_epochs=10.0, nesterov=True)
        ),
        "lost-imagenet-resnet": NamedRecipe(
            f"{LOST}; ResNet-18 and 101 on ImageNet.",
            _step(90, 0.1, (30, 60, 80), batch_size=256, warmup_epochs=5.0),
        ),
        "rethinking-cifar": NamedRecipe(f"{LIU}; parents and Scratch-E.", _step(160, 0.1, (80, 120))),
        "rethinking-cifar-finetune": NamedRecipe(
            f"{LIU}.",
            {"epochs": 40, "learning_rate": 1e-3, "schedule": "constant", "augment": "crop-flip"},
        ),
        "rethinking-imagenet": NamedRecipe(
            f"{LIU}; VGG starts at 0.01.", _step(90, 0.1, (30, 60), batch_size=256)
        ),
        "rethinking-imagenet-finetune": NamedRecipe(
            f"{LIU}; 20 epochs for filters by L1, 10 for weights, 5 for network slimming.",
            {
                "epochs": 20,
                "learning_rate": 1e-3,
                "schedule": "constant",
                "batch_size": 256,
                "augment": "crop-flip",
            },
        ),
        "rethinking-soft-filter": NamedRecipe(
            f"{LIU}; soft filter pruning on CIFAR.",
            {
                **_step(200, 0.01, (1, 60, 120, 160), batch_size=128, weight_decay=5e-4),
                "schedule": "piecewise",
                "rates": (0.1, 0.02, 0.004, 0.0008),
            },
        ),
        "greg-cifar": NamedRecipe(
            "Parents of GReg, arXiv 2012.09243, and TPP, arXiv 2207.12534; batches of 256 for VGG-19.",
            _step(200, 0.1, (100, 150), batch_size=128, weight_decay=5e-4),
        ),
        "why-confusing-cifar-step": NamedRecipe(
            f"{WANG}: retraining; batch size and weight decay are the parent's.",
            _step(120, 1e-2, (60, 90), batch_size=128, weight_decay=5e-4),
        ),
        "why-confusing-cifar-cosine": NamedRecipe(
            f"{WANG}: retraining, cosine to 1e-4; batch size and weight decay are the parent's.",
            {
                "epochs": 120,
                "learning_rate": 1e-2,
                "floor": 1e-4,
                "batch_size": 128,
                "weight_decay": 5e-4,
                "augment": "crop-flip",
            },
        ),
        "why-confusing-imagenet": NamedRecipe(
            f"{WANG}: retraining; batches of 256 and weight decay 1e-4 are our choice.",
            _step(90, 1e-2, (30, 60, 75), batch_size=256),
        ),
        "why-confusing-imagenet100-scratch": NamedRecipe(
            f"{WANG}: ImageNet-100; batches of 256 and weight decay 1e-4 are our choice.",
            _step(120, 0.1, (30, 60, 90, 105), batch_size=256),
        ),
        "why-confusing-imagenet100-p30f90": NamedRecipe(
            f"{WANG}: pruned at epoch 30, retrained for 90, first rate 0.1; else like the one from scratch.",
            _step(90, 0.1, (30, 60, 75, 83), batch_size=256),
        ),
        "why-confusing-imagenet100-p60f60": NamedRecipe(
            f"{WANG}: pruned at epoch 60, retrained for 60, first rate 0.01; else like the one from scratch.",
            _step(60, 1e-2, (30, 45, 53), batch_size=256),
        ),
        "openlth-cifar": NamedRecipe(
            "Frankle et al., the code open_lth: lottery tickets; the weights are rewound to an early step.",
            _step(160, 0.1, (80, 120), batch_size=128),
        ),
        "modern": NamedRecipe(
            "Ours, of the parts of HugoTessier/ImageNet-Train, which trains 600 epochs in batches of 1024 at 0.5.",
            {
                "epochs": 200,
                "batch_size": 128,
                "nesterov": True,
                "weight_decay": 5e-4,
                "decay_norms": False,
                "warmup_epochs": 5.0,
                "augment": "crop-flip",
                "label_smoothing": 0.1,
                "mixup": 0.2,
                "cutmix": 1.0,
                "erasing": 0.1,
                "ema": 0.999,
                "precision": "bfloat16",
            },
        ),
        "deit": NamedRecipe(f"{DEIT}, table 9; without repeated augmentation.", _DEIT),
        "deit-distilled": NamedRecipe(
            f"{DEIT}, table 9, hard distillation for retraining; without the token.",
            {**_DEIT, "label_smoothing": 0.0, "distillation": "hard"},
        ),
    }
)
