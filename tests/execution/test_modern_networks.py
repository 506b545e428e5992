"""Vision transformers, ConvNeXt and MobileNetV3, built small: inspected, checked beside a pruned copy, and pruned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import evalsuite
from evalsuite.config.suite_file import suite_from_tables
from evalsuite.execution.check import CheckRequest, suite_for
from evalsuite.models.architectures.base import build_model, unwrap_model
from evalsuite.models.architectures.settings import to_settings
from evalsuite.models.architectures.uris import architecture_from_uri
from evalsuite.models.checkpoints.inspection import inspect_checkpoint
from evalsuite.models.cost import count_nonzero
from evalsuite.producers.unstructured.base import apply_masks, magnitudes, masks_for_budget
from evalsuite.types import ExternalCandidate

NETWORKS = """
from torch import nn
from torchvision.models import VisionTransformer


def vit(num_classes=10):
    sizes = dict(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64)
    network = VisionTransformer(**sizes, num_classes=num_classes)
    nn.init.normal_(network.heads.head.weight, std=0.1)  # torchvision begins with zeros: all images look alike
    return network
"""
VIT = {"img_size": 32, "patch_size": 8, "depth": 2, "num_heads": 2, "embed_dim": 32, "mlp_ratio": 2.0}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "transformers vit": ("hf:{vit_folder}", {}),
    "timm vit": ("timm:vit_tiny_patch16_224", {"options": VIT}),
    "torchvision vit": ("{folder}/networks.py:vit", {}),
    "timm convnext": ("timm:convnext_atto", {"options": {"depths": [1, 1, 1, 1], "dims": [8, 16, 16, 16]}}),
    "timm mobilenetv3": ("timm:mobilenetv3_small_050", {}),
}
EVALUATORS: dict[str, Any] = {"evaluators": [{"name": "accuracy"}], "tolerances": {"accuracy": 0.05}}


@pytest.mark.extensive
@pytest.mark.parametrize("kind", KINDS)
def test_a_pruned_copy_is_inspected_checked_and_made(
    kind: str, tmp_path: Path, vit_folder: Path, head_fitter: Callable[[nn.Module], None]
) -> None:
    (tmp_path / "networks.py").write_text(NETWORKS)
    uri, settings = KINDS[kind]
    uri = uri.format(vit_folder=vit_folder, folder=tmp_path)
    architecture = architecture_from_uri(uri, classes=10, **settings)
    torch.manual_seed(0)
    model = build_model(architecture)
    head_fitter(model)
    torch.save(unwrap_model(model).state_dict(), tmp_path / "dense.pt")
    apply_masks(model, masks_for_budget(model, magnitudes(model), round(0.6 * count_nonzero(model))))
    torch.save(unwrap_model(model).state_dict(), tmp_path / "pruned.pt")

    inspection = inspect_checkpoint(tmp_path / "pruned.pt", parent=tmp_path / "dense.pt")
    assert inspection.ratio == pytest.approx(0.4, abs=1e-3)
    assert not inspection.structured

    (tmp_path / "suite.toml").write_text("[[evaluators]]\nname = 'accuracy'\n[tolerances]\naccuracy = 1.0\n")
    request = CheckRequest(
        parent=str(tmp_path / "dense.pt"),
        candidates=(ExternalCandidate(str(tmp_path / "pruned.pt"), "planted"),),
        model=uri,
        settings={"classes": 10, **settings},
        data={"name": "digits"},
        suite=str(tmp_path / "suite.toml"),
    )
    checked = evalsuite.run(suite_for(request, folder=tmp_path), out=tmp_path / "check")
    [planted] = [candidate for key, candidate in checked.candidates.items() if key.method == "planted"]
    assert planted.ratio == pytest.approx(0.4, abs=1e-3)

    tables = {
        "name": "made",
        "data": {"name": "digits"},
        "model": to_settings(architecture),
        "ratios": [0.4],
        "checkpoint": str(tmp_path / "dense.pt"),
        "retraining": {"epochs": 1, "learning_rate": 1e-4},
        "producers": [{"name": "magnitude"}],
        **EVALUATORS,
    }
    made = evalsuite.run(suite_from_tables(tables, source=tmp_path / "made.toml"), out=tmp_path / "run")
    [candidate] = [candidate for key, candidate in made.candidates.items() if key.method == "magnitude"]
    assert candidate.cost.prunable_nonzero == planted.cost.prunable_nonzero
    assert candidate.cost.macs_nonzero == planted.cost.macs_nonzero  # the same weights were left
    assert made.failures.empty
