"""The context of a producer: first and earlier weights, batches, and a history that follows the models."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from evalsuite.errors import SkippedError, UserError
from evalsuite.models.architectures.cnn import SmallCNN
from evalsuite.models.batch_norm import reestimate_batch_norms
from evalsuite.models.cost import cost, weights_digest
from evalsuite.producers.base import Context
from evalsuite.producers.unstructured.base import apply_masks, prunable_weights
from evalsuite.training import checkpoint
from evalsuite.training.checkpoint import TrainingCheckpoint
from evalsuite.training.hooks import Hooks
from evalsuite.training.loop import TrainingOptions, train, training_seed
from evalsuite.training.origin import Origin
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet, Phase

LONG = Recipe(epochs=3, batch_size=32, learning_rate=0.05, schedule="step", milestones=(2,))
PARENT = Phase("pretraining", 3, 96, 1, "0.05, x0.1 at 2", "x")


@pytest.fixture
def origin() -> Origin:
    return Origin(SmallCNN(widths=(4, 4, 8, 8)), 7, LONG)


@pytest.fixture
def context(few: ImageSet, quick: Recipe, origin: Origin) -> Context:
    return Context(few, quick, seed=3, origin=origin, initial_history=(PARENT,))


def test_fresh_weights_are_the_parents_first_ones(context: Context, origin: Origin) -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    first, second = context.fresh(), context.fresh()
    assert torch.equal(torch.get_rng_state(), before)
    assert first is not second
    assert weights_digest(first) == weights_digest(second) == weights_digest(context.rewound(0))
    assert first.training
    assert weights_digest(replace(origin, seed=8).initial()) != weights_digest(first)
    from_checkpoint = replace(context, origin=replace(origin, recipe=None))
    assert weights_digest(from_checkpoint.fresh()) == weights_digest(first)


def test_rewound_weights_are_those_of_the_parents_training(
    context: Context, few: ImageSet, origin: Origin
) -> None:
    after_each_epoch: list[str] = []
    parent = origin.initial()
    hooks = Hooks(after_epoch=lambda model, _: after_each_epoch.append(weights_digest(model)))
    train(parent, few, LONG, seed=training_seed(7, "parent"), options=TrainingOptions(hooks=hooks))
    assert [weights_digest(context.rewound(epoch)) for epoch in (1, 2, 3)] == after_each_epoch
    assert weights_digest(context.rewound(3)) == weights_digest(parent)
    half = context.rewound(1.4)  # one of the three steps of the second epoch
    assert weights_digest(half) not in after_each_epoch
    assert context.rewound(1) is not context.rewound(1)


def test_a_parent_that_cannot_be_rewound_is_skipped(context: Context, origin: Origin) -> None:
    with pytest.raises(SkippedError, match="read from a checkpoint"):
        replace(context, origin=replace(origin, recipe=None)).rewound(1)
    with pytest.raises(SkippedError, match=r"found epoch 4 to rewind to, expected one of the parent's 3"):
        context.rewound(4)
    with pytest.raises(SkippedError, match="how the parent was built is unknown"):
        replace(context, origin=None).fresh()


def test_batches_are_addressed_and_plain(context: Context, few: ImageSet) -> None:
    assert few.labels is not None
    images, labels = context.batch(10)
    again, _ = context.batch(10)
    other, _ = context.batch(10, "next")
    assert images.shape == (10, *few.images.shape[1:])
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert torch.equal(images, again)
    assert not torch.equal(images, other)
    training_set = {(image.tobytes(), label) for image, label in zip(few.images, few.labels, strict=True)}
    rows = (images * 255).round().to(torch.uint8).numpy()
    assert {(row.tobytes(), int(label)) for row, label in zip(rows, labels, strict=True)} <= training_set
    assert len({row.tobytes() for row in rows}) == 10
    assert len(context.batch(1000)[0]) == 96


def test_per_class_is_balanced(context: Context) -> None:
    images, labels = context.per_class(3)
    assert labels.tolist() == [c for c in range(10) for _ in range(3)]
    assert len(images) == 30
    assert torch.equal(images, context.per_class(3)[0])
    assert not torch.equal(images, context.per_class(3, "next")[0])
    with pytest.raises(UserError, match=r"has a class with \d+ training images, but 50 of each"):
        context.per_class(50)


def test_retraining_is_the_recipe_at_its_address(context: Context, few: ImageSet, quick: Recipe) -> None:
    retrained, expected = context.fresh(), context.fresh()
    context.retrain(retrained, 0.5)
    train(expected, few, quick, seed=training_seed(3, "retrain", 0.5))
    assert weights_digest(retrained) == weights_digest(expected)
    other = context.fresh()
    context.retrain(other, 0.6)
    assert weights_digest(other) != weights_digest(retrained)


@pytest.mark.parametrize("phase", ["pruning", "retraining"])
def test_a_training_that_prunes_keeps_its_last_epoch(
    context: Context, few: ImageSet, phase: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best one on the validation split would be one from before the pruning."""
    falling = iter([0.9, 0.8, 0.7] * 2)
    monkeypatch.setattr("evalsuite.training.loop.accuracy", lambda *_: next(falling))
    with_validation, models = replace(context, validation=few), []
    recipes = (replace(LONG, select="validation", track=True), replace(LONG, track=True))
    for recipe in recipes:
        model = with_validation.fresh()
        with_validation.fit(model, 0.5, recipe=recipe, hooks=Hooks(phase=phase))
        models.append(model)
    first, second = map(weights_digest, models)
    assert (first == second) == (phase == "pruning")
    assert [with_validation.history(model)[-1].curve for model in models] == [(0.9, 0.8, 0.7)] * 2


class TestHistory:
    def test_records_what_a_training_was_and_cost(self, context: Context, few: ImageSet) -> None:
        model = context.fresh()
        macs = cost(model, few.images.shape[1:]).macs
        assert macs is not None
        context.fit(model, 0.5, recipe=LONG, start=0.5, hooks=Hooks())
        (phase,) = context.history(model)
        assert (phase.what, phase.epochs, phase.images) == ("pruning", 2.5, 96)
        assert phase.macs == 3 * macs * 96 * 2.5
        assert phase.rates == "0.05, x0.1 at 2, from epoch 0.5"
        assert phase.stage == 2  # the rest of the first epoch, and the second
        model = context.rewound(1.5)
        assert (context.history(model)[0].what, context.history(model)[0].stage) == ("pretraining", 2)
        assert context.history(context.rewound(1))[0].stage == 1

    def test_equal_schedules_have_equal_digests(self, context: Context) -> None:
        recipes = [
            LONG,
            replace(LONG, batch_size=16, weight_decay=0.1),
            replace(LONG, schedule="piecewise", gamma=0.5, rates=(0.005,)),
            replace(LONG, milestones=(1,)),
            replace(LONG, learning_rate=0.04),
        ]
        digests = []
        for recipe in recipes:
            model = context.fresh()
            context.fit(model, 0.5, recipe=recipe)
            digests.append(context.history(model)[0].schedule)
        assert digests[0] == digests[1] == digests[2]
        assert len(set(digests)) == 3

    def test_all_else_of_a_recipe_has_a_digest_of_its_own(self, context: Context) -> None:
        recipes = [
            LONG,
            replace(
                LONG, milestones=(1,), learning_rate=0.04, epochs=2, track=False
            ),  # the digest of the schedule has the rates
            replace(LONG, batch_size=16),
            replace(LONG, momentum=0.8),
            replace(LONG, ema=0.9),
        ]
        digests = []
        for recipe in recipes:
            model = context.fresh()
            context.fit(model, 0.5, recipe=recipe)
            digests.append(context.history(model)[0].rest)
        assert digests[0] == digests[1]
        assert len(set(digests)) == 4

    def test_records_the_accuracy_of_the_pruned_network_before_and_after(
        self, context: Context, few: ImageSet
    ) -> None:
        """By hand: weights that a mask takes are gone, norms as they are; then norms of the training images."""
        validation = replace(few, images=few.images[:50], labels=few.labels[:50])  # type: ignore[index]  # are there
        with_validation = replace(context, validation=validation)
        model = context.rewound(3)
        for _ in range(8):
            context.retrain(model, 0.1)  # it has learned something
        masks = {
            f"{name}.weight": weight.abs() > weight.abs().median()
            for name, weight in prunable_weights(model).items()
        }
        pruned = copy.deepcopy(model)
        apply_masks(pruned, masks)
        with_validation.fit(model, 0.5, masks=masks)
        phase = with_validation.history(model)[-1]

        def accuracy(network: nn.Module) -> float:
            with torch.no_grad():
                guess = network(torch.from_numpy(validation.images).float() / 255).argmax(1).numpy()
            return float((guess == validation.labels).mean())

        assert (phase.before, phase.after) == (accuracy(pruned), accuracy(model))
        assert phase.recalibrated == accuracy(reestimate_batch_norms(pruned, few.images))
        assert len({phase.before, phase.recalibrated, phase.after}) > 1
        without_validation = copy.deepcopy(pruned)
        context.fit(without_validation, 0.5, masks=masks)
        unmeasured = context.history(without_validation)[-1]
        assert (unmeasured.before, unmeasured.recalibrated, unmeasured.after) == (None, None, None)
        assert weights_digest(without_validation) == weights_digest(model)  # measuring changes nothing

    def test_without_norms_there_is_nothing_to_recalibrate(self, context: Context, few: ImageSet) -> None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
        with_validation = replace(context, validation=few)
        with_validation.retrain(model, 0.5)
        phase = with_validation.history(model)[-1]
        assert phase.before is not None
        assert phase.recalibrated is None

    def test_follows_copies_and_leaves_other_ratios_out(self, context: Context) -> None:
        model = context.fresh()
        context.retrain(model, 0.5)
        step = copy.deepcopy(model)
        context.retrain(step, 0.6)
        context.retrain(context.fresh(), 0.7)
        assert [phase.what for phase in context.history(step)] == ["retraining", "retraining"]
        assert len(context.history(model)) == 1

    def test_of_a_model_without_a_record_is_all_that_was_trained(self, context: Context) -> None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
        assert context.history(model) == (PARENT,)
        context.retrain(context.fresh(), 0.5)
        context.retrain(model, 0.5)
        assert [phase.what for phase in context.history(model)] == ["pretraining", "retraining", "retraining"]

    def test_of_rewound_weights_is_that_of_their_mask(self, context: Context) -> None:
        trained, rewound = context.fresh(), context.rewound(1)
        assert [(phase.what, phase.epochs) for phase in context.history(rewound)] == [("pretraining", 1)]
        context.retrain(trained, 0.5)
        context.inherit_history(rewound, trained)
        assert context.history(rewound) == context.history(trained)


def test_each_training_of_a_ratio_keeps_its_own_progress(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SAVE_INTERVAL", 0.0)
    saving = replace(context, progress=TrainingCheckpoint(tmp_path, "code"))
    model = saving.fresh()
    for ratio in (0.5, 0.5, 0.6):
        saving.retrain(model, ratio)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["0.5.0.training", "0.5.1.training", "0.6.0.training"]
    steps: list[int] = []
    resuming = replace(context, progress=TrainingCheckpoint(tmp_path, "code"))
    resumed = resuming.fresh()
    hooks = Hooks(after_step=lambda _, __, step: steps.append(step), phase="retraining")
    for ratio in (0.5, 0.5, 0.6):
        resuming.fit(resumed, ratio, hooks=hooks)
    assert not steps  # all of it was finished
    assert weights_digest(resumed) == weights_digest(model)
    assert resuming.history(resumed) == saving.history(model)


def test_names_of_the_last_release_still_work_with_a_warning(context: Context) -> None:
    trained, rewound = context.fresh(), context.rewound(1)
    context.retrain(trained, 0.5)
    with pytest.warns(DeprecationWarning, match=r"^Context\.credit is now Context\.inherit_history$"):
        context.credit(rewound, trained)
    assert context.history(rewound) == context.history(trained)
    with pytest.warns(DeprecationWarning, match=r"^Context\.lineage is now Context\.initial_history$"):
        assert context.lineage == (PARENT,)
