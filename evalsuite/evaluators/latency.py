"""Latency: the time of a forward pass, absolute and relative to the parent's."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from evalsuite.compat.calls import unit_images
from evalsuite.datasets.views import View
from evalsuite.errors import SuiteError
from evalsuite.evaluators.base import Condition, DataSummary, Evaluator, declare
from evalsuite.metrics.quantiles import median
from evalsuite.models.inference import BATCH_SIZE, InferenceModel, deterministic_float32
from evalsuite.statistics.intervals import median_interval
from evalsuite.types import Floats, Metric, Score

if TYPE_CHECKING:
    from evalsuite.evaluation import Bench

ROUNDS = "rounds"
"""Name of the rounds in evidence: each times the parent and the candidate once."""
MILLISECONDS = 1000
BUSY = 0.9
"""Share of the processor time that the networks must have had; a flag is set below it."""
SPREAD = 0.2
"""Distance of the quartiles of a network's times, as a share of their median, above which a flag is set."""
LEAST_ROUNDS = 7
"""With fewer rounds there is no interval of the ratio at 95 %."""

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

    Each round times one pass of the parent and one of the candidate over the same batch, in this process, in
    alternating order. A machine that is slow for a while is so for both, so the ratio is more reliable than the
    milliseconds, which are those of this machine. The networks are those of all other numbers: batch norms folded,
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
        for key, least in (("batch_size", 1), ("repeats", LEAST_ROUNDS), ("warm_up", 0)):
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

    def conditions(self, data: DataSummary) -> Iterable[Condition]:  # noqa: ARG002  # the same for all data
        """Yields ``batch of 32``, or whatever its size is."""
        yield from declare(self.metrics, self._condition)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields seven scores on ``batch of 32``, or whatever its size is."""
        bench.outputs(View())  # runs the model checks: an invalid model has no latency
        batch = self._batch(bench)
        passes = [
            partial(forward, network, batch)
            for network in (bench.parent.inference_model, bench.inference_model)
        ]
        start, cpu_start = time.perf_counter(), time.process_time()
        with torch.inference_mode(), deterministic_float32(), _no_garbage_collection():
            seconds = interleaved(passes, repeats=self.repeats, warm_up=self.warm_up)
        cpu_share = (time.process_time() - cpu_start) / (time.perf_counter() - start)
        yield from self._scores(seconds, cpu_share if batch.device.type == "cpu" else 1.0)

    @property
    def _condition(self) -> str:
        return f"batch of {self.batch_size}"

    def _batch(self, bench: Bench) -> Tensor:
        """The first images, again from the beginning where there are fewer."""
        images = bench.images(View()).images
        repeated = np.array(images[np.arange(self.batch_size) % len(images)])
        return unit_images(repeated).to(bench.device, memory_format=torch.channels_last)

    def _scores(self, seconds: Floats, cpu_share: float) -> Iterator[Score]:
        """The scores of the times of parent and candidate, a row for each round."""
        parents, times = (MILLISECONDS / self.batch_size * seconds).T
        ratios = times / float(median(parents))  # their median is the ratio of the medians
        flags = _busy(cpu_share) + _unsteady(seconds)
        ends = {LATENCY.name: median_interval(times), RATIO.name: ratio_interval(times, parents)}
        condition = self._condition
        yield Score(LATENCY.name, condition, evidence={ROUNDS: times}, flags=flags)
        yield Score(RATIO.name, condition, evidence={ROUNDS: ratios}, flags=flags)
        for name, limits in ends.items():
            for end, limit in zip(_ENDS[name], limits, strict=True):
                yield Score(end.name, condition, value=limit, n=len(times))
        throughput = MILLISECONDS / float(median(times))
        yield Score(THROUGHPUT.name, condition, value=throughput, n=len(times))


def ratio_interval(times: Floats, others: Floats) -> tuple[float, float]:
    """Returns an interval for the ratio of two medians, with at least 95 % confidence.

    Its ends are those of two intervals that hold together with 95 %, each with 97.5 % (Bonferroni), whatever the
    dependence between the two.

    >>> ratio_interval(np.arange(2.0, 9.0), np.full(7, 2.0))
    (1.0, 4.0)
    """
    (low, high), (other_low, other_high) = (median_interval(x, level=0.975) for x in (times, others))
    return low / other_high, high / other_low


def interleaved(
    passes: Sequence[Callable[[], object]],
    *,
    repeats: int,
    warm_up: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> Floats:
    """Returns the time of each call in each round, in seconds, (repeats, calls); the order alternates.

    Args:
        passes: The calls.
        repeats: Rounds that count.
        warm_up: Rounds before them.
        clock: Returns the time in seconds.
    """
    seconds: Floats = np.empty((repeats, len(passes)))
    for turn in range(-warm_up, repeats):
        for i in range(len(passes))[:: -1 if turn % 2 else 1]:
            start = clock()
            passes[i]()
            seconds[max(turn, 0), i] = clock() - start  # the first round that counts comes after the warm-up
    return seconds


def forward(network: InferenceModel, batch: Tensor) -> None:
    """Runs one forward pass and waits for its end: kernels on a GPU are asynchronous."""
    network(batch)
    if batch.device.type == "cuda":
        torch.cuda.synchronize(batch.device)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disables the garbage collector, whose pauses would be in the times."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _busy(cpu_share: float) -> tuple[str, ...]:
    if cpu_share >= BUSY:
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
