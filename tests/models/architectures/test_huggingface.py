"""Model folders of transformers: read offline, preprocessed as their processor does it, refused if inconsistent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from evalsuite.compat.transformers import processor_of
from evalsuite.errors import CheckpointError, SuiteError
from evalsuite.execution.external_candidates import ExternalCandidateLoader
from evalsuite.models.architectures.base import build_model, output_note, unwrap_model
from evalsuite.models.architectures.settings import from_settings, to_settings
from evalsuite.models.architectures.uris import architecture_from_uri
from evalsuite.models.checkpoints.architecture_detection import detect_architecture, match_architecture
from evalsuite.models.checkpoints.inspection import inspect_checkpoint
from evalsuite.models.checkpoints.loading import load_candidate
from evalsuite.models.checkpoints.reading import read_weights
from evalsuite.plugin_config import PluginConfig
from evalsuite.runs.digests import file_digest
from evalsuite.types import ExternalCandidate

transformers = pytest.importorskip("transformers")


def picture(height: int, width: int) -> Image.Image:
    rng = np.random.default_rng([height, width])
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.extensive
@pytest.mark.parametrize("size", [(301, 417), (97, 151), (255, 601)], ids=str)
@pytest.mark.parametrize(
    ("kind", "image_size"),
    [
        ("ViTImageProcessor", 224),
        ("DeiTImageProcessor", 224),
        ("BitImageProcessor", 224),
        ("ConvNextImageProcessor", 384),
        ("LevitImageProcessor", 224),
        ("EfficientNetImageProcessor", 346),
    ],
)
def test_the_pixels_of_the_image_processor(
    vit_folder: Path, kind: str, image_size: int, size: tuple[int, int]
) -> None:
    getattr(transformers, kind)().save_pretrained(vit_folder)
    change(vit_folder / "config.json", image_size=image_size)
    processor = processor_of(vit_folder)
    architecture = architecture_from_uri(f"hf:{vit_folder}")
    assert architecture.preprocessing is not None

    off = {"do_rescale": False, "do_normalize": False, "return_tensors": "np"}
    off |= {"include_top": False} if kind.startswith("EfficientNet") else {}
    unscaled = processor(picture(*size), **off)
    whole = processor(picture(*size), return_tensors="np")

    pixels = architecture.preprocessing.pixels(picture(*size))
    assert np.array_equal(pixels, unscaled["pixel_values"][0])
    mean, std = (np.reshape(part, (3, 1, 1)) for part in (architecture.mean, architecture.std))
    assert (pixels / 255 - mean) / std == pytest.approx(whole["pixel_values"][0], abs=1e-4)


def test_convnext_crops_below_384_pixels(vit_folder: Path) -> None:
    transformers.ConvNextImageProcessor(size={"shortest_edge": 224}).save_pretrained(vit_folder)
    change(vit_folder / "config.json", image_size=224)
    geometry = architecture_from_uri(f"hf:{vit_folder}").preprocessing
    assert geometry is not None
    assert (geometry.resize, geometry.crop) == ((256,), (224, 224))


def test_the_logits_are_those_of_the_library(vit_folder: Path) -> None:
    images = torch.rand(3, 3, 32, 32)
    reference = transformers.ViTForImageClassification.from_pretrained(vit_folder).eval()

    architecture = architecture_from_uri(str(vit_folder))  # a folder by itself means the same as hf:folder
    model = load_candidate(vit_folder, architecture, image_shape=(3, 32, 32))

    with torch.inference_mode():
        expected = reference(pixel_values=(images - 0.5) / 0.5).logits
        assert torch.equal(model(images), expected)
    assert "ImageClassifierOutput" in output_note(model, images)


def test_a_folder_is_recognised_inspected_and_rebuilt_from_its_table(vit_folder: Path) -> None:
    weights = read_weights(vit_folder)
    fit = detect_architecture(weights, file=vit_folder)
    assert fit.uri == f"hf:{vit_folder}"
    assert fit.settings == {"classes": 10}
    assert from_settings(to_settings(fit.architecture)) == fit.architecture
    assert inspect_checkpoint(vit_folder).format == "model folder"
    match = match_architecture(weights, file=vit_folder)
    assert match.image == (3, 32, 32)
    assert match.macs is not None


def test_the_digest_of_a_folder_follows_its_files(vit_folder: Path) -> None:
    before = file_digest(vit_folder)
    (vit_folder / "README.md").write_text("words")
    assert file_digest(vit_folder) == before
    change(vit_folder / "config.json", layer_norm_eps=1e-3)
    assert file_digest(vit_folder) != before


def test_shards_are_read_as_one_file(vit_folder: Path, tmp_path: Path) -> None:
    model = transformers.ViTForImageClassification.from_pretrained(vit_folder)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").is_file()
    one, many = read_weights(vit_folder), read_weights(tmp_path / "shards")
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_a_network_for_another_number_of_classes_takes_no_weights_of_the_folder(vit_folder: Path) -> None:
    architecture = architecture_from_uri(f"hf:{vit_folder}", classes=3)
    assert build_model(architecture).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    with pytest.raises(CheckpointError, match=r"has 10 classes, the model has 3"):
        load_candidate(vit_folder, architecture, image_shape=(3, 32, 32))


def test_weights_that_are_not_those_of_the_configuration_are_refused(vit_folder: Path) -> None:
    change(vit_folder / "config.json", num_hidden_layers=3)
    with pytest.raises(CheckpointError, match=r"16 missing \(.*vit.layers.2"):
        read_weights(vit_folder)
    change(vit_folder / "config.json", num_hidden_layers=1)
    with pytest.raises(CheckpointError, match=r"16 unexpected"):
        read_weights(vit_folder)
    change(vit_folder / "config.json", num_hidden_layers=2, id2label={str(index): "x" for index in range(4)})
    with pytest.raises(CheckpointError, match="2 of another shape"):
        read_weights(vit_folder)


def test_a_processor_that_contradicts_the_network_is_refused(vit_folder: Path) -> None:
    change(vit_folder / "preprocessor_config.json", size={"height": 48, "width": 48})
    with pytest.raises(
        SuiteError, match=r"makes pictures of 48x48, but its config.json is of a network for 32x32"
    ):
        architecture_from_uri(f"hf:{vit_folder}")


def test_a_processor_that_does_more_is_refused(vit_folder: Path) -> None:
    transformers.MobileViTImageProcessor().save_pretrained(vit_folder)
    with pytest.raises(SuiteError, match="MobileViTImageProcessor does more to a picture than resize"):
        architecture_from_uri(f"hf:{vit_folder}")


def test_a_folder_without_a_processor_needs_mean_and_std(vit_folder: Path) -> None:
    (vit_folder / "preprocessor_config.json").unlink()
    with pytest.raises(SuiteError, match=r"found no preprocessor_config.json.*give mean and std"):
        architecture_from_uri(f"hf:{vit_folder}")
    given = architecture_from_uri(f"hf:{vit_folder}", mean=[0.5] * 3, std=[0.5] * 3)
    assert given.preprocessing is None


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"found a folder without one, expected a folder with config.json"):
        architecture_from_uri(f"hf:{tmp_path}")
    with pytest.raises(SuiteError, match="found no such folder"):
        architecture_from_uri(f"hf:{tmp_path / 'none'}")
    with pytest.raises(CheckpointError, match=r"found a directory without config.json"):
        read_weights(tmp_path)


def test_a_state_dict_of_transformers_gets_a_sentence_that_says_what_works(vit_folder: Path) -> None:
    weights = read_weights(vit_folder)
    with pytest.raises(
        CheckpointError, match=r"a classifier of transformers \('vit' and a classifier\): give the folder"
    ):
        detect_architecture(weights)


def test_a_state_dict_with_the_names_of_an_earlier_release_loads(vit_folder: Path, tmp_path: Path) -> None:
    written = load_file(vit_folder / "model.safetensors")
    architecture = architecture_from_uri(f"hf:{vit_folder}", classes=10)
    assert (
        written.keys() != unwrap_model(build_model(architecture)).state_dict().keys()
    )  # renamed by the library
    config = PluginConfig("hf", "hf", to_settings(architecture), architecture)
    loader = ExternalCandidateLoader(config, (3, 32, 32), trust=False)

    def state(path: Path) -> dict[str, torch.Tensor]:
        return dict(loader.loaded(ExternalCandidate(str(path), "old"), path, None).model.state_dict())

    torch.save(written, tmp_path / "old.pt")
    expected, before = state(vit_folder), torch.random.get_rng_state()
    loaded = state(tmp_path / "old.pt")
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    assert torch.equal(torch.random.get_rng_state(), before)
    written.popitem()
    torch.save(written, tmp_path / "part.pt")
    with pytest.raises(CheckpointError, match="do not fit the model"):
        state(tmp_path / "part.pt")
