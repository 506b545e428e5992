from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from evalsuite.attacks.backends import base as compat
from evalsuite.attacks.backends.base import AttackResult
from evalsuite.attacks.backends.foolbox import (
    FIXED_RADIUS_NAMES,
    FixedRadiusAttack,
    attack_success,
    foolbox,
    last_points,
)
from evalsuite.random_streams import BLOCK, address

if TYPE_CHECKING:
    from pathlib import Path

LinearProblem = Callable[[int], tuple[nn.Module, Tensor, Tensor, Tensor]]
LINF = [name for name in FIXED_RADIUS_NAMES if name in {"fgsm", "linf-pgd", "linf-noise"}]
GUIDED = [name for name in FIXED_RADIUS_NAMES if name != "linf-noise"]
SHAPE = (1, 4, 4)


def predicted(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        labels: Tensor = model(images).argmax(1)
    return labels


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A small convolutional network that classifies the place of a bright stroke, with images and labels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        labels = torch.randint(0, 4, (300,))
        images = 0.4 + 0.25 * torch.rand(300, 1, 8, 8)
        for at, label in enumerate(labels.tolist()):
            images[at, 0, :, 2 * label : 2 * label + 2] += 0.12
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 4)
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(80):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(model(images), labels))
            optimizer.step()
        optimizer.zero_grad()
    model.eval()
    assert (predicted(model, images) == labels).float().mean() > 0.95
    return model, images, labels


@pytest.mark.parametrize("name", GUIDED)
def test_a_linear_model_errs_where_its_minimal_norm_is_below_epsilon(
    two_class: LinearProblem, name: str
) -> None:
    model, images, labels, normal = two_class(200)
    with torch.no_grad():
        logits = model(images)
    dual = normal.abs().sum() if name in LINF else normal.norm()
    minimal = (logits[:, 0] - logits[:, 1]).abs() / dual
    epsilon = float(minimal.median())
    clear = (minimal / epsilon - 1).abs() > 0.03
    assert clear.sum() > 150

    attack = FixedRadiusAttack(name, epsilon)
    broken, found = attack_success(model, images, labels, attack=attack, seed=0)

    assert torch.equal(broken[clear], (minimal < epsilon)[clear])
    assert torch.equal(predicted(model, found) != labels, broken)
    distance = torch.linalg.vector_norm(
        (found - images).flatten(1), ord=math.inf if name in LINF else 2, dim=1
    )
    assert distance.max() <= epsilon + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("name", FIXED_RADIUS_NAMES)
def test_zero_epsilon_is_clean_accuracy(name: str, trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = trained
    labels = (labels + (torch.arange(len(labels)) % 3 == 0)) % 4  # a third of them wrong
    broken, found = attack_success(model, images, labels, attack=FixedRadiusAttack(name, 0.0), seed=0)
    assert torch.equal(broken, predicted(model, images) != labels)
    assert 0.2 < broken.float().mean() < 0.5
    assert torch.allclose(found, images, atol=1e-6)


class Curved(nn.Module):
    """Errs on a thin shell: PGD crosses it and comes out right on the other side."""

    def forward(self, images: Tensor) -> Tensor:
        far = (images - 0.5).flatten(1).sum(1)
        return torch.stack([far * 0, 0.01 - (far - 0.8).abs() + 1e-9 * far], 1)


def test_a_point_on_the_way_counts() -> None:
    images = torch.full((3, *SHAPE), 0.5)
    labels = torch.zeros(3, dtype=torch.int64)
    attack = FixedRadiusAttack("linf-pgd", 0.1, steps=25, random_start=False)
    model = Curved().eval()
    broken, found = attack_success(model, images, labels, attack=attack, seed=0)
    assert broken.all()
    assert bool((predicted(model, found) == 1).all())


def test_a_batch_that_is_all_misclassified_is_finished(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = trained
    calls: list[int] = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    try:
        attack_success(
            model, images[:20], labels[:20], attack=FixedRadiusAttack("linf-pgd", 0.3, steps=50), seed=0
        )
    finally:
        handle.remove()
    assert len(calls) < 30


def test_only_the_chosen_images_are_attacked(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = trained
    attack, chosen = FixedRadiusAttack("linf-pgd", 0.04), torch.arange(300) % 2 == 0
    everything = attack_success(model, images, labels, attack=attack, seed=0)
    some = attack_success(model, images, labels, attack=attack, seed=0, among=chosen)
    wrong = predicted(model, images) != labels
    assert torch.equal(some.misclassified[chosen], everything.misclassified[chosen])
    assert torch.equal(some.misclassified[~chosen], wrong[~chosen])
    assert torch.equal(some.adversarials[~chosen], images[~chosen])


def test_images_that_are_misclassified_from_the_start_stay_unchanged(
    trained: tuple[nn.Module, Tensor, Tensor],
) -> None:
    model, images, labels = trained
    wrong = predicted(model, images) + 1
    broken, found = attack_success(
        model, images, wrong % 4, attack=FixedRadiusAttack("linf-pgd", 0.1), seed=0
    )
    assert broken.all()
    assert torch.equal(found, images)
    assert len(labels) == len(broken)


def test_pgd_is_stronger_than_fgsm_and_grows_with_epsilon(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = trained
    shares = {}
    for name in ("fgsm", "linf-pgd"):
        for epsilon in (0.02, 0.04, 0.06, 0.3):
            attack = FixedRadiusAttack(name, epsilon)
            shares[name, epsilon] = float(
                attack_success(model, images, labels, attack=attack, seed=0).misclassified.float().mean()
            )
    for epsilon in (0.02, 0.04, 0.06):
        assert shares["linf-pgd", epsilon] >= shares["fgsm", epsilon]
    rising = [shares["linf-pgd", epsilon] for epsilon in (0.02, 0.04, 0.06)]
    assert rising == sorted(rising)
    assert rising[0] < 0.5 < rising[-1]
    assert shares["linf-pgd", 0.3] == 1


@pytest.mark.parametrize("name", ["linf-pgd", "l2-pgd"])
def test_an_image_costs_the_gradients_that_break_it(
    trained: tuple[nn.Module, Tensor, Tensor], name: str
) -> None:
    model, images, labels = trained[0], trained[1][:40], trained[2][:40]
    attack, gradients = FixedRadiusAttack(name, 0.04 if name in LINF else 0.3, steps=10), list[int]()

    def count(_: nn.Module, inputs: tuple[Tensor], __: Tensor) -> None:
        gradients.append(len(inputs[0]) if inputs[0].requires_grad else 0)

    handle = model.register_forward_hook(count)
    try:
        result = attack_success(model, images, labels, attack=attack, seed=0)
        together, alone = sum(gradients), []
        for among in torch.eye(len(images), dtype=torch.bool):
            gradients.clear()
            attack_success(model, images, labels, attack=attack, seed=0, among=among)
            alone.append(sum(gradients))
    finally:
        handle.remove()
    assert together == sum(alone) < 10 * len(images)
    assert all(count == 10 for count, wrong in zip(alone, result.misclassified, strict=True) if not wrong)


class Shifted(nn.Module):
    """A network with an offset of its logits: what less precision does, exaggerated."""

    def __init__(self, model: nn.Module, offset: Tensor) -> None:
        super().__init__()
        self.model, self.offset = model, offset

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images) + self.offset
        return logits


@pytest.mark.parametrize("name", ["linf-pgd", "l2-pgd"])
def test_what_less_precision_breaks_must_be_broken_in_single_precision(
    trained: tuple[nn.Module, Tensor, Tensor], name: str
) -> None:
    model, images, labels = trained
    attack = FixedRadiusAttack(name, 0.04 if name in LINF else 0.3)
    same = attack_success(model, images, labels, attack=attack, seed=0)
    assert 0 < same.misclassified.float().mean() < 1
    itself = attack_success(model, images, labels, attack=attack, seed=0, gradient_model=model)
    assert torch.equal(itself.misclassified, same.misclassified)
    assert torch.equal(itself.adversarials, same.adversarials)
    # one that calls every image class 0, and so claims to have broken nearly all at once
    deluded = Shifted(model, 100.0 * torch.eye(int(labels.max()) + 1)[0]).eval()
    result = attack_success(model, images, labels, attack=attack, seed=0, gradient_model=deluded)
    assert torch.equal(predicted(model, result.adversarials) != labels, result.misclassified)
    assert result.misclassified.float().mean() < same.misclassified.float().mean()


def test_step_size_crosses_the_ball(two_class: LinearProblem, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, object]] = []
    kind = foolbox().attacks.LinfProjectedGradientDescentAttack

    def recorded(**settings: object) -> object:
        seen.append(settings)
        return kind(**settings)

    monkeypatch.setattr(foolbox().attacks, "LinfProjectedGradientDescentAttack", recorded)
    model, images, labels, _ = two_class(8)
    attack_success(model, images, labels, attack=FixedRadiusAttack("linf-pgd", 0.01, steps=10), seed=0)
    assert seen == [{"rel_stepsize": 0.25, "steps": 10, "random_start": True}]


def test_equals_a_direct_call_of_the_library(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = trained
    model = copy.deepcopy(model)  # called directly, the library leaves gradients in it
    right = torch.nonzero(predicted(model, images) == labels).flatten()[:BLOCK]
    images, labels = images[right], labels[right]
    library = foolbox()
    wrapped = library.PyTorchModel(model, bounds=(0, 1), device="cpu")
    direct = {
        "fgsm": library.attacks.LinfFastGradientAttack(),
        "linf-pgd": library.attacks.LinfProjectedGradientDescentAttack(rel_stepsize=0.125, steps=20),
        "l2-pgd": library.attacks.L2ProjectedGradientDescentAttack(rel_stepsize=0.125, steps=20),
    }
    for name, attack in direct.items():
        epsilon = 0.04 if name in LINF else 0.3
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(address("foolbox", 5, name, 0, 0))
            _, adversarial, success = attack(wrapped, images, labels, epsilons=epsilon)
        ours = attack_success(model, images, labels, attack=FixedRadiusAttack(name, epsilon), seed=5)
        assert 0 < success.float().mean() < 1, name
        assert bool((ours.misclassified | ~success).all()), name  # and what a point on the way broke
        assert int((ours.misclassified & ~success).sum()) <= 4, name
        assert torch.equal(ours.adversarials[~ours.misclassified], adversarial[~ours.misclassified]), name


def test_same_seed_same_adversarials_whatever_the_batch(
    trained: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, labels = trained
    attack = FixedRadiusAttack("linf-pgd", 0.05, steps=3)
    torch.manual_seed(1)
    first = attack_success(model, images, labels, attack=attack, seed=7)
    torch.manual_seed(2)
    again = attack_success(model, images, labels, attack=attack, seed=7)
    assert torch.equal(first.adversarials, again.adversarials)
    assert torch.equal(first.misclassified, again.misclassified)

    monkeypatch.setattr(compat, "BATCH", 37)
    small = attack_success(model, images, labels, attack=attack, seed=7)
    assert (small.adversarials - first.adversarials).abs().flatten(1).amax(1).le(1e-6).float().mean() > 0.98
    part = attack_success(model, images[:100], labels[:100], attack=attack, seed=7)
    assert (part.adversarials - first.adversarials[:100]).abs().flatten(1).amax(1).le(
        1e-6
    ).float().mean() > 0.98

    other = attack_success(model, images, labels, attack=attack, seed=8)
    assert not torch.equal(first.adversarials, other.adversarials)


@pytest.mark.parametrize("name", ["linf-pgd", "l2-pgd"])
def test_every_image_has_its_own_random_start(constant: nn.Module, name: str) -> None:
    images = torch.full((2 * BLOCK + 3, *SHAPE), 0.5)
    labels = torch.zeros(len(images), dtype=torch.int64)
    broken, found = attack_success(constant, images, labels, attack=FixedRadiusAttack(name, 0.1), seed=0)
    offsets = (found - images).flatten(1)
    assert not broken.any()
    assert len(torch.unique(offsets, dim=0)) == len(images)
    size = offsets.abs().amax(1) if name in LINF else offsets.norm(dim=1)
    assert 0.05 < size.mean() < size.max() <= 0.1 + 1e-6
    assert offsets.mean().abs() < 0.01


def test_last_points_lie_farther_behind_the_boundary(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = trained
    attack, state = FixedRadiusAttack("linf-pgd", 0.05), torch.random.get_rng_state()
    first = attack_success(model, images, labels, attack=attack, seed=0).adversarials
    last = last_points(model, images, labels, attack=attack, seed=0)
    with torch.no_grad():
        losses = [nn.functional.cross_entropy(model(shown), labels).item() for shown in (images, first, last)]
    assert losses[0] < losses[1] < 0.7 * losses[2]
    assert (last - images).abs().max() <= 0.05 + 1e-6
    assert torch.equal(state, torch.random.get_rng_state())


def test_restarts_only_add(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = trained
    once = attack_success(model, images, labels, attack=FixedRadiusAttack("linf-pgd", 0.035, steps=2), seed=0)
    more = attack_success(
        model, images, labels, attack=FixedRadiusAttack("linf-pgd", 0.035, steps=2, restarts=5), seed=0
    )
    assert bool((more.misclassified | ~once.misclassified).all())
    assert more.misclassified.sum() > once.misclassified.sum()
    assert torch.equal(more.adversarials[once.misclassified], once.adversarials[once.misclassified])


def test_leaves_model_and_generator_as_they_were(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = trained
    model = nn.Sequential(model, nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    model.get_parameter("1.weight").requires_grad_(False)
    learning = model.get_parameter("1.bias")
    learning.grad = torch.full_like(learning, 3.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    needs = [parameter.requires_grad for parameter in model.parameters()]
    state = torch.random.get_rng_state()

    with torch.inference_mode():
        attack_success(
            model, images.clone(), labels.clone(), attack=FixedRadiusAttack("linf-pgd", 0.05, steps=2), seed=0
        )
        assert torch.is_inference_mode_enabled()

    assert torch.equal(state, torch.random.get_rng_state())
    assert needs == [parameter.requires_grad for parameter in model.parameters()]
    assert [name for name, value in model.named_parameters() if value.grad is not None] == ["1.bias"]
    assert torch.equal(learning.grad, torch.full_like(learning, 3.0))
    assert not any(part.training for part in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_imports_quietly_and_lazily(tmp_path: Path) -> None:
    code = (
        "import os, sys; import evalsuite.attacks.backends.foolbox as compat; assert 'foolbox' not in sys.modules; "
        "assert compat.foolbox() is compat.foolbox() is sys.modules['foolbox']; "
        "assert 'GIT_PYTHON_REFRESH' not in os.environ"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GIT_PYTHON_REFRESH"}
    environment["PATH"] = str(tmp_path)  # no git
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


def test_result_is_a_pair() -> None:
    assert AttackResult._fields == ("misclassified", "adversarials")
