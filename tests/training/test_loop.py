from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import CellError, DataError
from evalsuite.models.cost import weights_digest
from evalsuite.training import loop
from evalsuite.training.batches import augmented
from evalsuite.training.hooks import Hooks
from evalsuite.training.loop import TrainingOptions, train, training_seed
from evalsuite.training.recipe import Recipe, learning_rate
from evalsuite.training.state import memory_format
from evalsuite.types import Array, ImageSet

SIDE = 4
CLASSES = 3


@pytest.fixture
def images() -> ImageSet:
    rng = np.random.default_rng(0)
    return ImageSet(
        "tiny", rng.integers(0, 256, (10, 3, SIDE, SIDE), dtype=np.uint8), np.arange(10) % CLASSES, CLASSES
    )


def linear(*layers: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(3 * SIDE**2, CLASSES)).eval()


def trained(
    model: nn.Module, images: ImageSet, recipe: Recipe, *, seed: int = 0, **options: Any
) -> nn.Module:
    model = copy.deepcopy(model)
    train(model, images, recipe, seed=seed, options=TrainingOptions(**options))
    return model


@pytest.mark.parametrize("nesterov", [False, True], ids=["momentum", "Nesterov"])
def test_full_batches_are_textbook_gradient_descent(images: ImageSet, nesterov: bool) -> None:
    recipe = Recipe(
        epochs=5, batch_size=10, learning_rate=0.2, nesterov=nesterov, weight_decay=0.01, warmup_epochs=2
    )
    start = linear()
    parameters = dict(trained(start, images, recipe).named_parameters())
    w, b = (parameter.detach().clone().double() for parameter in start.parameters())
    x = torch.from_numpy(images.images).double().flatten(1) / 255
    y = functional.one_hot(torch.from_numpy(images.labels), CLASSES)
    velocity = [torch.zeros_like(w), torch.zeros_like(b)]
    for epoch in range(5):
        error = (torch.softmax(x @ w.T + b, 1) - y) / 10
        for index, (parameter, slope) in enumerate(((w, error.T @ x), (b, error.sum(0)))):
            gradient = slope + 0.01 * parameter
            velocity[index] = 0.9 * velocity[index] + gradient
            step = gradient + 0.9 * velocity[index] if nesterov else velocity[index]
            parameter -= learning_rate(recipe, epoch + 0.5) * step
    torch.testing.assert_close(parameters["1.weight"].double(), w, rtol=0, atol=1e-6)
    torch.testing.assert_close(parameters["1.bias"].double(), b, rtol=0, atol=1e-6)


def test_every_image_is_seen_once_an_epoch_in_an_order_of_its_own(images: ImageSet) -> None:
    batches: list[Tensor] = []
    model = linear()
    model.register_forward_pre_hook(lambda _, arguments: batches.append(arguments[0].detach().clone()))
    train(model, images, Recipe(epochs=2, batch_size=4), seed=0)
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]  # the last, smaller batch is used too
    epochs = [torch.cat(batches[:3]), torch.cat(batches[3:])]
    expected = torch.from_numpy(images.images).float() / 255
    for shown in epochs:
        assert sorted(shown.flatten(1).tolist()) == sorted(expected.flatten(1).tolist())
    assert not torch.equal(*epochs)
    assert not torch.equal(epochs[0], expected)


def test_a_step_has_the_learning_rate_of_its_middle(
    images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def rate(_: Recipe, epoch: float) -> float:
        asked.append(epoch)
        return 0.0

    monkeypatch.setattr(loop, "learning_rate", rate)
    train(linear(), images, Recipe(epochs=2, batch_size=5), seed=0)
    assert asked == [0.25, 0.75, 1.25, 1.75]


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_even_a_single_step_moves_the_weights(images: ImageSet, schedule: Any) -> None:
    start = linear()
    milestones = (1,) if schedule == "step" else ()
    recipe = Recipe(epochs=1, batch_size=10, schedule=schedule, milestones=milestones, weight_decay=0)
    moved = trained(start, images, recipe).get_parameter("1.weight") - start.get_parameter("1.weight")
    constant = trained(start, images, replace(recipe, schedule="constant", milestones=()))
    factor = 0.5 if schedule == "cosine" else 1.0  # a milestone after the last step is none
    torch.testing.assert_close(
        moved, factor * (constant.get_parameter("1.weight") - start.get_parameter("1.weight"))
    )


class TestSeed:
    RECIPE = Recipe(epochs=2, batch_size=4, augment="crop-flip")

    @pytest.mark.parametrize("layers", [(), (nn.Dropout(0.5),)], ids=["plain", "dropout"])
    def test_decides_everything(self, images: ImageSet, layers: tuple[nn.Module, ...]) -> None:
        """Also what the model draws by itself, whatever was drawn before."""
        start = linear(*layers)
        torch.manual_seed(1)
        first = weights_digest(trained(start, images, self.RECIPE, seed=5))
        torch.rand(7)
        assert weights_digest(trained(start, images, self.RECIPE, seed=5)) == first
        assert weights_digest(trained(start, images, self.RECIPE, seed=6)) != first

    @pytest.mark.parametrize("layers", [(), (nn.Dropout(0.5),)], ids=["plain", "dropout"])
    def test_is_not_taken_from_torch_nor_left_there(
        self, images: ImageSet, layers: tuple[nn.Module, ...]
    ) -> None:
        start = linear(*layers)
        torch.manual_seed(42)
        before = torch.get_rng_state()
        trained(start, images, self.RECIPE)
        assert torch.equal(torch.get_rng_state(), before)

    def test_of_a_training_is_addressed(self) -> None:
        seeds = [
            training_seed(0, "a"),
            training_seed(1, "a"),
            training_seed(0, "b"),
            training_seed(0, "a", 0.5),
        ]
        assert len(set(seeds)) == 4
        assert training_seed(0, "a") == seeds[0]


class TestMasks:
    def test_hold_after_every_step(self, few: ImageSet, network: Callable[..., nn.Module]) -> None:
        """Momentum and weight decay push masked weights too; the convolution's first row alone is masked."""
        model = copy.deepcopy(network("small-cnn"))
        name = next(name for name, parameter in model.named_parameters() if parameter.dim() == 4)
        mask = torch.ones_like(model.get_parameter(name), dtype=torch.bool)
        mask[0] = mask[3, 1] = False
        seen: list[tuple[bool, bool]] = []

        def check(module: nn.Module, _: object) -> None:
            weight = module.get_parameter(name).detach()
            seen.append((bool((weight[~mask] == 0).all()), bool((weight[mask] != 0).all())))

        model.register_forward_pre_hook(check)
        before = model.get_parameter(name).detach().clone()
        recipe = Recipe(epochs=2, batch_size=32, learning_rate=0.05, momentum=0.9, weight_decay=0.1)
        train(model, few, recipe, seed=0, options=TrainingOptions(masks={name: mask}))
        check(model, None)
        assert seen == [(True, True)] * 7  # before the first of 6 steps, and after each
        assert not torch.equal(model.get_parameter(name)[mask], before[mask])

    @pytest.mark.parametrize(
        "recipe",
        [
            Recipe(epochs=3, batch_size=4, optimiser="adam", learning_rate=0.01),
            Recipe(epochs=3, batch_size=4, optimiser="adamw", learning_rate=0.01, weight_decay=0.1),
            Recipe(epochs=3, batch_size=4, nesterov=True, weight_decay=0.1),
            Recipe(epochs=3, batch_size=4, ema=0.9),
            Recipe(epochs=3, batch_size=4, ema=0.9, select="validation"),
            Recipe(epochs=3, batch_size=4, mixup=0.2, cutmix=1.0, precision="bfloat16"),
        ],
        ids=["adam", "adamw", "nesterov", "average", "selected average", "mixed"],
    )
    def test_hold_under_every_optimiser_and_average(self, images: ImageSet, recipe: Recipe) -> None:
        """The unmasked start is no excuse: an average must not remember it."""
        mask = torch.arange(CLASSES * 3 * SIDE**2).view(CLASSES, -1) % 3 == 0
        start, seen = linear(), []
        hooks = Hooks(
            after_step=lambda model, *_: seen.append(
                bool((model.get_parameter("1.weight")[~mask] == 0).all())
            )
        )
        options: dict[str, Any] = {"masks": {"1.weight": mask}, "hooks": hooks, "validation": images}
        weight = trained(start, images, recipe, **options).get_parameter("1.weight").detach()
        assert seen == [True] * 9
        assert bool((weight[~mask] == 0).all())
        assert not bool((weight[mask] == start.get_parameter("1.weight")[mask]).any())

    def test_of_other_parameters_change_nothing(self, images: ImageSet) -> None:
        start, recipe = linear(), Recipe(epochs=1, batch_size=4)
        everything = {"1.weight": torch.ones(CLASSES, 3 * SIDE**2, dtype=torch.bool)}
        assert weights_digest(trained(start, images, recipe, masks=everything)) == weights_digest(
            trained(start, images, recipe)
        )


def test_a_model_ends_in_evaluation_mode_and_trains_in_training_mode(images: ImageSet) -> None:
    modes: list[bool] = []
    model = linear()
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    train(model, images, Recipe(epochs=1, batch_size=10), seed=0)
    assert modes == [True]
    assert not any(module.training for module in model.modules())


def test_floats_and_bytes_train_alike(images: ImageSet) -> None:
    floats = replace(images, images=images.images.astype(np.float32) / np.float32(255))
    start, recipe = linear(), Recipe(epochs=2, batch_size=4)
    of_bytes, of_floats = (
        trained(start, image_set, recipe).get_parameter("1.weight") for image_set in (images, floats)
    )
    torch.testing.assert_close(of_bytes, of_floats)


def test_labels_may_be_small_and_read_only(images: ImageSet) -> None:
    labels: Array = np.arange(10, dtype=np.uint8) % CLASSES
    labels.flags.writeable = False
    start, recipe = linear(), Recipe(epochs=1, batch_size=4)
    small = weights_digest(trained(start, replace(images, labels=labels), recipe))
    assert small == weights_digest(trained(start, images, recipe))


def test_divergence_stops_the_cell(few: ImageSet, network: Callable[..., nn.Module]) -> None:
    recipe = Recipe(epochs=4, batch_size=8, learning_rate=1e6, schedule="constant")
    with pytest.raises(
        CellError, match=r"^training diverged: the loss is (nan|inf) in epoch 1; .* \(now 1e\+06\)$"
    ):
        trained(network("small-cnn"), few, recipe)


def test_images_without_labels_cannot_be_trained_on(images: ImageSet) -> None:
    with pytest.raises(
        DataError, match=r"^image set 'tiny' has no labels: expected a labelled set to train on$"
    ):
        trained(linear(), replace(images, labels=None), Recipe(epochs=1))


class TestAugmentation:
    COUNT, HEIGHT, WIDTH, REACH = 600, 16, 24, 2
    BATCH = torch.rand((COUNT, 3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0))

    def places(self, shown: Tensor) -> list[tuple[int, int, bool]]:
        """Corners of the crops, by comparing all of them; the images must not be empty."""
        padded = functional.pad(self.BATCH, (self.REACH,) * 4)
        places: list[list[tuple[int, int, bool]]] = [[] for _ in shown]
        for down in range(2 * self.REACH + 1):
            for right in range(2 * self.REACH + 1):
                crop = padded[:, :, down : down + self.HEIGHT, right : right + self.WIDTH]
                for flipped, candidate in ((False, crop), (True, crop.flip(3))):
                    for index in torch.nonzero((candidate == shown).flatten(1).all(1)).flatten().tolist():
                        places[index].append((down, right, flipped))
        assert {len(matches) for matches in places} == {1}
        return [matches[0] for matches in places]

    @pytest.mark.parametrize(("augment", "kinds"), [("crop", 25), ("crop-flip", 50)])
    def test_every_image_is_a_random_crop_of_its_own(self, augment: str, kinds: int) -> None:
        shown = augmented(self.BATCH, augment, torch.Generator().manual_seed(3))
        assert shown.shape == self.BATCH.shape
        counts = Counter(self.places(shown))
        assert len(counts) == kinds  # all shifts by up to an eighth, both ways, and no others
        expected = self.COUNT / kinds
        chi2 = sum((count - expected) ** 2 / expected for count in counts.values())
        assert chi2 < 2 * kinds  # 25 or 50 degrees of freedom: 99.9 % lie below 52.6 and 86.7

    def test_is_repeatable_and_can_be_left_out(self) -> None:
        first, second, other = (
            augmented(self.BATCH, "crop-flip", torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
        )
        assert torch.equal(first, second)
        assert not torch.equal(first, other)
        assert augmented(self.BATCH, "none", torch.Generator()) is self.BATCH


THIN_SHORTCUT = """
import numpy as np, torch
from torch import nn
from evalsuite.plugins import ImageSet
from evalsuite.training.loop import train
from evalsuite.training.recipe import Recipe
torch.set_num_threads(1)
layers = [nn.Conv2d(3, 7, 3, padding=1), nn.Conv2d(7, 14, 1, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
images = np.random.default_rng(0).integers(0, 256, (256, 3, 32, 32), dtype=np.uint8)
data = ImageSet("noise", images, np.arange(256) % 14, 14)
for _ in range(4):
    train(nn.Sequential(*layers), data, Recipe(epochs=1, batch_size=32, learning_rate=0.01), seed=0)
print("trained")
"""


@pytest.mark.extensive
def test_pruned_shortcuts_do_not_corrupt_memory(python: Callable[..., Any]) -> None:
    """The allocator ends the process where a write went outside its block."""
    ended = python("-c", THIN_SHORTCUT, MALLOC_CHECK_="3")
    assert (ended.code, ended.out.strip()) == (0, "trained"), ended.err


def test_only_networks_with_thin_shortcuts_leave_the_fast_layout() -> None:
    def layout(*layers: nn.Module) -> torch.memory_format:
        return memory_format(nn.Sequential(*layers))

    assert layout(nn.Conv2d(7, 14, 1, stride=2)) is torch.contiguous_format
    for layer in (nn.Conv2d(8, 14, 1, stride=2), nn.Conv2d(7, 14, 1), nn.Conv2d(7, 14, 3, stride=2)):
        assert layout(layer) is torch.channels_last
