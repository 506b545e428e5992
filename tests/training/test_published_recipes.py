from __future__ import annotations

import pytest

from evalsuite.errors import SuiteError
from evalsuite.plugin_config import build
from evalsuite.training.published_recipes import RECIPES, merge_recipe
from evalsuite.training.recipe import Recipe, describe_schedule, first_stage, learning_rate


def named(name: str) -> Recipe:
    return build(Recipe, merge_recipe({"name": name}), where="test")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid_and_has_a_source(name: str) -> None:
    recipe = named(name)
    assert RECIPES[name].text.endswith(".")
    assert recipe.select == "last"
    assert max(recipe.milestones, default=0) < recipe.epochs


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("lost-cifar-resnet", {2.5: 0.05, 5: 0.1, 90.9: 0.1, 91: 0.01, 136: 0.001, 181: 0.001}),
        ("lost-vgg16", {5: 0.025, 29: 0.05, 30: 0.025, 60: 0.0125, 299: 0.05 / 512}),
        ("lost-vgg16-retraining", {29: 0.05, 30: 0.025, 149: 0.05 / 16}),
        ("lost-wrn16-8", {5: 0.1, 60: 0.02, 120: 0.004, 160: 0.0008}),
        ("lost-densenet22", {10: 0.1, 150: 0.01, 225: 0.001}),
        ("lost-imagenet-resnet", {5: 0.1, 30: 0.01, 60: 0.001, 80: 0.0001}),
        ("rethinking-cifar", {0: 0.1, 79: 0.1, 80: 0.01, 120: 0.001}),
        ("rethinking-cifar-finetune", {0: 0.001, 39: 0.001}),
        ("rethinking-imagenet", {0: 0.1, 30: 0.01, 60: 0.001}),
        ("rethinking-soft-filter", {0.5: 0.01, 1: 0.1, 60: 0.02, 120: 0.004, 160: 0.0008}),
        ("greg-cifar", {0: 0.1, 100: 0.01, 150: 0.001}),
        ("why-confusing-cifar-step", {0: 0.01, 60: 0.001, 90: 0.0001}),
        ("why-confusing-cifar-cosine", {0: 0.01, 60: 0.00505, 120: 0.0001}),
        ("why-confusing-imagenet", {0: 1e-2, 30: 1e-3, 60: 1e-4, 75: 1e-5}),
        ("why-confusing-imagenet100-scratch", {0: 1e-1, 30: 1e-2, 60: 1e-3, 90: 1e-4, 105: 1e-5}),
        ("rethinking-imagenet-finetune", {0: 0.001, 19: 0.001}),
        ("why-confusing-imagenet100-p30f90", {0: 1e-1, 30: 1e-2, 60: 1e-3, 75: 1e-4, 83: 1e-5}),
        ("why-confusing-imagenet100-p60f60", {0: 1e-2, 30: 1e-3, 45: 1e-4, 53: 1e-5}),
        ("openlth-cifar", {0: 0.1, 80: 0.01, 120: 0.001}),
    ],
)
def test_learning_rates_are_the_published_ones(name: str, rates: dict[float, float]) -> None:
    recipe = named(name)
    assert {epoch: learning_rate(recipe, epoch) for epoch in rates} == pytest.approx(rates)


PUBLISHED: dict[str, tuple[int, int, float, bool, float]] = {
    # epochs, batch, weight decay, Nesterov, warm-up
    "lost-cifar-resnet": (182, 128, 1e-4, False, 5),
    "lost-vgg16": (300, 256, 5e-4, False, 10),
    "lost-vgg16-retraining": (150, 256, 5e-4, False, 10),
    "lost-wrn16-8": (200, 128, 5e-4, True, 5),
    "lost-densenet22": (300, 64, 1e-4, True, 10),
    "lost-imagenet-resnet": (90, 256, 1e-4, False, 5),
    "rethinking-cifar": (160, 64, 1e-4, False, 0),
    "rethinking-cifar-finetune": (40, 64, 1e-4, False, 0),
    "rethinking-imagenet": (90, 256, 1e-4, False, 0),
    "rethinking-imagenet-finetune": (20, 256, 1e-4, False, 0),
    "rethinking-soft-filter": (200, 128, 5e-4, False, 0),
    "greg-cifar": (200, 128, 5e-4, False, 0),
    "why-confusing-cifar-step": (120, 128, 5e-4, False, 0),
    "why-confusing-cifar-cosine": (120, 128, 5e-4, False, 0),
    "why-confusing-imagenet": (90, 256, 1e-4, False, 0),
    "why-confusing-imagenet100-scratch": (120, 256, 1e-4, False, 0),
    "why-confusing-imagenet100-p30f90": (90, 256, 1e-4, False, 0),
    "why-confusing-imagenet100-p60f60": (60, 256, 1e-4, False, 0),
    "openlth-cifar": (160, 128, 1e-4, False, 0),
}


@pytest.mark.parametrize("name", [name for name in RECIPES if name in PUBLISHED])
def test_all_other_constants_are_the_published_ones(name: str) -> None:
    """SGD with momentum 0.9, pad-and-crop and flip, no tricks, and the last epoch, everywhere."""
    recipe = named(name)
    settings = (recipe.epochs, recipe.batch_size, recipe.weight_decay, recipe.nesterov, recipe.warmup_epochs)
    assert settings == PUBLISHED[name]
    assert recipe.optimiser == "sgd"
    assert recipe.augment == "crop-flip"
    assert recipe.momentum == 0.9
    assert recipe.decay_norms
    assert not any((recipe.label_smoothing, recipe.mixup, recipe.cutmix, recipe.ema))


def test_no_recipe_is_left_out() -> None:
    assert {*RECIPES} - {*PUBLISHED} == {"modern", "deit", "deit-distilled"}


def test_the_recipe_of_deit_is_its_table() -> None:
    deit, distilled = named("deit"), named("deit-distilled")
    assert learning_rate(deit, 5) == pytest.approx(5e-4 * 1024 / 512)
    assert (deit.optimiser, deit.weight_decay, deit.stochastic_depth, deit.erasing) == (
        "adamw",
        0.05,
        0.1,
        0.25,
    )
    assert (deit.auto_augment, deit.augment_magnitude, deit.mixup, deit.cutmix) == (
        "randaugment",
        9,
        0.8,
        1.0,
    )
    assert (distilled.distillation, distilled.distillation_weight) == ("hard", 0.5)


def test_any_key_may_be_overridden() -> None:
    table = {"name": "lost-wrn16-8", "epochs": 3, "warmup_epochs": 1.0, "nesterov": False}
    recipe = build(Recipe, merge_recipe(table), where="test")
    assert (recipe.epochs, recipe.nesterov, recipe.batch_size) == (3, False, 128)
    assert recipe.milestones == (60, 120, 160)


def test_another_schedule_drops_the_keys_of_the_old_one() -> None:
    recipe = build(Recipe, merge_recipe({"name": "lost-wrn16-8", "schedule": "cosine"}), where="test")
    assert (recipe.milestones, recipe.gamma, recipe.weight_decay) == ((), 0.1, 5e-4)
    keys = merge_recipe({"name": "lost-wrn16-8", "schedule": "step", "milestones": [7]})
    assert keys["milestones"] == [7]


def test_a_table_without_a_name_overrides_the_defaults() -> None:
    defaults = {"epochs": 7, "learning_rate": 0.5}
    assert merge_recipe({"epochs": 2}, defaults) == {"epochs": 2, "learning_rate": 0.5}
    assert merge_recipe({"name": "rethinking-cifar"}, {"nesterov": True}) == dict(
        RECIPES["rethinking-cifar"].keys
    )
    assert defaults == {"epochs": 7, "learning_rate": 0.5}


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(SuiteError, match="lost-cifar-resnet"):
        merge_recipe({"name": "lost-cifar-resnets"})


@pytest.mark.parametrize(
    ("name", "words", "stage"),
    [
        ("lost-cifar-resnet", "0.1, x0.1 at 91, 136, warm-up 5", 91),
        ("rethinking-cifar-finetune", "0.001 constant", 40),
        ("why-confusing-cifar-cosine", "0.01 cosine to 0.0001", 120),
        ("rethinking-soft-filter", "0.01, 0.1 at 1, 0.02 at 60, 0.004 at 120, 0.0008 at 160", 1),
    ],
)
def test_descriptions_of_schedules_and_their_first_stage(name: str, words: str, stage: int) -> None:
    assert describe_schedule(named(name)) == words
    assert first_stage(named(name)) == stage


def test_a_rewound_training_begins_a_stage_of_its_own() -> None:
    """Drops at 4 and 8 of 10 epochs, after a warm-up of 2."""
    recipe = Recipe(epochs=10, schedule="step", milestones=(4, 8), warmup_epochs=2)
    starts = (0, 1.5, 3, 4, 5.5, 8, 9)
    assert [first_stage(recipe, start=start) for start in starts] == [4, 3, 1, 4, 3, 2, 1]
    assert first_stage(Recipe(epochs=10), start=2.5) == 8
    late = Recipe(epochs=10, schedule="step", milestones=(1, 4), warmup_epochs=2)
    assert first_stage(late) == 4
