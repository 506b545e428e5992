from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from evalsuite.attacks.backends.foolbox import (
    MINIMAL_NORM_NAMES,
    FixedRadiusAttack,
    MinimalNormAttack,
    attack_success,
    bisect_to_boundary,
    minimal_norms,
)
from evalsuite.errors import UnknownNameError, UserError

LinearProblem = Callable[[int], tuple[nn.Module, Tensor, Tensor, Tensor]]


@pytest.mark.parametrize("name", MINIMAL_NORM_NAMES)
def test_of_a_linear_model_the_norm_is_the_margin_over_the_dual_norm(
    two_class: LinearProblem, name: str
) -> None:
    model, images, labels, normal = two_class(40)
    with torch.no_grad():
        logits = model(images)
    labels[::8] = 1 - labels[::8]
    attack = MinimalNormAttack(name)
    dual = normal.abs().sum() if math.isinf(attack.order) else normal.norm()
    exact = (logits[:, 0] - logits[:, 1]).abs() / dual
    exact[::8] = 0  # wrong as they are

    norms = minimal_norms(model, images, labels, attack=attack, seed=0)

    assert torch.equal(norms == 0, exact == 0)
    ratio = (norms / exact)[exact > 0]
    assert bool((ratio > 1 - 1e-4).all())  # nothing is nearer
    loose = {"ddn": 1.06, "l2-fmn": 1.02, "linf-fmn": 1.1}.get(name, 1.0015)
    assert ratio.median() < loose
    if "deepfool" in name:  # exact on linear models, but for the bisection and a constant that it adds
        assert bool((norms <= 1.0015 * exact + 2e-4).all())


def test_attacks_agree_and_fixed_radii_agree_with_them(two_class: LinearProblem) -> None:
    model, images, labels, _ = two_class(60)
    norms = minimal_norms(model, images, labels, attack=MinimalNormAttack("l2-deepfool"), seed=0)
    for radius in norms.quantile(torch.tensor([0.3, 0.7])).tolist():
        clear = (norms / radius - 1).abs() > 0.02
        broken = attack_success(
            model, images, labels, attack=FixedRadiusAttack("l2-pgd", radius), seed=0
        ).misclassified
        assert torch.equal(broken[clear], (norms <= radius)[clear])


@pytest.mark.parametrize("name", MINIMAL_NORM_NAMES)
def test_without_an_adversarial_the_norm_is_infinite(constant: nn.Module, name: str) -> None:
    images, labels = torch.full((5, 1, 4, 4), 0.5), torch.tensor([0, 0, 0, 0, 1])
    norms = minimal_norms(constant, images, labels, attack=MinimalNormAttack(name, steps=5), seed=0)
    assert norms.tolist() == [math.inf] * 4 + [0.0]


def test_the_line_is_halved_ten_times(two_class: LinearProblem) -> None:
    model, images, labels, normal = two_class(12)
    with torch.no_grad():
        sides = torch.where(labels == 1, -1.0, 1.0).view(-1, 1, 1, 1)
    far = images + 3 * sides * (normal / normal.norm()).view(1, 1, 4, 4)  # beyond [0, 1], but on the line
    broken, near = bisect_to_boundary(model, images, far, labels=labels)
    exact = minimal_norms(model, images, labels, attack=MinimalNormAttack("l2-deepfool"), seed=0)
    assert broken.all()
    assert bool(((near - images).flatten(1).norm(dim=1) <= exact + 3 / 2**10 + 1e-4).all())


def test_only_the_chosen_images_are_attacked(two_class: LinearProblem) -> None:
    model, images, labels, _ = two_class(10)
    chosen = torch.tensor([at in (0, 1, 3) for at in range(10)])
    norms = minimal_norms(
        model, images, labels, attack=MinimalNormAttack("l2-deepfool"), seed=0, among=chosen
    )
    assert torch.equal(norms.isfinite(), chosen)


def test_settings_that_mean_nothing() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown attack 'cw'.*ddn"):
        MinimalNormAttack("cw")
    with pytest.raises(UserError, match="ddn: steps = -1, expected at least 1"):
        MinimalNormAttack("ddn", steps=-1)
