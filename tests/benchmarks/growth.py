"""How cost grows: time per network and image, memory, and the time of a report, with more candidates and more images.

    python tests/benchmarks/growth.py                candidates, images, report
    python tests/benchmarks/growth.py --rounds 1     once instead of the median of five

A small network with weights of its own classifies random images by its own answers. Finished candidates, copies with a
few zeros, are measured with 1 to 50 candidates on 1,000 images, and one candidate with 1,000 to 50,000 images; each run
is a process of its own, whose processor time and largest memory count. What a run costs without images (start, plan,
reading files) is in the run of the smallest number; time per (network, image) is what the others take more than it.
Counts of passes are exact, which tests hold (`tests/execution/test_growth.py`). Goal: flat within 10 %, and a report
linear in its rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SUITE = """
name = "growth"
seeds = [0]
ratios = [0.5]
checkpoint = "{root}/parent.safetensors"
data_root = "{root}"
[data]
name = "arrays"
folder = "{images}"
classes = 10
[model]
name = "small-cnn"
widths = [16, 16, 32, 32]
[[evaluators]]
name = "accuracy"
[[evaluators]]
name = "noise"
epsilons = [8]
[tolerances]
accuracy = 0.01
"""
CANDIDATE = '[[candidates]]\nfile = "{root}/{number}.safetensors"\nmethod = "copy"\nseed = 0\n'
CANDIDATES, IMAGES = (1, 10, 25, 50), (1_000, 10_000, 25_000, 50_000)
FEW = 1_000


def prepare_files(root: Path) -> None:
    """Writes networks, and images with the parent's answers for labels."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    from evalsuite.models.architectures.base import build_model, unwrap_model
    from evalsuite.models.architectures.settings import from_settings
    from evalsuite.models.inference import logits

    torch.manual_seed(0)
    parent = build_model(from_settings({"name": "small-cnn", "widths": [16, 16, 32, 32]})).eval()
    state = unwrap_model(parent).state_dict()
    save_file(state, root / "parent.safetensors")
    for number in range(max(CANDIDATES)):
        copy = {name: values.clone() for name, values in state.items()}
        name = next(name for name, values in copy.items() if values.dim() == 4)
        copy[name].view(-1)[: 10 + number] = 0
        save_file(copy, root / f"{number}.safetensors")
    draws = np.random.default_rng(0)
    for count in {FEW, *IMAGES}:
        folder = root / str(count)
        folder.mkdir()
        images = draws.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        for split, rows in (("test", images), ("train", images[:100])):
            np.save(folder / f"{split}_images.npy", rows)
            np.save(folder / f"{split}_labels.npy", logits(parent, rows).argmax(axis=1))


def one_run(root: Path, candidates: int, images: int) -> None:
    """Measures, writes the report, and prints JSON: seconds of processor time, MiB, rows."""
    import resource
    import time

    from evalsuite import api
    from evalsuite.config.options import Options
    from evalsuite.execution import scheduler

    suite = root / f"{candidates}-{images}.toml"
    rows = "".join(CANDIDATE.format(root=root, number=number) for number in range(candidates))
    suite.write_text(SUITE.format(root=root, images=images) + rows)
    with tempfile.TemporaryDirectory(dir=root) as out:
        started = time.process_time()
        run = scheduler.run(suite, out=out, options=Options(cache=False, data_root=root))
        measured = time.process_time()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        api.publish(out)
        result = {
            "seconds": measured - started,
            "MiB": memory,
            "report seconds": time.process_time() - measured,
            "rows": len(run.measurements),
        }
    sys.stdout.write(json.dumps(result))


def medians(root: Path, candidates: int, images: int, rounds: int) -> dict[str, float]:
    """The median of each number over several processes."""
    words = [sys.executable, __file__, "--root", str(root), "--one", str(candidates), str(images)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    turns: list[dict[str, Any]] = []
    for _ in range(rounds):
        done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, check=True)
        turns.append(json.loads(done.stdout))
    return {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}


def table(results: list[tuple[str, int, dict[str, float]]]) -> str:
    """Lines with the time per network and image beyond the smallest run; networks count the parent."""
    lines = [
        f"{'':<12}{'passes':>10}{'s':>9}{'µs per (network, image)':>26}{'MiB':>8}{'report s':>10}{'rows':>7}"
    ]
    _, first_passes, first = results[0]
    for name, passes, numbers in results:
        more = passes - first_passes
        each = f"{1e6 * (numbers['seconds'] - first['seconds']) / more:.1f}" if more else "-"
        lines.append(
            f"{name:<12}{passes:>10}{numbers['seconds']:>9.2f}{each:>26}{numbers['MiB']:>8.0f}"
            f"{numbers['report seconds']:>10.2f}{numbers['rows']:>7.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Prints two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one_run(options.root, *options.one)
        return
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        prepare_files(root)
        for what, sizes in (("candidates", CANDIDATES), ("images", IMAGES)):
            results = []
            for size in sizes:
                candidates, images = (size, FEW) if what == "candidates" else (1, size)
                numbers = medians(root, candidates, images, options.rounds)
                results.append((f"{size} {what[:6]}", (candidates + 1) * images, numbers))
            sys.stdout.write(f"{what}\n{table(results)}\n\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
