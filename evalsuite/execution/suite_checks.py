"""What a suite must be, beside its own text: its network and its tolerances fit its data, its ratios its network.

Everything here is checked while a run is planned, before anything is trained or measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from evalsuite.config.suite import Suite
from evalsuite.datasets.views import View
from evalsuite.errors import EvalsuiteError, SuiteError, first_few
from evalsuite.evaluators.base import Condition, DataSummary
from evalsuite.models.architectures.base import build_model
from evalsuite.models.cost import prunable_parameters
from evalsuite.registry import unknown_name
from evalsuite.tolerances import OTHER_CONDITIONS, parse_limits
from evalsuite.types import ImageSet

if TYPE_CHECKING:
    from torch import nn

    from evalsuite.datasets.source import ImageSource


def check_suite(suite: Suite, image_source: ImageSource) -> None:
    """Checks that the parts of a suite fit each other and the data.

    Args:
        suite: The suite.
        image_source: Its images; the test images are loaded.

    Raises:
        UserError: At the first mistake, in one sentence: what was found, what was expected, what to do.
    """
    images = image_source.images(View())
    model = _network(suite, images)
    _check_ratios(suite, model)
    declared = declared_conditions(suite, image_source)
    _check_tolerances(suite, declared)
    _check_splits(suite, declared)


def declared_conditions(suite: Suite, image_source: ImageSource) -> dict[str, tuple[Condition, ...] | None]:
    """Returns what each evaluator of a suite will report, by label; ``None`` where a plug-in does not declare it.

    Conditions that several tests report for the same metric carry the label of their test, as in results.
    """
    summary = DataSummary.of(
        image_source.images(View()), image_source.condition, control=len(suite.seeds) > 1
    )
    declared = {}
    for config in suite.evaluators:
        conditions = config.plugin.conditions(summary)
        declared[config.label] = None if conditions is None else tuple(conditions)
    return _disambiguated(declared)


def check_condition(
    metric: str, condition: str, declared: dict[str, tuple[Condition, ...] | None], *, where: str
) -> None:
    """Checks that a metric will be reported on a condition, or on a group of conditions.

    Raises:
        SuiteError: If no evaluator of the suite reports it.
    """
    places = _places(metric, declared)
    if places is not None and condition not in places:
        raise SuiteError(f"{where}: {unknown_name(f'condition of metric {metric!r}', condition, places)}")


def _disambiguated(
    declared: dict[str, tuple[Condition, ...] | None],
) -> dict[str, tuple[Condition, ...] | None]:
    labels: dict[tuple[str, str], set[str]] = defaultdict(set)
    for label, conditions in declared.items():
        for place in conditions or ():
            labels[place.metric, place.condition].add(label)
    return {
        label: None
        if conditions is None
        else tuple(
            place
            if len(labels[place.metric, place.condition]) == 1
            else Condition(place.metric, f"{place.condition} ({label})", place.group)
            for place in conditions
        )
        for label, conditions in declared.items()
    }


def _network(suite: Suite, images: ImageSet) -> nn.Module:
    """The suite's network with weights as they are drawn, after it has classified one image."""
    architecture, name = suite.model.plugin, suite.model.name
    where = f"{suite.source}, [model]"
    _check_normalisation(architecture.mean, images, where)
    outputs = images.classes if images.rule is None else images.rule.outputs
    if images.labels is not None and architecture.classes != outputs:
        scored = "" if images.rule is None else f", scored on the logits of a network of {outputs}"
        raise SuiteError(
            f"{where}: found classes = {architecture.classes}, but the data set {images.name!r} has "
            f"{images.classes} classes{scored}; set classes = {outputs}, or name a file with the class of each folder "
            "(class_map) where the network has more"
        )
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            model = build_model(architecture)
            first = torch.zeros((1, *images.images.shape[1:]))
            logits = model.eval()(first)
    except EvalsuiteError:
        raise
    except Exception as error:  # a plug-in may raise anything
        size = "x".join(map(str, images.images.shape[1:]))
        raise SuiteError(
            f"{where}, {name}: cannot classify an image of {size}: {type(error).__name__}: {error}; "
            "choose another model, or fix the plug-in"
        ) from error
    if getattr(logits, "shape", None) != (1, architecture.classes):
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise SuiteError(
            f"{where}, {name}: one image gives outputs of shape {shape}, expected logits "
            f"{(1, architecture.classes)}"
        )
    return model


def _check_normalisation(mean: Sequence[float], images: ImageSet, where: str) -> None:
    """Checks that a mean has a number for each channel of images from 0 to 1."""
    channels = images.images.shape[1]
    if len(mean) != channels:
        example = "--mean {0} --std {0}".format(",".join(["0.5"] * channels))
        raise SuiteError(
            f"{where}: found {len(mean)} numbers in mean and std, but the images of "
            f"{images.name!r} have {channels} channels; give one number for each channel ({example})"
        )
    if max(mean, default=0) > 1:
        raise SuiteError(
            f"{where}: found mean = {max(mean):g}, but pixels are from 0 to 1; divide mean and std by 255"
        )


def _check_ratios(suite: Suite, model: nn.Module) -> None:
    """Neighbouring target ratios must differ by at least one weight, or they mean the same network."""
    if not suite.producers:
        return
    weights = sum(weight.numel() for weight in prunable_parameters(model).values())
    for smaller, larger in pairwise((0.0, *suite.ratios)):
        if (larger - smaller) * weights < 1:
            before = f"{smaller!r} and {larger!r}" if smaller else f"0 and {larger!r}"
            raise SuiteError(
                f"{suite.source}: the ratios {before} differ by less than one of the network's {weights:,} prunable "
                "weights; leave one out"
            )


def _check_tolerances(suite: Suite, declared: dict[str, tuple[Condition, ...] | None]) -> None:
    for metric, tolerance in suite.tolerances.items():
        for name in parse_limits(tolerance):
            if name != OTHER_CONDITIONS:
                check_condition(metric, name, declared, where=f"{suite.source}, [tolerances]: {metric}")


def _check_splits(suite: Suite, declared: dict[str, tuple[Condition, ...] | None]) -> None:
    """Every name of ``[conditions]`` must be measured, or a side would be smaller than it says."""
    if suite.conditions is None or None in declared.values():
        return
    measured = {place.condition for conditions in declared.values() for place in conditions or ()}
    if unused := suite.conditions.unused_names(measured):
        raise SuiteError(
            f"{suite.source}, [conditions]: found {first_few(unused)}, which no evaluator of this suite measures; "
            "expected conditions that one does, corruptions at the severities that it has: leave them out, or measure "
            "them (extra = true adds gaussian_blur, saturate, spatter and speckle_noise)"
        )


def _places(metric: str, declared: dict[str, tuple[Condition, ...] | None]) -> Iterable[str] | None:
    """Conditions and groups on which a metric is reported; ``None`` if a plug-in may report more."""
    if any(conditions is None for conditions in declared.values()):
        return None
    places = [
        place for conditions in declared.values() for place in conditions or () if place.metric == metric
    ]
    return dict.fromkeys(name for place in places for name in (place.condition, place.group) if name)
