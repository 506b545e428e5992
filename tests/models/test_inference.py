from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.errors import DataError, InvalidModelError
from evalsuite.models import inference
from evalsuite.models.inference import (
    evaluation_mode,
    fastest_batch_size,
    logits,
    prepare_for_inference,
    read_ahead,
    staged_batches,
)
from evalsuite.models.probabilities import probabilities_in

if TYPE_CHECKING:
    from pathlib import Path

    from evalsuite.types import Array

Build = Callable[..., nn.Module]


class Answer(nn.Module):
    """Returns what a function makes of the images, whatever they are."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Any:
        return self.function(images)


def pixels(count: int = 70, *, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def row(images: Tensor, *values: float) -> Tensor:
    return torch.tensor([values]).repeat(len(images), 1)


@pytest.mark.parametrize("name", ["small-cnn", "resnet20", "resnet32", "resnet2b"])
def test_logits_are_those_of_the_model_in_double_precision(build: Build, name: str) -> None:
    model, images = build(name), pixels(9)
    computed = logits(model, images, batch_size=4)
    with torch.inference_mode():
        expected = build(name).double()(torch.from_numpy(images).double() / 255).numpy()
    assert computed.dtype == np.float32
    assert computed.shape == (9, 10)
    np.testing.assert_allclose(computed, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_batch_norms_are_folded_in_a_copy(build: Build) -> None:
    model = build("resnet20")
    ready = prepare_for_inference(model)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in ready.modules()) == 0
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == 19
    assert all(parameter.requires_grad for parameter in model.parameters())
    images = pixels()
    assert np.array_equal(logits(ready, images), logits(model, images))


class Awkward(nn.Module):
    """A batch norm that may be folded, and four that may not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.folded = nn.BatchNorm2d(4)
        self.read_twice = nn.Conv2d(4, 4, 1)
        self.after_read_twice = nn.BatchNorm2d(4)
        self.called_twice = nn.Conv2d(4, 4, 1)
        self.after_called_twice = nn.BatchNorm2d(4)
        self.hooked = nn.Conv2d(4, 4, 1)
        self.after_hooked = nn.BatchNorm2d(4)
        self.two_names = nn.Conv2d(4, 4, 1)
        self.features = nn.Sequential(self.two_names, nn.BatchNorm2d(4))
        self.linear = nn.Linear(4, 3)
        self.hooked.register_forward_hook(lambda _module, _inputs, output: output * 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.folded(self.conv(x))
        x = self.read_twice(x)
        x = self.after_read_twice(x) + x
        x = self.called_twice(self.after_called_twice(self.called_twice(x)))
        x = self.features(self.after_hooked(self.hooked(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def test_only_what_is_safe_is_folded() -> None:
    torch.manual_seed(0)
    model = Awkward()
    for _ in range(20):
        model(torch.rand(8, 3, 8, 8) * 5)
    model.eval()
    ready = prepare_for_inference(model).model
    assert isinstance(ready.get_submodule("folded"), nn.Identity)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in ready.modules()) == 4
    images = pixels(8)[:, :, :8, :8]
    with torch.inference_mode():
        expected = model(torch.from_numpy(images) / 255).numpy()
    np.testing.assert_allclose(logits(model, images), expected, rtol=1e-4, atol=1e-5)


def test_a_model_that_cannot_be_traced_or_copied_still_runs(build: Build) -> None:
    inner, images = build("small-cnn"), pixels(5)

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner
            self.lock = threading.Lock()  # cannot be copied

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.inner(x if x.mean() >= 0 else -x)
            return y

    model = Branching().train()
    assert prepare_for_inference(model).model is model
    np.testing.assert_allclose(logits(model, images), logits(inner, images), rtol=1e-4, atol=1e-4)
    assert model.training
    del model.lock
    assert prepare_for_inference(model).model is not model
    np.testing.assert_allclose(logits(model, images), logits(inner, images), rtol=1e-4, atol=1e-4)


def test_a_model_that_views_its_maps_gets_them_in_order() -> None:
    torch.manual_seed(0)
    conv, linear = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 5)

    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = conv, linear

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.linear(self.conv(x).view(len(x), -1))
            return y

    images = pixels(5)[:, :, :8, :8]
    with torch.inference_mode():
        expected = linear(conv(torch.from_numpy(images.copy()) / 255).flatten(1)).numpy()
    ready = prepare_for_inference(Viewing())
    for _ in range(2):
        np.testing.assert_allclose(logits(ready, images), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(RuntimeError, match="shape"):
        logits(Viewing(), pixels(2))


def test_training_mode_is_switched_off_and_restored(build: Build) -> None:
    model, images = build("small-cnn"), pixels(5)
    expected = logits(model, images)
    model.train()
    model.get_submodule("network.layer2").eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert np.array_equal(logits(model, images), expected)
    assert model.training
    assert model.get_submodule("network.layer1").training
    assert not model.get_submodule("network.layer2").training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_evaluation_mode_is_restored_after_an_error() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    with pytest.raises(IndexError), evaluation_mode(model):
        model[0 if model[0].training else 9]
    assert [module.training for module in model.modules()] == [True, True, False]


def test_layouts_and_sources_of_the_same_images_agree(build: Build, tmp_path: Path) -> None:
    model, images = build("small-cnn"), pixels()
    expected = logits(model, images)
    np.save(tmp_path / "nhwc.npy", images.transpose(0, 2, 3, 1))
    mapped = np.load(tmp_path / "nhwc.npy", mmap_mode="r").transpose(0, 3, 1, 2)
    assert np.array_equal(logits(model, mapped), expected)
    floats = images.astype(np.float32) / 255
    floats.flags.writeable = False
    assert np.array_equal(logits(model, floats), expected)


@pytest.mark.parametrize("count", [1, 3, 63, 64, 65])
def test_logits_do_not_depend_on_how_many_images_follow(build: Build, count: int) -> None:
    model, images = build("small-cnn"), pixels()
    assert np.array_equal(logits(model, images[:count]), logits(model, images)[:count])


def test_every_batch_has_the_same_size() -> None:
    sizes: list[int] = []

    def answer(images: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        assert images.is_contiguous(memory_format=torch.channels_last)
        sizes.append(len(images))
        return row(images, 1.0, 2.0)

    assert logits(prepare_for_inference(Answer(answer)), pixels(10), batch_size=4).shape == (10, 2)
    assert set(sizes) == {4}


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda x: (row(x, 1.0, 2.0), None), "returns a tuple, expected a tensor of logits"),
        (lambda x: row(x, 1.0, 2.0)[0], r"returns shape \(2,\) for 4 images"),
        (lambda x: row(x, 1.0, 2.0)[:-1], r"returns shape \(3, 2\) for 4 images"),
        (lambda x: row(x, 1.0), r"returns shape \(4, 1\) for 4 images"),
        (lambda x: row(x, 1.0, 2.0)[..., None], r"returns shape \(4, 2, 1\) for 4 images"),
        (lambda x: row(x, 1.0, float("nan")), "NaN or infinite logits for 6 of 6 images"),
        (lambda x: row(x, 1.0, float("-inf")), "NaN or infinite logits for 6 of 6 images"),
        (lambda x: x.mean((2, 3)).softmax(1), "returns probabilities .* remove its softmax"),
        (lambda x: row(x, 0.25, 0.25, 0.5), "returns probabilities"),
        (lambda x: row(x, 0.0, 1.0).long(), "returns probabilities"),
    ],
)
def test_what_is_no_logits_is_refused(answer: Callable[[Tensor], Any], sentence: str) -> None:
    with pytest.raises(InvalidModelError, match=sentence):
        logits(Answer(answer), pixels(6), batch_size=4)


def softmax_rows(precision: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Probabilities of ten classes for 100 images, as a number of few bits leaves them."""
    rows = torch.randn(100, 10, generator=torch.Generator().manual_seed(0)).mul(4)
    if precision == "sigmoid":
        return rows.sigmoid().numpy()
    soft = rows.softmax(1)
    if precision == "8 bits":
        return (soft.mul(255).round() / 255).numpy()
    return soft.to(getattr(torch, precision)).float().numpy()


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "8 bits", "sigmoid"])
def test_probabilities_of_few_bits_are_no_logits(precision: str) -> None:
    rows = softmax_rows(precision)
    assert abs(rows.sum(1) - 1).max() > 1e-4  # what a test for float32 lets pass
    assert precision in probabilities_in(rows)
    lower = np.where(np.arange(10) == 3, -rows, rows)
    assert not probabilities_in(lower)


def test_one_bad_image_is_enough() -> None:
    def answer(images: Tensor) -> Tensor:
        return torch.log(images.mean((2, 3)))

    images = pixels(6)
    assert logits(Answer(answer), images).shape == (6, 3)
    images[4] = 0
    with pytest.raises(InvalidModelError, match="for 1 of 6 images"):
        logits(Answer(answer), images)


def test_another_number_of_classes_in_another_batch_is_refused() -> None:
    widths = iter(range(2, 99))

    def answer(images: Tensor) -> Tensor:
        return row(images, *range(next(widths)))

    with pytest.raises(InvalidModelError, match="another number of classes"):
        logits(Answer(answer), pixels(6), batch_size=4)


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: x.mean((2, 3)).log_softmax(1),
        lambda x: row(x, 0.25, 0.75) + x.mean((1, 2, 3))[:, None],
        lambda x: row(x, 0.5, 0.4999),
        lambda x: row(x, 1.5, -0.5),
        lambda x: row(x, 3.0, 4.0).half(),
        lambda x: row(x, 3.0, 4.0).bfloat16(),
    ],
)
def test_what_only_looks_like_probabilities_passes(answer: Callable[[Tensor], Any]) -> None:
    computed = logits(Answer(answer), pixels(6), batch_size=4)
    assert computed.dtype == np.float32
    assert len(computed) == 6


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (pixels(3)[0], r"shape \(3, 32, 32\), expected \(N, C, H, W\)"),
        (pixels(3)[:0], r"shape \(0, 3, 32, 32\), expected .* at least one image"),
        (pixels(3).astype(np.float64) / 255, "are float64, expected uint8 in 0..255 or float32"),
        (pixels(3).astype(np.float32), r"images 0 to \d+ range from 0 to 255, expected numbers in \[0, 1\]"),
        (np.full((3, 3, 8, 8), np.nan, np.float32), "range from nan to nan"),
        (np.full((3, 3, 8, 8), -0.5, np.float32), "range from -0.5"),
    ],
)
def test_bad_images_are_refused(build: Build, images: Array, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        logits(build("small-cnn"), images)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_reading_ahead_keeps_the_order_and_loses_nothing(count: int) -> None:
    taken: list[int] = []

    def items() -> Any:
        for item in range(count):
            taken.append(item)
            yield item

    shown = []
    for item in read_ahead(items(), 2):
        shown.append(item)
        assert len(taken) <= item + 4
    assert shown == list(range(count))


def test_an_error_while_reading_ahead_reaches_the_reader() -> None:
    images = np.full((9, 3, 8, 8), 0.5, np.float32)
    images[8] = 2
    with pytest.raises(DataError, match="images 8 to 11 range from"):
        list(read_ahead(inference._batches(images, 4), 2))


def test_batches_for_another_device_are_bytes_and_read_ahead_of_it() -> None:
    """The path of a graphics card on a device without memory; only pinning is left out, which needs a card."""
    images = pixels(10)
    batches = list(staged_batches(images, 4, torch.device("meta")))
    assert [(batch.dtype, tuple(batch.shape), batch.device.type) for batch in batches] == [
        (torch.uint8, (4, 3, 32, 32), "meta")
    ] * 3
    here = list(staged_batches(images, 4, torch.device("cpu")))
    np.testing.assert_array_equal(torch.cat(here)[:10].numpy(), images)


def test_logits_do_not_depend_on_the_batch_size_beyond_rounding(build: Build) -> None:
    model, images = prepare_for_inference(build("resnet20")), pixels(70)
    expected = logits(model, images)
    for size in (1, 7, 64, 256):
        np.testing.assert_allclose(logits(model, images, batch_size=size), expected, rtol=1e-4, atol=1e-5)


class Slow(nn.Module):
    """Costs as much for a batch as for `paid` images, and more beyond them; memory ends at `most`."""

    def __init__(self, clock: list[float], paid: int, most: int) -> None:
        super().__init__()
        self.clock, self.paid, self.most = clock, paid, most

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.clock[0] += max(1.0, len(images) / self.paid)
        return row(images, 1.0, 2.0)


@pytest.mark.parametrize(
    ("paid", "most", "expected"), [(32, 4096, 32), (200, 4096, 256), (4096, 4096, 1024), (4096, 300, 256)]
)
def test_the_probe_takes_the_smallest_batch_that_is_as_fast_and_fits(
    paid: int, most: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("evalsuite.models.inference.time.perf_counter", lambda: clock[0])
    model = inference.InferenceModel(Slow(clock, paid, most).eval())
    assert fastest_batch_size(model, pixels(10), device="cpu") == expected
