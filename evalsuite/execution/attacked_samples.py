"""Attacked images for the report: as they are, the perturbation magnified, and what the model then sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from evalsuite.attacks.specs import AttackSpec, Target, attack_spec
from evalsuite.compat.calls import unit_images
from evalsuite.datasets.pictures import encode_png
from evalsuite.datasets.views import View
from evalsuite.errors import EvalsuiteError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.attack import Attack
from evalsuite.execution.production import Production
from evalsuite.random_streams import address
from evalsuite.runs.store import Key, Store
from evalsuite.types import DENSE, Picture

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
    test = next((config.plugin for config in suite.evaluators if isinstance(config.plugin, Attack)), None)
    spec = None if test is None else next(_usable(test), None)
    seed = suite.seeds[0]
    if test is None or spec is None or Key(DENSE, seed, 0.0) not in run.candidates:
        return []
    ladders: dict[str, list[Key]] = {}
    for key in run.candidates:
        if key.seed == seed:
            ladders.setdefault(key.method, []).append(key)
    production = Production(suite, Store(run.path), image_source, device=torch.device("cpu"))
    pictures: list[Picture] = []
    for key in (ladder[len(ladder) // 2] for ladder in ladders.values()):
        try:
            bench = Bench(
                production.module(key, run.candidates[key]), image_source, seed=address(seed, "bench")
            )
            bench.batch_size = suite.resources.batch_size or bench.batch_size
            pictures += _pictures(key, bench, test, spec)
        except (EvalsuiteError, RuntimeError):
            continue  # the reason is in the cell that has no number
    return pictures


def _usable(test: Attack) -> Iterator[AttackSpec]:
    specs = [attack_spec(name) for name in test.attacks]
    fixed = [spec for spec in specs if spec.kind == "fixed-radius" and not spec.black_box and spec.order != 2]
    return iter(sorted(fixed, key=lambda spec: spec.name != "linf-pgd"))


def _pictures(key: Key, bench: Bench, test: Attack, spec: AttackSpec) -> Iterator[Picture]:
    from evalsuite.attacks.backends import foolbox

    radius = test.radii(spec.order)[-1]
    target = _target(bench)
    restarts = test.restarts if spec.iterative else 1
    attack = foolbox.FixedRadiusAttack(spec.name, radius / 255, test.steps, restarts=restarts)
    hit = foolbox.attack_success(target.model, target.images, target.labels, attack=attack, seed=target.seed)
    broken = np.flatnonzero(hit.misclassified.cpu().numpy() & target.correct)
    if not len(broken):
        return
    first = int(broken[0])
    clean, adversarial = (batch[first].cpu().numpy() for batch in (target.images, hit.adversarials))
    class_name = bench.images(View()).class_name
    with torch.no_grad():
        seen = int(bench.inference_model(hit.adversarials[first : first + 1]).argmax())
    who = "parent" if key.method == DENSE else f"{key.method} at {100 * key.target_ratio:.3g} %"
    row = f"{who}: {spec.name}/{radius:g}:255"
    yield Picture("attack", row, class_name(int(target.labels[first])), "", encode_png(clean))
    yield Picture("attack", row, "perturbation", "grey is none", encode_png(_magnified(clean, adversarial)))
    yield Picture("attack", row, f"taken for {class_name(seen)}", "", encode_png(adversarial))


def _target(bench: Bench) -> Target:
    """The first images alone: no pass over the others is needed."""
    view = View(first=IMAGES)
    outputs = bench.outputs(view)
    return Target(
        model=bench.inference_model,
        images=unit_images(np.array(bench.images(view).images)),
        labels=torch.from_numpy(np.array(outputs.true_labels, dtype=np.int64)),
        correct=outputs.correct,
        classes=bench.classes,
        seed=bench.seed,
    )


def _magnified(clean: Array, adversarial: Array) -> Array:
    """The perturbation, stretched so that the largest change is black or white, on grey."""
    change = adversarial - clean
    return (0.5 + 0.5 * change / max(float(np.abs(change).max()), 1e-12)).astype(np.float32)
