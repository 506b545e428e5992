from __future__ import annotations

import copy
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.attacks.backends.autoattack import AutoAttackComponent, autoattack_success
from evalsuite.compat import robustbench as compat
from evalsuite.compat.robustbench import AutoAttack, clean_accuracy, robustbench
from evalsuite.errors import DataError, InvalidModelError, UserError

if TYPE_CHECKING:
    from evalsuite.types import Array

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A small convolutional network of ten classes with twelve images, eleven of which it classifies correctly."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prototypes = torch.rand(10, 3, 8, 8)
        labels = torch.arange(200) % 10
        images = (0.3 * prototypes[labels] + 0.35 + 0.1 * torch.randn(200, 3, 8, 8)).clamp(0, 1)
        model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(80):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(model(images), labels))
            optimizer.step()
        optimizer.zero_grad()
    images, labels = images[:12], labels[:12].clone()
    labels[5] = 0
    model.eval()
    assert (model(images).argmax(1) == labels).sum() == 11
    return model, images, labels


@pytest.mark.extensive
def test_imports_in_a_strict_process() -> None:
    code = (
        "class Any(dict):\n"
        "    def __missing__(self, key): return 0\n"
        "import sys, os, evalsuite.compat.robustbench as compat, evalsuite.compat.robustbench\n"
        "assert not {'robustbench', 'pyautoattack', 'torchvision'} & set(sys.modules)\n"
        "path = list(sys.path)\n"
        "sys.modules['pkg_resources'] = None  # as with setuptools 82\n"
        "library = compat.robustbench()\n"
        "assert library is compat.robustbench() is sys.modules['robustbench']\n"
        "assert sys.modules['pkg_resources'] is None\n"
        "assert not {'autoattack', 'autoattack.state'} & set(sys.modules)\n"
        "assert sys.path == path and not os.listdir()\n"
        "loaders = library.loaders\n"
        "listed = loaders.make_custom_dataset('root', 'helper_files/imagenet_test_image_ids.txt', Any())\n"
        "assert len(listed) == 5000\n"
    )
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        },
        cwd=Path.cwd(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


def test_torchattacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name == "torchattacks" else None)
    with pytest.raises(UserError, match="uninstall both"):
        robustbench.__wrapped__()


@pytest.mark.parametrize("batch_size", [1, 5, 100])
@pytest.mark.parametrize("kind", ["float32", "float64", "uint8", "numpy"])
def test_clean_accuracy_is_a_count(
    kind: str, batch_size: int, trained: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, images, labels = trained
    eight_bit = (images * 255).round().to(torch.uint8)
    kinds: dict[str, Tensor | Array] = {
        "float32": images,
        "float64": images.double(),
        "uint8": eight_bit,
        "numpy": np.asarray(eight_bit),
    }
    seen = eight_bit.float() / 255 if kind in {"uint8", "numpy"} else images
    with torch.no_grad():
        count = sum(
            int(model(one[None]).argmax()) == int(label) for one, label in zip(seen, labels, strict=True)
        )
    assert clean_accuracy(model, kinds[kind], labels, batch_size=batch_size) == count / 12 == 11 / 12


def test_clean_accuracy_of_read_only_arrays(
    tmp_path: Path, trained: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, images, labels = trained
    np.save(tmp_path / "images.npy", (images * 255).round().to(torch.uint8).numpy())
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert clean_accuracy(model, mapped, labels.numpy()) == 11 / 12


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((12, 3, 8, 8), 200.0), r"expected \[0, 1\]"),
        (torch.zeros(12, 3, 8, 8, dtype=torch.int64), "int64"),
        (torch.zeros(11, 3, 8, 8), "one per image"),
        (torch.zeros(0, 3, 8, 8), "at least one image"),
    ],
    ids=["0-255", "int64", "too few", "none"],
)
def test_malformed_images(images: Tensor, message: str, trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, _, labels = trained
    for call in (
        lambda: clean_accuracy(model, images, labels),
        lambda: compat.benchmark(model, images, labels, attack=AutoAttack(0.1, ("apgd-ce",))),
    ):
        with pytest.raises(DataError, match=message):
            call()


def test_training_mode_is_refused(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = trained
    model.train()
    try:
        with pytest.raises(InvalidModelError, match="training mode"):
            clean_accuracy(model, images, labels)
        with pytest.raises(InvalidModelError, match="training mode"):
            compat.benchmark(model, images, labels, attack=AutoAttack(0.1, ("apgd-ce",)))
    finally:
        model.eval()


def test_linf_benchmark_falls_with_epsilon(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = trained
    robust = []
    for epsilon in (0.0, 0.03, 0.06, 0.5):
        clean, survived, _ = compat.benchmark(model, images, labels, attack=AutoAttack(epsilon, ("apgd-ce",)))
        assert clean == 11 / 12
        robust.append(survived)
    assert robust == sorted(robust, reverse=True)
    assert robust[0] == 11 / 12
    assert 0 < robust[1] < 11 / 12
    assert robust[-1] == 0


@pytest.mark.parametrize(("norm", "epsilon"), [("Linf", 0.03), ("L2", 0.25)])
def test_the_images_behind_the_number(
    norm: Any, epsilon: float, trained: tuple[nn.Module, Tensor, Tensor]
) -> None:
    """Ours is the same attack, part by part, with random starts of its own; its answer may differ by an image."""
    model, images, labels = trained
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)  # as models are prepared
    images = images.to(memory_format=torch.channels_last)
    attack = AutoAttack(epsilon, ("apgd-ce", "apgd-t"), norm=norm)
    clean, robust, robust_images = compat.benchmark(model, images, labels, attack=attack)
    assert robust_images.float().mean() == pytest.approx(robust)
    assert not bool(robust_images[5])  # which is wrong as it is
    assert 0 < robust < clean
    wrong = torch.zeros(len(labels), dtype=torch.bool)
    for name in ("apgd-ce", "apgd-t"):
        part = AutoAttackComponent(name, epsilon, norm)
        wrong |= autoattack_success(model, images, labels, attack=part, seed=0, among=~wrong).misclassified
    assert int((~wrong).sum()) <= int(robust_images.sum()) + 1
    assert int((wrong == robust_images).sum()) <= 1


def test_linf_benchmark_runs_the_standard_version(
    trained: tuple[nn.Module, Tensor, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    model, images, labels = trained
    with caplog.at_level("DEBUG", logger="auto-attack"):
        alone = compat.benchmark(model, images, labels, attack=AutoAttack(0.03, ("apgd-ce",)))
        assert [line for line in caplog.messages if line.startswith("running")] == ["running apgd-ce"]
        caplog.clear()
        whole = compat.benchmark(model, images, labels, attack=AutoAttack(0.03))
    assert [line for line in caplog.messages if line.startswith("running")] == [
        f"running {name}" for name in ("apgd-ce", "apgd-t", "fab-t", "square")
    ]
    assert whole[0] == alone[0] == 11 / 12
    assert 0 < whole[1] <= alone[1]


def test_linf_benchmark_leaves_state_alone(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = trained
    attack = AutoAttack(0.04, ("apgd-ce", "fab-t"), batch_size=5)
    states = torch.random.get_rng_state(), random.getstate()
    with torch.inference_mode():
        first = compat.benchmark(model, images.clone(), labels.clone(), attack=attack)
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert states[1] == random.getstate()
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    torch.manual_seed(1)
    again = compat.benchmark(model, images, labels, attack=attack)
    assert again[:2] == first[:2]
    assert torch.equal(again.robust_images, first.robust_images)


def test_linf_benchmark_keeps_debuggers_and_passes_its_settings_on(
    trained: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, labels = trained
    library = sys.modules["pyautoattack"]
    kind, seen = library.AutoAttack, []

    def recorded(model: nn.Module, **settings: object) -> object:
        seen.append(settings)
        return kind(model, **settings)

    def trace(*_: object) -> None:
        """A debugger."""

    monkeypatch.setattr(library, "AutoAttack", recorded)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        compat.benchmark(model, images, labels, attack=AutoAttack(0.01, ("apgd-ce",), seed=11))
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)
    device = torch.device("cpu")
    assert seen == [{"norm": "Linf", "eps": 0.01, "version": "standard", "device": device, "seed": 11}]


def test_linf_benchmark_needs_ten_classes_for_targets() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).eval()
    images, labels = torch.rand(8, 3, 2, 2), torch.arange(8) % 4
    with pytest.raises(UserError, match=r"4 classes.*apgd-t and fab-t"):
        compat.benchmark(model, images, labels, attack=AutoAttack(0.1))
    clean, robust, _ = compat.benchmark(model, images, labels, attack=AutoAttack(0.5, ("apgd-ce",)))
    assert robust <= clean


@pytest.mark.parametrize("components", [(), ("apgd",), ("apgd-ce", "pgd")])
def test_unknown_components(components: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="expected some of apgd-ce, apgd-t, fab-t, square"):
        AutoAttack(0.1, components)
