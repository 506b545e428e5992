"""Forward passes: images to checked logits, in single precision, reproducible on every device and in every process."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import logging
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from evalsuite.errors import DataError, InvalidModelError
from evalsuite.models.exported.program import ExportedProgram
from evalsuite.models.probabilities import probabilities_in
from evalsuite.models.surgery.fx_graph import is_unmodified, trace_graph

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from torch.utils.hooks import RemovableHandle

    from evalsuite.types import Array


BATCH_SIZE = 32
"""Images per forward pass: the fastest of 16 to 128 on one thread; larger ones thrash the allocator."""
PROBED_SIZES = (32, 64, 128, 256, 512, 1024)
"""Batch sizes that a probe tries, from the smallest on."""
WORTH = 1.05
"""Factor by which a larger batch must be faster to be taken: it takes memory that attacks need."""
AHEAD = 2
"""Batches that are read and copied to a graphics card while it computes."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


class InferenceModel(nn.Module):
    """A model in a form that is fast for many forward passes; see `prepare_for_inference`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self._needs_contiguous_inputs = False

    def forward(self, images: Tensor) -> object:
        """Returns the output of the model, of any type, for float images in [0, 1]."""
        try:
            return self.model(images.contiguous() if self._needs_contiguous_inputs else images)
        except RuntimeError as error:
            if self._needs_contiguous_inputs or "view size is not compatible" not in str(error):
                raise
        self._needs_contiguous_inputs = True  # its code calls view() where reshape() would take any layout
        self.model.to(memory_format=torch.contiguous_format)
        return self(images)


def prepare_for_inference(model: nn.Module, *, device: str | torch.device = "cpu") -> InferenceModel:
    """Returns a copy for inference, with batch norms folded into their convolutions and channels last.

    Folding is exact up to rounding. It is left out where the data flow cannot be traced. A model that cannot
    be copied is used as it is.

    Args:
        model: Takes float images in [0, 1]; it is left as it was.
        device: Of the copy.
    """
    try:
        fast = copy.deepcopy(model)
    except (TypeError, RuntimeError) as error:  # a session or a handle of another runtime
        _log.info("%s cannot be copied (%s): it is used as it is", type(model).__name__, error)
        return InferenceModel(model)
    fast.requires_grad_(False).eval()
    _fold_batch_norms(fast)
    return InferenceModel(fast.to(device).to(memory_format=torch.channels_last)).eval()


def gradient_obstacle(model: nn.Module) -> str:
    """Returns why a model, however wrapped, has no gradients for white-box attacks; empty if it has.

    >>> gradient_obstacle(nn.Linear(2, 2))
    ''
    """
    programs = (part for part in model.modules() if isinstance(part, ExportedProgram))
    return next(
        (f"{part.format}: {part.gradient_obstacle}" for part in programs if part.gradient_obstacle), ""
    )


def logits(
    model: nn.Module, images: Array, *, device: str | torch.device = "cpu", batch_size: int = BATCH_SIZE
) -> NDArray[np.float32]:
    """Returns the logits of all `images`, computed in evaluation mode and single precision.

    Every batch has the same size (the last one is filled up), so that an image's logits depend on its place
    in the set and not on how many follow it. The model is left as it was.

    Args:
        model: Takes float images in [0, 1]; for many image sets call `prepare_for_inference` once before.
        images: uint8, or float32 in [0, 1], (N, C, H, W), N at least 1; may be memory-mapped or a view.
        device: On which it is computed.
        batch_size: Images per forward pass.

    Returns:
        float32, (N, K).

    Raises:
        DataError: If the images have another shape, dtype or range.
        InvalidModelError: If the model returns no finite (N, K) logits.
    """
    _check_images(images)
    place = torch.device(device)
    prepared = model if isinstance(model, InferenceModel) else prepare_for_inference(model, device=place)
    with evaluation_mode(prepared), torch.inference_mode(), deterministic_float32():
        outputs = [
            _batch_logits(prepared, _unit(batch)) for batch in staged_batches(images, batch_size, place)
        ]
    if len({output.shape[1] for output in outputs}) > 1:
        raise InvalidModelError("the model returns another number of classes for another batch of images")
    values: NDArray[np.float32] = (
        torch.cat(outputs)[: len(images)].cpu().numpy()
    )  # the only wait for the card
    _check_logits(values)
    return values


def fastest_batch_size(model: nn.Module, images: Array, *, device: str | torch.device) -> int:
    """Returns the batch size of `PROBED_SIZES` that a short probe finds fastest, the smallest within 5 %.

    Each size is timed on one batch after one that is not timed; the probe ends where a size is no faster than the one
    before, or memory runs out.

    Args:
        model: As `prepare_for_inference` returns it.
        images: Images to repeat, uint8 or float32 in [0, 1], (N, C, H, W).
        device: Of the model.
    """
    best, best_rate = PROBED_SIZES[0], 0.0
    for size in PROBED_SIZES:
        batch = np.resize(images[:size], (size, *images.shape[1:]))
        try:
            logits(model, batch, device=device, batch_size=size)
            started = time.perf_counter()
            logits(
                model, batch, device=device, batch_size=size
            )  # copies the result back, so that it has ended
        except torch.OutOfMemoryError:
            break
        rate = size / (time.perf_counter() - started)
        if rate < WORTH * best_rate:
            break
        best, best_rate = size, rate
    return best


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switches `model` to evaluation mode, and every module back to its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def temporary_hooks(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Removes hooks afterwards, also after an error.

    Args:
        handles: As `torch.nn.Module.register_forward_hook` and its like return them.
    """
    registered = list(handles)
    try:
        yield
    finally:
        for handle in registered:
            handle.remove()


@contextlib.contextmanager
def deterministic_float32() -> Iterator[None]:
    """Switches off TF32 (inputs of convolutions rounded to 10 bits) and non-deterministic algorithms on GPUs."""
    if not torch.cuda.is_available():
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def _fold_batch_norms(model: nn.Module) -> None:
    """Folds batch norms into the convolutions that only they read; the model's own code still runs."""
    try:
        graph = trace_graph(model)
    except InvalidModelError as error:
        _log.info("batch norms are not folded: %s", error)
        return
    for node in graph.nodes:
        norm, source = graph.module(node), next(iter(node.all_input_nodes), None)
        conv = graph.module(source) if source is not None else None
        if not isinstance(norm, nn.BatchNorm2d) or not isinstance(conv, nn.Conv2d) or source is None:
            continue
        only_pair = graph.is_called_once(node) and graph.is_called_once(source) and len(source.users) == 1
        if only_pair and is_unmodified(norm) and is_unmodified(conv) and norm.track_running_stats:
            fused = fuse_conv_bn_eval(conv.double(), norm.double()).float()
            model.set_submodule(str(source.target), fused)
            model.set_submodule(str(node.target), nn.Identity())


def staged_batches(images: Array, size: int, device: torch.device) -> Iterator[Tensor]:
    """Yields batches of equal size on a device, as they are stored: bytes, which `_unit` turns into numbers there.

    A graphics card computes while the next batches are read from disk, in a thread, and copied from pinned memory.

    Args:
        images: uint8, or float32 in [0, 1], (N, C, H, W).
        size: Images per batch; the last one is filled up.
        device: Where to.

    Raises:
        DataError: If float images are outside [0, 1].
    """
    if device.type == "cpu":
        yield from _batches(images, size)
        return
    for batch in read_ahead(_batches(images, size), AHEAD):
        staged = batch.pin_memory() if device.type == "cuda" else batch
        yield staged.to(device, non_blocking=True)


def read_ahead(items: Iterator[T], count: int) -> Iterator[T]:
    """Yields the same items in their order, the next `count` of them computed in a thread meanwhile."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="evalsuite-read-ahead") as thread:
        waiting: deque[Future[T | object]] = deque(thread.submit(next, items, end) for _ in range(count))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, items, end))
            yield cast("T", item)


def _batches(images: Array, size: int) -> Iterator[Tensor]:
    """Yields batches of equal size: bytes, or floats in [0, 1]."""
    for start in range(0, len(images), size):
        part = np.array(images[start : start + size])  # a copy: torch must not see read-only memory
        if len(part) < size:
            part = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
        if part.dtype != np.uint8 and not (part.min() >= 0 and part.max() <= 1):
            raise DataError(
                f"images {start} to {start + size - 1} range from {part.min():g} to {part.max():g}, "
                "expected numbers in [0, 1]: the model normalises by itself"
            )
        yield torch.from_numpy(part)


def _unit(batch: Tensor) -> Tensor:
    """A batch as floats in [0, 1], channels last, on its device."""
    values = batch.to(torch.float32, memory_format=torch.channels_last)
    return values.div_(255) if batch.dtype == torch.uint8 else values


def _batch_logits(model: nn.Module, batch: Tensor) -> Tensor:
    output = model(batch)
    if not isinstance(output, Tensor):
        raise InvalidModelError(
            f"the model returns a {type(output).__name__}, expected a tensor of logits (N, K)"
        )
    if output.dim() != 2 or output.shape[0] != batch.shape[0] or output.shape[1] < 2:
        raise InvalidModelError(
            f"the model returns shape {tuple(output.shape)} for {batch.shape[0]} images, "
            "expected one row of at least two logits for each image (N, K)"
        )
    return output.to(torch.float32)


def _check_images(images: Array) -> None:
    if images.ndim != 4 or not len(images):
        raise DataError(f"images have shape {images.shape}, expected (N, C, H, W) with at least one image")
    if images.dtype not in (np.uint8, np.float32):
        raise DataError(f"images are {images.dtype}, expected uint8 in 0..255 or float32 in [0, 1]")


def _check_logits(values: NDArray[np.float32]) -> None:
    invalid = int((~np.isfinite(values)).any(axis=1).sum())
    if invalid:
        raise InvalidModelError(
            f"the model returns NaN or infinite logits for {invalid} of {len(values)} images"
        )
    if reason := probabilities_in(values):
        raise InvalidModelError(
            f"the model returns probabilities ({reason}), expected logits: remove its softmax or sigmoid"
        )


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_NEVER = 2**31 - 1
_LARGEST_BLOCKS = (2**30, 2**25)  # some releases refuse more than 32 MiB


def keep_large_blocks() -> bool:
    """Keeps freed memory in the process, for speed; call it once, before the first large allocation.

    The process then never shrinks below its peak. Results do not change.

    Returns:
        Whether the C library supports it; False where that is not glibc (musl, macOS, Windows).
    """
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # only glibc has it, and only its mallopt is meant
        mallopt = library.mallopt
    except (AttributeError, OSError, TypeError):  # no such symbol; no such library; Windows takes no None
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    is_set = any(mallopt(_MMAP_THRESHOLD, size) == 1 for size in _LARGEST_BLOCKS)
    return is_set and mallopt(_TRIM_THRESHOLD, _NEVER) == 1
