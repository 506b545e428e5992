from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.errors import SuiteError
from evalsuite.training.recipe import Recipe, learning_rate


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "cosine"}, {0: 1.0, 2.5: 0.853553, 5: 0.5, 7.5: 0.146447, 10: 0.0}),
        ({"schedule": "cosine", "warmup_epochs": 2}, {0: 0.0, 0.5: 0.25, 1.5: 0.75, 2: 1.0, 6: 0.5, 10: 0.0}),
        ({"schedule": "constant"}, {0: 1.0, 9.99: 1.0}),
        ({"schedule": "constant", "warmup_epochs": 0.5}, {0.125: 0.25, 0.5: 1.0, 9: 1.0}),
        (
            {"schedule": "step", "milestones": (5, 8)},
            {0: 1.0, 4.99: 1.0, 5: 0.1, 7.99: 0.1, 8: 0.01, 10: 0.01},
        ),
        (
            {"schedule": "step", "milestones": (3,), "gamma": 0.5, "warmup_epochs": 1},
            {0.5: 0.5, 2: 1.0, 3: 0.5},
        ),
        ({"schedule": "step"}, {0: 1.0, 10: 1.0}),
        ({"schedule": "cosine", "floor": 0.2}, {0: 1.0, 5: 0.6, 10: 0.2}),
        ({"schedule": "linear", "floor": 0.2, "warmup_epochs": 2}, {1: 0.5, 2: 1.0, 6: 0.6, 10: 0.2}),
        (
            {"schedule": "piecewise", "milestones": (1, 6), "rates": (5.0, 0.25)},
            {0.9: 1.0, 1: 5.0, 5.9: 5.0, 6: 0.25, 10: 0.25},
        ),
    ],
    ids=[
        "cosine",
        "cosine, warm-up",
        "constant",
        "constant, warm-up",
        "step",
        "step, warm-up",
        "no milestone",
        "cosine to a floor",
        "linear",
        "piecewise",
    ],
)
def test_worked_schedules(settings: dict[str, Any], expected: dict[float, float]) -> None:
    recipe = Recipe(epochs=10, learning_rate=1.0, **settings)
    assert {epoch: learning_rate(recipe, epoch) for epoch in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("epoch", range(12))
def test_schedules_are_those_of_torch_at_integer_epochs(epoch: int) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([parameter], lr=0.3), 12)
    steps = torch.optim.lr_scheduler.MultiStepLR(optimiser, [3, 7], gamma=0.2)
    for schedule in (cosine, steps):
        schedule.optimizer.step()
        for _ in range(epoch):
            schedule.step()
    rate = learning_rate(Recipe(epochs=12, learning_rate=0.3), epoch)
    assert rate == pytest.approx(cosine.get_last_lr()[0], abs=1e-9)
    stepped = Recipe(epochs=12, learning_rate=0.3, schedule="step", milestones=(3, 7), gamma=0.2)
    assert learning_rate(stepped, epoch) == pytest.approx(steps.get_last_lr()[0], abs=1e-9)


@given(st.floats(0, 20), st.floats(0, 20))
def test_no_rate_is_negative_or_above_the_peak(epoch: float, warmup: float) -> None:
    """Also where the warm-up is as long as the training."""
    recipe = Recipe(epochs=20, learning_rate=0.1, warmup_epochs=warmup)
    assert 0 <= learning_rate(recipe, epoch) <= 0.1 + 1e-12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "recipe: found epochs = 0, expected a number above 0"),
        ({"batch_size": -1}, "recipe: found batch_size = -1, expected a number above 0"),
        (
            {"learning_rate": 0.0},
            "recipe: found learning_rate = 0.0, expected a number above 0",
        ),
        (
            {"learning_rate": float("nan")},
            "recipe: found learning_rate = nan, expected a number above 0",
        ),
        (
            {"learning_rate": 1e7},
            "recipe: found learning_rate = 1e+07, expected at most 1e6; lower learning_rate",
        ),
        (
            {"learning_rate": 1e300},
            "recipe: found learning_rate = 1e+300, expected a number that is finite in float32",
        ),
        (
            {"epochs": 5, "warmup_epochs": 5.5},
            "recipe: found warmup_epochs = 5.5 and epochs = 5, expected a warm-up within the training; "
            "lower warmup_epochs",
        ),
        ({"momentum": 1.0}, "recipe: found momentum = 1.0, expected at least 0 and below 1"),
        ({"gamma": -0.1}, "recipe: found gamma = -0.1, expected at least 0 and below 1"),
        (
            {"weight_decay": -1e-4},
            "recipe: found weight_decay = -0.0001, expected a number from 0 on",
        ),
        (
            {"warmup_epochs": -1.0},
            "recipe: found warmup_epochs = -1.0, expected a number from 0 on",
        ),
        (
            {"milestones": (3,)},
            "recipe: milestones have no effect with schedule 'cosine'; use 'step' or 'piecewise'",
        ),
        (
            {"schedule": "step", "milestones": (3, 2)},
            "recipe: found milestones = [3, 2], expected rising epochs from 0 on",
        ),
        (
            {"schedule": "piecewise", "milestones": (3, 4), "rates": (1.0,)},
            "recipe: found 1 rates and 2 milestones; schedule = 'piecewise' takes one rate per milestone, "
            "and no other schedule takes rates",
        ),
        (
            {"schedule": "piecewise", "milestones": (3,), "rates": (-1.0,)},
            "recipe: found rates = [-1.0], expected numbers from 0 on",
        ),
        (
            {"schedule": "piecewise", "milestones": (3,), "rates": (float("inf"),)},
            "recipe: found rates = inf, expected a number that is finite in float32",
        ),
        (
            {"schedule": "constant", "floor": 0.1},
            "recipe: floor has no effect with schedule 'constant'; use 'cosine' or 'linear'",
        ),
        (
            {"padding": 4},
            "recipe: padding has no effect with augment = 'none'; use 'crop' or remove padding",
        ),
        (
            {"auto_augment": "augmix", "augment_magnitude": 11},
            "recipe: found augment_magnitude = 11 with auto_augment = 'augmix', expected 1 to 10",
        ),
        (
            {"augment_magnitude": 9},
            "recipe: found augment_magnitude = 9 with auto_augment = 'none', expected it left out, as it has no effect",
        ),
        (
            {"temperature": 2.0, "distillation": "hard"},
            "recipe: temperature has no effect without distillation = 'soft'; leave it out",
        ),
        (
            {"distillation_weight": 0.9},
            "recipe: distillation_weight has no effect without distillation; leave it out",
        ),
        ({"erasing": 1.5}, "recipe: found erasing = 1.5, expected a share from 0 to 1"),
        ({"corruptions": ("mix1", "snow")}, "recipe: found snow twice; name each corruption once"),
        ({"ema": 1.0}, "recipe: found ema = 1.0, expected at least 0 and below 1"),
        (
            {"nesterov": True, "momentum": 0.0},
            "recipe: nesterov needs optimiser = 'sgd' and a momentum above 0",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_contradictory_recipe_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SuiteError) as caught:
        Recipe(**settings)
    assert str(caught.value) == message
