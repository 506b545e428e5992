"""The errors of attacks: malformed input, broken models, and claims of the library that are wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from evalsuite.attacks.backends.foolbox import FixedRadiusAttack, attack_success, foolbox
from evalsuite.errors import ContractError, DataError, InvalidModelError, UnknownNameError, UserError

LinearProblem = Callable[[int], tuple[nn.Module, Tensor, Tensor, Tensor]]


def test_the_model_is_restored_after_an_error(two_class: LinearProblem) -> None:
    model, images, labels, _ = two_class(4)
    with pytest.raises(DataError, match="label 2"):
        attack_success(model, images, labels + 1, attack=FixedRadiusAttack("fgsm", 0.1), seed=0)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda images: images * 255, r"range over .*expected \[0, 1\]"),
        (lambda images: images - 0.5, r"range over \[-0\.\d+"),
        (lambda images: images * math.nan, "range over"),
        (lambda images: (images * 255).to(torch.uint8), "uint8, expected float32"),
        (lambda images: images.double(), "float64, expected float32"),
        (lambda images: images[0], "expected \\(N, C, H, W\\)"),
        (lambda images: images[:0], "at least one image"),
        (lambda images: images[:3], "one per image: \\(3,\\)"),
    ],
    ids=["0-255", "negative", "nan", "uint8", "float64", "one image", "none", "too few"],
)
def test_malformed_images(two_class: LinearProblem, spoil: object, message: str) -> None:
    model, images, labels, _ = two_class(4)
    assert callable(spoil)
    with pytest.raises(DataError, match=message):
        attack_success(model, spoil(images), labels, attack=FixedRadiusAttack("fgsm", 0.1), seed=0)


@pytest.mark.parametrize("labels", [torch.zeros(4), torch.tensor([0, 0, 0, -1])], ids=["float", "negative"])
def test_malformed_labels(two_class: LinearProblem, labels: Tensor) -> None:
    model, images, _, _ = two_class(4)
    with pytest.raises(DataError, match="expected class numbers"):
        attack_success(model, images, labels, attack=FixedRadiusAttack("fgsm", 0.1), seed=0)


def test_a_part_in_training_mode_is_refused(two_class: LinearProblem) -> None:
    model, images, labels, _ = two_class(4)
    model.get_submodule("linear").train()
    with pytest.raises(InvalidModelError, match="linear is in training mode"):
        attack_success(model, images, labels, attack=FixedRadiusAttack("fgsm", 0.1), seed=0)


class Spoiled(nn.Module):
    """A model with one of several defects."""

    def __init__(self, inner: nn.Module, fault: str) -> None:
        super().__init__()
        self.inner = inner
        self.fault = fault
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.inner(images)
        if self.fault == "nan":
            return logits * math.nan
        if self.fault == "nan off the data" and self.calls > 1:
            return logits * math.nan
        if self.fault == "shape":
            return logits[:, 0]
        if self.fault == "fickle":  # the attack's own last look and ours disagree
            return logits if self.calls % 2 else -logits
        return logits


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("nan", InvalidModelError, "not finite"),
        ("nan off the data", InvalidModelError, "not finite"),
        ("shape", InvalidModelError, r"expected logits of shape \(4, K\)"),
        ("fickle", ContractError, "is the model deterministic"),
    ],
)
def test_models_on_which_attacks_would_succeed_silently(
    two_class: LinearProblem, fault: str, kind: type[Exception], message: str
) -> None:
    model, images, labels, _ = two_class(4)
    with pytest.raises(kind, match=message):
        attack_success(
            Spoiled(model, fault).eval(), images, labels, attack=FixedRadiusAttack("fgsm", 0.001), seed=0
        )


def test_an_image_too_far_away_is_refused(two_class: LinearProblem, monkeypatch: pytest.MonkeyPatch) -> None:
    class Cheat:
        def __call__(
            self, _: object, images: Tensor, labels: Tensor, *, epsilons: float
        ) -> tuple[Tensor, ...]:
            found = images + 2 * epsilons
            return found, found, torch.ones(len(labels), dtype=torch.bool)

    monkeypatch.setattr(foolbox().attacks, "LinfFastGradientAttack", Cheat)
    model, images, labels, _ = two_class(4)
    with pytest.raises(ContractError, match=r"distance 0\.02, expected at most epsilon = 0\.01"):
        attack_success(model, images, labels, attack=FixedRadiusAttack("fgsm", 0.01), seed=0)


def test_a_rounding_out_of_range_is_clipped(constant: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    class Rounded:
        def __call__(self, _: object, images: Tensor, labels: Tensor, **__: float) -> tuple[Tensor, ...]:
            found = images + 6e-8 * (2 * images - 1)
            return found, found, torch.zeros(len(labels), dtype=torch.bool)

    monkeypatch.setattr(foolbox().attacks, "LinfFastGradientAttack", Rounded)
    model = constant
    images = torch.tensor([0.0, 1.0]).repeat(8).reshape(1, 1, 4, 4)
    broken, found = attack_success(
        model, images, torch.tensor([0]), attack=FixedRadiusAttack("fgsm", 0.01), seed=0
    )
    assert not broken.any()
    assert torch.equal(found, images)


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"name": "pgd", "epsilon": 0.1}, UnknownNameError, "linf-pgd"),
        ({"name": "fgsm", "epsilon": -0.1}, UserError, "at least 0"),
        ({"name": "fgsm", "epsilon": math.nan}, UserError, "finite"),
        ({"name": "linf-pgd", "epsilon": 0.1, "steps": 0}, UserError, "steps = 0"),
        ({"name": "linf-pgd", "epsilon": 0.1, "restarts": 0}, UserError, "restarts = 0"),
        ({"name": "fgsm", "epsilon": 0.1, "restarts": 2}, UserError, "find the same"),
        (
            {"name": "linf-pgd", "epsilon": 0.1, "restarts": 2, "random_start": False},
            UserError,
            "find the same",
        ),
    ],
)
def test_attacks_that_make_no_sense(settings: dict[str, object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        FixedRadiusAttack(**settings)  # type: ignore[arg-type]  # a table of settings has no types
