"""Settings that a suite leaves open: number of classes, precision of trainings, source of corrupted images.

They are settled before the plan is made, from the checkpoint, the data, the device and an earlier start of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from evalsuite.config.suite import COUNTED_LATER, Suite
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.transforms.archives import ARCHIVES
from evalsuite.datasets.views import View
from evalsuite.errors import StoreError, UserError
from evalsuite.evaluators import EVALUATORS
from evalsuite.execution.worker import TaskRunner
from evalsuite.models import MODELS
from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.settings import from_settings
from evalsuite.models.checkpoints.architecture_detection import CLASSES, built_without_memory
from evalsuite.models.checkpoints.parent_weights import parent_checkpoint
from evalsuite.models.checkpoints.state_dict_keys import match_keys
from evalsuite.models.exported.inspection import is_program
from evalsuite.plugin_config import from_table
from evalsuite.runs.store import Store
from evalsuite.training.precision import AUTOMATIC, with_precision
from evalsuite.training.recipe import Precision, Recipe

if TYPE_CHECKING:
    from torch import Tensor


def with_automatic_settings(runner: TaskRunner) -> TaskRunner:
    """Returns the runner of a suite in which nothing is left open.

    Args:
        runner: Of the suite as it was read; itself where everything is stated.

    Raises:
        UserError: If a checkpoint that decides a setting cannot be read.
    """
    suite = with_training_precision(with_class_count(runner.suite, runner), runner.device, runner.store)
    if suite is not runner.suite:
        runner = TaskRunner(replace(runner.context, suite=suite))
    if not suite.automatic:
        return runner
    suite = with_corruption_sources(suite, runner.image_source)
    return TaskRunner(replace(runner.context, suite=suite), runner.image_source)


def with_class_count(suite: Suite, runner: TaskRunner) -> Suite:
    """Returns the suite with the number of classes of its network, where the suite leaves it out.

    Args:
        suite: The suite.
        runner: Has its images, and finds its checkpoint.
    """
    table = suite.model.table
    if table["name"] not in COUNTED_LATER or suite.classes_stated:
        return suite
    path = runner.production.checkpoint(suite.seeds[0])
    if path is None or is_program(path):
        classes = _classes_of_images(runner)
    else:
        checkpoint = parent_checkpoint(path, choice=suite.checkpoint_weights, entry=suite.checkpoint_entry)
        classes = classes_of_weights(checkpoint.weights, table)
        if classes is None and table["name"] == "python":
            classes = _classes_of_outputs(table, runner) or _classes_of_images(runner)
    if classes is None:
        return suite
    model = suite.model
    if classes != model.plugin.classes:
        model = from_table(MODELS, {**table, "classes": classes}, where=f"{suite.source}, [model]")
    return replace(suite, model=model, classes_stated=True)


def classes_of_weights(weights: Mapping[str, Tensor], table: Mapping[str, Any]) -> int | None:
    """Returns the length of the head in weights of a network of a library, or of the user's own function.

    Args:
        weights: As `evalsuite.models.checkpoints.reading.read_weights` returns them.
        table: Settings of the network, ``name`` and ``model`` or ``target`` among them.

    Returns:
        ``None`` if the weights have no such head, or several of different lengths.
    """
    try:
        network = built_without_memory({**table, "classes": CLASSES})
    except UserError:
        if table["name"] != "python":
            raise
        try:  # code that computes with its first weights needs them
            network = from_settings({**table, "classes": CLASSES}).network()
        except UserError:  # a function that takes no other number of classes
            return None
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    heads = {name for name, shape in expected.items() if shape and shape[0] == CLASSES}
    present = match_keys(weights, expected)
    lengths = {len(present[name]) for name in heads if name in present and present[name].dim()}
    return lengths.pop() if len(lengths) == 1 and min(lengths) > 1 else None


def _classes_of_outputs(table: Mapping[str, Any], runner: TaskRunner) -> int | None:
    """The logits of a function that has no parameter for their number; ``None`` where it cannot be told."""
    try:
        shape = runner.image_source.images(View()).images.shape[1:]
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            logits = build_model(from_settings({**table, "classes": CLASSES})).eval()(
                torch.zeros((1, *shape))
            )
    except Exception:  # code of the user's own; what is wrong with it is said when it is needed
        return None
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or logits.shape[1] in (1, CLASSES):
        return None
    return int(logits.shape[1])


def _classes_of_images(runner: TaskRunner) -> int | None:
    """The classes of the test images; ``None`` where they cannot be loaded, which is said when they are needed."""
    try:
        images = runner.image_source.images(View())
    except UserError:
        return None
    if images.labels is None:
        return None
    return images.classes if images.rule is None else images.rule.outputs


def with_training_precision(suite: Suite, device: torch.device, store: Store) -> Suite:
    """Returns the suite with a precision for each recipe that leaves it open, and a note of which it is.

    A run that goes on keeps its precision, on whichever machine: trainings in two precisions cannot be compared.

    Args:
        suite: The suite.
        device: Where its networks are trained.
        store: The run folder.
    """
    recipes = {"recipe": suite.recipe, "retraining": suite.retraining, **suite.retrainings}
    chosen = {
        label: with_precision(recipe, device).precision
        for label, recipe in recipes.items()
        if recipe.precision == AUTOMATIC
    }
    if not chosen:
        return suite
    chosen |= {
        label: precision for label, precision in _precisions_of_start(store).items() if label in chosen
    }

    def settled(label: str, recipe: Recipe) -> Recipe:
        return replace(recipe, precision=chosen.get(label, recipe.precision))

    computed = " and ".join(sorted(set(chosen.values())))
    return replace(
        suite,
        recipe=settled("recipe", suite.recipe),
        retraining=settled("retraining", suite.retraining),
        retrainings={label: settled(label, recipe) for label, recipe in suite.retrainings.items()},
        notes=(*suite.notes, f"Training: precision = 'auto' is {computed} here."),
    )


def _precisions_of_start(store: Store) -> dict[str, Precision]:
    """The precisions of an earlier start in this folder, by recipe; none if there was no start."""
    try:
        suite: Mapping[str, Any] = store.record().get("suite", {})
    except StoreError:
        return {}
    tables = {name: suite.get(name) for name in ("recipe", "retraining")} | suite.get("retrainings", {})
    return {label: table["precision"] for label, table in tables.items() if table and "precision" in table}


def with_corruption_sources(suite: Suite, image_source: ImageSource) -> Suite:
    """Returns the suite with a source for each test that leaves it open, and a note of what was chosen.

    Args:
        suite: The suite; its tests with an open source are set to ``generated``.
        image_source: Its images, and the data root where archives are.
    """
    if not suite.automatic:
        return suite
    evaluators, notes = [], list(suite.notes)
    for config in suite.evaluators:
        table = suite.automatic.get(config.label)
        folder = "" if table is None else _archive(table, image_source)
        if table is not None and folder:
            official = {**table, "source": "official"}
            config = from_table(EVALUATORS, official, where=f"{suite.source}, [[evaluators]]")
            notes.append(f"{config.label}: source = 'auto' is the official archive {folder}, which is there.")
        elif table is not None:
            notes.append(
                f"{config.label}: source = 'auto' is generated here: no official archive is in the data root."
            )
        evaluators.append(config)
    return replace(suite, evaluators=tuple(evaluators), notes=tuple(notes))


def _archive(table: Mapping[str, Any], image_source: ImageSource) -> str:
    """The folder of the archive that belongs to the test images, if it is in the data root; else an empty text."""
    published = ARCHIVES.get(image_source.images(View()).name)
    folder = str(table.get("folder") or (published.folder if published else ""))
    root = image_source.place.root
    return folder if folder and root is not None and (root / folder).is_dir() else ""
