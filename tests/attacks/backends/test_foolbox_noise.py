from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from evalsuite.attacks.backends.foolbox import FIXED_RADIUS_NAMES, FixedRadiusAttack, attack_success
from evalsuite.random_streams import BLOCK


class Recorder(nn.Module):
    """A classifier: the second class where an image is brighter than a half, without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach().clone())
        side = (images.detach().flatten(1).mean(1) - 0.5).sign()
        return torch.stack([-side, side], 1)


def dark(count: int, *shape: int, below: float = 0.02) -> tuple[Tensor, Tensor]:
    distance = torch.linspace(0.2 * below, 1.8 * below, count).view(-1, *[1] * len(shape))
    return (0.5 - distance).expand(-1, *shape).contiguous(), torch.zeros(count, dtype=torch.int64)


def test_is_the_only_attack_that_needs_no_gradients() -> None:
    assert [name for name in FIXED_RADIUS_NAMES if not FixedRadiusAttack(name, 0.1).needs_gradients] == [
        "linf-noise"
    ]


def test_one_pixel_is_misclassified_exactly_where_epsilon_suffices() -> None:
    """Noise of one pixel is epsilon up or down, so in ten draws it is up."""
    images, labels = dark(100, 1, 1, 1)
    result = attack_success(
        Recorder().eval(), images, labels, attack=FixedRadiusAttack("linf-noise", 0.02, steps=30), seed=0
    )
    assert torch.equal(result.misclassified, 0.5 - images.flatten() < 0.02)
    assert result.misclassified.float().mean() == pytest.approx(0.5)
    assert (result.adversarials - images)[result.misclassified].flatten().numpy() == pytest.approx(
        0.02, abs=1e-6
    )
    assert torch.equal(result.adversarials[~result.misclassified], images[~result.misclassified])


def test_noise_reaches_epsilon_and_no_farther() -> None:
    """As released the library divides by the largest entry, which of four is often far below the largest size."""
    images, labels = torch.full((150, 1, 2, 2), 0.45), torch.zeros(150, dtype=torch.int64)
    model = Recorder().eval()
    result = attack_success(
        model, images, labels, attack=FixedRadiusAttack("linf-noise", 0.1, steps=5), seed=0
    )
    sizes = torch.cat(
        [(batch - 0.45).abs().flatten(1).amax(1) for batch in [*model.seen, result.adversarials]]
    )
    moved = sizes[sizes > 0]
    assert len(moved) > 300
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1), rtol=0, atol=1e-6)


def test_more_draws_only_add_and_an_images_draws_are_its_own() -> None:
    images, labels = dark(2 * BLOCK + 5, 1, 3, 3, below=0.06)
    few, many = (
        attack_success(
            Recorder().eval(),
            images,
            labels,
            attack=FixedRadiusAttack("linf-noise", 0.1, steps=count),
            seed=1,
        )
        for count in (2, 20)
    )
    assert bool((many.misclassified | ~few.misclassified).all())
    assert 0 < few.misclassified.sum() < many.misclassified.sum() < len(images)
    part = attack_success(
        Recorder().eval(),
        images[:70],
        labels[:70],
        attack=FixedRadiusAttack("linf-noise", 0.1, steps=20),
        seed=1,
    )
    assert torch.equal(part.misclassified, many.misclassified[:70])
    assert torch.equal(part.adversarials, many.adversarials[:70])
    other = attack_success(
        Recorder().eval(), images, labels, attack=FixedRadiusAttack("linf-noise", 0.1, steps=20), seed=2
    )
    assert not torch.equal(other.adversarials, many.adversarials)


def test_the_generator_of_torch_is_not_used() -> None:
    images, labels = dark(10, 1, 2, 2)
    state = torch.random.get_rng_state()
    attack_success(
        Recorder().eval(), images, labels, attack=FixedRadiusAttack("linf-noise", 0.1, steps=3), seed=0
    )
    assert torch.equal(state, torch.random.get_rng_state())
