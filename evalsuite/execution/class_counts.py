"""How many classes a network has where nothing says so: those of its weights' head, or of the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from evalsuite.config.suite import COUNTED_LATER, Suite
from evalsuite.datasets.views import View
from evalsuite.errors import UserError
from evalsuite.models import MODELS
from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.settings import from_settings
from evalsuite.models.checkpoints.architecture_detection import CLASSES, built_without_memory
from evalsuite.models.checkpoints.parent_weights import parent_checkpoint
from evalsuite.models.checkpoints.state_dict_keys import match_keys
from evalsuite.models.exported.inspection import is_program
from evalsuite.plugin_config import from_table

if TYPE_CHECKING:
    from torch import Tensor

    from evalsuite.execution.worker import TaskRunner


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
    model = from_table(MODELS, {**table, "classes": classes}, where=f"{suite.source}, [model]")
    return replace(
        suite, model=model if classes != suite.model.plugin.classes else suite.model, classes_stated=True
    )


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
