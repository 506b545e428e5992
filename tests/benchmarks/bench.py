"""The table of the speed goals: evalsuite beside its peers on the same work, as ratios of processor time.

    make bench-quick                     or: python tests/benchmarks/bench.py --quick
    make bench

Every row runs both sides in this process with one thread, interleaved, and reports the median ratio of its rounds
with the range. Peers have their defaults, their batch sizes, and the tuned allocator of this process. Agreement comes
first: changed predictions, robust accuracy. On top stands what the machine computes: a convolution in float32 and in
bfloat16, and a matrix product in float32.

What other code computes is the work of the peer where there is one: robustbench, foolbox, scikit-learn, and with
``--peers FOLDER`` imagecorruptions (see ``corruptions.py``). Training in bfloat16 is beside our own in float32.

With EVALSUITE_DATA (``cifar10`` and ``checkpoints/akamaster/resnet20-*.th``) the network is the published ResNet-20;
without, it is untrained, and the agreement says nothing. Writes JSON (``--out``); a ratio that is more than 20 % below
that of the same kind of machine in ``--against``, a list of such JSON, ends with exit code 1.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits
from torch import nn

from evalsuite.attacks.backends.foolbox import FixedRadiusAttack, attack_success, foolbox
from evalsuite.compat.robustbench import robustbench
from evalsuite.datasets.base import Place
from evalsuite.datasets.cifar import Cifar10
from evalsuite.datasets.transforms.common_corruptions.kinds import CORRUPTIONS, corrupt
from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.settings import from_settings
from evalsuite.models.checkpoints.loading import build_with_weights
from evalsuite.models.checkpoints.reading import read_weights
from evalsuite.models.engines import OPENVINO, computed_by, half_gradients, half_precision, openvino_version
from evalsuite.models.inference import InferenceModel, keep_large_blocks, logits, prepare_for_inference
from evalsuite.models.screening import largest_move, screen
from evalsuite.runs.provenance import hardware, versions
from evalsuite.statistics.resampling import Replicates, bootstrap_weights
from evalsuite.training.loop import train
from evalsuite.training.recipe import Recipe
from evalsuite.types import Array, ImageSet

LOSS = 0.8
"""Share of the ratio in the committed JSON below which a benchmark fails."""
PEER_BATCH = 100
AUROC_REPLICATES = 100
SETTINGS = {"name": "resnet20", "shortcut": "A", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
Side = Callable[[], Any]


def main() -> int:
    """Prints the table, writes the JSON, and returns the exit code."""
    arguments = _arguments()
    torch.set_num_threads(1)
    keep_large_blocks()
    rounds, images, attacked = (3, 320, 50) if arguments.quick else (5, 1_024, 100)  # whole batches of 32
    model, pixels, labels = problem(images if arguments.quick else 10_000)
    rows = [
        *forward_rows(model, pixels[:images], labels[:images], rounds),
        *screened_rows(model, pixels, labels, rounds),
        *attack_rows(model, pixels[:attacked], labels[:attacked], rounds),
        *([] if arguments.peers is None else corruption_rows(arguments.peers, rounds)),
        training_row(rounds),
        auroc_row(rounds),
        *start_rows(rounds),
    ]
    result = {"probe": probe(), "hardware": hardware("cpu"), "versions": versions(), "rows": rows}
    print(table(result))  # noqa: T201
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    losses = slower(result, arguments.against)
    print("\n".join(losses))  # noqa: T201
    return 1 if losses else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="three rounds of fewer images")
    parser.add_argument("--peers", type=Path, help="folder with imagecorruptions and OpenCV")
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    parser.add_argument("--against", type=Path, help="the JSON file to compare with")
    return parser.parse_args()


def problem(count: int) -> tuple[nn.Module, Array, Array]:
    """The published ResNet-20 with test images where they are, else an untrained one with random images."""
    root = Path(os.environ.get("EVALSUITE_DATA", "nowhere"))
    weights = sorted(root.glob("checkpoints/akamaster/resnet20-*.th"))
    torch.manual_seed(0)
    if not weights:
        draws = np.random.default_rng(0)
        pixels = draws.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        return build_model(from_settings(SETTINGS)).eval(), pixels, np.arange(count) % 10
    data = Cifar10().load("test", Place(root=root))
    model = build_with_weights(from_settings(SETTINGS), read_weights(weights[0])).eval()
    return model, data.images[:count], np.asarray(data.labels)[:count]


def forward_rows(model: nn.Module, pixels: Array, labels: Array, rounds: int) -> Iterator[dict[str, Any]]:
    """Forward passes against ``robustbench.utils.clean_accuracy``, by each engine."""
    robustbench()
    from robustbench.utils import clean_accuracy

    images, classes = torch.from_numpy(np.array(pixels)) / 255, torch.from_numpy(np.array(labels)).long()
    parts = [images[at : at + PEER_BATCH] for at in range(0, len(images), PEER_BATCH)]
    with torch.no_grad():
        expected = np.concatenate([model(part).argmax(1).numpy() for part in parts])
    for name, engine in engines(model, pixels).items():
        changed = int((logits(engine, pixels).argmax(1) != expected).sum())
        yield _row(
            f"forward passes, {name}",
            1.4 if name == "openvino" else None,
            lambda: clean_accuracy(model, images, classes, batch_size=PEER_BATCH),
            lambda engine=engine: logits(engine, pixels),  # type: ignore[misc]  # bound in the loop
            rounds,
            f"{changed} of {len(pixels)} predictions changed",
        )


def engines(model: nn.Module, pixels: Array) -> dict[str, InferenceModel]:
    """The network prepared by each engine that is installed."""
    eager = prepare_for_inference(model)
    return {
        "eager": eager,
        **({"openvino": computed_by(OPENVINO, eager, pixels)} if openvino_version() else {}),
    }


def screened_rows(model: nn.Module, pixels: Array, labels: Array, rounds: int) -> Iterator[dict[str, Any]]:
    """Screened passes over a whole test set under contrast of severity 3: small margins are what is passed again."""
    shifted = corrupt(pixels, "contrast", 3, seed=0)
    images, classes = torch.from_numpy(shifted) / 255, torch.from_numpy(np.array(labels)).long()
    for name, engine in engines(model, pixels).items():
        yield screened_row(model, engine, pixels, shifted, (images, classes), rounds, name)


def screened_row(
    model: nn.Module,
    engine: InferenceModel,
    pixels: Array,
    shifted: Array,
    problem: tuple[torch.Tensor, torch.Tensor],
    rounds: int,
    name: str,
) -> dict[str, Any]:
    """Screened precision against ``clean_accuracy``: bfloat16, and single precision where the margin is small."""
    from robustbench.utils import clean_accuracy

    half = half_precision(engine)

    def exact_logits(images: Array) -> Array:
        return logits(engine, images)

    def half_logits(images: Array) -> Array:
        return logits(half, images)

    move = largest_move(exact_logits, half_logits, pixels)
    result = screen(exact_logits, half_logits, shifted, move=move)
    changed = int((result.logits.argmax(1) != exact_logits(shifted).argmax(1)).sum())
    return _row(
        f"forward passes, {name}, screened",
        2.3,
        lambda: clean_accuracy(model, *problem, batch_size=PEER_BATCH),
        lambda: screen(exact_logits, half_logits, shifted, move=move),
        rounds,
        f"{changed} of {len(shifted)} predictions changed, {int(result.again.sum())} passed again",
    )


def attack_rows(model: nn.Module, pixels: Array, labels: Array, rounds: int) -> Iterator[dict[str, Any]]:
    """PGD of 20 steps against foolbox's, at two radii."""
    images, classes = torch.from_numpy(np.array(pixels)) / 255, torch.from_numpy(np.array(labels)).long()
    library = foolbox()
    wrapped = library.PyTorchModel(model, bounds=(0, 1), device="cpu")
    tool = library.attacks.LinfProjectedGradientDescentAttack(rel_stepsize=0.125, steps=20)
    eager = prepare_for_inference(model)
    half = half_gradients(eager, pixels)
    for radius in (1, 2):
        attack = FixedRadiusAttack("linf-pgd", radius / 255, steps=20)

        def peer(epsilon: float = radius / 255) -> float:
            return 1 - float(tool(wrapped, images, classes, epsilons=epsilon)[2].float().mean())

        def ours(attack: FixedRadiusAttack = attack) -> float:
            result = attack_success(eager, images, classes, attack=attack, seed=0)
            return 1 - float(result.misclassified.float().mean())

        def screened(attack: FixedRadiusAttack = attack) -> float:
            result = attack_success(eager, images, classes, attack=attack, seed=0, gradient_model=half)
            return 1 - float(result.misclassified.float().mean())

        for name, side in (("", ours), (", screened", screened)):
            agreement = f"robust {side():.2f}, foolbox {peer():.2f}"
            yield _row(f"linf-pgd, 20 steps, {radius}/255{name}", 4.0, peer, side, rounds, agreement)


def corruption_rows(peers: Path, rounds: int) -> Iterator[dict[str, Any]]:
    """Each kind of corruption against imagecorruptions, which takes an image at a time: seconds for each image."""
    corruptions: Any = importlib.import_module("corruptions")  # the script beside this one
    peer, textures = corruptions.loaded(peers)
    images = corruptions.scenes(128, 32)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in CORRUPTIONS:
            turns = [
                (corruptions.theirs(images[:32], kind, peer), corruptions.ours(images, kind, textures))
                for _ in range(rounds + 1)
            ]
            if not np.isnan(turns).any():
                yield _summary(f"{kind}, severity 3, of one image", 2.0, turns[1:], "")


def training_problem() -> tuple[nn.Module, ImageSet, Recipe]:
    """An untrained ResNet-20, random images and a recipe of one epoch."""
    images = ImageSet(
        "noise",
        np.random.default_rng(0).integers(0, 256, (256, 3, 32, 32), np.uint8),
        np.arange(256) % 10,
        10,
    )
    recipe = Recipe(epochs=1, batch_size=128, augment="crop-flip")
    return build_model(from_settings({"name": "resnet20"})), images, recipe


def training_row(rounds: int) -> dict[str, Any]:
    """An epoch in bfloat16 against one in float32: ``precision = "auto"`` takes it where there are units for it."""
    network, images, recipe = training_problem()

    def epoch(recipe: Recipe) -> Side:
        return lambda: train(copy.deepcopy(network), images, recipe, seed=0)

    sides = epoch(recipe), epoch(dataclasses.replace(recipe, precision="bfloat16"))
    return _row("an epoch of training in bfloat16, against float32", 1.55, *sides, rounds, "")


def auroc_row(rounds: int) -> dict[str, Any]:
    """Bootstrap replicates of an AUROC against ``roc_auc_score`` of scikit-learn with weights, 10,000 images a side."""
    draws = np.random.default_rng(0)
    scores = {"test": draws.normal(size=10_000), "letters": draws.normal(1, 1.5, 10_000)}
    weights = bootstrap_weights(dict.fromkeys(scores, 10_000), replicates=AUROC_REPLICATES, seed=0)
    labels, values = np.repeat([0, 1], 10_000), np.concatenate([*scores.values()])

    def peer() -> Array:
        pairs = zip(weights["test"], weights["letters"], strict=True)
        return np.array([roc_auc_score(labels, values, sample_weight=np.concatenate(pair)) for pair in pairs])

    def ours() -> Array:
        return Replicates(weights)("auroc", scores)

    difference = float(np.abs(peer() - ours()).max())
    return _row(
        f"{AUROC_REPLICATES} replicates of an AUROC",
        4.0,
        peer,
        ours,
        rounds,
        f"at most {difference:.1g} apart",
    )


def start_rows(rounds: int) -> Iterator[dict[str, Any]]:
    """Processor seconds of commands that compute nothing, against ``import torch``."""
    for name, peer, words in (
        ("evalsuite --help, against importing torch", "import torch", ("--help",)),
        ("evalsuite list evaluators, against importing torch", "import torch", ("list", "evaluators")),
    ):
        times = [
            (_process("-W", "ignore", "-c", peer), _process("-m", "evalsuite", *words)) for _ in range(rounds)
        ]
        yield _summary(name, None, times, "")


def _process(*words: str) -> float:
    before = os.times()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def _row(
    name: str, goal: float | None, peer: Side, ours: Side, rounds: int, agreement: str
) -> dict[str, Any]:
    peer(), ours()
    return _summary(name, goal, [(_seconds(peer), _seconds(ours)) for _ in range(rounds)], agreement)


def _summary(
    name: str, goal: float | None, times: list[tuple[float, float]], agreement: str
) -> dict[str, Any]:
    ratios = sorted(peer / ours for peer, ours in times)
    return {
        "name": name,
        "goal": goal,
        "ratio": round(statistics.median(ratios), 3),
        "range": [round(ratios[0], 3), round(ratios[-1], 3)],
        "seconds": float(f"{statistics.median(ours for _, ours in times):.3g}"),
        "peer_seconds": float(f"{statistics.median(peer for peer, _ in times):.3g}"),
        "rounds": len(times),
        "agreement": agreement,
    }


def _seconds(side: Side) -> float:
    started = time.process_time()
    side()
    return time.process_time() - started


def probe() -> dict[str, float]:
    """GFLOP/s of one thread: a 3x3 convolution in two precisions, and a matrix product."""
    rates = {}
    for name, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        maps = torch.randn(32, 64, 32, 32).to(kind, memory_format=torch.channels_last)
        conv = nn.Conv2d(64, 64, 3, padding=1, bias=False).to(kind, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        work = 2 * 32 * 64 * 64 * 9 * 32 * 32
        rates[f"convolution {name}"] = _rate(lambda conv=conv, maps=maps: conv(maps), work)  # type: ignore[misc]
    matrix = torch.randn(1024, 1024)
    rates["product float32"] = _rate(lambda: matrix @ matrix, 2 * 1024**3)
    return rates


def _rate(call: Side, work: int) -> float:
    with torch.inference_mode():
        call()
        return round(work / min(_seconds(call) for _ in range(5)) / 1e9, 1)


def table(result: dict[str, Any]) -> str:
    """The result as text."""
    machine = ", ".join(f"{name} {rate:g} GFLOP/s" for name, rate in result["probe"].items())
    lines = [f"{platform.machine()}, one thread: {machine}", ""]
    for row in result["rows"]:
        goal = "" if row["goal"] is None else f"goal {row['goal']:g}x"
        low, high = row["range"]
        lines.append(
            f"{row['name']:52} {row['ratio']:6.2f}x ({low:.2f} to {high:.2f}) {goal:10} {row['seconds']:.3g} s, "
            f"peer {row['peer_seconds']:.3g} s  {row['agreement']}"
        )
    return "\n".join(lines)


def slower(result: dict[str, Any], against: Path | None) -> list[str]:
    """Sentences about ratios that fell by more than a fifth; none on a kind of machine that the file does not have."""
    if against is None or not against.is_file():
        return []
    known = [before for before in json.loads(against.read_text("utf-8")) if is_same_kind(before, result)]
    ratios = {row["name"]: row["ratio"] for before in known for row in before["rows"]}
    return [
        f"{row['name']}: {row['ratio']:g}x, expected at least {LOSS:g} of {ratios[row['name']]:g}x"
        for row in result["rows"]
        if row["ratio"] < LOSS * ratios.get(row["name"], 0.0)
    ]


def is_same_kind(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether two results are of one kind of machine: the name alone hides the generation of a processor."""
    rates = [(before["probe"][name], now["probe"][name]) for name in now["probe"]]
    alike = all(LOSS < old / new < 1 / LOSS for old, new in rates)
    return alike and before["hardware"].get("processor") == now["hardware"].get("processor")


if __name__ == "__main__":
    sys.exit(main())
