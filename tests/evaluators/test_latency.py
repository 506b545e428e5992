"""Latency: the order of timing, the intervals, and that depth costs time and zeros do not save any."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from evalsuite.datasets.base import Place
from evalsuite.datasets.digits import Digits
from evalsuite.datasets.source import ImageSource
from evalsuite.errors import InvalidModelError, SuiteError
from evalsuite.evaluation import Bench
from evalsuite.evaluators import latency
from evalsuite.evaluators.latency import Latency, forward, interleaved
from evalsuite.execution.devices import threads
from evalsuite.execution.measuring import scored
from evalsuite.models.exported.loading import load_program
from evalsuite.models.inference import InferenceModel, prepare_for_inference
from evalsuite.testing import check_evaluator
from evalsuite.types import Score


class Clock:
    """A machine that takes given seconds for each call, multiplied by the factor `slow` of the time."""

    def __init__(self, needs: Sequence[float], slow: Callable[[float], float] = lambda _: 1.0) -> None:
        self.now = 0.0
        self.order: list[int] = []
        self.slow = slow
        self.passes = [partial(self.work, i, need) for i, need in enumerate(needs)]

    def work(self, which: int, need: float) -> None:
        self.order.append(which)
        self.now += need * self.slow(self.now)

    def __call__(self) -> float:
        return self.now


def test_each_round_times_each_network_once_in_alternating_order() -> None:
    clock = Clock([2.0, 3.0])
    found = interleaved(clock.passes, repeats=3, warm_up=2, clock=clock)
    assert found.tolist() == [[2.0, 3.0]] * 3
    assert clock.order == [0, 1, 1, 0, 0, 1, 1, 0, 0, 1]


def test_a_machine_that_gets_slower_hardly_changes_the_ratio() -> None:
    """From the first to the last round ten times as slow: one network after the other would see its slow half."""
    drift = Clock([1.0, 1.0], slow=lambda now: 1 + now / 20)
    found = interleaved(drift.passes, repeats=30, clock=drift)
    assert found[-1, 0] > 10 * found[0, 0]
    assert np.median(found[:, 1]) / np.median(found[:, 0]) == pytest.approx(1, abs=0.06)
    apart = Clock([1.0, 1.0], slow=lambda now: 1 + now / 20)
    first, second = (interleaved([one], repeats=30, clock=apart) for one in apart.passes)
    assert np.median(second) > 3 * np.median(first)


@pytest.fixture(scope="module")
def image_source() -> ImageSource:
    return ImageSource(Digits(), Place())


def bench(model: nn.Module, image_source: ImageSource, parent: nn.Module | None = None) -> Bench:
    return Bench(model, image_source, parent=None if parent is None else Bench(parent, image_source))


def stack(depth: int) -> nn.Module:
    """A network whose time is that of its equal layers."""
    torch.manual_seed(0)
    layers = [part for _ in range(depth) for part in (nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())]
    for part in layers:
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")  # so that images still tell in the end
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    ).eval()


def by_name(scores: Sequence[Score]) -> dict[str, Score]:
    return {score.metric: score for score in scores}


def spent(*models: nn.Module) -> Any:
    """Processor time of each network in each round: what else runs on this machine does not count."""
    batch = torch.rand(32, 3, 32, 32).to(memory_format=torch.channels_last)
    passes = [partial(forward, prepare_for_inference(model), batch) for model in models]
    with threads(1), torch.inference_mode():
        return interleaved(passes, repeats=15, warm_up=2, clock=time.thread_time)


def test_a_network_twice_as_deep_takes_about_twice_as_long() -> None:
    seconds = spent(stack(6), stack(12))
    assert 1.4 < np.median(seconds[:, 1] / seconds[:, 0]) < 2.8


def test_zeros_among_the_weights_save_nothing() -> None:
    dense = stack(6)
    sparse = copy.deepcopy(dense)
    for weight in (part.weight for part in sparse.modules() if isinstance(part, nn.Conv2d)):
        weight.data[torch.rand_like(weight) < 0.95] = 0
    seconds = spent(dense, sparse)
    assert 0.8 < np.median(seconds[:, 1] / seconds[:, 0]) < 1.25


def test_the_scores_of_a_deeper_network(image_source: ImageSource) -> None:
    test = Latency(batch_size=16, repeats=9, warm_up=1)
    with threads(1):
        scores = by_name(scored(test, bench(stack(24), image_source, stack(3))))
    assert set(scores) == {metric.name for metric in test.metrics}
    assert {score.condition for score in scores.values()} == {"batch of 16"}
    assert {score.n for score in scores.values()} == {9}
    value = {name: float(score.value or 0) for name, score in scores.items()}
    assert value["latency_ratio"] > 1.5  # it does eight times the work
    times = scores["latency"].evidence["rounds"]
    assert value["latency"] == np.median(times)
    assert value["latency_lower"] == np.sort(times)[1]  # of nine values: P(Bin(9, 1/2) <= 1) = 0.0195
    assert value["latency_upper"] == np.sort(times)[7]
    assert value["latency_ratio"] == np.median(scores["latency_ratio"].evidence["rounds"])
    assert value["latency_ratio_lower"] <= value["latency_ratio"] <= value["latency_ratio_upper"]
    assert value["throughput"] == pytest.approx(1000 / value["latency"])


def test_a_parent_is_timed_against_itself(image_source: ImageSource) -> None:
    """What its ratio is off 1 is what chance and the machine do to a ratio."""
    model = stack(2)
    mine = bench(model, image_source)
    assert mine.parent.inference_model is mine.inference_model
    assert by_name(scored(Latency(repeats=7), mine))["latency_ratio"].value == pytest.approx(
        1, abs=0.9
    )  # rounds are few, the machine may be busy


def test_what_is_timed_is_what_is_deployed(
    image_source: ImageSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prepared copy that all other numbers are of, batches channels last and in [0, 1], and no gradients."""
    seen: list[tuple[InferenceModel, torch.Tensor, bool]] = []
    monkeypatch.setattr(
        latency, "forward", lambda network, batch: seen.append((network, batch, torch.is_grad_enabled()))
    )
    child = bench(
        nn.Sequential(nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10), nn.Flatten(), nn.LazyLinear(10)), image_source
    )
    child.model(torch.rand(1, 3, 32, 32))
    scored(Latency(batch_size=1000, repeats=7, warm_up=1), child)
    assert len(seen) == 2 * 8
    network, batch, gradients = seen[0]
    assert network is child.inference_model
    assert not any(isinstance(part, nn.BatchNorm2d) for part in network.modules())
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert batch.shape == (1000, 3, 32, 32)  # 899 test images, and the first of them again
    assert torch.equal(batch[0], batch[899])
    assert 0 <= batch.min() < batch.max() <= 1
    assert not gradients


def test_a_busy_machine_is_flagged(image_source: ImageSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "process_time", lambda: 0.0)
    flags = by_name(scored(Latency(repeats=7), bench(stack(1), image_source)))["latency"].flags
    assert "had the processor less than 90% of the time" in flags[0]


def told(parents: Any, times: Any) -> dict[str, Score]:
    """The scores of a batch of one image."""
    return by_name(list(Latency(batch_size=1)._scores(np.column_stack([parents, times]), 1.0)))


def test_the_ratio_is_that_of_the_medians_and_interruptions_do_not_touch_it() -> None:
    """An interrupted pass is ten times as long; fewer than half of each network's are."""
    parents, times = np.full(9, 2.0), np.full(9, 3.0)
    parents[[0, 3, 5]] = 20.0
    times[[1, 2, 6, 8]] = 30.0
    found = told(parents, times)
    value = scored_value(found["latency_ratio"])
    assert value == 1.5
    assert scored_value(found["latency"]) == 3000.0


def scored_value(score: Score) -> float:
    return float(np.median(score.evidence["rounds"]))


def test_an_interval_of_a_ratio_by_hand() -> None:
    """P(Bin(9, 1/2) <= 1) = 0.0195 is above 0.0125: of nine, the ends at 97.5 % are the least and the largest."""
    found = told([2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 4.0], [3.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 6.0])
    assert (found["latency_ratio_lower"].value, found["latency_ratio_upper"].value) == (0.75, 3.0)


def test_an_interval_of_a_ratio_holds_it_as_often_as_it_says() -> None:
    """Two networks whose times depend on each other: the machine's mood, and interruptions of their own."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(1000):
        mood = rng.normal(1, 0.05, 30)
        slow = 1 + 5 * (rng.random((2, 30)) < 0.2)
        low, high = latency.ratio_interval(3 * mood * slow[0], 2 * mood * slow[1])
        held.append(low <= 1.5 <= high)
    assert np.mean(held) >= 0.95


def test_unsteady_times_are_flagged() -> None:
    calm = [1.0, 1.0, 1.05, 1.1, 1.1, 1.0, 1.0]
    assert told(calm, calm)["latency_ratio"].flags == ()
    for one, other in (
        (calm, [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]),
        ([1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0], calm),
    ):
        for name in ("latency", "latency_ratio"):
            assert "more than 20% of the median apart" in told(one, other)[name].flags[0]


def test_a_network_that_does_not_work_has_no_speed(image_source: ImageSource) -> None:
    broken = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10), nn.Softmax(1))
    with pytest.raises(InvalidModelError, match="probabilities"):
        scored(Latency(), bench(broken, image_source))


def test_a_program_has_a_speed_too(image_source: ImageSource, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    network = stack(2)
    path = tmp_path / "network.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an exporter that needs no further package is an old one
        torch.onnx.export(
            network,
            (torch.rand(2, 3, 32, 32),),
            path,
            dynamo=False,
            input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
        )
    program = load_program(path, trust=False)
    scores = by_name(scored(Latency(repeats=7), bench(program, image_source, network)))
    assert float(scores["latency_ratio"].value or 0) > 0


def test_it_keeps_the_contract_of_a_test_that_reads_a_clock() -> None:
    check_evaluator(Latency(repeats=7))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"batch_size": 0}, "latency: found batch_size = 0, expected at least 1"),
        ({"repeats": 6}, "latency: found repeats = 6, expected at least 7"),
        ({"warm_up": -1}, "latency: found warm_up = -1, expected at least 0"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, int], sentence: str) -> None:
    with pytest.raises(SuiteError, match=f"^{sentence}$"):
        Latency(**settings)
