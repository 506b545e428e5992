from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from evalsuite.compat import foolbox as compat
from evalsuite.compat.foolbox import NAMES, Attack, Attacked, attack_success, foolbox
from evalsuite.errors import ContractError, DataError, InvalidModelError, UnknownNameError, UserError
from evalsuite.randomness import BLOCK, address

if TYPE_CHECKING:
    from pathlib import Path

LINF = [name for name in NAMES if name in {"fgsm", "linf-pgd"}]
STEPS = {"l2-deepfool": 50, "ddn": 100}
SHAPE = (1, 4, 4)


class Flat(nn.Module):
    """Is a linear classifier of images."""

    def __init__(self, classes: int, seed: int, scale: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(math.prod(SHAPE), classes)
        draws = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.linear.weight.copy_(scale * torch.randn(self.linear.weight.shape, generator=draws))
            self.linear.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(images.flatten(1))
        return logits


def pictures(count: int, seed: int = 0) -> Tensor:
    """Returns images around grey, so that small attacks never meet the ends of the range."""
    return 0.3 + 0.4 * torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def two_class(count: int) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """Returns a linear model of two classes, images, their labels, and the normal of its boundary."""
    model = Flat(2, seed=1).eval()
    images = pictures(count)
    with torch.no_grad():
        normal = model.get_parameter("linear.weight")[1] - model.get_parameter("linear.weight")[0]
        centre = (images.flatten(1) @ normal).median()
        model.get_parameter("linear.bias")[0] = centre  # half of the images on either side
    return model, images, predicted(model, images), normal


def predicted(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        labels: Tensor = model(images).argmax(1)
    return labels


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """Is a small convolutional network that knows where the bright stroke is, with images and labels."""
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


@pytest.mark.parametrize("name", NAMES)
def test_linear_model_breaks_where_its_minimal_norm_is_below_epsilon(name: str) -> None:
    model, images, labels, normal = two_class(200)
    with torch.no_grad():
        logits = model(images)
    dual = normal.abs().sum() if name in LINF else normal.norm()
    minimal = (logits[:, 0] - logits[:, 1]).abs() / dual
    epsilon = float(minimal.median())
    clear = (minimal / epsilon - 1).abs() > 0.03
    assert clear.sum() > 150

    attack = Attack(name, epsilon, steps=STEPS.get(name, 20))
    broken, found = attack_success(model, images, labels, attack=attack, seed=0)

    assert torch.equal(broken[clear], (minimal < epsilon)[clear])
    assert torch.equal(predicted(model, found) != labels, broken)
    distance = torch.linalg.vector_norm(
        (found - images).flatten(1), ord=math.inf if name in LINF else 2, dim=1
    )
    assert distance.max() <= epsilon + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_zero_epsilon_is_clean_accuracy(name: str, trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = trained
    labels = (labels + (torch.arange(len(labels)) % 3 == 0)) % 4  # a third of them wrong
    broken, found = attack_success(model, images, labels, attack=Attack(name, 0.0), seed=0)
    assert torch.equal(broken, predicted(model, images) != labels)
    assert 0.2 < broken.float().mean() < 0.5
    assert torch.allclose(found, images, atol=1e-6)


def test_images_wrong_from_the_start_are_left_alone(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = trained
    wrong = predicted(model, images) + 1
    broken, found = attack_success(model, images, wrong % 4, attack=Attack("linf-pgd", 0.1), seed=0)
    assert broken.all()
    assert torch.equal(found, images)
    assert len(labels) == len(broken)


def test_pgd_is_stronger_than_fgsm_and_grows_with_epsilon(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = trained
    shares = {}
    for name in ("fgsm", "linf-pgd"):
        for epsilon in (0.02, 0.04, 0.06, 0.3):
            attack = Attack(name, epsilon)
            shares[name, epsilon] = float(
                attack_success(model, images, labels, attack=attack, seed=0).broken.float().mean()
            )
    for epsilon in (0.02, 0.04, 0.06):
        assert shares["linf-pgd", epsilon] >= shares["fgsm", epsilon]
    rising = [shares["linf-pgd", epsilon] for epsilon in (0.02, 0.04, 0.06)]
    assert rising == sorted(rising)
    assert rising[0] < 0.5 < rising[-1]
    assert shares["linf-pgd", 0.3] == 1


def test_step_size_crosses_the_ball(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, object]] = []
    kind = foolbox().attacks.LinfProjectedGradientDescentAttack

    def recorded(**settings: object) -> object:
        seen.append(settings)
        return kind(**settings)

    monkeypatch.setattr(foolbox().attacks, "LinfProjectedGradientDescentAttack", recorded)
    model, images, labels, _ = two_class(8)
    attack_success(model, images, labels, attack=Attack("linf-pgd", 0.01, steps=10), seed=0)
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
        "ddn": library.attacks.DDNAttack(steps=20),
    }
    for name, attack in direct.items():
        epsilon = 0.04 if name in LINF else 0.3
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(address("foolbox", 5, name, 0, 0))
            _, adversarial, success = attack(wrapped, images, labels, epsilons=epsilon)
        ours = attack_success(model, images, labels, attack=Attack(name, epsilon), seed=5)
        assert 0 < success.float().mean() < 1, name
        assert torch.equal(ours.broken, success), name
        assert torch.equal(ours.images, adversarial), name


def test_same_seed_same_adversarials_whatever_the_batch(
    trained: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, labels = trained
    attack = Attack("linf-pgd", 0.05, steps=3)
    torch.manual_seed(1)
    first = attack_success(model, images, labels, attack=attack, seed=7)
    torch.manual_seed(2)
    again = attack_success(model, images, labels, attack=attack, seed=7)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.broken, again.broken)

    monkeypatch.setattr(compat, "BATCH", 37)
    small = attack_success(model, images, labels, attack=attack, seed=7)
    assert (small.images - first.images).abs().flatten(1).amax(1).le(1e-6).float().mean() > 0.98
    part = attack_success(model, images[:100], labels[:100], attack=attack, seed=7)
    assert (part.images - first.images[:100]).abs().flatten(1).amax(1).le(1e-6).float().mean() > 0.98

    other = attack_success(model, images, labels, attack=attack, seed=8)
    assert not torch.equal(first.images, other.images)


class Constant(nn.Module):
    """Says class 0, with gradients that are zero."""

    def forward(self, images: Tensor) -> Tensor:
        none = 0 * images.flatten(1).sum(1)
        return torch.stack([none + 1, none], 1)


@pytest.mark.parametrize("name", ["linf-pgd", "l2-pgd"])
def test_every_image_has_its_own_random_start(name: str) -> None:
    images = torch.full((2 * BLOCK + 3, *SHAPE), 0.5)
    labels = torch.zeros(len(images), dtype=torch.int64)
    broken, found = attack_success(Constant().eval(), images, labels, attack=Attack(name, 0.1), seed=0)
    offsets = (found - images).flatten(1)
    assert not broken.any()
    assert len(torch.unique(offsets, dim=0)) == len(images)
    size = offsets.abs().amax(1) if name in LINF else offsets.norm(dim=1)
    assert 0.05 < size.mean() < size.max() <= 0.1 + 1e-6
    assert offsets.mean().abs() < 0.01


def test_restarts_only_add(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = trained
    once = attack_success(model, images, labels, attack=Attack("linf-pgd", 0.035, steps=2), seed=0)
    more = attack_success(
        model, images, labels, attack=Attack("linf-pgd", 0.035, steps=2, restarts=5), seed=0
    )
    assert bool((more.broken | ~once.broken).all())
    assert more.broken.sum() > once.broken.sum()
    assert torch.equal(more.images[once.broken], once.images[once.broken])


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
            model, images.clone(), labels.clone(), attack=Attack("linf-pgd", 0.05, steps=2), seed=0
        )
        assert torch.is_inference_mode_enabled()

    assert torch.equal(state, torch.random.get_rng_state())
    assert needs == [parameter.requires_grad for parameter in model.parameters()]
    assert [name for name, value in model.named_parameters() if value.grad is not None] == ["1.bias"]
    assert torch.equal(learning.grad, torch.full_like(learning, 3.0))
    assert not any(part.training for part in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_gives_the_model_back_after_an_error() -> None:
    model, images, labels, _ = two_class(4)
    with pytest.raises(DataError, match="label 2"):
        attack_success(model, images, labels + 1, attack=Attack("fgsm", 0.1), seed=0)
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
def test_malformed_images(spoil: object, message: str) -> None:
    model, images, labels, _ = two_class(4)
    assert callable(spoil)
    with pytest.raises(DataError, match=message):
        attack_success(model, spoil(images), labels, attack=Attack("fgsm", 0.1), seed=0)


@pytest.mark.parametrize("labels", [torch.zeros(4), torch.tensor([0, 0, 0, -1])], ids=["float", "negative"])
def test_malformed_labels(labels: Tensor) -> None:
    model, images, _, _ = two_class(4)
    with pytest.raises(DataError, match="expected class numbers"):
        attack_success(model, images, labels, attack=Attack("fgsm", 0.1), seed=0)


def test_a_part_in_training_mode_is_refused() -> None:
    model, images, labels, _ = two_class(4)
    model.get_submodule("linear").train()
    with pytest.raises(InvalidModelError, match="linear is in training mode"):
        attack_success(model, images, labels, attack=Attack("fgsm", 0.1), seed=0)


class Spoiled(nn.Module):
    """Is a model that goes wrong in one of several ways."""

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
def test_models_that_would_succeed_silently(fault: str, kind: type[Exception], message: str) -> None:
    model, images, labels, _ = two_class(4)
    with pytest.raises(kind, match=message):
        attack_success(Spoiled(model, fault).eval(), images, labels, attack=Attack("fgsm", 0.001), seed=0)


def test_an_image_too_far_away_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cheat:
        def __call__(
            self, _: object, images: Tensor, labels: Tensor, *, epsilons: float
        ) -> tuple[Tensor, ...]:
            found = images + 2 * epsilons
            return found, found, torch.ones(len(labels), dtype=torch.bool)

    monkeypatch.setattr(foolbox().attacks, "LinfFastGradientAttack", Cheat)
    model, images, labels, _ = two_class(4)
    with pytest.raises(ContractError, match=r"distance 0\.02, expected at most epsilon = 0\.01"):
        attack_success(model, images, labels, attack=Attack("fgsm", 0.01), seed=0)


def test_a_rounding_out_of_range_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rounded:
        def __call__(self, _: object, images: Tensor, labels: Tensor, **__: float) -> tuple[Tensor, ...]:
            found = images + 6e-8 * (2 * images - 1)
            return found, found, torch.zeros(len(labels), dtype=torch.bool)

    monkeypatch.setattr(foolbox().attacks, "LinfFastGradientAttack", Rounded)
    model = Constant().eval()
    images = torch.tensor([0.0, 1.0]).repeat(8).reshape(1, *SHAPE)
    broken, found = attack_success(model, images, torch.tensor([0]), attack=Attack("fgsm", 0.01), seed=0)
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
        Attack(**settings)  # type: ignore[arg-type]  # a table of settings has no types


def test_imports_quietly_and_lazily(tmp_path: Path) -> None:
    code = (
        "import os, sys; import evalsuite.compat.foolbox as compat; assert 'foolbox' not in sys.modules; "
        "assert compat.foolbox() is compat.foolbox() is sys.modules['foolbox']; "
        "assert 'GIT_PYTHON_REFRESH' not in os.environ"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GIT_PYTHON_REFRESH"}
    environment["PATH"] = str(tmp_path)  # no git
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_result_is_a_pair() -> None:
    assert Attacked._fields == ("broken", "images")
