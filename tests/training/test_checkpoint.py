"""A killed training resumes to the same bytes; hooks, averages and selection follow their definitions."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.errors import StoreError, UserError
from evalsuite.models.cost import weights_digest
from evalsuite.training import checkpoint
from evalsuite.training.checkpoint import TrainingCheckpoint
from evalsuite.training.hooks import Hooks
from evalsuite.training.loop import TrainingOptions, train
from evalsuite.training.recipe import Recipe, learning_rate
from evalsuite.types import ImageSet

ROOT = Path(__file__).parents[2]
RICH = Recipe(
    epochs=4,
    batch_size=4,
    learning_rate=0.05,
    augment="crop-flip",
    padding=1,
    cutmix=1.0,
    mixup=0.2,
    ema=0.9,
    label_smoothing=0.1,
)


class StopError(Exception):
    """The interruption of a training in a test."""


@pytest.fixture
def images() -> ImageSet:
    rng = np.random.default_rng(0)
    return ImageSet("tiny", rng.integers(0, 256, (18, 3, 8, 8), dtype=np.uint8), np.arange(18) % 3, 3)


@pytest.fixture(autouse=True)
def _always_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SAVE_INTERVAL", 0.0)


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3))
    return nn.Sequential(*layers, nn.Linear(144, 3)).eval()


def counting(state: dict[str, Tensor], *, stop: int | None = None) -> Hooks:
    """Hooks that shrink the classifier a little more after each step, and die after some epochs."""

    def shrink(model: nn.Module, _: float, __: int) -> None:
        state["steps"] = state.get("steps", torch.zeros(())) + 1
        with torch.no_grad():
            model.get_parameter("5.weight").mul_(1 - 0.001 * state["steps"])

    def die(_: nn.Module, epochs: int) -> None:
        if epochs == stop:
            raise StopError

    return Hooks(after_step=shrink, after_epoch=die, state=state)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"optimiser": "adam"},
        {"optimiser": "adamw", "decay_norms": False, "ema": 0.0},
        {"select": "validation", "track": True},
        {"momentum": 0.0, "precision": "bfloat16"},
    ],
    ids=["sgd", "adam", "adamw", "validation", "bfloat16 without momentum"],
)
@pytest.mark.parametrize("stop", [2, 4])
def test_an_interrupted_training_resumes_to_the_same_bytes(
    images: ImageSet, tmp_path: Path, change: dict[str, Any], stop: int
) -> None:
    recipe, saved = replace(RICH, **change), TrainingCheckpoint(tmp_path / "x.training", "code")
    masks = {"5.weight": torch.arange(3 * 144).view(3, 144) % 2 == 0}
    uninterrupted, first, second = net(), net(), net()
    options = TrainingOptions(masks=masks, hooks=counting({}), validation=images)
    expected = train(uninterrupted, images, recipe, seed=1, options=options)
    with pytest.raises(StopError):
        train(
            first,
            images,
            recipe,
            seed=1,
            options=replace(options, hooks=counting({}, stop=stop), checkpoint=saved),
        )
    state: dict[str, Tensor] = {}
    steps: list[int] = []
    hooks = counting(state)
    shrink = hooks.after_step
    assert shrink is not None

    def noting(model: nn.Module, at: float, step: int) -> None:
        steps.append(step)
        shrink(model, at, step)

    resumed_options = replace(options, hooks=replace(hooks, after_step=noting), checkpoint=saved)
    curve = train(second, images, recipe, seed=1, options=resumed_options)
    assert weights_digest(second) == weights_digest(uninterrupted)
    assert steps == list(range(5 * (stop - 1) + 1, 21))  # the finished epochs are not run again
    assert state["steps"] == 20
    assert curve == expected
    assert len(curve) == (4 if recipe.track else 0)
    third = net()
    finished = replace(options, hooks=counting({}), checkpoint=saved)
    assert train(third, images, recipe, seed=1, options=finished) == expected
    assert weights_digest(third) == weights_digest(uninterrupted)


def test_a_killed_training_resumes_to_the_same_bytes(images: ImageSet, tmp_path: Path) -> None:
    """Kill -9 in the middle of the third epoch."""
    script = f"""
        import os, signal
        from pathlib import Path
        import numpy as np, torch
        from torch import nn
        from evalsuite.types import ImageSet
        from evalsuite.training import checkpoint
        from evalsuite.training.hooks import Hooks
        from evalsuite.training.loop import TrainingOptions, train
        from evalsuite.training.checkpoint import TrainingCheckpoint
        from evalsuite.training.recipe import Recipe
        checkpoint.SAVE_INTERVAL = 0.0
        rng = np.random.default_rng(0)
        images = ImageSet("tiny", rng.integers(0, 256, (18, 3, 8, 8), dtype=np.uint8), np.arange(18) % 3, 3)
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3))
        model = nn.Sequential(*layers, nn.Linear(144, 3)).eval()
        def die(model, at, step):
            if step == 13:
                os.kill(os.getpid(), signal.SIGKILL)
        saved = TrainingCheckpoint(Path({str(tmp_path / "x.training")!r}))
        options = TrainingOptions(hooks=Hooks(after_step=die), checkpoint=saved)
        train(model, images, {RICH!r}, seed=1, options=options)
        """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", dedent(script)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    steps: list[int] = []
    options = TrainingOptions(
        hooks=Hooks(after_step=lambda _, __, step: steps.append(step)),
        checkpoint=TrainingCheckpoint(tmp_path / "x.training"),
    )
    resumed, uninterrupted = net(), net()
    train(resumed, images, RICH, seed=1, options=options)
    assert steps == list(range(11, 21))
    train(uninterrupted, images, RICH, seed=1)
    assert weights_digest(resumed) == weights_digest(uninterrupted)


@pytest.mark.parametrize("other", ["seed", "recipe", "masks", "weights", "digest", "damage"])
def test_the_checkpoint_of_another_training_is_ignored(images: ImageSet, tmp_path: Path, other: str) -> None:
    path = tmp_path / "x.training"
    train(net(), images, RICH, seed=1, options=TrainingOptions(checkpoint=TrainingCheckpoint(path, "a")))
    start, recipe, seed, digest = net(), RICH, 1, "a"
    masks = {"5.weight": torch.arange(3 * 144).view(3, 144) % 2 == 0} if other == "masks" else {}
    if other == "seed":
        seed = 2
    elif other == "recipe":
        recipe = replace(RICH, learning_rate=0.01)
    elif other == "weights":
        start = copy.deepcopy(start)
        with torch.no_grad():
            start.get_parameter("0.bias").add_(1)
    elif other == "digest":
        digest = "b"
    elif other == "damage":
        path.write_bytes(path.read_bytes()[:-7])
    steps: list[int] = []
    hooks = Hooks(after_step=lambda _, __, step: steps.append(step))
    options = TrainingOptions(masks=masks, hooks=hooks, checkpoint=TrainingCheckpoint(path, digest))
    train(start, images, recipe, seed=seed, options=options)
    assert len(steps) == 20


def test_short_trainings_save_nothing(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SAVE_INTERVAL", 1e9)
    train(
        net(),
        images,
        RICH,
        seed=1,
        options=TrainingOptions(checkpoint=TrainingCheckpoint(tmp_path / "x.training")),
    )
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_cannot_be_written_is_an_error(images: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        train(
            net(),
            images,
            RICH,
            seed=1,
            options=TrainingOptions(checkpoint=TrainingCheckpoint(tmp_path / "file" / "x.training")),
        )


def test_parts_of_a_schedule_are_its_steps(images: ImageSet) -> None:
    """Without momentum, half of a schedule and then the other half is all of it, also in mid-epoch."""
    recipe = replace(RICH, momentum=0.0, ema=0.0)
    uninterrupted, halves = net(), net()
    train(uninterrupted, images, recipe, seed=1)
    train(halves, images, recipe, seed=1, options=TrainingOptions(stop=1.4))
    assert weights_digest(halves) != weights_digest(uninterrupted)
    train(halves, images, recipe, seed=1, options=TrainingOptions(start=1.4))
    assert weights_digest(halves) == weights_digest(uninterrupted)


@pytest.mark.parametrize(("start", "stop"), [(3.0, 2.0), (-1.0, None), (5.0, None), (0.0, 4.5)])
def test_a_part_lies_within_the_schedule(images: ImageSet, start: float, stop: float | None) -> None:
    with pytest.raises(UserError, match="expected rising epochs within the recipe's 4"):
        train(net(), images, RICH, seed=1, options=TrainingOptions(start=start, stop=stop))


class TestHooks:
    RECIPE = Recipe(epochs=1, batch_size=18, learning_rate=0.1, weight_decay=0.0, schedule="constant")

    def step(self, images: ImageSet, **calls: Any) -> dict[str, Tensor]:
        model = net()
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        train(model, images, self.RECIPE, seed=0, options=TrainingOptions(hooks=Hooks(**calls)))
        return {name: value.detach() - before[name] for name, value in model.named_parameters()}

    def test_a_penalty_adds_its_gradient(self, images: ImageSet) -> None:
        plain = self.step(images, penalty=lambda _: None)
        pushed = self.step(images, penalty=lambda model: 3 * model.get_parameter("1.weight").sum())
        torch.testing.assert_close(pushed["1.weight"], plain["1.weight"] - 0.1 * 3)
        torch.testing.assert_close(pushed["0.weight"], plain["0.weight"])

    def test_gradients_may_be_changed_before_the_step(self, images: ImageSet) -> None:
        def push(model: nn.Module, at: float) -> None:
            assert at == 0.5
            gradient = model.get_parameter("1.weight").grad
            assert gradient is not None
            gradient.fill_(learning_rate(self.RECIPE, at))

        moved = self.step(images, before_step=push)
        torch.testing.assert_close(moved["1.weight"], torch.full((4,), -0.01))

    def test_order_and_arguments(self, images: ImageSet) -> None:
        calls: list[Any] = []
        hooks = Hooks(
            penalty=lambda _: calls.append("penalty"),
            before_step=lambda _, at: calls.append(("before", at)),
            after_step=lambda _, at, step: calls.append(("after", at, step)),
            after_epoch=lambda model, epochs: calls.append(("epoch", epochs, model.training)),
        )
        recipe = replace(self.RECIPE, epochs=2)
        train(net(), images, recipe, seed=0, options=TrainingOptions(hooks=hooks, start=1.0))
        assert calls == ["penalty", ("before", 1.5), ("after", 1.5, 2), ("epoch", 2, True)]


def test_an_average_is_that_of_its_definition(images: ImageSet) -> None:
    seen: list[dict[str, Tensor]] = []

    def record(model: nn.Module, _: float, __: int) -> None:
        seen.append({name: value.detach().clone() for name, value in model.state_dict().items()})

    model = net()
    expected = {name: value.detach().clone().double() for name, value in model.state_dict().items()}
    train(model, images, RICH, seed=1, options=TrainingOptions(hooks=Hooks(after_step=record)))
    for state in seen:
        for name, value in state.items():
            integer = not value.is_floating_point()
            expected[name] = value if integer else 0.9 * expected[name] + 0.1 * value.double()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name].double(), rtol=0, atol=1e-6)


def test_the_validation_split_selects_the_first_best_epoch(
    images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.2, 0.7, 0.7, 0.1])
    monkeypatch.setattr("evalsuite.training.loop.accuracy", lambda *_: next(scores))
    recipe = replace(RICH, select="validation", track=True, ema=0.0)
    selected, second = net(), net()
    assert train(selected, images, recipe, seed=1, options=TrainingOptions(validation=images)) == (
        0.2,
        0.7,
        0.7,
        0.1,
    )
    train(
        second, images, replace(recipe, select="last", track=False), seed=1, options=TrainingOptions(stop=2)
    )
    assert weights_digest(selected) == weights_digest(second)


def test_the_tracked_curve_is_the_accuracy_of_each_epoch(images: ImageSet) -> None:
    recipe = replace(RICH, ema=0.0)
    validation = replace(images, images=images.images[:7], labels=np.arange(7) % 3)
    curve = train(
        net(), images, replace(recipe, track=True), seed=1, options=TrainingOptions(validation=validation)
    )
    for epoch, share in enumerate(curve, 1):
        model = net()
        train(model, images, recipe, seed=1, options=TrainingOptions(stop=epoch))
        with torch.no_grad():
            guess = model(torch.from_numpy(validation.images).float() / 255).argmax(1).numpy()
        assert share == pytest.approx((guess == validation.labels).mean())


def test_selection_needs_a_validation_split(images: ImageSet) -> None:
    with pytest.raises(UserError, match="but there is none"):
        train(net(), images, replace(RICH, select="validation"), seed=1)
