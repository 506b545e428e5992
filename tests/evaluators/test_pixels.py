from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.errors import SuiteError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.pixels import Pixels, backward_selection, mean_colour
from evalsuite.execution.measuring import scored
from evalsuite.models.architectures.base import Normalized
from evalsuite.types import ImageSet

SIDE = 4
FILL = np.array([0.2, 0.4, 0.6], np.float32)
rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (6, 3, SIDE, SIDE), dtype=np.uint8)


class Layers(nn.Module):
    """A dense network over all pixels; linear with `hidden` = 0."""

    def __init__(self, seed: int, *, hidden: int = 0, classes: int = 2) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        sizes = [3 * SIDE * SIDE, *([hidden] if hidden else []), classes]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=random) / parameter.shape[-1] ** 0.5

    def forward(self, images: Tensor) -> Tensor:
        values = images.flatten(1) * 3
        for layer in self.layers[:-1]:
            values = torch.tanh(layer(values))
        logits: Tensor = self.layers[-1](values)
        return logits


def planted(planting: Any, model: nn.Module, *, parent: Bench | None = None, classes: int = 2) -> Bench:
    images = ImageSet("planted", IMAGES, np.arange(len(IMAGES)) % classes, classes)
    return Bench(model, planting.data(test=images), parent=parent)


def probabilities(model: nn.Module, image: Any) -> Any:
    with torch.no_grad():
        return torch.softmax(model(torch.from_numpy(image[None])).double(), dim=1)[0].numpy()


def slow(model: nn.Module, image: Any) -> list[tuple[int, int]]:
    """The definition, one image at a time: which pixel is masked first, second, ..."""
    target = probabilities(model, image).argmax()
    current, left, gone = image.copy(), [(y, x) for y in range(SIDE) for x in range(SIDE)], []
    while left:
        chances = []
        for y, x in left:
            tried = current.copy()
            tried[:, y, x] = FILL
            chances.append(probabilities(model, tried)[target])
        best = left.pop(int(np.argmax(chances)))
        current[:, best[0], best[1]] = FILL
        gone.append(best)
    return gone


@pytest.mark.parametrize("index", [0, 1])
def test_one_pixel_a_round_is_the_published_procedure(planting: Any, index: int) -> None:
    model, image = Layers(1, hidden=8, classes=3), IMAGES[index].astype(np.float32) / 255
    order = backward_selection(planted(planting, model, classes=3), image, FILL)
    assert sorted(order.ravel().tolist()) == list(range(SIDE**2))
    assert [tuple(np.argwhere(order == k)[0].tolist()) for k in range(SIDE**2)] == slow(model, image)


@pytest.mark.parametrize("step", [1, 3, 5, 16, 99])
def test_in_a_linear_network_pixels_go_in_the_order_of_what_they_add(planting: Any, step: int) -> None:
    """Two classes and no interaction: the order is known, and the same however many go at once."""
    model, image = Layers(2), IMAGES[3].astype(np.float32) / 255
    weight = model.layers[0].get_parameter("weight").detach().numpy().reshape(2, 3, SIDE, SIDE)
    target = int(probabilities(model, image).argmax())
    adds = ((weight[target] - weight[1 - target]) * (image - FILL[:, None, None])).sum(axis=0)
    order = backward_selection(planted(planting, model), image, FILL, step=step)
    assert order.ravel().tolist() == np.argsort(np.argsort(adds.ravel())).tolist()


def test_candidate_and_parent_choose_and_see(planting: Any) -> None:
    models = {"parent": Layers(3, hidden=8, classes=3), "candidate": Layers(4, hidden=8, classes=3)}
    parent = planted(planting, models["parent"], classes=3)
    bench = planted(planting, models["candidate"], parent=parent, classes=3)
    scores = {(one.metric, one.condition): one for one in scored(Pixels(images=4, share=0.25, step=1), bench)}
    fill = mean_colour(bench, IMAGES[:4].astype(np.float32) / 255)
    for chooser, network in (("candidate", bench), ("parent", parent)):
        seen = (IMAGES[:4] / np.float32(255)).astype(np.float32)
        for image in seen:
            order = backward_selection(network, image.copy(), fill)
            image[:, order < SIDE**2 - 4] = fill[:, None]
        for name, model in models.items():
            score = scores["pixel_confidence", f"{name} on pixels of {chooser}"]
            expected = [probabilities(model, image)[k % 3] for k, image in enumerate(seen)]
            np.testing.assert_allclose(score.evidence["test[:4]"], expected, atol=1e-6)
            assert (score.n, score.group) == (4, "pixels")
    transfer = scores["pixel_transfer", "pixels of parent"]
    assert transfer.value == scores["pixel_confidence", "candidate on pixels of parent"].value
    assert len({score.value for score in scores.values()}) == 4
    assert len(scores) == 5


def test_with_all_pixels_every_network_sees_the_image(planting: Any) -> None:
    model = Layers(5, hidden=8)
    bench = planted(planting, model)
    scores = {one.condition: one for one in scored(Pixels(images=3, share=1.0, step=8), bench)}
    expected = [probabilities(model, IMAGES[k].astype(np.float32) / 255)[k % 2] for k in range(3)]
    for score in scores.values():
        np.testing.assert_allclose(score.evidence["test[:3]"], expected, atol=1e-6)


def test_masked_pixels_have_the_mean_colour(planting: Any) -> None:
    known = planted(planting, Normalized(Layers(6), mean=FILL.tolist(), std=[0.2, 0.2, 0.2]))
    images = IMAGES.astype(np.float32) / 255
    np.testing.assert_array_equal(mean_colour(known, images), FILL)
    other = planted(planting, Layers(6), parent=known)
    np.testing.assert_array_equal(mean_colour(other, images), FILL)
    np.testing.assert_allclose(
        mean_colour(planted(planting, Layers(6)), images), images.mean(axis=(0, 2, 3)), atol=1e-6
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"images": 0}, "counts from 1 on"),
        ({"step": 0}, "counts from 1 on"),
        ({"share": 0.0}, "found share = 0.0"),
        ({"share": 1.5}, "found share = 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings: Any, sentence: str) -> None:
    with pytest.raises(SuiteError, match=sentence):
        Pixels(**settings)


def test_a_control_is_a_third_network_and_parents_choose_once(planting: Any, monkeypatch: Any) -> None:
    from evalsuite.evaluators import pixels

    models = [Layers(seed, hidden=8, classes=3) for seed in (3, 4, 7)]
    parent, control = (planted(planting, model, classes=3) for model in (models[0], models[2]))
    parent.set_control(control)
    chosen: list[Bench] = []
    select = pixels.backward_selection

    def counted(network: Bench, *rest: Any, **more: Any) -> Any:
        chosen.append(network)
        return select(network, *rest, **more)

    monkeypatch.setattr(pixels, "backward_selection", counted)
    test = Pixels(images=2, share=0.25, step=4)
    for _ in range(2):
        bench = planted(planting, models[1], parent=parent, classes=3)
        scores = {one.condition: one for one in scored(test, bench)}
        assert len(scores) == 3 * 3 + 1
    assert chosen.count(parent) == chosen.count(control) == 2
    assert len(chosen) == 2 * 4
    swapped = planted(planting, models[2], parent=planted(planting, models[0], classes=3), classes=3)
    for one in scored(test, swapped):  # a candidate that is the control sees what the control sees
        named = one.condition.replace("candidate", "control")
        if one.metric == "pixel_confidence":
            assert scores[named].value == pytest.approx(one.value)
