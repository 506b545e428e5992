from __future__ import annotations

import copy
import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune

from evalsuite.errors import CheckpointError
from evalsuite.models.checkpoints.inspection import inspect_checkpoint, nm_pattern
from evalsuite.models.cost import cost, count_nonzero, prunable_layers

ROOT = os.environ.get("EVALSUITE_DATA", "")


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 5)]
        return nn.Sequential(*layers).eval()


def written(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def n_of_m(weight: Tensor, n: int, m: int) -> Tensor:
    """Keeps the `n` largest of each `m` consecutive inputs, written as a loop."""
    sparse = torch.zeros_like(weight)
    for output in range(weight.shape[0]):
        for start in range(0, weight.shape[1], m):
            group = weight[output, start : start + m].flatten(1) if weight.dim() > 2 else None
            if group is None:
                best = weight[output, start : start + m].abs().topk(n).indices + start
                sparse[output, best] = weight[output, best]
                continue
            for position in range(group.shape[1]):
                best = group[:, position].abs().topk(n).indices
                target = sparse[output, start : start + m].view(m, -1)
                target[best, position] = group[best, position]
    return sparse


def test_a_dense_network_is_counted_as_its_model_is(tmp_path: Path) -> None:
    model = network()
    content = {"epoch": 1, "net": {f"module.{name}": t for name, t in model.state_dict().items()}}
    path = written(content, tmp_path / "dense.pt")
    inspection = inspect_checkpoint(path)
    expected = cost(model, (3, 8, 8))
    assert (inspection.parameters, inspection.nonzero) == (expected.parameters, expected.nonzero)
    assert (inspection.prunable, inspection.prunable_nonzero) == (
        expected.prunable,
        expected.prunable_nonzero,
    )
    assert (inspection.file, inspection.format, inspection.wrapper, inspection.prefix) == (
        "dense.pt",
        "torch zip",
        "net",
        "module.",
    )
    assert (inspection.tensors, inspection.bytes, inspection.extras) == (11, path.stat().st_size, ("epoch",))
    assert inspection.dtypes == {"float32": 10, "int64": 1}
    assert [(layer.name, layer.kind, layer.shape) for layer in inspection.layers] == [
        ("0.weight", "convolution", (8, 3, 3, 3)),
        ("2.weight", "convolution", (4, 8, 3, 3)),
        ("4.weight", "linear", (5, 64)),
    ]
    assert not any(layer.sparsity or layer.zero_filters or layer.zero_inputs for layer in inspection.layers)
    assert (inspection.pattern, inspection.structured, inspection.ratio, inspection.prunable_ratio) == (
        "",
        False,
        None,
        None,
    )


def test_unstructured_pruning_is_measured(tmp_path: Path) -> None:
    dense, pruned = network(), network()
    for layer in prunable_layers(pruned).values():
        prune.l1_unstructured(layer, "weight", 0.5)  # type: ignore[no-untyped-call]  # torch's
    save_file(dense.state_dict(), tmp_path / "dense.safetensors")
    inspection = inspect_checkpoint(
        written(pruned.state_dict(), tmp_path / "w.pt"), parent=tmp_path / "dense.safetensors"
    )
    assert inspection.ratio == 1 - (count_nonzero(dense) - (216 + 288 + 320) // 2) / count_nonzero(dense)
    assert inspection.prunable_ratio == 0.5
    assert [layer.sparsity for layer in inspection.layers] == [0.5, 0.5, 0.5]
    assert inspection.folded == ("0.weight", "2.weight", "4.weight")
    assert (
        inspection.pattern,
        inspection.structured,
        inspection.smaller,
        inspection.missing,
        inspection.added,
    ) == (
        "",
        False,
        (),
        (),
        (),
    )
    assert inspection.layers[0].parent_shape == (8, 3, 3, 3)


def test_masks_of_a_second_file_count(tmp_path: Path) -> None:
    state = network().state_dict()
    path = written(state, tmp_path / "w.pt")
    masks = written({"4.weight": torch.zeros(5, 64)}, tmp_path / "m.pt")
    assert inspect_checkpoint(path, masks=masks).layers[2].nonzero == 0
    assert inspect_checkpoint(path).layers[2].nonzero == 320


def test_filters_that_are_zero_are_structure(tmp_path: Path) -> None:
    state = network().state_dict()
    state["0.weight"][[1, 5]] = 0
    state["2.weight"][:, [1, 5]] = 0
    state["4.weight"][0, 0] = 0
    inspection = inspect_checkpoint(written(state, tmp_path / "w.pt"))
    assert [(layer.zero_filters, layer.zero_inputs) for layer in inspection.layers] == [
        (2, 0),
        (0, 2),
        (0, 0),
    ]
    assert inspection.structured
    state["4.weight"][:, ::2] *= torch.tensor([[1.0], [0], [0], [0], [1]])
    state["4.weight"][4, 1::2] = (
        0  # more zeros than in the filters, and none of them in a whole row or column
    )
    assert not inspect_checkpoint(written(state, tmp_path / "w.pt")).structured


def test_smaller_missing_and_added_layers_are_named(tmp_path: Path) -> None:
    state = network().state_dict()
    parent = written(state, tmp_path / "dense.pt")
    small = {
        name: tensor[:6] if tensor.dim() and len(tensor) == 8 else tensor for name, tensor in state.items()
    }
    small["2.weight"] = small["2.weight"][:, :6]
    small["fc.weight"] = small.pop("4.weight")
    inspection = inspect_checkpoint(written(small, tmp_path / "w.pt"), parent=parent)
    assert (inspection.smaller, inspection.missing) == (("0.weight", "2.weight"), ("4.weight",))
    assert inspection.added == ("fc.weight",)
    assert inspection.structured
    assert inspection.layers[1].shape == (4, 6, 3, 3)
    assert inspection.layers[1].parent_shape == (4, 8, 3, 3)
    removed = 2 * (27 + 1 + 1 + 1) + 4 * 2 * 9 - 2  # two filters with bias and norm; the norm's bias is zero
    assert inspection.ratio == pytest.approx(removed / count_nonzero(network()))


def test_other_names_of_the_same_layers_are_matched(tmp_path: Path) -> None:
    parent = written({"module.fc.weight": torch.ones(2, 2)}, tmp_path / "dense.pt")
    inspection = inspect_checkpoint(
        written({"linear.weight": torch.eye(2)}, tmp_path / "w.pt"), parent=parent
    )
    assert (inspection.ratio, inspection.missing, inspection.added) == (0.5, (), ())


def test_a_parent_without_weights_is_refused(tmp_path: Path) -> None:
    parent = written({"fc.weight": torch.zeros(2, 2)}, tmp_path / "dense.pt")
    with pytest.raises(
        CheckpointError, match=r"dense\.pt: found no convolution or linear weight that is not"
    ):
        inspect_checkpoint(parent, parent=parent)


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (3, 8), (4, 8), (8, 16), (16, 32)])
@pytest.mark.parametrize("shape", [(6, 64), (4, 32, 3, 3)])
def test_patterns_along_the_inputs_are_found(n: int, m: int, shape: tuple[int, ...]) -> None:
    weight = n_of_m(torch.rand(shape, generator=torch.Generator().manual_seed(n)) + 0.5, n, m)
    assert int(weight.count_nonzero()) == weight.numel() * n // m
    assert nm_pattern(weight) == f"{n}:{m}"
    weight[1] = 0
    assert nm_pattern(weight) == f"{n}:{m}"


def test_what_is_no_pattern() -> None:
    weight = torch.rand(6, 64, generator=torch.Generator().manual_seed(0)) + 0.5
    half = n_of_m(weight, 2, 4)
    assert nm_pattern(weight) == ""
    assert nm_pattern(torch.zeros(6, 64)) == ""
    assert nm_pattern(half[:, :63]) == ""
    assert nm_pattern(n_of_m(weight, 3, 4)) == ""
    half[0, :4] = 1
    assert nm_pattern(half) == ""
    channels = weight.clone()
    channels[:, ::2] = 0
    assert nm_pattern(channels) == ""
    assert nm_pattern(n_of_m(weight.T.contiguous(), 2, 4).T) == ""
    rare = torch.zeros(64, 64)
    rare[torch.arange(64), torch.arange(64).flip(0)] = 1
    assert nm_pattern(rare) == ""


@given(seed=st.integers(0, 1000), sparsity=st.floats(0.2, 0.97))
@settings(max_examples=40)
def test_random_zeros_are_no_pattern(seed: int, sparsity: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(32, 64, generator=generator) + 0.5
    assert nm_pattern(weight * (torch.rand(32, 64, generator=generator) > sparsity)) == ""


def test_one_pattern_of_all_sparse_layers_is_that_of_the_file(tmp_path: Path) -> None:
    state = copy.deepcopy(network().state_dict())
    state["2.weight"] = n_of_m(state["2.weight"], 2, 4)
    state["4.weight"] = n_of_m(state["4.weight"], 2, 4)
    inspection = inspect_checkpoint(written(state, tmp_path / "w.pt"))
    assert [layer.pattern for layer in inspection.layers] == ["", "2:4", "2:4"]
    assert (inspection.pattern, inspection.structured) == ("2:4", False)
    state["4.weight"] = n_of_m(state["4.weight"], 1, 4)
    assert inspect_checkpoint(written(state, tmp_path / "w.pt")).pattern == ""


def test_what_network_slimming_selects_is_no_parameter(tmp_path: Path) -> None:
    state = network().state_dict() | {"select.indexes": torch.ones(8)}
    selecting, bare = (
        inspect_checkpoint(written(one, tmp_path / "w.pt")) for one in (state, network().state_dict())
    )
    assert (selecting.parameters, selecting.nonzero) == (bare.parameters, bare.nonzero)
    assert selecting.tensors == bare.tensors + 1


def test_an_inspection_is_json(tmp_path: Path) -> None:
    table = dataclasses.asdict(
        inspect_checkpoint(written({"model": network().state_dict()}, tmp_path / "w.pt"))
    )
    again = json.loads(json.dumps(table))
    assert again["layers"][2]["shape"] == [5, 64]
    assert again.keys() == table.keys()


DISTILLER = [
    # parameters, non-zero and whether it is structured: from the tensors with NumPy
    ("checkpoint_trained_dense.pth.tar", 272_474, 272_474, False),
    ("checkpoint_trained_ch_regularized_dense.pth.tar", 272_474, 248_426, True),
    ("channel_regularized_resnet20_state_dict.pt", 235_774, 235_774, True),
    ("checkpoint_trained_4D_regularized_5Lremoved.pth.tar", 272_474, 254_042, True),
]


@pytest.mark.data
@pytest.mark.skipif(not ROOT, reason="EVALSUITE_DATA is not set: no real images and checkpoints")
@pytest.mark.parametrize(("name", "parameters", "left", "structured"), DISTILLER)
def test_published_checkpoints_are_measured(name: str, parameters: int, left: int, structured: bool) -> None:
    folder = Path(ROOT) / "checkpoints" / "distiller"
    inspection = inspect_checkpoint(folder / name, parent=folder / "checkpoint_trained_dense.pth.tar")
    assert (inspection.parameters, inspection.nonzero, inspection.structured) == (
        parameters,
        left,
        structured,
    )
    assert inspection.ratio == 1 - left / 272_474
    assert (inspection.missing, inspection.added) == ((), ())
