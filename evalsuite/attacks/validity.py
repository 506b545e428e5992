"""Attack validity: warnings where a robust accuracy may be the failure of the attack, found by other attacks.

References:
    Carlini et al. 2019, "On evaluating adversarial robustness", arXiv 1902.06705; Athalye et al. 2018,
    "Obfuscated gradients give a false sense of security", arXiv 1802.00420; Pintor et al. 2022, "Indicators of
    attack failure", arXiv 2106.09947.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch

from evalsuite.attacks.backends.autoattack import available_component
from evalsuite.attacks.backends.base import misclassified
from evalsuite.attacks.specs import (
    AttackBudget,
    AttackRunner,
    AttackSpec,
    Target,
    attack_spec,
    transfer_attack,
)
from evalsuite.compat.calls import frozen_eval
from evalsuite.random_streams import address
from evalsuite.types import Array

AttackOutcomes = dict[tuple[AttackSpec, float], Array]
"""Attack and radius, in the unit of the suite, to whether each image is misclassified, bool (N,)."""

SHARE = 0.01
"""Share of the images, and more than one of them, above which an irregularity is reported."""
BLACK_BOX_SHARE = 0.002
"""The same where attacks without gradients succeed and those with gradients fail, as in AutoAttack."""
PROBE_SHARE = 0.02
"""The same for the probe, which is small."""
LARGE = 0.5
"""Linf radius at which every image can be turned into the same grey one."""
GRADIENT_PROBE = 32
"""Images whose logits and gradients are checked although none is attacked again: that is cheap."""
QUERIES = 100
"""Queries of Square for each image of the probe that is still classified correctly."""
SATURATED = 24 * math.log(2)
"""Lead of the first logit above which the others vanish beside it in a float32 softmax."""

_SINGLE_STEP = {math.inf: "fgsm", 2.0: "fgm"}
"""The attack of one step in each norm."""


@dataclass(frozen=True)
class ValidityWarnings:
    """Warnings about the attacks in one norm, one sentence each.

    Attributes:
        model: About the model, so about every attack and radius.
        attacks: About one attack at one radius.
        radii: About the worst case at one radius.
    """

    model: tuple[str, ...] = ()
    attacks: dict[tuple[str, float], list[str]] = field(default_factory=lambda: defaultdict(list))
    radii: dict[float, list[str]] = field(default_factory=lambda: defaultdict(list))

    def on(self, spec: AttackSpec, radius: float) -> tuple[str, ...]:
        """Returns the flags of one attack's score."""
        return *self.model, *self.attacks.get((spec.name, radius), []), *self.radii.get(radius, [])

    def on_worst_case(self, radius: float) -> tuple[str, ...]:
        """Returns the flags of the worst case over attacks."""
        return *self.model, *self.radii.get(radius, [])


def validity_warnings(
    target: Target, outcomes: AttackOutcomes, *, budget: AttackBudget, probe: int
) -> ValidityWarnings:
    """Returns the warnings about the attacks of one norm.

    Args:
        target: What was attacked.
        outcomes: The images that are misclassified after each attack, at least one with gradients; in a cascade
            after all attacks up to it.
        budget: Of the attacks.
        probe: Number of images that are attacked again; 0 for none: then the attacks are only compared with
            each other. On at most so many images, or `GRADIENT_PROBE`: two passes and a gradient; on those that are
            still classified correctly after the attacks at the middle radius: twice the steps, as many restarts
            again, noise, `QUERIES` queries of Square, as many steps along the margin where no attack followed it,
            and the adversarials of PGD on the unpruned network; on all of them: the attack at a large radius.
    """
    model = _gradient_warnings(target.first(probe or GRADIENT_PROBE))
    warnings = ValidityWarnings(
        (*model, *(_probe_warnings(target, outcomes, budget, probe) if probe else ()))
    )
    radii = sorted({radius for _, radius in outcomes})
    for spec in {spec for spec, _ in outcomes}:
        if spec.iterative:
            _compare_radii(spec, radii, outcomes, warnings)
            _compare_with_single_step(spec, radii, outcomes, warnings)
    for radius in radii:
        _compare_with_black_box(radius, outcomes, warnings)
    return warnings


def _irregular(count: int, total: int, *, share: float) -> bool:
    return count > 1 and count > share * total


def _compare_radii(
    spec: AttackSpec, radii: list[float], outcomes: AttackOutcomes, warnings: ValidityWarnings
) -> None:
    for small, large in pairwise(radii):
        lost = int((outcomes[spec, small] & ~outcomes[spec, large]).sum())
        if _irregular(lost, len(outcomes[spec, large]), share=SHARE):
            warnings.attacks[spec.name, large].append(
                f"{spec.name} broke {lost} images at radius {small:g} that it did not break at {large:g}."
            )


def _compare_with_single_step(
    spec: AttackSpec, radii: list[float], outcomes: AttackOutcomes, warnings: ValidityWarnings
) -> None:
    """In a cascade, where the attack of one step comes second, all of its successes count: it had no other images."""
    single = attack_spec(_SINGLE_STEP[spec.order])
    for radius in radii:
        if (single, radius) not in outcomes:
            continue
        many_steps, one_step = outcomes[spec, radius], outcomes[single, radius]
        if _irregular(int(one_step.sum()) - int(many_steps.sum()), len(many_steps), share=SHARE):
            more = int((one_step & ~many_steps).sum())
            warnings.attacks[spec.name, radius].append(
                f"{single.name} broke {more} images in one step that {spec.name} did not break in many."
            )


def _compare_with_black_box(radius: float, outcomes: AttackOutcomes, warnings: ValidityWarnings) -> None:
    here = {spec: wrong for (spec, at), wrong in outcomes.items() if at == radius}
    white_box = [wrong for spec, wrong in here.items() if not spec.black_box]
    for spec, wrong in here.items():
        if spec.black_box and white_box:
            more = int((wrong & ~np.logical_or.reduce(white_box)).sum())
            if _irregular(more, len(wrong), share=BLACK_BOX_SHARE):
                warnings.radii[radius].append(
                    f"{spec.name} broke {more} images without gradients that no attack with gradients broke."
                )


def _gradient_warnings(target: Target) -> Iterator[str]:
    """Warnings about the logits and gradients on the clean images."""
    with frozen_eval(target.model) as device:
        labels = target.labels.to(device)
        images = target.images.to(device).clone().requires_grad_()
        logits = target.model(images)
        again = target.model(images).detach()
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
        unequal = misclassified(target.model, images.detach(), labels).cpu().numpy() == target.correct
    total = len(labels)
    flat = gradient.flatten(1)
    unusable = int((~flat.isfinite().all(1) | (flat == 0).all(1)).sum())
    if _irregular(unusable, total, share=SHARE):
        yield f"The gradient is zero or not finite on {unusable} of {total} images."
    top = logits.detach().topk(2, dim=1).values
    saturated = int((top[:, 0] - top[:, 1] > SATURATED).sum())
    if 2 * saturated > total:
        yield f"The softmax is saturated in float32 on {saturated} of {total} images."
    if not torch.equal(logits.detach(), again):
        yield f"Two passes over the same {total} images differ: the model is random where it is attacked."
    if unequal.any():
        yield (
            f"With radius 0 the attack sees another class than the clean test on {int(unequal.sum())} of "
            f"{total} images."
        )


def _probe_warnings(
    target: Target, outcomes: AttackOutcomes, budget: AttackBudget, probe: int
) -> Iterator[str]:
    """Warnings where other attacks succeed on images that are still classified correctly."""
    iterative = [spec for spec, _ in outcomes if spec.iterative]
    if not iterative:
        return
    spec = iterative[0]
    radii = sorted({radius for _, radius in outcomes})
    radius = radii[len(radii) // 2]
    part = replace(target.first(probe), gradient_model=None)  # so that they find what less precision misses
    total = len(part.labels)
    wrong = np.logical_or.reduce([hit[:total] for (_, at), hit in outcomes.items() if at <= radius])
    epsilon = radius if spec.order == 2 else radius / 255
    robust = part.correct & ~wrong
    if robust.any():
        tried = {attack for attack, _ in outcomes}
        for runner, other, other_budget, text in _probe_attacks(part, spec, budget, tried):
            hits = runner.misclassified(other, epsilon, budget=other_budget, among=robust) & robust
            yield from _probe_warning(int(hits.sum()), total, radius, text)
        if part.parent is not None:
            count = int((transfer_attack(part, spec.order, epsilon, budget=budget) & robust).sum())
            yield from _probe_warning(count, total, radius, "the adversarials of the unpruned network")
    yield from _large_radius_warning(part, spec, budget)


def _probe_attacks(
    part: Target, spec: AttackSpec, budget: AttackBudget, tried: Collection[AttackSpec]
) -> Iterator[tuple[AttackRunner, AttackSpec, AttackBudget, str]]:
    """The attacks on the probe: their runner, kind, budget and description."""
    reseeded = AttackRunner(replace(part, seed=address(part.seed, "probe")))
    prefix = "l2-" if spec.order == 2 else ""
    yield AttackRunner(part), spec, budget.doubled(), f"twice the steps of {spec.name}"
    yield reseeded, spec, budget, f"as many restarts of {spec.name} again"
    if part.images.shape[-2] > 4:
        queries = replace(budget, queries=QUERIES)
        yield reseeded, attack_spec(f"{prefix}square"), queries, f"{QUERIES} queries without gradients"
    if spec.order != 2:
        yield reseeded, attack_spec("linf-noise"), budget, f"{budget.steps} draws of random noise"
    if available_component("apgd-dlr", classes=part.classes) and not any(map(_follows_margins, tried)):
        margin = attack_spec(f"{prefix}apgd-dlr")
        short = replace(budget, iterations=budget.steps, restarts=1)
        yield reseeded, margin, short, f"{budget.steps} steps of {margin.name}, along the margin"


def _follows_margins(spec: AttackSpec) -> bool:
    """Whether the loss of an attack is a margin, whose gradient does not vanish where logits are large."""
    return spec.component in ("apgd-dlr", "apgd-t")


def _probe_warning(count: int, total: int, radius: float, text: str) -> Iterator[str]:
    if _irregular(count, total, share=PROBE_SHARE):
        yield f"Of {total} images, {count} that were robust at radius {radius:g} were broken by {text}."


def _large_radius_warning(part: Target, spec: AttackSpec, budget: AttackBudget) -> Iterator[str]:
    """A warning if images are classified correctly at a radius at which every image can be turned into any other."""
    epsilon = LARGE * math.sqrt(part.images[0].numel()) if spec.order == 2 else LARGE
    robust = ~AttackRunner(part).misclassified(spec, epsilon, budget=budget)
    total = len(robust)
    count = int(robust.sum())
    if _irregular(count - math.ceil(total / part.classes), total, share=SHARE):
        yield (
            f"At radius {epsilon:.3g}, where every image can be turned grey, {count} of {total} images "
            f"were robust to {spec.name}."
        )
