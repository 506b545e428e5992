"""The matrix of informative pixels over ratios: who recognises an image by the pixels that another network needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch

from evalsuite.datasets.views import View
from evalsuite.errors import UserError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.accuracy import CONTROL
from evalsuite.evaluators.pixels import PARENT, confidences, mean_colour, unit_images
from evalsuite.execution.production import Production
from evalsuite.random_streams import address
from evalsuite.registry import unknown_name
from evalsuite.runs.digests import control_of
from evalsuite.runs.store import Key, Store
from evalsuite.types import DENSE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalsuite.config.suite import Suite
    from evalsuite.datasets.source import ImageSource
    from evalsuite.evaluators.pixels import Pixels
    from evalsuite.results.run import Run

RATIOS = (0.15, 0.46, 0.69, 0.80, 0.98)
"""Ratios of the published matrix; the nearest that were tested are shown."""


def pixel_matrix(
    run: Run,
    suite: Suite,
    image_source: ImageSource,
    *,
    method: str,
    pixels: Pixels,
    ratios: Sequence[float] = RATIOS,
) -> pd.DataFrame:
    """Returns the mean confidence in the true class of each network that sees only the pixels another one needs.

    Args:
        run: A finished run of the suite, whose networks are read from its folder.
        suite: The suite.
        image_source: Its images.
        method: Label of a producer.
        pixels: How pixels are selected: images, share and step.
        ratios: Of the method's candidates of the first seed, the nearest ones to these.

    Returns:
        A row for each network that chose the pixels and a column for each that sees them: ``parent``, the candidates by
        their measured ratios, and ``control``, the next seed's parent, where there are several seeds.

    Raises:
        UserError: If the run has no candidates of the method.

    References:
        Liebenwein et al. 2021, arXiv 2103.03014, section 3: 7 networks, the first 250 test images.
    """
    seed = suite.seeds[0]
    keys = {PARENT: Key(DENSE, seed, 0.0)}
    pruned = [key for key in run.candidates if key.method == method and key.seed == seed]
    if not pruned or method == DENSE:
        methods = [name for name in dict.fromkeys(key.method for key in run.candidates) if name != DENSE]
        raise UserError(unknown_name("method of this run", method, methods))
    for wanted in ratios:
        nearest = min(pruned, key=lambda key: abs(run.candidates[key].ratio - wanted))
        keys[f"{run.candidates[nearest].ratio:.4g}"] = nearest
    if (other := control_of(seed, suite.seeds)) is not None:
        keys[CONTROL] = Key(DENSE, other, 0.0)
    production = Production(suite, Store(run.path), image_source, device=torch.device("cpu"))
    networks = {
        name: Bench(
            production.sound_module(key, run.candidates[key]), image_source, seed=address(seed, "bench")
        )
        for name, key in keys.items()
    }
    view = View(first=pixels.images)
    images = unit_images(image_source.images(view).images)
    fill, labels = mean_colour(networks[PARENT], images), networks[PARENT].outputs(view).true_labels
    selected = {name: pixels.selected(network, images, fill) for name, network in networks.items()}
    return pd.DataFrame(
        {
            name: [confidences(network, images, mask, (fill, labels)).mean() for mask in selected.values()]
            for name, network in networks.items()
        },
        index=pd.Index(selected, name="pixels of"),
    )
