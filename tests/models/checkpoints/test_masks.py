"""Masks and parametrisations: what is folded is what torch computes, and what cannot be is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.ao.pruning import WeightNormSparsifier  # type: ignore[attr-defined]  # torch's list lacks it
from torch.nn.utils import parametrizations, parametrize, prune

from evalsuite.errors import CheckpointError
from evalsuite.models.checkpoints.reading import read_checkpoint, read_weights

if TYPE_CHECKING:
    from collections.abc import Callable
from pathlib import Path

IMAGES = torch.linspace(-2, 2, 2 * 3 * 6 * 6).view(2, 3, 6, 6)


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)).eval()


def written(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def outputs(weights: dict[str, Tensor]) -> Tensor:
    clean = network()
    clean.load_state_dict(weights)
    result: Tensor = clean(IMAGES)
    return result


def effective(model: nn.Sequential, layer: int) -> Tensor:
    """The weight that a forward pass uses."""
    weight: Tensor = model[layer].weight  # type: ignore[assignment]  # a plain attribute under pruning
    return weight


def halves(weight: Tensor) -> Tensor:
    return (torch.arange(weight.numel()).view_as(weight) % 2).to(weight.dtype)


@pytest.mark.parametrize("wrapper", [None, "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torch_pruned_networks_give_the_same_outputs(
    tmp_path: Path, wrapper: str | None, prefix: str
) -> None:
    pruned = network()
    prune.random_unstructured(pruned[0], "weight", 0.5)  # type: ignore[no-untyped-call]  # torch's
    prune.l1_unstructured(pruned[0], "bias", 0.25)  # type: ignore[no-untyped-call]  # torch's
    prune.ln_structured(pruned[3], "weight", 0.5, n=2, dim=0)  # type: ignore[no-untyped-call]  # torch's
    state = {f"{prefix}{key}": tensor for key, tensor in pruned.state_dict().items()}
    assert f"{prefix}0.bias_mask" in state
    checkpoint = read_checkpoint(written({wrapper: state} if wrapper else state, tmp_path / "w.pt"))
    assert sorted(checkpoint.folded) == ["0.bias", "0.weight", "3.weight"]
    assert torch.equal(outputs(checkpoint.weights), pruned(IMAGES))
    assert torch.equal(checkpoint.weights["0.weight"], effective(pruned, 0))
    assert int((checkpoint.weights["0.weight"] == 0).sum()) == 108


def test_pruned_half_precision_is_folded(tmp_path: Path) -> None:
    pruned = network().half()
    prune.random_unstructured(pruned[0], "weight", 0.5)  # type: ignore[no-untyped-call]  # torch's
    tensors = read_weights(written(pruned.state_dict(), tmp_path / "w.pt"))
    assert torch.equal(tensors["0.weight"], effective(pruned, 0).float())


def test_masks_of_another_model_are_refused(tmp_path: Path) -> None:
    state = {"conv.weight_orig": torch.ones(2, 3), "conv.weight_mask": torch.ones(3, 2)}
    with pytest.raises(CheckpointError, match=r"conv.weight_orig has shape \(3, 2\), expected \(2, 3\)"):
        read_weights(written(state, tmp_path / "w.pt"))


class Masking(nn.Module):
    """A parametrisation that multiplies by a mask."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.get_buffer("mask")


def test_a_parametrisation_by_a_mask_is_folded(tmp_path: Path) -> None:
    pruned = network()
    parametrize.register_parametrization(pruned[3], "weight", Masking(halves(effective(pruned, 3))))
    checkpoint = read_checkpoint(written(pruned.state_dict(), tmp_path / "w.pt"))
    assert checkpoint.folded == ("3.weight",)
    assert torch.equal(outputs(checkpoint.weights), pruned(IMAGES))


def test_the_sparsifier_of_torch_hides_its_masks_until_it_squashes_them(tmp_path: Path) -> None:
    pruned = network()
    sparsifier = WeightNormSparsifier(sparsity_level=0.5, sparse_block_shape=(1, 1), zeros_per_block=1)
    sparsifier.prepare(pruned, [{"tensor_fqn": "3.weight"}])  # type: ignore[no-untyped-call]  # torch's
    sparsifier.step()
    expected = pruned(IMAGES)
    with pytest.raises(CheckpointError, match=r"3.weight is parametrised"):
        read_weights(written(pruned.state_dict(), tmp_path / "w.pt"))
    sparsifier.squash_mask()
    assert torch.equal(outputs(read_weights(written(pruned.state_dict(), tmp_path / "w.pt"))), expected)


@pytest.mark.parametrize(
    "norm", [nn.utils.weight_norm, parametrizations.weight_norm], ids=["torch 1", "torch 2"]
)
@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weight_norm_is_folded(tmp_path: Path, dim: int | None, norm: Callable[..., nn.Module]) -> None:
    normed = network()
    norm(normed[0], dim=dim)
    checkpoint = read_checkpoint(written(normed.state_dict(), tmp_path / "w.pt"))
    assert checkpoint.folded == ("0.weight",)
    assert torch.equal(outputs(checkpoint.weights), normed(IMAGES))


@pytest.mark.parametrize("legacy", [False, True])
def test_spectral_norm_is_refused_with_the_way_out(tmp_path: Path, legacy: bool) -> None:
    normed = network()
    if legacy:
        nn.utils.spectral_norm(normed[0])
    else:
        parametrizations.spectral_norm(normed[0])
    with pytest.raises(CheckpointError, match=r"0.weight is (under spectral norm|parametrised).*; remove it"):
        read_weights(written(normed.state_dict(), tmp_path / "w.pt"))
    if legacy:
        nn.utils.remove_spectral_norm(normed[0])
    else:
        parametrize.remove_parametrizations(normed[0], "weight")
    assert torch.equal(outputs(read_weights(written(normed.state_dict(), tmp_path / "w.pt"))), normed(IMAGES))


def test_unknown_parametrisations_are_refused(tmp_path: Path) -> None:
    normed = network()
    parametrizations.orthogonal(normed[3])
    with pytest.raises(CheckpointError, match=r"3.weight is parametrised \(3.parametrizations.weight.orig"):
        read_weights(written(normed.state_dict(), tmp_path / "w.pt"))


@pytest.mark.parametrize("key", ["conv.weight_mask", "conv.weight.mask", "conv.mask"])
def test_masks_beside_the_weight_are_folded(tmp_path: Path, key: str) -> None:
    weight = torch.arange(1.0, 7).view(2, 3)
    mask = torch.tensor([[1, 0, 1], [0, 0, 1]])
    for tensors in ({"conv.weight": weight, key: mask}, {key: mask.bool(), "conv.weight": weight}):
        weights = read_weights(written(tensors, tmp_path / "w.pt"))
        assert weights.keys() == {"conv.weight"}
        assert weights["conv.weight"].tolist() == [[1, 0, 3], [0, 0, 6]]


def test_buffers_that_only_are_called_masks_stay(tmp_path: Path) -> None:
    state = {"attn.weight": torch.ones(2, 2), "attn.mask": torch.ones(4, 4), "a.weight": torch.ones(2)}
    state |= {"a.mask": torch.tensor([0.0, -1e9]), "x_orig": torch.ones(1), "y_v": torch.ones(1)}
    assert read_weights(written(state, tmp_path / "w.pt")).keys() == state.keys()


@pytest.mark.parametrize("suffix", ["", "_mask", ".mask"])
@pytest.mark.parametrize("wrapper", [None, "masks", "state_dict"])
def test_masks_of_a_second_file_are_applied(tmp_path: Path, suffix: str, wrapper: str | None) -> None:
    state = network().state_dict()
    masks = {f"module.{name}{suffix}": halves(state[name]).bool() for name in ("0.weight", "3.weight")}
    path = written({wrapper: masks} if wrapper else masks, tmp_path / "m.pt")
    tensors = read_weights(written(state, tmp_path / "w.pt"), masks=path)
    for name, tensor in state.items():
        expected = tensor * halves(tensor) if name.endswith("weight") else tensor
        assert torch.equal(tensors[name], expected)


def test_masks_may_be_named_as_their_layers_and_lie_in_safetensors(tmp_path: Path) -> None:
    weights = written({"conv.weight": torch.ones(2, 2)}, tmp_path / "w.pt")
    save_file({"conv": torch.tensor([[1, 0], [0, 1]])}, tmp_path / "m.safetensors")
    tensors = read_weights(weights, masks=tmp_path / "m.safetensors")
    assert tensors["conv.weight"].tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("masks", "sentence"),
    [
        (
            {"other.weight": torch.ones(2, 2)},
            "other.weight name no weight; expected names such as conv.weight",
        ),
        ({"conv.weight": torch.ones(2, 3)}, r"conv.weight has shape \(2, 3\), expected \(2, 2\)"),
        ({"conv.weight": torch.full((2, 2), 0.5)}, "conv.weight holds other values than 0 and 1"),
        ({"conv.weight": torch.full((2, 2), float("nan"))}, "conv.weight holds other values than 0 and 1"),
        ({"conv.weight": torch.ones(2, 2).to_sparse()}, "expected dense real numbers"),
        ({"epoch": 3}, "found no tensors, expected zeros and ones"),
    ],
)
def test_masks_that_do_not_fit_are_refused(tmp_path: Path, masks: object, sentence: str) -> None:
    weights = written({"conv.weight": torch.ones(2, 2)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=rf"m\.pt.*{sentence}"):
        read_weights(weights, masks=written(masks, tmp_path / "m.pt"))


def test_masks_of_distiller_are_applied(tmp_path: Path) -> None:
    masks = {"module.a.weight": torch.tensor([1.0, 0.0]), "module.a.bias": None}
    content = {
        "state_dict": {"module.a.weight": torch.tensor([3.0, 4.0]), "module.a.bias": torch.ones(1)},
        "compression_sched": {"masks_dict": masks},
    }
    checkpoint = read_checkpoint(written(content, tmp_path / "w.pth.tar"))
    assert checkpoint.weights["a.weight"].tolist() == [3, 0]
    assert checkpoint.folded == ("a.weight",)


def test_inverted_masks_are_noticed_and_others_are_not(tmp_path: Path) -> None:
    dense = torch.randn(64, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    mask = (dense.abs() > dense.abs().median()).float()
    random = (torch.rand(dense.shape, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    for weights, masks, inverted in (
        (dense, mask, False),
        (dense, 1 - mask, True),
        (dense * mask, 1 - mask, True),  # zeros lie where the mask keeps
        (dense * mask, mask, False),
        (dense, random, False),
        (dense, torch.ones_like(mask), False),
    ):
        torch.save({"conv.weight": weights}, tmp_path / "w.pt")
        torch.save({"conv": {"weight": masks}}, tmp_path / "m.pt")  # nested, as NNI writes them
        checkpoint = read_checkpoint(tmp_path / "w.pt", masks=tmp_path / "m.pt")
        assert ("look inverted" in checkpoint.note) == inverted
        assert torch.equal(checkpoint.weights["conv.weight"], weights * masks)
