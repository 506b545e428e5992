from __future__ import annotations

import os
import resource
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx2torch
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from evalsuite.errors import CheckpointError
from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.settings import from_settings
from evalsuite.models.exported import onnx as onnx_files
from evalsuite.models.exported import onnx_probe
from evalsuite.models.exported.loading import load_program, program_format
from evalsuite.models.inference import gradient_obstacle, logits, prepare_for_inference
from evalsuite.training.loop import train
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet

SHAPE = (3, 4, 4)
CLASSES = 5
WEIGHT = np.random.default_rng(0).normal(size=(48, CLASSES)).astype(np.float32)
LOGITS = ("logits", TensorProto.FLOAT, ("n", CLASSES))
IMAGES = ("images", TensorProto.FLOAT, ("n", *SHAPE))
FLATTEN = helper.make_node("Flatten", ["images"], ["flat"])
LINEAR = helper.make_node("MatMul", ["flat", "weight"], ["logits"])


def graph(
    nodes: Any = (FLATTEN, LINEAR),
    *,
    inputs: Any = (IMAGES,),
    outputs: Any = (LOGITS,),
    opset: int = 18,
    **more: Any,
) -> onnx.ModelProto:
    """A linear classifier, or whatever else a test wants."""
    tensors = [
        numpy_helper.from_array(np.asarray(value), name) for name, value in {"weight": WEIGHT, **more}.items()
    ]
    model_graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        tensors,
    )
    return helper.make_model(model_graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def behind(name: str, *, opset: int = 18, **attributes: Any) -> onnx.ModelProto:
    """The linear classifier behind an operator that treats each pixel by itself."""
    first = helper.make_node(name, ["images"], ["changed"], **attributes)
    return graph((first, helper.make_node("Flatten", ["changed"], ["flat"]), LINEAR), opset=opset)


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def pictures(count: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def gradient(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    asked = images.clone().requires_grad_()
    (gradients,) = torch.autograd.grad(
        nn.functional.cross_entropy(model(asked), torch.zeros(len(images)).long()), asked
    )
    return gradients


def exported(model: nn.Module, path: Path, *, opset: int, today: bool, batch: int = 0) -> Path:
    """What torch's present exporter writes, or the one before it; a batch size of 0 is dynamic."""
    sample = torch.rand(batch or 2, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if today:
            free = ({0: torch.export.Dim("n")},) if not batch else None
            torch.onnx.export(
                model, (sample,), path, opset_version=opset, dynamic_shapes=free, dynamo=True, external_data=False,
                verbose=False,
            )  # fmt: skip
        else:
            axes = None if batch else {"images": {0: "n"}, "logits": {0: "n"}}
            torch.onnx.export(
                model, (sample,), path, opset_version=opset, dynamic_axes=axes, dynamo=False,
                input_names=["images"], output_names=["logits"],
            )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def trained(few: ImageSet) -> Callable[[str], nn.Module]:
    """Networks that know more than half of the few digits."""

    @cache
    def after_training(name: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build_model(from_settings({"name": name}))
        train(
            model,
            few,
            Recipe(epochs=12 if name == "small-cnn" else 6, batch_size=16, learning_rate=0.05),
            seed=0,
        )
        return model.eval()

    return after_training


@pytest.mark.parametrize(
    ("name", "opset", "today"),
    [("small-cnn", opset, False) for opset in (13, 17, 20)]
    + [("resnet20", opset, False) for opset in (13, 18)]
    + [("small-cnn", 20, True), ("resnet20", 18, True)],
)
def test_exports_have_the_outputs_and_gradients_of_the_network(
    trained: Callable[[str], nn.Module], few: ImageSet, tmp_path: Path, name: str, opset: int, today: bool
) -> None:
    model = trained(name)
    path = exported(model, tmp_path / "model.bin", opset=opset, today=today)
    assert onnx.load(path).opset_import[0].version == opset
    program = load_program(path, trust=False, image_shape=(3, 32, 32))

    assert (program.format, program.gradient_obstacle) == ("ONNX", "")
    assert "gradients those of the conversion by onnx2torch" in program.notes[0]
    expected, computed = logits(model, few.images), logits(program, few.images)
    np.testing.assert_allclose(computed, expected, rtol=0, atol=1e-4)
    assert few.labels is not None
    accuracy = float((expected.argmax(1) == few.labels).mean())
    assert float((computed.argmax(1) == few.labels).mean()) == accuracy > 0.5

    images = torch.from_numpy(few.images[:7] / np.float32(255))
    wanted = gradient(model, images)
    assert float((gradient(program, images) - wanted).norm() / wanted.norm()) < 1e-3


def test_outputs_are_onnxruntimes_and_gradients_those_of_the_conversion(tmp_path: Path) -> None:
    program = load_program(saved(graph(), tmp_path), trust=False)
    converted = program.network.get_submodule("converted")
    for weight in converted.buffers():
        weight.mul_(2)
    images = pictures(6)
    expected = images.flatten(1) @ torch.from_numpy(WEIGHT)
    torch.testing.assert_close(program(images), expected)
    with torch.no_grad():
        torch.testing.assert_close(program(images.clone().requires_grad_()), expected)
    torch.testing.assert_close(program(images.clone().requires_grad_()).detach(), 2 * expected)


def test_a_batch_size_that_is_fixed_is_kept_to(trained: Callable[[str], nn.Module], tmp_path: Path) -> None:
    model = trained("small-cnn")
    path = exported(model, tmp_path / "five.onnx", opset=17, today=False, batch=5)
    program = load_program(path, trust=False)
    assert (program.input_spec.min_batch, program.input_spec.max_batch) == (5, 5)
    assert program.notes[0] == "The program takes exactly 5 images at a time."
    for count in (1, 5, 12):
        images = pictures(count, (3, 32, 32))
        torch.testing.assert_close(program(images), model(images).detach(), rtol=0, atol=1e-4)
        torch.testing.assert_close(gradient(program, images), gradient(model, images), rtol=1e-3, atol=1e-5)


def reshaped(count: int) -> onnx.ModelProto:
    """A graph that declares any batch size, and reshapes to the one it was recorded with."""
    shape = np.array([count, 48 if count == 1 else -1], np.int64)
    return graph((helper.make_node("Reshape", ["images", "shape"], ["flat"]), LINEAR), shape=shape)


def test_a_missing_dynamic_axis_inside_is_detected(tmp_path: Path) -> None:
    program = load_program(saved(reshaped(1), tmp_path), trust=False)
    images = pictures(3)
    assert "The program takes one image at a time." in program.notes
    torch.testing.assert_close(program(images), images.flatten(1) @ torch.from_numpy(WEIGHT))
    with pytest.raises(CheckpointError, match=r"model\.onnx "):
        load_program(saved(reshaped(7), tmp_path), trust=False)


def taking(*sizes: int | str, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    return graph(inputs=(("images", dtype, ("n", *sizes)),))


TWO = (IMAGES, ("scale", TensorProto.FLOAT, ("n", 48)))
SCALED = (
    FLATTEN,
    helper.make_node("Mul", ["flat", "scale"], ["b"]),
    helper.make_node("MatMul", ["b", "weight"], ["logits"]),
)
DROPOUT = (
    helper.make_node("Dropout", ["images", "ratio", "training"], ["kept"]),
    helper.make_node("Flatten", ["kept"], ["flat"]),
    LINEAR,
)
CAST = (
    helper.make_node("Cast", ["images"], ["kept"], to=TensorProto.FLOAT),
    helper.make_node("Flatten", ["kept"], ["flat"]),
    LINEAR,
)
RELU = helper.make_node("Relu", ["images"], ["logits"])
EVIL = helper.make_node("Evil", ["images"], ["flat"], domain="evil")
FLAT = ("flat", TensorProto.FLOAT, ("n", 48))
ONE = ("logits", TensorProto.FLOAT, ("n", 1))
MAPS = ("logits", TensorProto.FLOAT, ("n", *SHAPE))
BYTES = ("images", TensorProto.UINT8, ("n", *SHAPE))
REFUSED = {
    "two inputs": (graph(SCALED, inputs=TWO), r"has 2 inputs \(images, scale\), expected one"),
    "two outputs": (graph(outputs=(LOGITS, FLAT)), r"has 2 outputs \(logits, flat\), expected one"),
    "rank": (taking(48), r"takes an input with 2 dimensions, \(any, 48\), expected images"),
    "integers": (graph(CAST, inputs=(BYTES,)), "takes uint8, expected float images"),
    "channels last": (taking(4, 4, 3), r"\(any, 4, 4, 3\), which has the channels last"),
    "other images": (taking(3, 2, 8), r"takes images of shape \(3, 2, 8\), but .* data set are \(3, 4, 4\)"),
    "one logit": (graph(weight=WEIGHT[:, :1], outputs=(ONE,)), "returns one logit per image"),
    "maps": (graph((RELU,), outputs=(MAPS,)), r"returns shape \(4, 3, 4, 4\) for 4 images"),
    "NaN": (graph(weight=WEIGHT * np.float32("nan")), "returns NaN or infinite logits"),
    "dropout": (graph(DROPOUT, ratio=np.float32(0.5), training=np.True_), "exported in training mode"),
    "custom operator": (graph((EVIL, LINEAR)), "truncated, damaged or no ONNX program"),
}


@pytest.mark.parametrize(("model", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_classifier_of_these_images_is_refused(
    tmp_path: Path, model: onnx.ModelProto, sentence: str
) -> None:
    with pytest.raises(CheckpointError, match=f"^program .*model.onnx .*{sentence}"):
        load_program(saved(model, tmp_path), trust=True, image_shape=SHAPE)


def test_batch_norm_in_training_mode_is_refused(tmp_path: Path) -> None:
    norm = helper.make_node(
        "BatchNormalization",
        ["images", "one", "zero", "mean", "variance"],
        ["kept", "m", "v"],
        training_mode=1,
    )
    model = graph(
        (norm, helper.make_node("Flatten", ["kept"], ["flat"]), LINEAR),
        one=np.ones(3, np.float32), zero=np.zeros(3, np.float32),
        mean=np.zeros(3, np.float32), variance=np.ones(3, np.float32),
    )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"the other images of a batch change.*call model\.eval"):
        load_program(saved(model, tmp_path), trust=False)


def test_an_operator_that_cannot_be_converted_leaves_a_model_without_gradients(tmp_path: Path) -> None:
    program = load_program(saved(behind("Mish"), tmp_path), trust=False)
    assert program.gradient_obstacle
    assert program.notes == (
        "The model has no gradients (ONNX: onnx2torch cannot convert it (Converter is not implemented "
        "(OperationDescription(domain='', operation_type='Mish', version=17)))): white-box attacks cannot run.",
    )
    images = pictures(9)
    expected = nn.functional.mish(images).flatten(1) @ torch.from_numpy(WEIGHT)
    torch.testing.assert_close(program(images), expected)
    ready = prepare_for_inference(nn.Sequential(program, nn.Identity()).eval())
    assert gradient_obstacle(ready)
    assert gradient_obstacle(ready) == f"ONNX: {program.gradient_obstacle}"
    np.testing.assert_allclose(logits(ready, images.numpy()), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_a_conversion_that_computes_something_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = graph(weight=WEIGHT * np.float32(1.001))
    monkeypatch.setattr(onnx_files, "lower_for_converter", lambda _: other)
    program = load_program(saved(graph(), tmp_path), trust=False)
    assert "its outputs change by up to 0.0" in program.gradient_obstacle
    monkeypatch.setattr(
        onnx_files, "lower_for_converter", lambda _: graph(weight=WEIGHT * np.float32(1 + 1e-6))
    )
    assert not load_program(saved(graph(), tmp_path), trust=False).gradient_obstacle


def test_gradients_that_are_zero_by_rounding_are_none_but_a_dead_network_has_them(tmp_path: Path) -> None:
    assert "zero everywhere" in load_program(saved(behind("Round"), tmp_path), trust=False).gradient_obstacle
    dead = graph(weight=0 * WEIGHT)
    assert not load_program(saved(dead, tmp_path), trust=False).gradient_obstacle


def test_without_the_size_of_its_images_a_conversion_is_not_used(tmp_path: Path) -> None:
    path = saved(graph(inputs=(("images", TensorProto.FLOAT, ("n", 3, "h", "w")),)), tmp_path)
    assert "size of its images is unknown" in load_program(path, trust=False).gradient_obstacle
    assert not load_program(path, trust=False, image_shape=SHAPE).gradient_obstacle


def test_half_precision_is_taken_as_it_is(tmp_path: Path) -> None:
    half = (("images", TensorProto.FLOAT16, ("n", *SHAPE)),)
    model = graph(
        inputs=half, outputs=(("logits", TensorProto.FLOAT16, ("n", 5)),), weight=WEIGHT.astype(np.float16)
    )
    program = load_program(saved(model, tmp_path), trust=False)
    assert "The program takes its images in float16." in program.notes
    outputs = program(pictures(3))
    assert outputs.dtype == torch.float32
    torch.testing.assert_close(outputs, pictures(3).flatten(1) @ torch.from_numpy(WEIGHT), rtol=0, atol=0.03)


def outside(location: str, folder: Path, *, length: int | None = None) -> Path:
    """A model that keeps its weight in another file."""
    model = graph()
    (weight,) = model.graph.initializer
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(length or WEIGHT.nbytes)}.items():
        weight.external_data.add(key=key, value=value)
    return saved(model, folder)


def test_tensors_in_a_file_beside_it_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "weights.bin").write_bytes(WEIGHT.tobytes())
    path = outside("deeper/weights.bin", tmp_path)
    monkeypatch.chdir("/")
    program = load_program(path, trust=False)
    assert not program.gradient_obstacle
    torch.testing.assert_close(program(pictures(3)), pictures(3).flatten(1) @ torch.from_numpy(WEIGHT))


def test_tensors_anywhere_else_are_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    secret = tmp_path / "secret.bin"
    secret.write_bytes(WEIGHT.tobytes())
    (home / "link.bin").symlink_to(secret)
    for location in (str(secret), "../secret.bin", "link.bin", "/dev/zero"):
        with pytest.raises(
            CheckpointError, match=f"refers to tensors in '{location}' outside its own folder"
        ):
            load_program(outside(location, home), trust=True)
    with pytest.raises(CheckpointError, match=r"refers to tensors in 'gone\.bin', which does not exist"):
        load_program(outside("gone.bin", home), trust=False)
    os.mkfifo(home / "pipe")
    with pytest.raises(CheckpointError, match="refers to tensors in 'pipe', which does not exist"):
        load_program(outside("pipe", home), trust=False)
    (home / "short.bin").write_bytes(WEIGHT.tobytes()[:-4])
    with pytest.raises(CheckpointError, match=r"beyond the end of 'short\.bin'"):
        load_program(outside("short.bin", home), trust=False)


def test_external_tensors_of_a_subgraph_are_seen(tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.zeros(5, np.float32))
    value.ClearField("raw_data")
    value.data_location = TensorProto.EXTERNAL
    value.external_data.add(key="location", value="/etc/hostname")
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=value)], "branch", [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, (5,))],
    )  # fmt: skip
    choice = helper.make_node("If", ["yes"], ["bias"], then_branch=branch, else_branch=branch)
    add = helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"])
    model = graph((choice, FLATTEN, add), yes=np.True_)
    with pytest.raises(CheckpointError, match="refers to tensors in '/etc/hostname' outside"):
        load_program(saved(model, tmp_path), trust=False)


def test_too_large_a_model_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(graph(), tmp_path)
    monkeypatch.setattr(onnx_files, "MAX_BYTES", path.stat().st_size)
    load_program(path, trust=False)
    (tmp_path / "weights.bin").write_bytes(WEIGHT.tobytes())
    external = outside("weights.bin", tmp_path)
    monkeypatch.setattr(onnx_files, "MAX_BYTES", WEIGHT.nbytes - 1)
    with pytest.raises(CheckpointError, match=r"has 960 bytes of tensors, expected at most 959"):
        load_program(external, trust=False)
    monkeypatch.setattr(onnx, "load", lambda *_, **__: pytest.fail("was read"))
    with pytest.raises(CheckpointError, match="bytes of tensors, expected at most"):
        load_program(saved(graph(), tmp_path), trust=False)


def test_names_in_a_file_never_become_code(tmp_path: Path) -> None:
    """The converter writes names of nodes into source that it runs."""
    canary = tmp_path / "ran"
    name = "+".join(f"chr({ord(letter)})" for letter in str(canary))  # dots would not get through
    code = f'training"), getattr(__import__("os"), "mkdir")({name}), getattr(self, "training'
    relu = helper.make_node("Relu", ["images"], ["changed"], name=code)
    model = graph((relu, helper.make_node("Flatten", ["changed"], ["flat"]), LINEAR), opset=13)

    program = load_program(saved(model, tmp_path), trust=False)
    assert not program.gradient_obstacle
    gradient(program, pictures(2))
    assert not canary.exists()

    raw = onnx2torch.convert(model)
    with pytest.raises(TypeError):
        raw(pictures(2))
    assert canary.exists(), "the converter quotes names now: renaming is no longer needed"


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnx2torch"])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CheckpointError, match=f"needs the package {package}: .*'evalsuite.programs.'"):
        load_program(saved(graph(), tmp_path), trust=False)


WHOLE = graph().SerializeToString()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(WHOLE) - 1), cut=st.booleans(), value=st.integers(0, 255))
def test_a_damaged_file_is_refused_in_one_sentence_or_still_a_model(
    tmp_path: Path, at: int, cut: bool, value: int
) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(WHOLE[:at] if cut else WHOLE[:at] + bytes([value]) + WHOLE[at + 1 :])
    try:
        load_program(path, trust=False, image_shape=SHAPE)
    except CheckpointError as error:
        sentence = str(error)
    else:
        sentence = ""
    assert "\n" not in sentence
    assert sentence or (program_format(path) == "ONNX" and not cut)


@pytest.mark.parametrize("last", ["Softmax", "Sigmoid", "HardSigmoid"])
@pytest.mark.parametrize("quantised", [False, True], ids=["float", "quantised"])
def test_a_graph_that_ends_in_probabilities_is_refused(tmp_path: Path, last: str, quantised: bool) -> None:
    nodes = [FLATTEN, helper.make_node("MatMul", ["flat", "weight"], ["scores"])]
    ends = ["probabilities", "logits"]
    nodes.append(helper.make_node(last, ["scores"], ends[:1]))
    levels = [helper.make_node("QuantizeLinear", [*ends[:1], "step"], ["levels"])]
    levels.append(helper.make_node("DequantizeLinear", ["levels", "step"], ends[1:]))
    nodes += levels if quantised else [helper.make_node("Identity", ends[:1], ends[1:])]
    path = saved(graph(nodes, step=np.float32(1 / 256)), tmp_path)
    with pytest.raises(CheckpointError, match=f"probabilities: its last operator is {last}, expected logits"):
        load_program(path, trust=False, image_shape=SHAPE)


def dynamic(batch: str | int = "n") -> onnx.ModelProto:
    """The linear classifier with weights of eight bits, and images of eight bits whose step is that of the batch."""
    step = np.float32(np.abs(WEIGHT).max() / 127)
    nodes = [
        FLATTEN,
        helper.make_node("DynamicQuantizeLinear", ["flat"], ["levels", "by", "zero"]),
        helper.make_node("MatMulInteger", ["levels", "weight", "zero", "zero_weight"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "by"], ["once"]),
        helper.make_node("Mul", ["once", "step"], ["logits"]),
    ]
    levels = (np.rint(WEIGHT / step) * (np.abs(WEIGHT) > 0.5)).astype(np.int16) + 128
    return graph(
        nodes,
        inputs=(("images", TensorProto.FLOAT, (batch, *SHAPE)),),
        outputs=(("logits", TensorProto.FLOAT, (batch, CLASSES)),),
        weight=levels.astype(np.uint8),
        zero_weight=np.uint8(128),
        step=step,
    )


def test_a_dynamically_quantised_program_runs_image_by_image_and_its_weights_count(tmp_path: Path) -> None:
    program = load_program(saved(dynamic(), tmp_path), trust=False, image_shape=SHAPE)
    images = pictures(5) * torch.tensor([0.1, 1, 0.5, 0.02, 0.3]).view(5, 1, 1, 1)
    alone = torch.cat([program(image[None]) for image in images])
    assert torch.equal(program(images), alone)  # of the graph itself, a batch has another step
    assert "one image at a time" in program.notes[0]
    assert "is quantised dynamically" in program.notes[1]
    (weight,) = program.parameters()
    assert int(weight.count_nonzero()) == int((np.abs(WEIGHT) > 0.5).sum())
    with pytest.raises(CheckpointError, match="is quantised dynamically and takes 4 images at a time"):
        load_program(saved(dynamic(4), tmp_path), trust=False, image_shape=SHAPE)


def test_levels_with_a_zero_point_for_each_output_count_whatever_their_shape() -> None:
    """As many outputs as inputs: which dimension has the zero points is what the graph says, not what fits."""
    levels = np.random.default_rng(0).integers(-9, 9, (4, 4)).astype(np.int8)
    zeros = np.arange(4, dtype=np.int8)
    for axis, expected in ((0, levels != zeros[:, None]), (1, levels != zeros)):
        nodes = [
            helper.make_node("DequantizeLinear", ["levels", "steps", "zeros"], ["square"], axis=axis),
            LINEAR,
        ]
        model = graph(nodes, levels=levels, steps=np.ones(4, np.float32), zeros=zeros)
        (weight, *_) = (
            tensor for tensor in onnx_files.graph_weights(model).values() if tensor.shape == (4, 4)
        )
        np.testing.assert_array_equal(weight.numpy() != 0, expected)


def looping(trips: int) -> onnx.ModelProto:
    """The linear classifier behind a loop that adds zero to its logits."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Mul", ["x", "x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, ()),
            helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        FLATTEN,
        helper.make_node("MatMul", ["flat", "weight"], ["scores"]),
        helper.make_node("Loop", ["trips", "", "scores"], ["logits"], body=body),
    ]
    return graph(nodes, trips=np.int64(trips))


def filling() -> onnx.ModelProto:
    """The linear classifier plus the sum of sixteen gigabytes of ones."""
    nodes = [
        FLATTEN,
        helper.make_node("MatMul", ["flat", "weight"], ["scores"]),
        helper.make_node("ConstantOfShape", ["size"], ["ones"]),
        helper.make_node("ReduceSum", ["ones"], ["sum"], keepdims=0),
        helper.make_node("Add", ["scores", "sum"], ["logits"]),
    ]
    return graph(nodes, size=np.array([2**32], np.int64))


@pytest.mark.parametrize("bomb", [looping(2**62), filling()], ids=["loop", "memory"])
@pytest.mark.extensive
def test_a_graph_that_never_ends_or_fills_the_memory_costs_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bomb: onnx.ModelProto
) -> None:
    monkeypatch.setattr(onnx_probe, "limits", lambda _: {"memory": 2**32, "seconds": 3})
    before = resource.getrusage(resource.RUSAGE_SELF)
    with pytest.raises(CheckpointError, match=r"takes more than 3 s of computing or 4,096 MiB for 4 images"):
        load_program(saved(bomb, tmp_path), trust=False, image_shape=SHAPE)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime - before.ru_utime < 3
    assert load_program(saved(looping(2), tmp_path), trust=False, image_shape=SHAPE)
