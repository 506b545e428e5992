"""Networks of timm, recognised by names and shapes of tensors from a table that was made for them."""

from __future__ import annotations

import pytest
import torch

from evalsuite.compat.calls import quiet_imports
from evalsuite.errors import CheckpointError
from evalsuite.models.checkpoints.architecture_detection import (
    CLASSES,
    detect_architecture,
    match_architecture,
    tensor_shapes,
    timm_architectures,
)
from evalsuite.models.checkpoints.timm_fingerprints import TABLE, fingerprint, split_head, timm_models_like

SMALL = ["resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224", "levit_128s", "convnext_atto"]


def weights(name: str, classes: int = 7) -> dict[str, torch.Tensor]:
    shapes = tensor_shapes(f"timm:{name}")
    sizes = {key: [classes if size == CLASSES else size for size in shape] for key, shape in shapes.items()}
    return {key: torch.zeros(1).expand(size) for key, size in sizes.items()}


@pytest.mark.parametrize("name", SMALL)
def test_the_table_is_of_the_installed_release(name: str) -> None:
    """It fails after an update of timm that changes a network: write the table anew, as its module says."""
    body, head = split_head(tensor_shapes(f"timm:{name}"), CLASSES)
    assert f'"{name}": ["{fingerprint(body)}"' in TABLE.read_text("utf-8")
    assert head
    assert name in timm_models_like(weights(name))


def test_the_table_knows_nearly_all_networks_of_the_installed_release() -> None:
    with quiet_imports():
        import timm
    own = [n for n in timm.list_models() if timm.models.model_entrypoint(n).__module__.startswith("timm.")]
    text = TABLE.read_text("utf-8")
    assert f'"timm": "{timm.__version__}"' in text
    missing = [name for name in own if f'"{name}": ' not in text]  # others register their networks there, too
    assert len(missing) < 40  # hybrids, which cannot be built without memory


def test_one_network_is_detected_with_its_classes() -> None:
    fit = detect_architecture(weights("levit_128s"))
    assert (fit.uri, fit.settings) == ("timm:levit_128s", {"classes": 7})


def test_ties_are_named_and_counted() -> None:
    tied = weights("vit_tiny_patch16_224")
    with pytest.raises(
        CheckpointError, match=r"several known architectures: .*timm:deit_tiny_patch16_224.*; name one"
    ):
        detect_architecture(tied)
    match = match_architecture({name: tensor.clone() for name, tensor in tied.items()})
    assert "timm:vit_tiny_patch16_224" in match.fits
    assert match.image == (3, 224, 224)
    assert match.macs is not None


def test_what_is_nearly_a_network_is_none() -> None:
    changed = weights("resnet10t")
    changed["layer1.0.conv1.weight"] = torch.zeros(3, 3)
    assert timm_architectures(changed) == []
