"""Attacked images for the report: as they are, the perturbation magnified, and what the model then sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from evalsuite.attacks.specs import AttackSpec, Target, attack_spec
from evalsuite.compat.calls import unit_images
from evalsuite.config.suite import DENSE
from evalsuite.datasets.pictures import encode_png
from evalsuite.datasets.views import View
from evalsuite.errors import EvalsuiteError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.attack import Attack
from evalsuite.execution.production import Production
from evalsuite.random_streams import address
from evalsuite.runs.store import Key, Store
from evalsuite.types import Picture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evalsuite.config.suite import Suite
    from evalsuite.datasets.source import ImageSource
    from evalsuite.results.run import Run
    from evalsuite.types import Array

IMAGES = 32
"""The first test images: among them one is shown that the attack breaks."""


def attacked(run: Run, suite: Suite, image_source: ImageSource) -> list[Picture]:
    """Returns an attacked image for the parent and for the middle candidate of each method, of the first seed.

    The attack is the suite's own, with its settings at its largest radius, and its random starts are those of the
    measurement. A model that it cannot break among the first images, or that has no gradients, is left out.
    """
    test = next((one.plugin for one in suite.evaluators if isinstance(one.plugin, Attack)), None)
    arms = None if test is None else next(_usable(test), None)
    seed = suite.seeds[0]
    if test is None or arms is None or Key(DENSE, seed, 0.0) not in run.candidates:
        return []
    ladders: dict[str, list[Key]] = {}
    for key in run.candidates:
        if key.seed == seed:
            ladders.setdefault(key.method, []).append(key)
    production = Production(suite, Store(run.path), image_source, device=torch.device("cpu"))
    found: list[Picture] = []
    for key in (ladder[len(ladder) // 2] for ladder in ladders.values()):
        try:
            bench = Bench(
                production.module(key, run.candidates[key]), image_source, seed=address(seed, "bench")
            )
            found += _pictures(key, bench, test, arms)
        except (EvalsuiteError, RuntimeError):
            continue  # what stopped the attack is told where it has no number
    return found


def _usable(test: Attack) -> Iterator[AttackSpec]:
    arms = [attack_spec(name) for name in test.attacks]
    fixed = [one for one in arms if one.kind == "fixed" and not one.black_box and one.order != 2]
    return iter(sorted(fixed, key=lambda one: one.name != "linf-pgd"))


def _pictures(key: Key, bench: Bench, test: Attack, arms: AttackSpec) -> Iterator[Picture]:
    from evalsuite.attacks.backends import foolbox

    radius = test.radii(arms.order)[-1]
    aim = _target(bench)
    restarts = test.restarts if arms.iterative else 1
    attack = foolbox.Attack(arms.name, radius / 255, test.steps, restarts=restarts)
    hit = foolbox.attack_success(aim.model, aim.images, aim.labels, attack=attack, seed=aim.seed)
    fallen = np.flatnonzero(hit.broken.cpu().numpy() & aim.right)
    if not len(fallen):
        return
    first = int(fallen[0])
    clean, found = (one[first].cpu().numpy() for one in (aim.images, hit.images))
    called = bench.images(View()).called
    with torch.no_grad():
        seen = int(bench.inference_model(hit.images[first : first + 1]).argmax())
    who = "parent" if key.method == DENSE else f"{key.method} at {100 * key.target_ratio:.3g} %"
    row = f"{who}: {arms.name}/{radius:g}:255"
    yield Picture("attack", row, called(int(aim.labels[first])), "", encode_png(clean))
    yield Picture("attack", row, "perturbation", "grey is none", encode_png(_magnified(clean, found)))
    yield Picture("attack", row, f"taken for {called(seen)}", "", encode_png(found))


def _target(bench: Bench) -> Target:
    """The first images alone: no pass over the others is needed."""
    view = View(first=IMAGES)
    outputs = bench.outputs(view)
    return Target(
        model=bench.inference_model,
        images=unit_images(np.array(bench.images(view).images)),
        labels=torch.from_numpy(np.array(outputs.known, dtype=np.int64)),
        right=outputs.correct,
        classes=bench.classes,
        seed=bench.seed,
    )


def _magnified(clean: Array, found: Array) -> Array:
    """The perturbation, stretched so that the largest change is black or white, on grey."""
    change = found - clean
    return (0.5 + 0.5 * change / max(float(np.abs(change).max()), 1e-12)).astype(np.float32)
