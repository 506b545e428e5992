"""Engines: what computes the forward passes of prepared models, PyTorch itself or OpenVINO.

One engine serves the parent and all candidates of a run, so that its roundings are no part of their differences. Passes
that need gradients or look inside the network (features, attacks) are PyTorch's with every engine.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from evalsuite.compat.calls import quiet_imports
from evalsuite.errors import UserError
from evalsuite.models.inference import BATCH_SIZE, InferenceModel, logits, prepare_for_inference
from evalsuite.models.screening import EXACT, SCREENED, HalfModel, precision_gain
from evalsuite.models.screening import GAIN as SCREENING_GAIN

if TYPE_CHECKING:
    from evalsuite.types import Array, InferencePrecision

EngineName = Literal["eager", "openvino"]
EAGER: EngineName = "eager"
OPENVINO: EngineName = "openvino"

TOLERANCE = 1e-4
"""Difference of two engines' logits, relative to the largest logit, up to which they compute the same function."""
GAIN = 1.1
"""Factor by which an engine must be faster than PyTorch, its preparation of the network included, to be chosen."""
_ROUNDS = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Engine:
    """The engine of a run, with the probe that chose it.

    Attributes:
        name: ``eager`` for PyTorch with folded batch norms, or ``openvino``.
        version: Of OpenVINO; empty for PyTorch.
        gain: Processor time of PyTorch over that of the engine, for all passes of one candidate and with the
            preparation of its network; 0 where nothing was probed.
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
        if not torch.is_inference_mode_enabled() or self._has_hooks():
            return super().forward(images)
        shape = tuple(images.shape)
        if shape not in self._programs:
            self._programs[shape] = _program(self.model, shape, self._precision)
        (values,) = self._programs[shape](images.numpy(force=True)).values()
        return torch.from_numpy(np.array(values))

    def _has_hooks(self) -> bool:
        return any(module._forward_hooks or module._forward_pre_hooks for module in self.modules())


def openvino_version() -> str:
    """Returns the version of OpenVINO; empty where it is not installed."""
    try:
        return version("openvino")
    except PackageNotFoundError:
        return ""


def compiled(prepared: InferenceModel, images: Array) -> InferenceModel:
    """Returns a model that OpenVINO computes, or `prepared` itself where it cannot.

    Args:
        prepared: On the CPU.
        images: At least one; its logits on them must agree with PyTorch's up to `TOLERANCE`.
    """
    candidate = CompiledModel(prepared).eval()
    try:
        difference = relative_difference(prepared, candidate, images[:BATCH_SIZE])
    except Exception as error:  # an operator that OpenVINO lacks, code that cannot be traced
        log.info("OpenVINO does not take the network (%s): PyTorch computes it", error)
        return prepared
    if difference > TOLERANCE:
        log.info("OpenVINO's logits differ by %.2g of the largest: PyTorch computes the network", difference)
        return prepared
    return candidate


def relative_difference(left: nn.Module, right: nn.Module, images: Array) -> float:
    """Returns the largest difference of two models' logits, relative to the largest logit."""
    values = logits(left, images)
    return float(np.abs(logits(right, images) - values).max() / max(float(np.abs(values).max()), 1e-30))


def choose_engine(wanted: str, model: nn.Module, images: Array, *, passes: int) -> Engine:
    """Returns the engine of a new run on the CPU.

    Args:
        wanted: ``eager``, ``openvino``, or ``auto``: OpenVINO if it is installed and a probe shows that it pays.
        model: A network of the suite's architecture, trained or not.
        images: Images that it takes, uint8 or float32 in [0, 1], (N, C, H, W).
        passes: Forward passes of single images that one candidate takes.

    Raises:
        UserError: If OpenVINO is wanted and is not installed or does not take the network.
    """
    installed = openvino_version()
    if wanted == EAGER:
        return Engine(reason="the suite chose it")
    if not installed:
        if wanted == OPENVINO:
            raise UserError('engine = "openvino": it is not installed; pip install "evalsuite[openvino]"')
        return Engine(reason="OpenVINO is not installed")
    prepared = prepare_for_inference(model)
    compiled(prepared, images)  # imports OpenVINO, once in a process
    started = time.process_time()
    candidate = compiled(prepared, images)
    spent = time.process_time() - started
    if candidate is prepared:
        if wanted == OPENVINO:
            raise UserError('engine = "openvino": it does not compute this network; choose "eager" or "auto"')
        return Engine(reason="OpenVINO does not compute this network as PyTorch does")
    seconds = [_seconds_per_image(each, images) * passes for each in (prepared, candidate)]
    gain = seconds[0] / (seconds[1] + spent)
    difference = relative_difference(prepared, candidate, images[:BATCH_SIZE])
    if wanted == OPENVINO:
        return Engine(OPENVINO, installed, gain, difference, "the suite chose it")
    if gain < GAIN:
        return Engine(
            EAGER, "", gain, difference, f"OpenVINO would be {gain:.2f} times as fast, with compiling"
        )
    return Engine(OPENVINO, installed, gain, difference, f"{gain:.2f} times as fast, with compiling")


def half_precision(exact: InferenceModel) -> InferenceModel:
    """Returns a prepared model in bfloat16, computed by the same engine; `exact` itself where it cannot be copied."""
    if isinstance(exact, CompiledModel):
        return CompiledModel(exact, precision="bf16").eval()
    try:
        return HalfModel(exact).eval()
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
            torch.from_numpy(np.array(images[:1], np.float32)).div_(255).to(_device(exact)).requires_grad_()
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
    exact = prepare_for_inference(model, device=device)
    if engine.name == OPENVINO:
        exact = compiled(exact, images)
    try:
        gain = precision_gain(exact, half_precision(exact), images)
    except (TypeError, RuntimeError) as error:
        return replace(engine, precision_reason=f"the network does not run in bfloat16 ({error})")
    reason = f"bfloat16 is {gain:.2f} times as fast as single precision here"
    if gain < SCREENING_GAIN:
        reason += f"; below {SCREENING_GAIN:g} screening does not pay, and every image is passed in single precision"
        return replace(engine, precision_gain=gain, precision_reason=reason)
    return replace(engine, precision=SCREENED, precision_gain=gain, precision_reason=reason)


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _seconds_per_image(model: InferenceModel, images: Array) -> float:
    """Processor time of a pass over one image, the fastest of several."""
    batch = np.resize(images[:BATCH_SIZE], (BATCH_SIZE, *images.shape[1:]))
    times = []
    for _ in range(_ROUNDS):
        started = time.process_time()
        logits(model, batch)
        times.append((time.process_time() - started) / BATCH_SIZE)
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
