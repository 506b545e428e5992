"""How long a forward pass takes, beside the parent's."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from evalsuite.compat.calls import unit_images
from evalsuite.datasets.views import View
from evalsuite.errors import SuiteError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.base import Evaluator
from evalsuite.metrics.quantiles import median
from evalsuite.models.inference import BATCH_SIZE, Prepared, single_precision
from evalsuite.statistics.intervals import median_interval
from evalsuite.types import Floats, Metric, Score

ROUNDS = "rounds"
"""Name of the rounds in evidence: each times the parent and the candidate once."""
MILLISECONDS = 1000
BUSY = 0.9
"""Share of the time that a network must have had the processor."""
SPREAD = 0.2
"""Distance of the quartiles of a network's times, as a share of their median, from which on they tell little."""
LEAST = 7
"""Fewer rounds have no interval of the ratio at 95 %."""

_HOW = "in rounds that time parent and candidate in turn; as deployed: batch norms folded, channels last"
LATENCY = Metric(
    "latency", higher_is_better=False, unit="ms per image", functional="median",
    text=f"Time of a forward pass divided by the images of a batch: median over rounds, {_HOW}.",
)  # fmt: skip
RATIO = Metric(
    "latency_ratio", higher_is_better=False, unit="1", functional="median",
    text=f"Latency of the candidate divided by that of its parent: medians over the same rounds, {_HOW}. Below 1 is "
    "faster; of a parent it is that of the parent timed against itself, 1 but for chance.",
)  # fmt: skip
THROUGHPUT = Metric(
    "throughput", higher_is_better=True, unit="images per second",
    text="1000 divided by the latency in milliseconds per image.",
)  # fmt: skip


def _end(metric: Metric, which: str) -> Metric:
    text = f"{which.capitalize()} end of the 95 % interval of {metric.name} over rounds (order statistics)."
    return Metric(f"{metric.name}_{which}", higher_is_better=None, unit=metric.unit, text=text)


_ENDS = {
    metric.name: tuple(_end(metric, which) for which in ("lower", "upper")) for metric in (LATENCY, RATIO)
}


@dataclass(frozen=True)
class Latency(Evaluator):
    """Time of a forward pass, in milliseconds per image and relative to the parent's.

    Each round times one pass of the parent and one of the candidate over the same batch, in this process; who is
    first alternates. A machine that is slow for a while is so for both, so the ratio is what to believe, and the
    milliseconds are those of this machine. They are the networks that all other numbers are of: batch norms folded,
    channels last, single precision, on the suite's number of threads (programs of onnxruntime on one), the batch on
    the device already. Zeros among weights are multiplied like other numbers, so unstructured sparsity gains nothing.

    It is the one test that is not deterministic: numbers differ from run to run and from machine to machine.

    Attributes:
        batch_size: Images per forward pass.
        repeats: Rounds that count.
        warm_up: Rounds before them that do not.
    """

    measures_time: ClassVar[bool] = True

    batch_size: int = BATCH_SIZE
    repeats: int = 30
    warm_up: int = 5

    def __post_init__(self) -> None:
        for key, least in (("batch_size", 1), ("repeats", LEAST), ("warm_up", 0)):
            if getattr(self, key) < least:
                raise SuiteError(f"latency: found {key} = {getattr(self, key)}, expected at least {least}")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Latency and its ratio to the parent's with their intervals, and throughput."""
        return LATENCY, *_ENDS[LATENCY.name], RATIO, *_ENDS[RATIO.name], THROUGHPUT

    @property
    def needs(self) -> tuple[View, ...]:
        """The clean test images."""
        return (View(),)

    @property
    def extra_images(self) -> int:
        """The batches of all rounds, of two networks."""
        return 2 * (self.warm_up + self.repeats) * self.batch_size

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields seven scores on ``batch of 32``, or whatever its size is."""
        bench.outputs(View())  # the gates come first: a network that does not work has no speed
        batch = self._batch(bench)
        passes = [
            partial(forward, network, batch)
            for network in (bench.parent.inference_model, bench.inference_model)
        ]
        begun = time.perf_counter(), time.process_time()
        with torch.inference_mode(), single_precision(), _uncollected():
            seconds = interleaved(passes, repeats=self.repeats, warm_up=self.warm_up)
        shared = (time.process_time() - begun[1]) / (time.perf_counter() - begun[0])
        yield from self._scores(seconds, shared if batch.device.type == "cpu" else 1.0)

    def _batch(self, bench: Bench) -> Tensor:
        """The first images, again from the beginning where there are fewer."""
        every = bench.images(View()).images
        chosen = np.array(every[np.arange(self.batch_size) % len(every)])
        return unit_images(chosen).to(bench.device, memory_format=torch.channels_last)

    def _scores(self, seconds: Floats, shared: float) -> Iterator[Score]:
        """What the times of the parent and of the candidate say, a row for each round."""
        parents, times = (MILLISECONDS / self.batch_size * seconds).T
        ratios = times / float(median(parents))  # their median is the ratio of the medians
        flags = _busy(shared) + _unsteady(seconds)
        ends = {LATENCY.name: median_interval(times), RATIO.name: ratio_interval(times, parents)}
        found = [Score(LATENCY.name, "", evidence={ROUNDS: times}, flags=flags)]
        found.append(Score(RATIO.name, "", evidence={ROUNDS: ratios}, flags=flags))
        for name, limits in ends.items():
            pairs = zip(_ENDS[name], limits, strict=True)
            found += [Score(end.name, "", value=limit, n=len(times)) for end, limit in pairs]
        found.append(Score(THROUGHPUT.name, "", value=MILLISECONDS / float(median(times)), n=len(times)))
        yield from (replace(score, condition=f"batch of {self.batch_size}") for score in found)


def ratio_interval(times: Floats, others: Floats) -> tuple[float, float]:
    """Returns an interval that holds the ratio of two medians with at least 95 %.

    Its ends are those of two intervals that hold together with 95 %, each with 97.5 % (Bonferroni): how the two depend
    on each other does not matter.

    >>> ratio_interval(np.arange(2.0, 9.0), np.full(7, 2.0))
    (1.0, 4.0)
    """
    (low, high), (least, most) = (median_interval(one, level=0.975) for one in (times, others))
    return low / most, high / least


def interleaved(
    passes: Sequence[Callable[[], object]],
    *,
    repeats: int,
    warm_up: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> Floats:
    """Returns how long each call took in each round, in seconds, (repeats, calls); the order turns every round.

    Args:
        passes: What to time.
        repeats: Rounds that count.
        warm_up: Rounds before them.
        clock: Tells the time in seconds.
    """
    seconds: Floats = np.empty((repeats, len(passes)))
    for turn in range(-warm_up, repeats):
        for i in range(len(passes))[:: -1 if turn % 2 else 1]:
            begun = clock()
            passes[i]()
            seconds[max(turn, 0), i] = clock() - begun  # the first round that counts comes after the warm-up
    return seconds


def forward(network: Prepared, batch: Tensor) -> None:
    """Does one forward pass, to its end: a graphics card only takes orders otherwise."""
    network(batch)
    if batch.device.type == "cuda":
        torch.cuda.synchronize(batch.device)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Keeps the collector of garbage out of the times."""
    wanted = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if wanted:
            gc.enable()


def _busy(shared: float) -> tuple[str, ...]:
    if shared >= BUSY:
        return ()
    return (
        f"something else was running: the networks had the processor less than {BUSY:.0%} of the time, so they are "
        "slower here than they are.",
    )


def _unsteady(seconds: Floats) -> tuple[str, ...]:
    low, middle, high = np.quantile(seconds, (0.25, 0.5, 0.75), axis=0)
    if (high - low <= SPREAD * middle).all():
        return ()
    return (f"times vary: the quartiles over the rounds are more than {SPREAD:.0%} of the median apart.",)
