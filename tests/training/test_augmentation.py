from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.transforms import v2

from evalsuite.condition_splits import CORRUPTION_SETS, KINDS
from evalsuite.datasets.transforms.common_corruptions.kinds import CORRUPTIONS, EXTRA, corrupt
from evalsuite.errors import UserError
from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.cnn import SmallCNN
from evalsuite.models.architectures.resnet import ResNet8
from evalsuite.models.architectures.uris import architecture_from_uri
from evalsuite.models.cost import weights_digest
from evalsuite.producers.base import Context
from evalsuite.producers.unstructured.sipp import Sipp
from evalsuite.random_streams import address
from evalsuite.training import checkpoint
from evalsuite.training.augmentation import auto_augmented, corrupted, erased
from evalsuite.training.batches import batches
from evalsuite.training.checkpoint import TrainingCheckpoint
from evalsuite.training.hooks import Hooks
from evalsuite.training.loop import TrainingOptions, distillation_loss, train
from evalsuite.training.published_recipes import named_recipe
from evalsuite.training.recipe import Recipe
from evalsuite.training.stochastic_depth import branch_ends, stochastic_depth
from evalsuite.types import ImageSet

ALL = Recipe(
    epochs=3, batch_size=8, learning_rate=0.05, optimiser="adamw", weight_decay=0.05, warmup_epochs=1.0,
    augment="crop-flip", corruptions=("mix1", "fog"), auto_augment="randaugment", augment_magnitude=9, erasing=0.5,
    mixup=0.2, stochastic_depth=0.3, distillation="soft", temperature=2.0, ema=0.9,
)  # fmt: skip


@pytest.fixture
def images() -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 3, 16, 16), dtype=np.uint8)
    return ImageSet("noise", pixels, np.arange(24) % 3, 3)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(ResNet8(classes=3)).eval()


def test_the_published_sets_are_the_nineteen_corruptions_in_two() -> None:
    assert sorted((*CORRUPTIONS, *EXTRA)) == list(KINDS)
    assert [len(kinds) for kinds in CORRUPTION_SETS.values()] == [9, 10]


def test_each_image_has_a_kind_and_a_severity_of_its_own() -> None:
    """A grey image under contrast or brightness says which of the eleven versions it is."""
    ramp = np.tile(np.linspace(0, 240, 16, dtype=np.uint8), (600, 3, 16, 1))
    kinds = ("contrast", "brightness")
    batch = corrupted(ramp, kinds, 3, "here")
    versions = {ramp[0].tobytes(): ("clean", 0)} | {
        corrupt(ramp[:1], kind, severity, seed=0)[0].tobytes(): (kind, severity)
        for kind in kinds
        for severity in range(1, 6)
    }
    counts = dict.fromkeys(versions.values(), 0)
    for image in batch:
        counts[versions[image.tobytes()]] += 1
    assert counts.pop(("clean", 0)) == pytest.approx(100, abs=35)
    assert min(counts.values()) > 25
    assert max(counts.values()) < 80
    np.testing.assert_array_equal(batch, corrupted(ramp / np.float32(255), kinds, 3, "here"))
    assert not np.array_equal(batch, corrupted(ramp, kinds, 3, "there"))
    assert corrupted(ramp, (), 3) is ramp


def test_the_data_of_pruning_is_corrupted_as_that_of_training(images: ImageSet) -> None:
    recipe = Recipe(corruptions=("contrast",))
    plain, changed = (Context(images, choice, seed=1).batch(24, "x")[0] for choice in (Recipe(), recipe))
    same = (plain == changed).flatten(1).all(1)
    assert 0 < int(same.sum()) < 12  # a sixth is clean
    parent = build_model(SmallCNN(classes=3)).eval()
    scores = [Sipp(images=8).scores(parent, Context(images, choice, seed=1)) for choice in (Recipe(), recipe)]
    assert any(not torch.equal(scores[0][name], scores[1][name]) for name in scores[0])


@pytest.mark.parametrize(
    ("recipe", "transform"),
    [
        (Recipe(auto_augment="randaugment", augment_magnitude=9), v2.RandAugment(magnitude=9)),
        (Recipe(auto_augment="augmix", augment_magnitude=3), v2.AugMix(severity=3)),
    ],
    ids=["randaugment", "augmix"],
)
def test_transforms_are_those_of_torchvision_image_by_image(
    recipe: Recipe, transform: nn.Module, images: ImageSet
) -> None:
    batch = torch.from_numpy(images.images).float() / 255
    torch.manual_seed(address(0, "x"))
    expected = torch.stack([transform(image) for image in torch.from_numpy(images.images)]).float() / 255
    before = torch.get_rng_state()
    assert torch.equal(auto_augmented(batch, recipe, 0, "x"), expected)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(auto_augmented(batch, recipe, 0, "y"), expected)


def test_erasing_takes_a_box_from_some_images(images: ImageSet) -> None:
    batch = torch.ones(400, 3, 16, 16)
    result = erased(batch, Recipe(erasing=0.25), 0, "x")
    hit = (result == 0).flatten(1).any(1)
    assert int(hit.sum()) == pytest.approx(100, abs=30)
    assert {round(float(share), 2) for share in (result[hit] == 0).float().mean((1, 2, 3))} <= {
        number / 100 for number in range(1, 36)
    }
    assert erased(batch, Recipe(), 0, "x") is batch
    seen = next(
        iter(batches(images.images, torch.from_numpy(images.labels), Recipe(erasing=1.0), seed=0, epoch=0))
    )
    assert (seen.images == 0).flatten(1).sum(1).min() >= 3


def test_hard_distillation_alone_is_training_on_the_labels_of_the_teacher(images: ImageSet) -> None:
    teacher, recipe = net(1), Recipe(epochs=2, batch_size=8, learning_rate=0.05)
    with torch.no_grad():
        labels = teacher(torch.from_numpy(images.images).float() / 255).argmax(1).numpy()
    taught, told = net(), net()
    hard = replace(recipe, distillation="hard", distillation_weight=1.0)
    train(taught, images, hard, seed=0, options=TrainingOptions(teacher=teacher))
    train(told, replace(images, labels=labels), recipe, seed=0)
    for ours, theirs in zip(taught.parameters(), told.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_soft_distillation_is_its_definition() -> None:
    student, teacher = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[2.0, 0.5, 0.0]])
    p, q = (functional.softmax(values.double() / 3, 1) for values in (student, teacher))
    expected = float(9 * (q * (q.log() - p.log())).sum())
    recipe = Recipe(distillation="soft", temperature=3.0)
    assert float(distillation_loss(student, teacher, recipe)) == pytest.approx(expected, rel=1e-5)


def test_a_training_without_a_teacher_cannot_distil(images: ImageSet) -> None:
    with pytest.raises(UserError, match=r"has no teacher: .* put distillation into \[retraining\]"):
        train(net(), images, Recipe(distillation="hard"), seed=0)


def test_branches_are_left_out_more_and_more_and_keep_their_mean() -> None:
    model = net().train()
    ends = branch_ends(model)
    shares, means = [], []
    with stochastic_depth(model, 0.6), torch.no_grad():
        for end in ends:
            end.get_parameter("bias").fill_(1.0)
            output = end(torch.randn(4000, len(end.get_parameter("weight")), 1, 1))
            shares.append(float((output.flatten(1) == 0).all(1).float().mean()))
            means.append(float(output.mean()))
    np.testing.assert_allclose(means, 1.0, atol=0.1)
    np.testing.assert_allclose(shares, [0.0, 0.3, 0.6], atol=0.03)
    assert not any(end._forward_hooks for end in ends)
    plain_model = build_model(SmallCNN()).eval()
    with pytest.raises(UserError, match="has no residual branch"), stochastic_depth(plain_model, 0.1):
        pass


def vit(seed: int = 0) -> nn.Module:
    """A vision transformer of two blocks."""
    options = {"img_size": 16, "patch_size": 8, "depth": 2, "num_heads": 2, "embed_dim": 16}
    torch.manual_seed(seed)
    return build_model(architecture_from_uri("timm:deit_tiny_patch16_224", classes=3, options=options)).eval()


@pytest.mark.parametrize(
    ("network", "recipe"),
    [
        (net, ALL),
        (vit, replace(named_recipe("deit-distilled"), epochs=3, batch_size=8, warmup_epochs=1.0, ema=0.9)),
    ],
    ids=["everything", "DeiT's distillation"],
)
def test_a_training_that_is_killed_resumes_to_the_same_bytes(
    network: Callable[..., nn.Module],
    recipe: Recipe,
    images: ImageSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoint, "SAVE_INTERVAL", 0.0)
    saved = TrainingCheckpoint(tmp_path / "x.training")
    options = TrainingOptions(teacher=network(5), checkpoint=saved)

    def die(_: nn.Module, epochs: int) -> None:
        if epochs == 2:
            raise KeyboardInterrupt

    interrupted, resumed, whole, other = network(), network(), network(), network()
    with pytest.raises(KeyboardInterrupt):
        train(interrupted, images, recipe, seed=1, options=replace(options, hooks=Hooks(after_epoch=die)))
    steps: list[int] = []
    noting = Hooks(after_step=lambda _, __, step: steps.append(step))
    train(resumed, images, recipe, seed=1, options=replace(options, hooks=noting))
    torch.manual_seed(99)  # no draw may come from the global generator
    train(whole, images, recipe, seed=1, options=replace(options, checkpoint=None))
    assert steps == [4, 5, 6, 7, 8, 9]
    assert weights_digest(resumed) == weights_digest(whole)
    train(other, images, recipe, seed=2, options=replace(options, checkpoint=None))
    assert weights_digest(other) != weights_digest(whole)


def test_corruptions_that_the_images_cannot_have_are_refused() -> None:
    small = ImageSet("small", np.zeros((4, 3, 8, 8), np.uint8), np.arange(4) % 3, 3)
    with pytest.raises(UserError, match="contrast is defined from 16 px on"):
        train(net(), small, Recipe(corruptions=("contrast",)), seed=0)
