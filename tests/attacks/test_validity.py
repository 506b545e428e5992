"""A sound network has no validity warnings; each planted way of gradient masking has one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.attacks.specs import AttackBudget, Target, attack_spec, attack_target
from evalsuite.attacks.validity import ValidityWarnings, validity_warnings
from evalsuite.config.depths import depth_tables
from evalsuite.datasets.base import Place, load_checked
from evalsuite.datasets.digits import Digits
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.views import View
from evalsuite.evaluation import Bench
from evalsuite.evaluators.attack import Attack
from evalsuite.execution.measuring import scored
from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.settings import from_settings
from evalsuite.models.exported.program import ExportedProgram, InputSpec, LoadedProgram
from evalsuite.training.loop import train
from evalsuite.training.recipe import Recipe
from evalsuite.types import Score

RECIPE = Recipe(epochs=5, batch_size=64, learning_rate=0.1, weight_decay=5e-4)
ATTACK = Attack((2.0, 4.0, 8.0), ("fgsm", "linf-pgd", "linf-noise"), steps=10, images=64, probe=64)


@pytest.fixture(scope="module")
def sound() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(from_settings({"name": "small-cnn", "widths": [8, 8, 16, 16]}))
    train(model, load_checked(Digits(), "train", Place()), RECIPE, seed=0)
    return model.eval()


class Changed(nn.Module):
    """A model with a function before its input or after its output."""

    def __init__(self, model: nn.Module, *, before: Any = None, behind: Any = None) -> None:
        super().__init__()
        self.model = model
        self.before = before or (lambda images: images)
        self.behind = behind or (lambda logits: logits)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.behind(self.model(self.before(images)))
        return found


def attacked(
    model: nn.Module, attack: Attack = ATTACK, *, parent: nn.Module | None = None
) -> dict[str, Score]:
    image_source = ImageSource(Digits(), Place())
    bench = Bench(
        model.eval(), image_source, parent=None if parent is None else Bench(parent.eval(), image_source)
    )
    return {one.condition: one for one in scored(attack, bench)}


def flags(model: nn.Module, attack: Attack = ATTACK, *, parent: nn.Module | None = None) -> str:
    """All sentences; they are the same on every white-box score of a radius, and on no black-box one."""
    scores = attacked(model, attack, parent=parent)
    assert not any(one.flags for name, one in scores.items() if "noise" in name or "black-box" in name)
    return " | ".join(sorted({flag for one in scores.values() for flag in one.flags}))


def test_a_sound_network_has_none(sound: nn.Module) -> None:
    scores = attacked(sound)
    assert flags(sound) == ""
    worst = [scores[f"worst/{radius}:255"].value or 0 for radius in (2, 4, 8)]
    assert worst == sorted(worst, reverse=True)
    assert 0 <= worst[-1] < 0.1 < worst[0]


def test_a_sound_network_has_none_in_l2(sound: nn.Module) -> None:
    attack = Attack(
        (1.0,), ("fgm", "l2-pgd", "l2-apgd-dlr"), (0.1, 0.25), steps=10, iterations=20, images=64, probe=64
    )
    assert flags(sound, attack) == ""


def test_a_loss_that_is_not_enough_is_flagged(sound: nn.Module) -> None:
    """Cross-entropy alone overstates what this sound network withstands in L2 by 3 of 64 images."""
    attack = Attack((1.0,), ("l2-pgd",), (0.1, 0.25), steps=10, images=64, probe=64)
    assert (
        "that were robust at radius 0.25 were broken by 10 steps of l2-apgd-dlr, along the margin."
        in flags(sound, attack)
    )


def test_a_sound_network_has_none_under_strong_attacks(sound: nn.Module) -> None:
    strong = ("apgd-ce", "apgd-t", "square")
    attack = Attack((2.0, 4.0), strong, iterations=20, queries=60, images=48, probe=48, cascade=True)
    assert flags(sound, attack) == ""


def test_large_logits_are_flagged(sound: nn.Module) -> None:
    found = flags(Changed(sound, behind=lambda logits: 1e4 * logits))
    for words in ("The gradient is zero or not finite on", "The softmax is saturated", "can be turned grey"):
        assert words in found
    assert "were broken by 10 steps of apgd-dlr, along the margin." in found


def test_quantised_input_is_flagged(sound: nn.Module) -> None:
    found = flags(Changed(sound, before=lambda images: (8 * images).round() / 8))
    assert "The gradient is zero or not finite on 64 of 64 images." in found
    assert "were broken by 100 queries without gradients." in found
    assert "can be turned grey" in found
    assert "linf-noise broke" in found


def pruned(model: nn.Module, share: float) -> nn.Module:
    """A copy without its smallest weights."""
    found = copy.deepcopy(model)
    for weight in (one for one in found.parameters() if one.dim() > 1):
        border = weight.detach().abs().flatten().quantile(share)
        weight.detach()[weight.detach().abs() < border] = 0
    return found


def test_a_sound_child_has_none(sound: nn.Module) -> None:
    assert flags(pruned(sound, 0.4), parent=sound) == ""


def test_masked_gradients_are_found_by_the_adversarials_of_the_parent(sound: nn.Module) -> None:
    """Neither its own gradients nor queries get past the steps of its input; its parent has no such steps."""
    child = Changed(sound, before=lambda images: (8 * images).round() / 8)
    sentence = "that were robust at radius 4 were broken by the adversarials of the unpruned network."
    assert sentence in flags(child, parent=sound)
    assert sentence not in flags(child)
    l2 = Attack((1.0,), ("l2-pgd",), (0.25, 0.5), steps=10, images=64, probe=64)
    assert "were broken by the adversarials of the unpruned network." in flags(child, l2, parent=sound)


def test_the_parent_is_attacked_once_for_all_candidates(sound: nn.Module) -> None:
    gradients: list[int] = []

    def count(images: Tensor) -> Tensor:
        gradients.append(len(images) if images.requires_grad else 0)
        return images

    image_source = ImageSource(Digits(), Place())
    attack = Attack((0.5, 1.0, 2.0), ("linf-pgd",), steps=10, images=64, probe=32)
    parent = Bench(Changed(sound, before=count).eval(), image_source)
    totals = []
    for _ in range(3):
        scored(attack, Bench(sound, image_source, parent=parent))
        totals.append(sum(gradients))
    assert totals == [10 * 32] * 3


def test_a_parent_without_gradients_has_no_adversarials(sound: nn.Module) -> None:
    program = ExportedProgram(LoadedProgram(sound, InputSpec(), "no twin"), "ONNX")
    assert (
        attack_target(
            Bench(
                sound, ImageSource(Digits(), Place()), parent=Bench(program, ImageSource(Digits(), Place()))
            ),
            slice(4),
        ).parent
        is None
    )


def test_steps_that_cannot_cross_the_ball_are_flagged(
    sound: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PGD with a step of a hundredth of what it needs is weaker than one step, and than more of itself."""
    from evalsuite.attacks.backends import foolbox

    monkeypatch.setattr(foolbox, "TRAVEL", 0.2)
    attack = Attack((2.0, 4.0), ("fgsm", "linf-pgd"), steps=5, images=64, probe=64)
    scores = attacked(sound, attack)
    assert any("fgsm broke" in flag and "in one step" in flag for flag in scores["linf-pgd/4:255"].flags)
    assert not any("fgsm broke" in flag for flag in scores["fgsm/4:255"].flags)


class Fickle(nn.Module):
    """A model that is random only where gradients are enabled."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits + 1e-6 * torch.randn_like(logits) if torch.is_grad_enabled() else logits


def test_a_model_that_is_random_under_attack_is_flagged(sound: nn.Module) -> None:
    attack = Attack((2.0,), ("linf-pgd",), steps=5, images=32, probe=32)
    assert "Two passes over the same 32 images differ" in flags(Fickle(sound), attack)


def test_without_a_probe_attacks_are_only_compared(sound: nn.Module) -> None:
    silent = Attack((2.0,), ("linf-pgd",), steps=5, images=32, probe=0)
    assert flags(Changed(sound, before=lambda images: images + 0.01 * images.sin()), silent) == ""


def test_without_a_probe_the_gradients_are_checked_all_the_same(sound: nn.Module) -> None:
    silent = Attack((2.0,), ("linf-pgd",), steps=5, images=64, probe=0)
    stepped = Changed(sound, before=lambda images: (8 * images).round() / 8)
    assert "The gradient is zero or not finite on 32 of 32 images." in flags(stepped, silent)
    loud = Changed(sound, behind=lambda logits: 1000 * logits)
    assert "The softmax is saturated in float32 on" in flags(loud, silent)


def test_the_quick_depth_attacks_some_images_again() -> None:
    (table,) = (
        one for one in depth_tables("quick", [], data="digits", trained=True) if one["name"] == "attack"
    )
    assert table["probe"] > 0


FGSM, PGD, NOISE = attack_spec("fgsm"), attack_spec("linf-pgd"), attack_spec("linf-noise")


def hit(*broken: int, count: int = 100) -> Any:
    found = np.zeros(count, bool)
    found[list(broken)] = True
    return found


def compared(record: dict[Any, Any]) -> ValidityWarnings:
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(12, 10)).eval(), torch.rand(100, 3, 2, 2)
    wrong = (model(images).argmax(dim=1) + 1) % 10
    target = Target(model, images, wrong, hit(), 10, 0)
    return validity_warnings(target, record, budget=AttackBudget(), probe=0)


def test_reversals_count_image_by_image() -> None:
    """The rate rises all the same."""
    record = {(PGD, 1.0): hit(1, 2, 3), (PGD, 2.0): hit(3, 4, 5, 6)}
    assert compared(record).on(PGD, 2.0) == (
        "linf-pgd broke 2 images at radius 1 that it did not break at 2.",
    )
    assert compared(record).on(PGD, 1.0) == ()
    assert compared({(PGD, 1.0): hit(1, 3), (PGD, 2.0): hit(3, 4, 5, 6)}).on(PGD, 2.0) == ()  # one is none
    once = {(FGSM, 1.0): hit(1, 2, 3), (FGSM, 2.0): hit()}  # one step may well overshoot
    assert compared(once).on(FGSM, 2.0) == ()


def test_attacks_without_gradients_that_break_more_are_flagged() -> None:
    record = {(PGD, 1.0): hit(1), (FGSM, 1.0): hit(2), (NOISE, 1.0): hit(1, 2, 3, 4)}
    sentence = "linf-noise broke 2 images without gradients that no attack with gradients broke."
    found = compared(record)
    assert found.on(PGD, 1.0) == found.on(FGSM, 1.0) == found.on_worst_case(1.0) == (sentence,)
    assert compared(record | {(NOISE, 1.0): hit(1, 2, 3)}).on_worst_case(1.0) == ()


def test_a_single_step_that_breaks_more_than_many_is_flagged() -> None:
    found = compared({(FGSM, 1.0): hit(1, 2, 3), (PGD, 1.0): hit(4)})
    assert found.on(PGD, 1.0) == ("fgsm broke 3 images in one step that linf-pgd did not break in many.",)
    assert found.on(FGSM, 1.0) == found.on_worst_case(1.0) == ()
    assert compared({(FGSM, 1.0): hit(1, 2), (PGD, 1.0): hit(4)}).on(PGD, 1.0) == ()
    apgd = attack_spec("apgd-ce")
    strong = compared({(FGSM, 1.0): hit(1, 2, 3), (apgd, 1.0): hit(4)})
    assert strong.on(apgd, 1.0) == ("fgsm broke 3 images in one step that apgd-ce did not break in many.",)


def test_in_a_cascade_all_successes_of_the_single_step_count() -> None:
    """What FGSM has there is what both broke: of that only its own counts."""
    after = {(PGD, 1.0): hit(*range(50)), (FGSM, 1.0): hit(*range(52))}
    assert compared(after).on(PGD, 1.0) == (
        "fgsm broke 2 images in one step that linf-pgd did not break in many.",
    )


def test_another_answer_than_the_clean_test_is_flagged(sound: nn.Module) -> None:
    bench = Bench(sound, ImageSource(Digits(), Place()))
    images, labels = bench.images(View()).images[:32], bench.outputs(View()).true_labels[:32]
    right = bench.outputs(View()).correct[:32].copy()
    right[[3, 4]] ^= True
    target = Target(
        sound, torch.from_numpy(np.array(images)) / 255, torch.from_numpy(np.array(labels)), right, 10, 0
    )
    record = {(FGSM, 1.0): hit(count=32)}
    found = validity_warnings(target, record, budget=AttackBudget(), probe=32).model
    assert found == ("With radius 0 the attack sees another class than the clean test on 2 of 32 images.",)
    assert math.isinf(FGSM.order)


def test_the_probe_is_bounded(sound: nn.Module) -> None:
    """Counted in images: what the docstring promises."""
    seen: list[int] = []
    model: Callable[..., nn.Module] = Changed

    def noted(images: Tensor) -> Tensor:
        seen.append(len(images))
        return images

    watched = model(sound, before=noted)
    attack = Attack((2.0,), ("linf-pgd",), steps=10, images=64, probe=0)
    attacked(watched, attack)
    plain = sum(seen)
    seen.clear()
    attacked(watched, Attack((2.0,), ("linf-pgd",), steps=10, images=64, probe=32))
    assert sum(seen) - plain < 32 * (5 + 20 + 10 + 10 + 101 + 12 + 10 + 10)
