"""Why a robust accuracy should be doubted: attacks that fail for the wrong reasons, found out by other attacks.

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

from evalsuite.attacks.backends.autoattack import playable
from evalsuite.attacks.backends.base import misclassified
from evalsuite.attacks.specs import AttackBudget, AttackRunner, AttackSpec, Target, attack_spec, transferred
from evalsuite.compat.calls import frozen_eval
from evalsuite.random_streams import address
from evalsuite.types import Array

Record = dict[tuple[AttackSpec, float], Array]
"""Attack and radius (as the suite has it) to the images that were broken, bool (N,)."""

SHARE = 0.01
"""Share of the images, and more than one of them, from which on an irregularity is one."""
BLACK_BOX_SHARE = 0.002
"""The same where attacks without gradients succeed and those with gradients fail: AutoAttack's mark."""
PROBE_SHARE = 0.02
"""The same for the probe, which is small."""
LARGE = 0.5
"""Linf radius at which every image can be turned into the same grey one."""
LOOK = 32
"""Images whose logits and gradients are looked at although none is attacked again: it costs next to nothing."""
QUERIES = 100
"""Questions of Square to each image of the probe that withstood."""
SATURATED = 24 * math.log(2)
"""Lead of the first logit from which on the others vanish beside it in a float32 softmax."""

_SINGLE = {math.inf: "fgsm", 2.0: "fgm"}
"""The attack of one step in each norm."""


@dataclass(frozen=True)
class ValidityWarnings:
    """Are sentences about attacks in one norm.

    Attributes:
        general: About the model, so about every radius.
        special: About one attack at one radius.
        radius: About the worst case at one radius.
    """

    general: tuple[str, ...] = ()
    special: dict[tuple[str, float], list[str]] = field(default_factory=lambda: defaultdict(list))
    radius: dict[float, list[str]] = field(default_factory=lambda: defaultdict(list))

    def on(self, one: AttackSpec, radius: float) -> tuple[str, ...]:
        """Returns the flags of one attack's score."""
        own = self.special.get((one.name, radius), [])
        return *self.general, *own, *self.radius.get(radius, [])

    def worst(self, radius: float) -> tuple[str, ...]:
        """Returns the flags of the worst case."""
        return *self.general, *self.radius.get(radius, [])


def validity_warnings(target: Target, record: Record, *, force: AttackBudget, probe: int) -> ValidityWarnings:
    """Returns what speaks against the attacks of one norm.

    Args:
        target: What was attacked.
        record: What each attack broke, or had been broken when it was done; at least one with gradients.
        force: How hard they tried.
        probe: Number of images that are attacked again; 0 for none: then the attacks are only compared with
            each other. On at most so many images, or `LOOK`: two passes and a gradient; on those that withstood the
            iterative attack at the middle radius: twice the steps, as many restarts again, noise, `QUERIES`
            questions of Square, as many steps along the margin where no attack followed it, and what PGD makes of
            them on the unpruned network; on all of them: the attack at a large radius.
    """
    general = _gradients(target.first(probe or LOOK))
    found = ValidityWarnings((*general, *(_probed(target, record, force, probe) if probe else ())))
    radii = sorted({radius for _, radius in record})
    for one in {one for one, _ in record}:
        if one.iterative:
            _reversals(one, radii, record, found)
            _single_steps(one, radii, record, found)
    for radius in radii:
        _gradient_free(radius, record, found)
    return found


def _irregular(count: int, total: int, *, share: float) -> bool:
    return count > 1 and count > share * total


def _reversals(one: AttackSpec, radii: list[float], record: Record, found: ValidityWarnings) -> None:
    for small, large in pairwise(radii):
        lost = int((record[one, small] & ~record[one, large]).sum())
        if _irregular(lost, len(record[one, large]), share=SHARE):
            found.special[one.name, large].append(
                f"{one.name} broke {lost} images at radius {small:g} that it did not break at {large:g}."
            )


def _single_steps(one: AttackSpec, radii: list[float], record: Record, found: ValidityWarnings) -> None:
    """In a cascade, where the attack of one step comes second, it only had what the other left: all of that counts."""
    single = attack_spec(_SINGLE[one.order])
    for radius in radii:
        if (single, radius) not in record:
            continue
        hit, quick = record[one, radius], record[single, radius]
        if _irregular(int(quick.sum()) - int(hit.sum()), len(hit), share=SHARE):
            more = int((quick & ~hit).sum())
            found.special[one.name, radius].append(
                f"{single.name} broke {more} images in one step that {one.name} did not break in many."
            )


def _gradient_free(radius: float, record: Record, found: ValidityWarnings) -> None:
    white = [hit for (one, at), hit in record.items() if at == radius and not one.black_box]
    for (one, at), hit in record.items():
        if at == radius and one.black_box and white:
            more = int((hit & ~np.logical_or.reduce(white)).sum())
            if _irregular(more, len(hit), share=BLACK_BOX_SHARE):
                found.radius[radius].append(
                    f"{one.name} broke {more} images without gradients that no attack with gradients broke."
                )


def _gradients(target: Target) -> Iterator[str]:
    """What the model says and how it slopes at the images as they are."""
    with frozen_eval(target.model) as device:
        labels = target.labels.to(device)
        images = target.images.to(device).clone().requires_grad_()
        logits = target.model(images)
        again = target.model(images).detach()
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        (slope,) = torch.autograd.grad(loss, images)
        unequal = misclassified(target.model, images.detach(), labels).cpu().numpy() == target.right
    total = len(labels)
    flat = slope.flatten(1)
    flats = int((~flat.isfinite().all(1) | (flat == 0).all(1)).sum())
    if _irregular(flats, total, share=SHARE):
        yield f"The gradient is zero or not finite on {flats} of {total} images."
    top = logits.detach().topk(2, dim=1).values
    sure = int((top[:, 0] - top[:, 1] > SATURATED).sum())
    if 2 * sure > total:
        yield f"The softmax is saturated in float32 on {sure} of {total} images."
    if not torch.equal(logits.detach(), again):
        yield f"Two passes over the same {total} images differ: the model is random where it is attacked."
    if unequal.any():
        yield (
            f"With radius 0 the attack sees another class than the clean test on {int(unequal.sum())} of "
            f"{total} images."
        )


def _probed(target: Target, record: Record, force: AttackBudget, probe: int) -> Iterator[str]:
    """What other attacks find on the images that withstood."""
    iterative = [one for one, _ in record if one.iterative]
    if not iterative:
        return
    one = iterative[0]
    radii = sorted({radius for _, radius in record})
    radius = radii[len(radii) // 2]
    few = target.first(probe)
    total = len(few.labels)
    fallen = np.logical_or.reduce([hit[:total] for (_, at), hit in record.items() if at <= radius])
    epsilon = radius if one.order == 2 else radius / 255
    left = few.right & ~fallen
    if left.any():
        tried = {weapon for weapon, _ in record}
        for attacker, again, strength, words in _trials(few, one, force, tried):
            hits = attacker.broken(again, epsilon, force=strength, among=left) & left
            yield from _fell(int(hits.sum()), total, radius, words)
        if few.parent is not None:
            count = int((transferred(few, one.order, epsilon, force=force) & left).sum())
            yield from _fell(count, total, radius, "the adversarials of the unpruned network")
    yield from _large(few, one, force)


def _trials(
    few: Target, one: AttackSpec, force: AttackBudget, tried: Collection[AttackSpec]
) -> Iterator[tuple[AttackRunner, AttackSpec, AttackBudget, str]]:
    """Who attacks again, with what, how hard, and what it is called."""
    other = AttackRunner(replace(few, seed=address(few.seed, "probe")))
    prefix = "l2-" if one.order == 2 else ""
    yield AttackRunner(few), one, force.doubled(), f"twice the steps of {one.name}"
    yield other, one, force, f"as many restarts of {one.name} again"
    if few.images.shape[-2] > 4:
        asking = replace(force, queries=QUERIES)
        yield other, attack_spec(f"{prefix}square"), asking, f"{QUERIES} questions without gradients"
    if one.order != 2:
        yield other, attack_spec("linf-noise"), force, f"{force.steps} draws of random noise"
    if playable("apgd-dlr", classes=few.classes) and not any(map(_follows_margins, tried)):
        margin, short = attack_spec(f"{prefix}apgd-dlr"), replace(force, iterations=force.steps, restarts=1)
        yield other, margin, short, f"{force.steps} steps of {margin.name}, along the margin"


def _follows_margins(one: AttackSpec) -> bool:
    """Whether an attack follows the margin, whose slope large logits cannot make vanish."""
    return one.plain in ("apgd-dlr", "apgd-t")


def _fell(count: int, total: int, radius: float, words: str) -> Iterator[str]:
    if _irregular(count, total, share=PROBE_SHARE):
        yield f"Of {total} images, {count} that withstood radius {radius:g} fell to {words}."


def _large(few: Target, one: AttackSpec, force: AttackBudget) -> Iterator[str]:
    """Nothing withstands a radius at which every image can become any other's equal."""
    epsilon = LARGE * math.sqrt(few.images[0].numel()) if one.order == 2 else LARGE
    right = ~AttackRunner(few).broken(one, epsilon, force=force)
    total = len(right)
    count = int(right.sum())
    if _irregular(count - math.ceil(total / few.classes), total, share=SHARE):
        yield (
            f"At radius {epsilon:.3g}, where every image can be turned grey, {count} of {total} images "
            f"withstood {one.name}."
        )
