"""The first run of an ONNX file, as a program of its own with limits: a graph may loop for ever or fill the memory.

``python -I onnx_probe.py`` reads a question (JSON) from its input; it needs onnxruntime and NumPy, not torch.
"""

from __future__ import annotations

import json
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

IMAGES = 4
"""Images of a batch whose size is free."""

OUT_OF_MEMORY = 3
"""Exit code."""

_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}


def limits(size: int) -> dict[str, int]:
    """Returns the limits for a file of `size` bytes: bytes of memory, and seconds of computing.

    >>> limits(0)
    {'memory': 4294967296, 'seconds': 60}
    """
    return {"memory": 2**32 + 8 * size, "seconds": 60 + size // 2**22}


def run(path: str, shape: list[int] | None) -> None:
    """Builds the session of a file, and runs it once where the shape (C, H, W) of its images is known."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, sess_options=options, providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    sizes = [size if isinstance(size, int) else None for size in images.shape]
    unknown: list[int | None] = [None, None, None]
    wanted = [IMAGES, *(shape or unknown)]
    filled = [size if own is None else own for own, size in zip(sizes, wanted, strict=True)]
    if None not in filled:
        pixels = np.random.default_rng(0).random(filled).astype(_TYPES[images.type])
        session.run(None, {images.name: pixels})


def _limit(memory: int, seconds: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    for kind, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds)):
        highest = resource.getrlimit(kind)[1]
        if highest == resource.RLIM_INFINITY or value < highest:
            resource.setrlimit(kind, (value, highest))


def main() -> None:
    """Answers by its exit code."""
    question: dict[str, Any] = json.load(sys.stdin)
    sys.path[:] = question["search"]
    _limit(question["memory"], question["seconds"])
    try:
        run(question["path"], question["shape"])
    except Exception as error:  # other failures are met again, without limits, and have their sentence there
        text = str(error).lower()
        if isinstance(error, MemoryError) or "alloc" in text or "memory" in text:
            sys.exit(OUT_OF_MEMORY)


if __name__ == "__main__":
    main()
