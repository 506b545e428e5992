"""Engines: what computes the forward passes of prepared models: PyTorch itself, OpenVINO, or CUDA graphs.

One engine serves the parent and all candidates of a run, so that its roundings are no part of their differences. Passes
that need gradients or look inside the network (features, attacks) are PyTorch's with every engine.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from evalsuite.compat.calls import device_of, quiet_imports
from evalsuite.errors import UserError
from evalsuite.models.inference import BATCH_SIZE, InferenceModel, logits, prepare_for_inference
from evalsuite.models.screening import EXACT, SCREENED, HalfModel, precision_gain
from evalsuite.models.screening import GAIN as SCREENING_GAIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalsuite.types import Array, InferencePrecision

EngineName = Literal["eager", "openvino", "cuda-graphs"]
EAGER: EngineName = "eager"
OPENVINO: EngineName = "openvino"
CUDA_GRAPHS: EngineName = "cuda-graphs"

TOLERANCE = 1e-4
"""Difference of two engines' logits, relative to the largest logit, up to which they compute the same function."""
GAIN = 1.1
"""Factor by which an engine must be faster than PyTorch, its preparation of the network included, to be chosen."""
_ROUNDS = 5
_WARM_UPS = 3
_MOST_GRAPHS = 2  # a graph has the memory of a whole pass
_TITLES = {OPENVINO: "OpenVINO", CUDA_GRAPHS: "CUDA graphs"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Engine:
    """The engine of a run, with the probe that chose it.

    Attributes:
        name: ``eager`` for PyTorch with folded batch norms, ``openvino``, or on a card ``cuda-graphs``: PyTorch's
            kernels, of which each pass is launched as one.
        version: Of OpenVINO; empty for PyTorch.
        gain: Time of PyTorch over that of the engine (processor time, but on a card), for all passes of one candidate
            and with the preparation of its network; 0 where nothing was probed.
        difference: Largest difference of logits, relative to the largest logit.
        reason: Why it was chosen.
        precision: ``exact``, or ``screened``: predictions from bfloat16 where they suffice.
        precision_gain: Time of a pass in single precision over that of one in bfloat16; 0 where nothing was probed.
        precision_reason: Why the precision was chosen; empty where the suite asks for no other.
    """

    name: EngineName = EAGER
    version: str = ""
    gain: float = 0.0
    difference: float = 0.0
    reason: str = ""
    precision: InferencePrecision = EXACT
    precision_gain: float = 0.0
    precision_reason: str = ""


class CompiledModel(InferenceModel):
    """A prepared model whose plain passes OpenVINO computes, with torch's number of threads.

    Args:
        prepared: On the CPU.
        precision: ``f32`` or ``bf16``, as OpenVINO calls them.
    """

    def __init__(self, prepared: InferenceModel, *, precision: str = "f32") -> None:
        super().__init__(prepared.model)
        self._precision = precision
        self._programs: dict[tuple[int, ...], Any] = {}

    def forward(self, images: Tensor) -> object:
        """Returns the logits of float images in [0, 1]; PyTorch computes where gradients or hooks are asked for."""
        if not torch.is_inference_mode_enabled() or _has_hooks(self):
            return super().forward(images)
        shape = tuple(images.shape)
        if shape not in self._programs:
            self._programs[shape] = _program(self.model, shape, self._precision)
        (values,) = self._programs[shape](images.numpy(force=True)).values()
        return torch.from_numpy(np.array(values))


class GraphedModel(InferenceModel):
    """A prepared model whose plain passes are CUDA graphs: all kernels of a pass are launched as one.

    A small network on small images waits for launches and not for arithmetic. A graph is recorded at the first batch of
    each shape; those of the last two shapes are kept.

    Args:
        prepared: On a graphics card; in single precision or bfloat16.
    """

    def __init__(self, prepared: InferenceModel) -> None:
        super().__init__(prepared.model)
        self._pass = prepared.forward
        self._graphs: dict[tuple[tuple[int, ...], torch.dtype], _Graph] = {}

    def forward(self, images: Tensor) -> object:
        """Returns the logits of float images in [0, 1]; no graph where gradients or hooks are asked for."""
        if images.device.type != "cuda" or not torch.is_inference_mode_enabled() or _has_hooks(self):
            return self._pass(images)
        kind = tuple(images.shape), images.dtype
        if kind not in self._graphs:
            if len(self._graphs) == _MOST_GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
            self._graphs[kind] = _recorded(self._pass, images)
        graph, inputs, outputs = self._graphs[kind]
        inputs.copy_(images)
        graph.replay()
        return outputs.clone()  # the next pass overwrites it


class _Graph(NamedTuple):
    """A recorded pass, and the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    outputs: Tensor


def _recorded(call: Callable[[Tensor], object], images: Tensor) -> _Graph:
    """Records a pass over images of this shape, after some that are not: libraries then choose their kernels."""
    with torch.cuda.device(images.device):
        inputs, stream = images.clone(), torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's stubs lack it
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                call(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = call(inputs)
    if not isinstance(outputs, Tensor):
        raise TypeError(f"the model returns a {type(outputs).__name__}, expected a tensor of logits (N, K)")
    return _Graph(graph, inputs, outputs)


def _has_hooks(model: nn.Module) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def openvino_version() -> str:
    """Returns the version of OpenVINO; empty where it is not installed."""
    try:
        return version("openvino")
    except PackageNotFoundError:
        return ""


def computed_by(engine: EngineName, prepared: InferenceModel, images: Array) -> InferenceModel:
    """Returns a model that an engine computes, or `prepared` itself where it cannot.

    Args:
        engine: Of the run.
        prepared: On the CPU for OpenVINO, on a graphics card for CUDA graphs.
        images: At least one; its logits on two batches of them must agree with PyTorch's up to `TOLERANCE`.
    """
    if engine == EAGER:
        return prepared
    candidate = (CompiledModel if engine == OPENVINO else GraphedModel)(prepared).eval()
    title = _TITLES[engine]
    try:
        difference = relative_difference(prepared, candidate, images[: 2 * BATCH_SIZE])
    except Exception as error:  # an operator is lacking; code cannot be traced, or waits for the card
        log.info("%s: not for this network (%s): PyTorch computes it", title, error)
        return prepared
    if difference > TOLERANCE:
        log.info("%s: logits differ by %.2g of the largest: PyTorch computes the network", title, difference)
        return prepared
    return candidate


def relative_difference(left: nn.Module, right: nn.Module, images: Array) -> float:
    """Returns the largest difference of two models' logits, relative to the largest logit."""
    device = device_of(left)
    values = logits(left, images, device=device)
    return float(
        np.abs(logits(right, images, device=device) - values).max() / max(float(np.abs(values).max()), 1e-30)
    )


def choose_engine(
    wanted: str,
    model: nn.Module,
    images: Array,
    *,
    passes: int,
    device: torch.device = torch.device("cpu"),  # noqa: B008  # immutable
) -> Engine:
    """Returns the engine of a new run.

    Args:
        wanted: ``eager``, ``openvino`` or ``cuda-graphs``, or ``auto``: on a processor OpenVINO if it is installed, on
            a graphics card CUDA graphs, if a probe shows that they pay.
        model: A network of the suite's architecture, trained or not.
        images: Images that it takes, uint8 or float32 in [0, 1], (N, C, H, W).
        passes: Forward passes of single images that one candidate takes.
        device: Of the run.

    Raises:
        UserError: If an engine is wanted that is not installed or does not take the network.
    """
    if wanted == EAGER:
        return Engine(reason="the suite chose it")
    name = OPENVINO if device.type == "cpu" else CUDA_GRAPHS
    title, installed = _TITLES[name], openvino_version() if name == OPENVINO else ""
    if name == OPENVINO and not installed:
        if wanted == OPENVINO:
            raise UserError('engine = "openvino": it is not installed; pip install "evalsuite[openvino]"')
        return Engine(reason="OpenVINO is not installed")
    prepared = prepare_for_inference(model, device=device)
    candidate, gain = _gain(name, prepared, images, passes)
    if candidate is prepared:
        if wanted == name:
            raise UserError(f'engine = "{name}": it does not compute this network; choose "eager" or "auto"')
        return Engine(reason=f"{title}: not for this network")
    difference = relative_difference(prepared, candidate, images[:BATCH_SIZE])
    if wanted == name:
        return Engine(name, installed, gain, difference, "the suite chose it")
    if gain < GAIN:
        return Engine(EAGER, "", gain, difference, f"{title}: {gain:.2f} times as fast, with preparation")
    return Engine(name, installed, gain, difference, f"{gain:.2f} times as fast, with preparation")


def _gain(
    engine: EngineName, prepared: InferenceModel, images: Array, passes: int
) -> tuple[InferenceModel, float]:
    """The network computed by an engine, and the factor by which all passes of one candidate are faster."""
    clock = time.process_time if device_of(prepared).type == "cpu" else time.perf_counter
    computed_by(engine, prepared, images)  # imports OpenVINO, once in a process
    started = clock()
    candidate = computed_by(engine, prepared, images)
    spent = clock() - started
    plain, ours = (_seconds_per_image(each, images, clock) * passes for each in (prepared, candidate))
    return candidate, plain / (ours + spent)


def half_precision(exact: InferenceModel) -> InferenceModel:
    """Returns a prepared model in bfloat16, computed by the same engine; `exact` itself where it cannot be copied."""
    if isinstance(exact, CompiledModel):
        return CompiledModel(exact, precision="bf16").eval()
    try:
        half = HalfModel(exact).eval()
        return GraphedModel(half).eval() if isinstance(exact, GraphedModel) else half
    except (TypeError, RuntimeError) as error:  # a session or a handle of another runtime
        log.info("the network has no copy in bfloat16: %s", error)
        return exact


def half_gradients(exact: InferenceModel, images: Array) -> InferenceModel:
    """Returns a prepared model whose gradients PyTorch computes in bfloat16; `exact` itself where that does not run.

    Args:
        exact: A prepared model of any engine.
        images: At least one that it takes, uint8 or float32 in [0, 1].
    """
    try:
        half = HalfModel(exact).eval()
        image = (
            torch.from_numpy(np.array(images[:1], np.float32)).div_(255).to(device_of(exact)).requires_grad_()
        )
        with torch.inference_mode(mode=False), torch.enable_grad():
            output = half(image)
            if isinstance(output, Tensor):
                torch.autograd.grad(output.sum(), image)
    except (TypeError, RuntimeError) as error:
        log.info("the network has no gradients in bfloat16: %s", error)
        return exact
    return half


def with_precision(engine: Engine, model: nn.Module, images: Array, device: torch.device) -> Engine:
    """Returns an engine with screened precision, if a probe shows that it pays.

    Args:
        engine: Of the run.
        model: A network of the suite's architecture, trained or not.
        images: Images that it takes, uint8 or float32 in [0, 1], (N, C, H, W).
        device: Where it is computed.
    """
    exact = computed_by(engine.name, prepare_for_inference(model, device=device), images)
    try:
        gain = precision_gain(exact, half_precision(exact), images)
    except (TypeError, RuntimeError) as error:
        return replace(engine, precision_reason=f"the network does not run in bfloat16 ({error})")
    reason = f"bfloat16 is {gain:.2f} times as fast as single precision here"
    if gain < SCREENING_GAIN:
        reason += f"; below {SCREENING_GAIN:g} screening does not pay, and every image is passed in single precision"
        return replace(engine, precision_gain=gain, precision_reason=reason)
    return replace(engine, precision=SCREENED, precision_gain=gain, precision_reason=reason)


def _seconds_per_image(model: InferenceModel, images: Array, clock: Callable[[], float]) -> float:
    """Time of a pass over one image, the fastest of several."""
    batch = np.resize(images[:BATCH_SIZE], (BATCH_SIZE, *images.shape[1:]))
    times = []
    for _ in range(_ROUNDS):
        started = clock()
        logits(model, batch, device=device_of(model))
        times.append((clock() - started) / BATCH_SIZE)
    return min(times)


def _program(model: nn.Module, shape: tuple[int, ...], precision: str) -> Any:
    """Compiles a model for batches of one shape."""
    with quiet_imports(), torch.inference_mode(mode=False), torch.no_grad():  # tracing warns of constants
        import openvino

        graph = openvino.convert_model(model, example_input=torch.zeros(shape), input=[shape])
    settings = {
        "INFERENCE_PRECISION_HINT": precision,  # where the processor has bfloat16, that is the default
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # workers share the processors
    }
    return openvino.Core().compile_model(graph, "CPU", settings)
