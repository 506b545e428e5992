"""Where the time goes in each row of ``bench.py`` that is below its goal, and in the commands of docs/speed.md.

    EVALSUITE_DATA=DATA python tests/benchmarks/profiles.py [PART ...]

PART is forward, screened, attack, training, corruptions, cached or workers; all of them by default. Prints
microseconds of processor time for each image and shares, one thread, on the problems of ``bench.py``. Profiles give the
shares; the time is measured without one. Operations are those that torch's profiler and OpenVINO's counters name,
without what they call. ``cached`` runs the suite ``digits`` first, or takes the finished run in ``--run``. ``workers``
needs the published ResNet-20 and CIFAR-10, and measures wall time: nothing else should run.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import copy
import cProfile
import dataclasses
import importlib
import itertools
import pstats
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from evalsuite.api import check
from evalsuite.attacks.backends.foolbox import FixedRadiusAttack, attack_success
from evalsuite.config.manifest import candidates_of_paths
from evalsuite.config.options import Options
from evalsuite.datasets.transforms.common_corruptions.kinds import corrupt
from evalsuite.execution.check import CheckRequest
from evalsuite.execution.tasks import CellProgress
from evalsuite.models.engines import half_gradients, half_precision
from evalsuite.models.inference import BATCH_SIZE, InferenceModel, keep_large_blocks, logits
from evalsuite.models.screening import largest_move, screen
from evalsuite.training.batches import batches
from evalsuite.training.loop import train
from evalsuite.training.recipe import Recipe
from evalsuite.types import Array


def _script(name: str) -> Any:
    """A script beside this one, wherever this one is started or collected from."""
    spec = spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise ImportError(f"no script {name}.py beside {__file__}")
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


bench = _script("bench")

KINDS = {
    "convolution": ("mkldnn_convolution", "_convolution", "conv2d", "convolution"),
    "convolution, backward": ("convolution_backward", "ConvolutionBackward0"),
    "batch norm": ("native_batch_norm", "_batch_norm_impl_index"),
    "batch norm, backward": ("native_batch_norm_backward", "NativeBatchNormBackward0"),
    "rectifier": ("clamp_min", "relu"),
    "rectifier, backward": ("threshold_backward",),
    "sums": ("add", "add_"),
    "copies": ("copy_", "clone", "contiguous", "_to_copy"),
}
"""Kinds of operations, with their names in torch's profiler."""
OPENVINO_KINDS = {"Convolution": "convolution", "Reorder": "copies", "Eltwise": "sums", "Add": "sums"}
ROUNDS = 5
PARTS = ("forward", "screened", "attack", "training", "corruptions", "cached", "workers")
PACKAGES = 8
"""Imported packages that are printed."""
GRADIENTS = ("inputs", "weights")
STAGES = "stages of a cached run"
Parts = Mapping[str, float]
"""Microseconds for each image, by what they were spent on."""


class Recorded(InferenceModel):
    """A prepared model that counts the images that it is given, and names its passes in a profile.

    Args:
        exact: What computes them.
    """

    def __init__(self, exact: InferenceModel) -> None:
        super().__init__(exact.model)
        self.exact = exact
        self.images: Counter[str] = Counter()

    def forward(self, images: Tensor) -> object:
        name = "pass with gradients" if images.requires_grad else "checks"
        self.images[name] += len(images)
        with record_function(name):
            return self.exact(images)


class Timed:
    """A function with the processor time of its calls, and how many images they took."""

    def __init__(self, function: Callable[[Array], Array]) -> None:
        self.function = function
        self.seconds, self.images = 0.0, 0

    def __call__(self, images: Array) -> Array:
        started = time.process_time()
        result = self.function(images)
        self.seconds, self.images = self.seconds + time.process_time() - started, self.images + len(images)
        return result


def main() -> None:
    """Prints the parts that were asked for."""
    options = _arguments()
    torch.set_num_threads(1)
    keep_large_blocks()
    if options.parts == [STAGES]:
        stages(options.run)
        return
    rates = bench.probe()
    write_line(f"{', '.join(f'{name} {rate:g} GFLOP/s' for name, rate in rates.items())}, load {load()}")
    parts: dict[str, Callable[[], None]] = {
        "forward": lambda: forward(rates["convolution float32"]),
        "screened": screened,
        "attack": attack,
        "training": training,
        "corruptions": corruptions,
        "cached": lambda: cached(options.run),
        "workers": workers,
    }
    for name in options.parts:
        parts[name]()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", default=[*PARTS], choices=[*PARTS, STAGES])
    parser.add_argument("--run", type=Path, help="a finished run of the suite digits")
    return parser.parse_args()


def forward(rate: float) -> None:
    """Plain passes by both engines, beside what the convolutions take at the rate of the probe, in GFLOP/s."""
    model, pixels, _ = bench.problem(1_024)
    for name, engine in bench.engines(model, pixels).items():
        whole = microseconds(lambda engine=engine: logits(engine, pixels), len(pixels))  # type: ignore[misc]
        parts = (
            operations(lambda engine=engine: logits(engine, pixels), len(pixels))  # type: ignore[misc]
            if name == "eager"
            else openvino_operations(engine.model, pixels)
        )
        print_parts(f"forward passes, {name}", parts, whole)
    work = convolution_work(model, pixels[:1])
    roof = work / rate / 1e3
    write_line(f"  convolutions at the rate of the probe: {work / 1e6:.1f} MFLOP, {roof:.0f} µs")


def convolution_work(model: nn.Module, image: Array) -> int:
    """Floating-point operations of all convolutions, for one image."""
    total = 0

    def count(layer: nn.Conv2d, _: object, output: Tensor) -> None:
        nonlocal total
        total += 2 * output.shape[1:].numel() * layer.weight[0].numel()

    handles = [
        layer.register_forward_hook(count) for layer in model.modules() if isinstance(layer, nn.Conv2d)
    ]
    with torch.inference_mode():
        model(torch.from_numpy(np.array(image)) / 255)
    for handle in handles:
        handle.remove()
    return total


def openvino_operations(model: nn.Module, pixels: Array) -> Parts:
    """What OpenVINO's counters say about its nodes, with the settings of `evalsuite.models.engines`."""
    openvino: Any = importlib.import_module("openvino")
    shape = (BATCH_SIZE, *pixels.shape[1:])
    with torch.no_grad():
        graph = openvino.convert_model(model, example_input=torch.zeros(shape), input=[shape])
    settings = {
        "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False, "PERF_COUNT": True,
    }  # fmt: skip
    request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()
    spent: Counter[str] = Counter()
    images = 0
    for start in range(0, len(pixels) - BATCH_SIZE + 1, BATCH_SIZE):
        request.infer([np.asarray(pixels[start : start + BATCH_SIZE], np.float32) / 255])
        if start:  # the first is not timed
            images += BATCH_SIZE
            for node in request.profiling_info:
                kind = OPENVINO_KINDS.get(node.node_type, "other operations")
                spent[kind] += node.real_time.total_seconds() * 1e6
    return {kind: value / images for kind, value in spent.most_common()}


def screened() -> None:
    """Screened passes: those in bfloat16, those in single precision, and the rest."""
    model, pixels, _ = bench.problem(10_000)
    shifted = corrupt(pixels, "contrast", 3, seed=0)
    for name, engine in bench.engines(model, pixels).items():
        screened_by(name, engine, pixels, shifted)


def screened_by(name: str, engine: InferenceModel, pixels: Array, shifted: Array) -> None:
    """Prints the parts of screened passes by one engine."""
    half = half_precision(engine)
    exact, low = Timed(lambda images: logits(engine, images)), Timed(lambda images: logits(half, images))
    move = largest_move(exact, low, pixels)
    alone = microseconds(lambda: logits(engine, shifted), len(shifted), rounds=1)
    screen(exact, low, shifted, move=move)
    exact, low = Timed(exact.function), Timed(low.function)
    whole = 1e6 * bench._seconds(lambda: screen(exact, low, shifted, move=move)) / len(shifted)
    parts = {"bfloat16": 1e6 * low.seconds / len(shifted), "passed again": 1e6 * exact.seconds / len(shifted)}
    print_parts(f"screened, {name}", parts, whole)
    if name == "eager":
        some = shifted[:1_024]
        alike = operations(lambda: logits(half, some), len(some))
        print_parts("passes in bfloat16, eager", alike, microseconds(lambda: logits(half, some), len(some)))
    write_line(
        f"  {exact.images / len(shifted):.1%} of {len(shifted):,} images passed again; "
        f"single precision alone {alone:.0f} µs: {alone / parts['bfloat16']:.2f} times bfloat16"
    )


def attack() -> None:
    """PGD of 20 steps at radius 1/255, with gradients in single precision and in bfloat16."""
    model, pixels, targets = bench.problem(100)
    images, classes = torch.from_numpy(np.array(pixels)) / 255, torch.from_numpy(np.array(targets)).long()
    eager = bench.engines(model, pixels)["eager"]
    settings = FixedRadiusAttack("linf-pgd", 1 / 255, steps=20)
    for name, gradients in (("single precision", None), ("bfloat16", half_gradients(eager, pixels))):
        exact = Recorded(eager)
        low = None if gradients is None else Recorded(gradients)

        def call(exact: Recorded = exact, low: Recorded | None = low) -> Any:
            return attack_success(exact, images, classes, attack=settings, seed=0, gradient_model=low)

        robust = 1 - float(call().misclassified.float().mean())
        passes = exact.images + (Counter() if low is None else low.images)
        whole = microseconds(call, len(images))
        print_parts(
            f"linf-pgd, 1/255, gradients in {name}", operations(call, len(images), phases=True), whole
        )
        write_line(
            f"  {passes['pass with gradients'] / len(images):.1f} passes with gradients and "
            f"{passes['checks'] / len(images):.1f} without for each image; foolbox takes 20 and 1. "
            f"{robust:.0%} of the images withstand all steps"
        )


def training() -> None:
    """An epoch in float32 and in bfloat16, by kind of operation, and the time of its batches alone."""
    network, images, recipe = bench.training_problem()
    totals = {}
    for precision in ("float32", "bfloat16"):
        chosen = dataclasses.replace(recipe, precision=precision)

        def call(chosen: Recipe = chosen) -> object:
            return train(copy.deepcopy(network), images, chosen, seed=0)

        whole = microseconds(call, 256)
        title = f"an epoch of training in {precision}"
        totals[precision] = print_parts(title, operations(call, 256, phases=True), whole)
    classes = torch.arange(256) % 10
    alone = microseconds(lambda: [*batches(images.images, classes, recipe, seed=0, epoch=0)], 256)
    write_line(f"  of that augmentation: {alone:.1f} µs")
    single, half = totals["float32"], totals["bfloat16"]
    for kind in [kind for kind in single if kind in half and single[kind] >= sum(single.values()) / 100]:
        write_line(f"  {kind}: bfloat16 is {single[kind] / half[kind]:.2f} times as fast")
    for name, gradients in zip(GRADIENTS, convolution_gradients(network), strict=True):
        single_time, half_time = gradients
        write_line(
            f"  gradients of the convolutions' {name}: {single_time:.0f} µs in float32, "
            f"{half_time:.0f} in bfloat16: {single_time / half_time:.2f} times as fast"
        )


def convolution_gradients(model: nn.Module) -> Iterator[list[float]]:
    """Microseconds of both gradients of all convolutions, inputs' and weights', each in float32 and in bfloat16."""
    seen: list[tuple[nn.Conv2d, Tensor, Tensor]] = []
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    handles = [
        layer.register_forward_hook(lambda layer, inputs, output: seen.append((layer, inputs[0], output)))
        for layer in layers
    ]
    with torch.no_grad():
        model(torch.rand(128, 3, 32, 32).contiguous(memory_format=torch.channels_last))
    for handle in handles:
        handle.remove()
    for place in range(len(GRADIENTS)):
        wanted = [place == 0, place == 1, False]
        chosen = seen[1:] if place == 0 else seen  # the gradient of the images is not computed
        yield [
            sum(
                gradient_time(layer, inputs.to(kind), output.to(kind), wanted)
                for layer, inputs, output in chosen
            )
            for kind in (torch.float32, torch.bfloat16)
        ]


def gradient_time(layer: nn.Conv2d, inputs: Tensor, output: Tensor, wanted: list[bool]) -> float:
    """Microseconds for each image of one gradient of one convolution, the fastest of several."""
    weight = layer.weight.detach().to(inputs.dtype, memory_format=torch.channels_last)
    shape = [
        list(value) for value in (layer.stride, layer.padding, layer.dilation) if not isinstance(value, str)
    ]

    def call() -> object:
        return torch.ops.aten.convolution_backward(
            output, inputs, weight, None, *shape, False, [0, 0], layer.groups, wanted
        )

    call()
    return 1e6 * min(float(bench._seconds(call)) for _ in range(ROUNDS)) / len(inputs)


def corruptions() -> None:
    """Defocus blur and Gaussian noise, by what their functions call."""
    images = _script("corruptions").scenes(512, 32)
    for kind in ("defocus_blur", "gaussian_noise"):

        def call(kind: str = kind) -> Array:
            return corrupt(images, kind, 3, seed=0, constants="imagenet")

        whole = microseconds(call, len(images))
        recorder = cProfile.Profile(time.process_time)
        recorder.runcall(call)
        calls: Mapping[tuple[str, int, str], tuple[Any, ...]] = vars(pstats.Stats(recorder))["stats"]
        spent: defaultdict[str, float] = defaultdict(float)
        for (file, _, name), row in calls.items():  # built-in functions have no file
            spent[name if file == "~" else f"{Path(file).name}: {name}"] += 1e6 * row[2] / len(images)
        most = sorted(spent, key=lambda name: spent[name], reverse=True)
        print_parts(f"{kind}, severity 3", {name: spent[name] for name in most}, whole)


def cached(finished: Path | None) -> None:
    """``evalsuite run digits`` where every cell is there: its stages, and its imports by package."""
    with tempfile.TemporaryDirectory() as place:
        folder = finished or Path(place) / "run"
        words = ["-m", "evalsuite", "run", "digits", "--out", str(folder)]
        for _ in range(1 if finished else 2):
            _child(*words)
        write_line(_child(str(Path(__file__)), STAGES, "--run", str(folder)).stdout.rstrip())
        report = _child("-X", "importtime", *words).stderr
    spent: defaultdict[str, float] = defaultdict(float)
    for own, name in re.findall(r"import time:\s*(\d+) \|\s*\d+ \|\s*([\w.]+)", report):
        spent[name.partition(".")[0]] += int(own) / 1e6
    largest = sorted(spent.items(), key=lambda item: -item[1])
    text = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in largest[:PACKAGES])
    write_line(f"  imports {sum(spent.values()):.1f} s (traced, wall time): {text}")


def stages(folder: Path) -> None:
    """Prints the processor time of what ``evalsuite run digits`` does, in a process that has done nothing else."""
    last = time.process_time()
    taken = {"imports of this script": last}

    def done(name: str) -> None:
        nonlocal last
        taken[name], last = time.process_time() - last, time.process_time()

    names = ("execution.planning", "execution.scheduler", "report.build", "report.export", "report.page")
    planning, scheduler, build, export, page = (
        importlib.import_module(f"evalsuite.{name}") for name in names
    )
    tables = importlib.import_module("evalsuite.report.run_tables").tables
    done("other imports")
    prepared = planning.prepare("digits", out=folder)
    done("planning")
    run = scheduler.execute(prepared)
    done("reading cells")
    tables(run)
    done("tables")
    export.export(run, "csv", folder)
    done("CSV")
    run.keep_tables()
    data = build.report_data(run)
    done("data of the page")
    page.write_page(data, folder)
    done("page")
    total = sum(taken.values())
    write_line(f"\nrun digits, every cell there: {total:.2f} s of processor time")
    for name, seconds in taken.items():
        write_line(f"  {name:28} {seconds:8.2f} s {seconds / total:6.1%}")


def workers() -> None:
    """``check`` of one candidate with one worker and with two: what is not shared between them."""
    parent = next(Path(os.environ["EVALSUITE_DATA"]).glob("checkpoints/akamaster/resnet20-*.th"))
    with tempfile.TemporaryDirectory() as place:
        candidate = Path(place) / "pruned.th"
        torch.save(pruned(torch.load(parent, map_location="cpu", weights_only=True)), candidate)
        for count in (1, 2):
            one_check(parent, candidate, Path(place) / f"check-{count}", count)


def pruned(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint without half of the weights of each layer, the smallest."""
    tensors: dict[str, Tensor] = checkpoint["state_dict"]
    for name, value in tensors.items():
        if value.ndim == 4:
            tensors[name] = value * (value.abs() > value.abs().median())
    return checkpoint


def one_check(parent: Path, candidate: Path, out: Path, count: int) -> None:
    """Prints when each network was measured, and the sum of the cells."""
    started = time.monotonic()
    ends: dict[str, list[float]] = {}

    def note(step: CellProgress) -> None:
        ends.setdefault(step.key.method, []).append(time.monotonic() - started)

    request = CheckRequest(str(parent), candidates_of_paths([str(candidate)]), "cifar10")
    options = Options(limit=3_000, workers=count, cache=False, data_root=Path(os.environ["EVALSUITE_DATA"]))
    _, run = check(request, out=out, options=options, progress=note)
    whole = time.monotonic() - started
    measured = run.record["seconds"]
    busy = sum(part["seconds"] for part in run.record["spent"].values())
    write_line(
        f"\ncheck with {count} workers: {whole:.1f} s, measuring {measured:.1f} s, cells {busy:.1f} s; "
        f"load {load()}"
    )
    write_line(f"  workers without a cell: {count * measured - busy:.1f} s of {count * measured:.1f} s")
    for method, times in ends.items():
        steps = [b - a for a, b in itertools.pairwise(times)]
        write_line(
            f"  {method}: first cell at {times[0]:.1f} s, last at {times[-1]:.1f} s, longest {max(steps):.1f} s"
        )
    for name, part in run.record["spent"].items():
        write_line(f"  {name:28} {part['cells']:3d} cells {part['seconds']:8.1f} s")


def operations(call: Callable[[], object], images: int, *, phases: bool = False) -> Parts:
    """Microseconds of a call for each image, by kind of operation, of the fastest of several calls.

    Args:
        call: The work.
        images: How many images it takes.
        phases: Whether operations of named passes, of the backward pass and of the optimizer are kept apart.
    """
    call()
    profiles = [profiled(call, phases=phases) for _ in range(ROUNDS)]
    fastest = min(profiles, key=lambda spent: sum(spent.values()))
    return {
        name: fastest[name] / images for name in sorted(fastest, key=lambda name: fastest[name], reverse=True)
    }


def profiled(call: Callable[[], object], *, phases: bool) -> Parts:
    """Microseconds of one call, by kind of operation."""
    with profile(activities=[ProfilerActivity.CPU]) as recorder:
        call()
    spent: defaultdict[str, float] = defaultdict(float)
    for event in recorder.events() or []:
        phase = phase_of(event) if phases else ""
        name = kind_of(event.name)
        spent[f"{phase}: {name}" if phase else name] += event.self_cpu_time_total
    return spent


def kind_of(name: str) -> str:
    """The kind of an operation of torch's profiler."""
    plain = name.removeprefix("aten::")
    return next((kind for kind, names in KINDS.items() if plain in names), "other operations")


def phase_of(event: Any) -> str:
    """The part of the work that an operation belongs to: named passes, backward passes, the optimizer."""
    place = event
    while place is not None:
        if place.name in ("pass with gradients", "checks"):
            return str(place.name)
        if place.name.startswith("autograd::engine"):
            return "backward"
        if place.name.startswith("Optimizer."):
            return "optimizer"
        place = place.cpu_parent
    return ""


def microseconds(call: Callable[[], object], images: int, *, rounds: int = ROUNDS) -> float:
    """Processor time of a call for each image, the median of several after as many that are not timed."""
    for _ in range(rounds):  # the allocator needs some to have all blocks
        call()
    return 1e6 / images * statistics.median([float(bench._seconds(call)) for _ in range(rounds)])


def print_parts(title: str, parts: Parts, whole: float) -> Parts:
    """Prints and returns what the parts take; prints the sum of those below a hundredth.

    Args:
        title: Of the work.
        parts: From a profile, which measures wall time and makes the work slower: their shares count.
        whole: Microseconds of processor time for each image, without a profile.
    """
    total = max(whole, sum(parts.values()))
    spent = {name: value / total * whole for name, value in parts.items()}
    large = {name: value for name, value in spent.items() if value >= whole / 100}
    small = sum(spent.values()) - sum(large.values())
    write_line(f"\n{title}: {whole:.1f} µs for each image")
    rest = {"smaller parts": small, "outside of these": whole - sum(spent.values())}
    for name, value in (large | rest).items():
        if value > whole / 1000:
            write_line(f"  {name:44} {value:9.1f} µs {value / whole:6.1%}")
    return spent


def load() -> str:
    """The load of the machine: how many processes ran."""
    return f"{os.getloadavg()[0]:.1f}"


def write_line(line: str) -> None:
    """Writes a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _child(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], check=True, text=True, capture_output=True)


if __name__ == "__main__":
    main()
