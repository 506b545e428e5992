from __future__ import annotations

import dataclasses
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from evalsuite.cli import main as cli
from evalsuite.errors import CheckpointError
from evalsuite.models.architectures.base import build_model, unwrap_model
from evalsuite.models.architectures.resnet import ResNet20
from evalsuite.models.cost import count_nonzero, prunable_layers
from evalsuite.models.exported import inspection, loading
from evalsuite.models.exported.inspection import inspect_program, is_program

SHAPE = (3, 8, 8)
Inspect = Callable[..., tuple[int, str, str]]


def network() -> nn.Sequential:
    """A network of which half the weights of the linear layer, in a 2:4 pattern, and two filters are zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, norm, last = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(288, 5)
    with torch.no_grad():
        norm.weight.fill_(0.7)
        first.weight[[1, 5]] = 0
        last.weight.view(5, 72, 4)[::2, :, :2] = 0
        last.weight.view(5, 72, 4)[1::2, :, 2:] = 0
    return nn.Sequential(first, norm, nn.ReLU(), nn.Flatten(), last).eval()


def images() -> Tensor:
    return torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The network as each kind of program, and as weights."""
    folder = tmp_path_factory.mktemp("programs")
    free = {0: torch.export.Dim("n", min=1)}
    exported = torch.export.export(network(), (images(),), dynamic_shapes=({**free},))
    torch.export.save(exported, folder / "p.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, what people saved with it is not gone
        jit: Any = torch.jit  # without types
        jit.save(jit.script(network()), str(folder / "p.pt"))
        jit.save(jit.freeze(jit.script(network())), str(folder / "frozen.pt"))
    onnx.save(handmade(), str(folder / "p.onnx"))
    torch.save(network().state_dict(), folder / "w.pt")
    return {path.name: path for path in folder.iterdir()}


def handmade() -> onnx.ModelProto:
    """The network written out in ONNX; its matrix lies as MatMul wants it: inputs first."""
    state = {name: tensor.numpy() for name, tensor in network().state_dict().items() if tensor.dim()}
    state["turned"] = np.ascontiguousarray(state.pop("4.weight").T)
    nodes = [
        helper.make_node("Conv", ["x", "0.weight", "0.bias"], ["a"]),
        helper.make_node(
            "BatchNormalization", ["a", "1.weight", "1.bias", "1.running_mean", "1.running_var"], ["b"]
        ),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Reshape", ["c", "shape"], ["d"]),
        helper.make_node("MatMul", ["d", "turned"], ["e"]),
        helper.make_node("Add", ["e", "4.bias"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in state.items()]
    tensors.append(numpy_helper.from_array(np.array([-1, 288]), "shape"))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def counted(model: nn.Module) -> tuple[int, int]:
    return sum(parameter.numel() for parameter in model.parameters()), count_nonzero(model)


def test_an_onnx_file_is_described_as_the_network_that_it_holds(saved: dict[str, Path]) -> None:
    inspection = inspect_program(saved["p.onnx"])
    assert (inspection.format, inspection.opset, inspection.tensors) == ("ONNX", "ai.onnx 17", 9)
    assert (inspection.inputs, inspection.outputs) == (("x: float (n, 3, 8, 8)",), ("y: float (n, 5)",))
    assert inspection.operators == dict.fromkeys(
        ("Conv", "BatchNormalization", "Relu", "Reshape", "MatMul", "Add"), 1
    )
    assert (inspection.parameters, inspection.nonzero) == counted(network())
    convolution, linear = inspection.layers
    assert (convolution.name, convolution.kind, convolution.shape) == (
        "0.weight",
        "convolution",
        (8, 3, 3, 3),
    )
    assert (convolution.zero_filters, convolution.sparsity) == (2, 0.25)
    assert (linear.name, linear.kind, linear.shape) == ("turned", "linear", (5, 288))
    assert (linear.sparsity, linear.pattern) == (0.5, "2:4")
    assert inspection.notes == ()


def test_a_program_of_torch_export_shows_its_tables(saved: dict[str, Path]) -> None:
    inspection = inspect_program(saved["p.pt2"])
    assert (inspection.format, inspection.tensors) == ("torch.export", 9)
    assert inspection.inputs == ("input: float32 (any, 3, 8, 8)",)
    assert inspection.outputs == ("linear: float32 (any, 5)",)
    assert inspection.operators["aten.conv2d.default"] == 1
    assert (inspection.parameters, inspection.nonzero) == counted(network())
    expected = {
        f"{name}.weight": layer.get_parameter("weight") for name, layer in prunable_layers(network()).items()
    }
    assert {layer.name: layer.shape for layer in inspection.layers} == {
        name: tuple(weight.shape) for name, weight in expected.items()
    }
    assert [layer.nonzero for layer in inspection.layers] == [
        int(w.count_nonzero()) for w in expected.values()
    ]
    assert inspection.layers[1].pattern == "2:4"


@pytest.mark.parametrize("name", ["p.pt", "frozen.pt"])
def test_torchscript_shows_only_what_its_archive_lists(saved: dict[str, Path], name: str) -> None:
    inspection = inspect_program(saved[name])
    with zipfile.ZipFile(saved[name]) as archive:
        held = [one for one in archive.infolist() if one.filename.split("/")[1] in ("data", "constants")]
    assert (inspection.format, inspection.tensors) == ("TorchScript", len(held))
    assert (inspection.parameters, inspection.nonzero, inspection.ratio, inspection.layers) == (
        None,
        None,
        None,
        (),
    )
    assert f"{len(held)} tensors of {sum(one.file_size for one in held):,} bytes" in inspection.notes[0]
    assert "check takes it with --trust-program" in inspection.notes[1]


def test_nothing_is_loaded(saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a program was loaded")

    for module, function in ((torch.jit, "load"), (torch.export, "load"), (torch, "load")):
        monkeypatch.setattr(module, function, loaded)
    monkeypatch.setattr(loading, "_archive_on_cpu", loaded)
    for name in ("p.pt2", "p.pt", "frozen.pt", "p.onnx"):
        assert inspect_program(saved[name]).file == name


@pytest.mark.parametrize("parent", ["w.pt", "p.onnx", "p.pt2"])
def test_the_ratio_is_measured_against_weights_and_programs(saved: dict[str, Path], parent: str) -> None:
    for name in ("p.onnx", "p.pt2"):
        assert inspect_program(saved[name], parent=saved[parent]).ratio == 0
    assert inspect_program(saved["p.pt"], parent=saved[parent]).ratio is None
    assert inspect_program(saved["p.onnx"], parent=saved["p.pt"]).ratio is None


def test_the_ratio_of_a_sparser_program(saved: dict[str, Path], tmp_path: Path) -> None:
    dense = network()
    with torch.no_grad():
        dense.get_parameter("0.weight").fill_(1.0)
    torch.save(dense.state_dict(), tmp_path / "dense.pt")
    inspection = inspect_program(saved["p.onnx"], parent=tmp_path / "dense.pt")
    assert inspection.ratio == pytest.approx(54 / count_nonzero(dense))


def test_weights_are_no_program_and_masks_are_for_weights(saved: dict[str, Path], tmp_path: Path) -> None:
    assert not is_program(saved["w.pt"])
    assert not is_program(tmp_path)
    assert not is_program(tmp_path / "nowhere.pt")
    with pytest.raises(CheckpointError, match=r"w\.pt is none of"):
        inspect_program(saved["w.pt"])
    with pytest.raises(CheckpointError, match="takes no masks"):
        inspect_program(saved["p.onnx"], masks=saved["w.pt"])


def rewritten(path: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


def test_an_archive_without_tables_is_listed(saved: dict[str, Path], tmp_path: Path) -> None:
    path = rewritten(
        saved["p.pt2"],
        tmp_path / "old.pt2",
        lambda name, content: None if name.endswith("weights_config.json") else content,
    )
    inspection = inspect_program(path)
    assert (inspection.format, inspection.tensors, inspection.parameters) == ("torch.export", 9, None)
    assert "--trust-program" in inspection.notes[0]


def larger(name: str, content: bytes) -> bytes:
    """The table of weights with a first tensor of a million rows in a few bytes."""
    if not name.endswith("weights_config.json"):
        return content
    table = json.loads(content)
    table["config"]["0.weight"]["tensor_meta"]["sizes"][0]["as_int"] = 10**6
    return json.dumps(table).encode()


def repeated(name: str, content: bytes) -> bytes:
    """The same with strides of zero, so that no byte beyond the end is asked for."""
    if not name.endswith("weights_config.json"):
        return content
    table = json.loads(larger(name, content))
    for step in table["config"]["0.weight"]["tensor_meta"]["strides"]:
        step["as_int"] = 0
    return json.dumps(table).encode()


def thrice_a_thousand(name: str, content: bytes) -> bytes:
    """The same weight under three thousand names."""
    if not name.endswith("weights_config.json"):
        return content
    table = json.loads(content)
    table["config"] = {f"{at}.weight": table["config"]["0.weight"] for at in range(3_000)}
    return json.dumps(table).encode()


def test_a_table_that_names_one_entry_again_and_again_is_refused(
    saved: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "SPARE_BYTES", 1_000)
    path = rewritten(saved["p.pt2"], tmp_path / "p.pt2", thrice_a_thousand)
    with pytest.raises(
        CheckpointError, match=r"has 3,000 tensors of [\d,]+ bytes in a file of [\d,]+: entries are named"
    ):
        inspect_program(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (larger, "larger than its bytes"),
        (repeated, "larger than its bytes"),
        (lambda n, c: b"[]" if n.endswith("model.json") else c, "truncated, damaged or no torch.export"),
        (lambda n, c: None if n.endswith("weight_0") else c, "truncated, damaged or no torch.export"),
    ],
    ids=["too large", "repeated", "no program", "no weight"],
)
def test_damaged_tables_are_one_sentence(
    saved: dict[str, Path], tmp_path: Path, change: Any, sentence: str
) -> None:
    path = rewritten(saved["p.pt2"], tmp_path / "p.pt2", change)
    with pytest.raises(CheckpointError, match=rf"program .*p\.pt2 .*{sentence}"):
        inspect_program(path)


def test_damaged_onnx_is_one_sentence(saved: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "p.onnx").write_bytes(saved["p.onnx"].read_bytes()[:-50])
    with pytest.raises(CheckpointError, match=r"p\.onnx is truncated, damaged or no ONNX program"):
        inspect_program(tmp_path / "p.onnx")


@pytest.fixture
def inspected(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inspect:
    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["evalsuite", "inspect", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return run


def test_the_command_prints_what_a_program_shows(saved: dict[str, Path], inspected: Inspect) -> None:
    code, out, _ = inspected(saved["p.onnx"], "--parent", saved["w.pt"])
    assert code == 0
    for text in (
        "ONNX, a whole program",
        "ai.onnx 17",
        "x: float (n, 3, 8, 8)",
        "2:4",
        "0.00% of the parent",
    ):
        assert text in out
    code, out, _ = inspected(saved["p.pt"])
    assert code == 0
    assert "parameters  unknown" in out
    assert "--trust-program" in out
    for name in ("p.onnx", "p.pt2", "p.pt"):
        code, out, _ = inspected(saved[name], "--json")
        expected = json.loads(json.dumps(dataclasses.asdict(inspect_program(saved[name]))))
        assert (code, json.loads(out)) == (0, expected)


def test_the_command_prints_multiply_accumulates(saved: dict[str, Path], inspected: Inspect) -> None:
    code, out, _ = inspected(saved["w.pt"])
    assert code == 0
    assert "MACs        not counted: the order of the layers is unknown" in out
    code, _, err = inspected(saved["w.pt"], "--image", "32")
    assert code == 2
    assert "expected channels x height x width" in err


def test_the_command_counts_for_the_given_image(tmp_path: Path, inspected: Inspect) -> None:
    path = tmp_path / "w.pt"
    torch.save(unwrap_model(build_model(ResNet20())).state_dict(), path)
    code, out, _ = inspected(path, "--image", "3x16x16")
    assert code == 0
    assert "MACs        10,138,240 for an image of 3x16x16, of which 10,138,240 are not by a zero" in out
    code, out, _ = inspected(path, "--json")
    table = json.loads(out)
    assert (table["fits"], table["image"], table["macs"]) == (
        "resnet20 (classes=10)",
        [3, 32, 32],
        40_551_040,
    )
    assert table["parameters"] == 269_722
