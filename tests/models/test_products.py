"""Multiply-accumulates of attention: by formula, as published, and equal between the libraries' twins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.uris import architecture_from_uri
from evalsuite.models.checkpoints.architecture_detection import without_memory
from evalsuite.models.cost import (
    cost,
    count_version,
    layers_read_as_weights,
    prunable_parameters,
    weight_name,
)
from evalsuite.models.products import Product, products
from evalsuite.producers.unstructured.base import apply_masks, magnitudes, masks_for_budget

SHAPE = (3, 32, 32)
SMALL = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}


def torchvision_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    network: nn.Module = VisionTransformer(**SMALL, num_classes=10).eval()
    return network


def timm_vit() -> nn.Module:
    options = {"img_size": 32, "patch_size": 8, "depth": 2, "num_heads": 2, "embed_dim": 32, "mlp_ratio": 2.0}
    return build_model(architecture_from_uri("timm:vit_tiny_patch16_224", classes=10, options=options)).eval()


def formula(tokens: int, width: int, hidden: int, blocks: int) -> int:
    """4 projections, the two products of attention, two layers of the MLP; the patches and the head."""
    block = 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * hidden
    return blocks * block + (tokens - 1) * 3 * 8 * 8 * width + 10 * width


def test_twins_of_a_small_vision_transformer_cost_the_same(vit_folder: Path) -> None:
    folder = build_model(architecture_from_uri(f"hf:{vit_folder}")).eval()
    expected = formula(tokens=17, width=32, hidden=64, blocks=2)
    for model in (torchvision_vit(), timm_vit(), folder):
        total = cost(model, SHAPE)
        assert total.macs == expected
        assert total.macs_nonzero is not None
        assert total.prunable == 2 * (4 * 32**2 + 2 * 32 * 64) + 3 * 64 * 32 + 320


@pytest.mark.parametrize(
    ("uri", "published"),
    [
        ("torchvision:vit_b_16", 17.564),
        ("timm:vit_base_patch16_224", 17.564),
        ("timm:deit_small_patch16_224", 4.599),
        ("timm:vit_tiny_patch16_224", 1.254),
        ("torchvision:swin_t", 4.491),
        ("timm:swin_tiny_patch4_window7_224", 4.491),
        ("torchvision:convnext_tiny", 4.456),
        ("timm:convnext_tiny", 4.456),
        ("torchvision:maxvit_t", 5.558),
        ("torchvision:resnet50", 4.089),
        ("torchvision:mobilenet_v2", 0.301),
    ],
)
def test_published_multiply_accumulates(uri: str, published: float) -> None:
    """``_ops`` of torchvision's weights, and the papers of DeiT, Swin and ConvNeXt; no number is computed."""
    total = sum(product.macs for product in products(without_memory(uri, {"classes": 1000}), (3, 224, 224)))
    assert round(total / 1e9, 3) == published


class Views(nn.Module):
    """Weights that are no layer's: a whole matrix, rows of one, one that is computed; and a product of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = nn.Parameter(torch.ones(4, 3))
        self.rows = nn.Parameter(torch.ones(4, 4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.flatten(2).transpose(1, 2)  # (1, 6, 3)
        hidden = functional.linear(pixels, self.whole)  # 6 * 12
        hidden = functional.linear(hidden, self.rows[1:3])  # 6 * 8
        return hidden @ hidden.transpose(1, 2)  # 6 * 6 * 2


@pytest.mark.parametrize("needs_numbers", [False, True])
def test_worked_example_of_products_outside_of_layers(
    needs_numbers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Views()
    with torch.no_grad():
        model.whole[0] = 0
        model.rows[0] = 0  # not used
        model.rows[1, 0] = 0
    if needs_numbers:
        monkeypatch.setattr(Views, "__deepcopy__", None, raising=False)  # no copy, no shapes without numbers
    assert products(model, (3, 2, 3)) == [
        Product(72, 54, is_layer=False),
        Product(48, 42, is_layer=False),
        Product(72, 72, is_layer=False),
    ]


def test_a_network_that_looks_at_its_numbers_is_run() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(12, 2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.layer(images.flatten(1))
            return logits if logits.max() > -1e9 else -logits

    assert products(Branch(), (3, 2, 2)) == [Product(24, 24, is_layer=True)]


def test_only_networks_with_products_outside_of_layers_are_counted_anew(
    build: Callable[..., nn.Module],
) -> None:
    assert count_version(build("resnet20"), SHAPE) == 1
    assert count_version(build("torchvision:mobilenet_v2"), SHAPE) == 1
    assert count_version(torchvision_vit(), SHAPE) == 2
    assert count_version(timm_vit(), SHAPE) == 2


def test_the_projections_of_attention_are_pruned_and_their_zeros_counted() -> None:
    model = torchvision_vit()
    dense = cost(model, SHAPE)
    weights = prunable_parameters(model)
    name = "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"
    assert weight_name(name) == name
    assert weights[name].shape == (96, 32)
    apply_masks(model, masks_for_budget(model, magnitudes(model), round(0.2 * dense.nonzero)))
    pruned = cost(model, SHAPE)
    assert 0 < int(weights[name].count_nonzero()) < weights[name].numel() / 2
    assert pruned.nonzero == round(0.2 * dense.nonzero)
    assert dense.macs is not None
    assert pruned.macs == dense.macs
    attention = 2 * 2 * 17**2 * 32  # which no zero weight makes smaller
    assert pruned.macs_nonzero is not None
    assert attention < pruned.macs_nonzero < 0.25 * dense.macs


def test_layers_that_are_never_called_are_known(build: Callable[..., nn.Module]) -> None:
    assert layers_read_as_weights(build("resnet20")) == []
    assert layers_read_as_weights(timm_vit()) == []
    assert layers_read_as_weights(torchvision_vit()) == [
        f"encoder.layers.encoder_layer_{block}.self_attention.out_proj" for block in range(2)
    ]
