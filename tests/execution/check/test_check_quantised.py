"""Quantised candidates beside pruned ones: ONNX with eight-bit levels, torch's eight-bit weights, torchao's."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.cli.main import app  # noqa: F401  # the command line is imported as a user does
from evalsuite.datasets.base import Place
from evalsuite.datasets.digits import Digits
from evalsuite.execution.check import CheckRequest, suite_for
from evalsuite.models.architectures.base import build_model, unwrap_model
from evalsuite.models.architectures.settings import from_settings
from evalsuite.models.checkpoints.saving import load_model
from evalsuite.models.exported.program import program_weights
from evalsuite.results.run import Run
from evalsuite.types import ExternalCandidate

Answer = Callable[..., int]
SETTINGS = {"name": "small-cnn", "widths": [8, 12, 16, 16]}
BATTERY = """
name = "battery"
[data]
name = "digits"
[model]
name = "small-cnn"
[[evaluators]]
name = "accuracy"
[[evaluators]]
name = "attack"
attacks = ["fgsm", "linf-noise"]
epsilons = [2]
images = 100
probe = 0
[[evaluators]]
name = "transfer"
epsilons = [2]
steps = 5
images = 100
[tolerances]
accuracy = 0.02
"""


class Int8Layer(nn.Module):
    """A linear layer or a convolution with weights of eight bits, one step for each output, as torchao stores them."""

    levels: Tensor
    step: Tensor

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach()
        step = weight.flatten(1).abs().amax(1).clamp(min=1e-12) / 127
        shape = [-1] + [1] * (weight.dim() - 1)
        self.register_buffer("levels", (weight / step.view(shape)).round().to(torch.int8))
        self.register_buffer("step", step.view(shape))
        self.layer = [layer]  # no module of its own: its weights are not kept
        self.bias = layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        weight = self.levels * self.step
        (layer,) = self.layer
        if isinstance(layer, nn.Linear):
            return nn.functional.linear(inputs, weight, self.bias)
        output: Tensor = layer._conv_forward(inputs, weight, self.bias)
        return output


@pytest.fixture(scope="module")
def network(shelf: Path) -> nn.Module:
    return unwrap_model(load_model(SETTINGS, shelf / "light.safetensors"))


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Training images as the network behind its normalisation gets them."""
    architecture = from_settings(SETTINGS)
    pixels = torch.from_numpy(np.array(Digits().load("train", Place()).images[:64])) / 255
    wrapped: Any = build_model(architecture)
    normalised: Tensor = (pixels - wrapped.mean) / wrapped.std
    return normalised


class _Batches:
    """What onnxruntime calls a reader of calibration data: one batch."""

    def __init__(self, images: Tensor) -> None:
        self.batches = iter([{"images": images.numpy()}])

    def get_next(self) -> Any:
        """Returns the next batch, and at the end nothing."""
        return next(self.batches, None)


def save_qdq(network: nn.Module, images: Tensor, path: Path) -> None:
    """ONNX with QuantizeLinear and DequantizeLinear around every layer, calibrated by `images`."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    reader = _Batches(images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (images[:2],), path.with_suffix(".float.onnx"), opset_version=17, dynamo=False,
            dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}}, input_names=["images"], output_names=["logits"],
        )  # fmt: skip
        quantization.quantize_static(
            str(path.with_suffix(".float.onnx")), str(path), reader,
            quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            weight_type=quantization.QuantType.QInt8,
        )  # fmt: skip


def save_int8(network: nn.Module, images: Tensor, path: Path) -> None:
    """torch.export of the network with eight-bit weights."""
    small = copy.deepcopy(network)
    for name, layer in [*small.named_modules()]:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            place, _, key = name.rpartition(".")
            setattr(small.get_submodule(place), key, Int8Layer(layer))
    save_export(small.eval(), images, path)


def save_torchao(network: nn.Module, images: Tensor, path: Path) -> None:
    """torch.export of the network whose linear layers torchao has quantised."""
    quantization = pytest.importorskip("torchao.quantization")
    small = copy.deepcopy(network)
    quantization.quantize_(small, quantization.Int8WeightOnlyConfig())
    save_export(small.eval(), images, path)


def save_export(network: nn.Module, images: Tensor, path: Path) -> None:
    """torch.export of a network for any number of images."""
    batch = torch.export.Dim("n", min=1)
    torch.export.save(torch.export.export(network, (images[:4],), dynamic_shapes=({0: batch},)), path)


def rows(folder: Path, metric: str) -> Iterator[tuple[str, float, str]]:
    table = Run(folder).measurements
    for _, row in table[table["metric"] == metric].iterrows():
        yield f"{row['method']} {row['condition']}", row["value"], str(row.get("reason", ""))


@pytest.mark.extensive
def test_quantised_models_stand_beside_pruned_ones_on_the_axis_of_bytes(
    answer: Answer, network: nn.Module, images: Tensor, tmp_path: Path, shelf: Path
) -> None:
    save_qdq(network, images, tmp_path / "qdq.onnx")
    save_int8(network, images, tmp_path / "int8.pt2")
    (tmp_path / "tests.toml").write_text(BATTERY, "utf-8")
    words = [
        *("--candidate", str(tmp_path / "qdq.onnx"), "--candidate", str(tmp_path / "int8.pt2")),
        *(
            "--candidate",
            str(shelf / "light.safetensors"),
            "--trust-program",
            "--suite",
            str(tmp_path / "tests.toml"),
        ),
    ]
    assert answer(*words, "--out", str(tmp_path / "run")) in (0, 1)
    by_bytes = Run(tmp_path / "run", axis="bytes").measurements.groupby("method").first()
    by_weights = Run(tmp_path / "run").measurements.groupby("method").first()
    for name in ("qdq", "int8"):  # as many weights as the pruned model that they were made of, or a few less
        assert by_weights.loc[name, "ratio"] == pytest.approx(by_weights.loc["light", "ratio"], abs=0.03)
        assert by_bytes.loc[name, "ratio"] == pytest.approx(
            1
            - (tmp_path / f"{name}.{'onnx' if name == 'qdq' else 'pt2'}").stat().st_size
            / Run(tmp_path / "run").measurements.query("method == 'light'")["bytes"].iloc[0],
            abs=0.02,
        )
    accuracy = {name: value for name, value, _ in rows(tmp_path / "run", "accuracy")}
    assert accuracy["qdq clean"] == pytest.approx(accuracy["light clean"], abs=0.08)
    assert accuracy["int8 clean"] == pytest.approx(accuracy["light clean"], abs=0.02)
    robust = {name: (value, reason) for name, value, reason in rows(tmp_path / "run", "robust_accuracy")}
    assert "the model has no gradients (ONNX: onnx2torch cannot convert it" in robust["qdq fgsm/2:255"][1]
    assert "the test transfer shows it the adversarial images" in robust["qdq fgsm/2:255"][1]
    assert robust["qdq linf-noise/2:255"][0] > 0.3
    gradients = abs(robust["int8 fgsm/2:255"][0] - robust["light fgsm/2:255"][0])
    assert gradients < 0.1  # those of its levels
    transfer = {name: value for name, value, _ in rows(tmp_path / "run", "transfer_accuracy")}
    assert transfer["dense linf-pgd of parent/2:255"] <= transfer["qdq linf-pgd of parent/2:255"] <= 1


def test_eight_bit_tables_of_torch_count_as_weights() -> None:
    linear = nn.Linear(4, 3)
    linear.weight.data[0] = 0
    shown = program_weights(Int8Layer(linear))
    assert [(tensor.dtype, int(tensor.count_nonzero())) for tensor in shown if tensor.dim() > 1] == [
        (torch.int8, 8)
    ]


def test_torchaos_weights_are_counted_as_the_numbers_that_they_stand_for() -> None:
    torchao = pytest.importorskip("torchao.quantization")
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    net.get_parameter("1.weight").data[:4] = 0
    torchao.quantize_(net, torchao.Int8WeightOnlyConfig())
    weights = [tensor for tensor in program_weights(net) if tensor.dim() > 1]
    assert [tuple(weight.shape) for weight in weights] == [(8, 12), (3, 8)]
    assert int(weights[0].count_nonzero()) <= 4 * 12


def test_a_file_that_needs_a_library_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, network: nn.Module, images: Tensor
) -> None:
    from evalsuite.errors import CheckpointError
    from evalsuite.models.exported.loading import load_program

    save_int8(network, images, tmp_path / "int8.pt2")

    def missing(_: object) -> None:
        raise ModuleNotFoundError("No module named 'torchao'", name="torchao")

    monkeypatch.setattr(torch.export, "load", missing)
    with pytest.raises(CheckpointError, match=r"needs the package torchao .*: install it, or export"):
        load_program(tmp_path / "int8.pt2", trust=True)


@pytest.mark.extensive
def test_a_program_of_torchao_is_checked(
    answer: Answer, network: nn.Module, images: Tensor, tmp_path: Path, shelf: Path
) -> None:
    save_torchao(network, images, tmp_path / "torchao.pt2")
    (tmp_path / "tests.toml").write_text(BATTERY, "utf-8")
    words = [
        *("--candidate", str(tmp_path / "torchao.pt2"), "--candidate", str(shelf / "light.safetensors")),
        *("--trust-program", "--suite", str(tmp_path / "tests.toml"), "--out", str(tmp_path / "run")),
    ]
    assert answer(*words) in (0, 1)
    table = Run(tmp_path / "run").measurements
    assert table["reason"].fillna("").eq("").all() if "reason" in table else True
    ratios = table.groupby("method").first()["ratio"]
    assert ratios["torchao"] == pytest.approx(ratios["light"], abs=0.03)
    accuracy = {name: value for name, value, _ in rows(tmp_path / "run", "accuracy")}
    assert accuracy["torchao clean"] == pytest.approx(accuracy["light clean"], abs=0.02)


def test_programs_are_tested_without_gradients_unless_a_suite_is_named(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "levels.onnx").write_bytes(b"not read before it is run")
    (tmp_path / "tests.toml").write_text(BATTERY, "utf-8")
    settings = {"widths": [8, 12, 16, 16]}

    def labels(file: Path, suite: str = "") -> list[str]:
        candidates = (ExternalCandidate(str(file), "candidate"),)
        request = CheckRequest(
            str(shelf / "dense.pt"),
            candidates,
            model="small-cnn",
            settings=settings,
            data={"name": "digits"},
            suite=suite,
        )
        return [config.label for config in suite_for(request, folder=tmp_path).evaluators]

    plain = labels(shelf / "light.safetensors")
    assert "transfer" not in plain
    assert labels(tmp_path / "levels.onnx") == [*plain, "transfer", "black-box queries"]
    assert labels(tmp_path / "levels.onnx", str(tmp_path / "tests.toml")) == [
        "accuracy",
        "attack",
        "transfer",
    ]
