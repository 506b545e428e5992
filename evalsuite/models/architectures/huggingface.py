"""Classifiers of transformers, from a model folder: ``hf:FOLDER`` with config.json and preprocessor_config.json."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from evalsuite.compat.transformers import (
    CONFIG,
    PROCESSOR,
    config_of,
    is_model_folder,
    network_of,
    processor_of,
)
from evalsuite.errors import SuiteError
from evalsuite.models.architectures.external import ExternalArchitecture, build_network
from evalsuite.preprocessing import Preprocessing

_NOT_CROPPED_FROM = 384
"""Pixels from which on ConvNeXt's processor squashes a picture instead of cropping it."""
_TOLERANCE = 1e-4
"""Largest difference of normalised pixels from those of the processor: they are rounded in another order."""


@dataclass(frozen=True, kw_only=True)
class HuggingFaceNetwork(ExternalArchitecture):
    """Classifier of transformers: ``hf:FOLDER``, a folder as ``save_pretrained`` writes it; read offline.

    Attributes:
        classes: 0 for as many as the folder's configuration names.
        model: The folder.
        config: SHA-256 of its config.json; filled in.
    """

    classes: int = 0
    model: str
    config: str = ""

    def __post_init__(self) -> None:
        folder = Path(self.model)
        check_model_folder(folder)
        digest = hashlib.sha256((folder / CONFIG).read_bytes()).hexdigest()
        if self.config not in ("", digest):
            raise SuiteError(
                f"model hf:{folder}: its {CONFIG} is another than when the run began; put the earlier one back"
            )
        object.__setattr__(self, "config", digest)
        if not self.classes:
            object.__setattr__(self, "classes", int(config_of(folder).num_labels))
        if not self.mean and not self.std:
            self._set_default_preprocessing(*_processor(folder).normalisation)
        super().__post_init__()

    def network(self) -> nn.Module:
        """Returns the network with `classes` logits; its output is a record with logits, which the model unwraps."""
        return build_network(f"hf:{self.model}", lambda: network_of(self._config()))

    def published_preprocessing(self) -> Preprocessing | None:
        """Returns the geometry of the folder's image processor; ``None`` where it has none."""
        folder = Path(self.model)
        return _processor(folder).geometry if (folder / PROCESSOR).is_file() else None

    def _config(self) -> Any:
        config = config_of(Path(self.model))
        if config.num_labels == self.classes:
            return config
        return config_of(Path(self.model), num_labels=self.classes)


@dataclass(frozen=True)
class _Processor:
    """What an image processor does.

    Attributes:
        geometry: Resize and crop.
        normalisation: Mean and standard deviation of each channel of pixels in [0, 1].
    """

    geometry: Preprocessing
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]


def check_model_folder(folder: Path) -> None:
    """Checks that a folder is one of transformers.

    Raises:
        SuiteError: If it is not.
    """
    if not is_model_folder(folder):
        found = "a folder without one" if folder.is_dir() else "no such folder"
        raise SuiteError(
            f"model hf:{folder}: found {found}, expected a folder with {CONFIG}, as save_pretrained writes it"
        )


def _processor(folder: Path) -> _Processor:
    file = folder / PROCESSOR
    if not file.is_file():
        raise SuiteError(
            f"model hf:{folder}: found no {PROCESSOR}, which states the preprocessing: give mean and std, or save "
            "the image processor there"
        )
    return _read_processor(folder, file.read_text("utf-8"))


@lru_cache(maxsize=16)
def _read_processor(folder: Path, content: str) -> _Processor:  # noqa: ARG001  # the content is the key of the cache
    processor = processor_of(folder)
    read = _Processor(_geometry(folder, processor), _normalisation(processor))
    _check_pixels(folder, processor, read)
    _check_size(folder, read.geometry)
    return read


def _geometry(folder: Path, processor: Any) -> Preprocessing:
    """Resize and crop of a processor.

    References:
        transformers 5, ``image_processing_backends.TorchvisionBackend._preprocess``, and the processors of ConvNeXt
        and LeViT, which resize in their own ways.
    """
    kind = type(processor).__name__
    size = dict(processor.size or {})
    edge = size.get("shortest_edge")
    resize: tuple[int | None, ...] = (edge,) if edge else (size.get("height"), size.get("width"))
    crop = dict(getattr(processor, "crop_size", None) or {})
    window = (crop.get("height"), crop.get("width")) if processor.do_center_crop else resize
    if edge and kind.startswith("ConvNext"):
        cropped = edge < _NOT_CROPPED_FROM
        resize = (int(edge / processor.crop_pct),) if cropped else (edge, edge)
        window = (edge, edge)
    elif edge and kind.startswith("Levit"):
        resize = (int(256 / 224 * edge),)
    if not processor.do_resize:
        resize = ()
    numbers = [number for number in (*window, *resize) if number is not None]
    if len(window) != 2 or len(numbers) != len(window) + len(resize):
        raise SuiteError(
            f"model folder {folder}: its {kind} makes pictures of no fixed size (size = {size}); give crop, and resize "
            "if pictures are resized to another size before it"
        )
    height, width, *resized = numbers
    return Preprocessing((height, width), tuple(resized), _interpolation(processor), engine="torch")


def _interpolation(processor: Any) -> str:
    resample = getattr(processor, "resample", None)
    if resample is None:
        return "bilinear"
    value = getattr(resample, "value", resample)
    return value if isinstance(value, str) else Image.Resampling(value).name.lower()


def _normalisation(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation for pixels in [0, 1], of a processor that may rescale in another way."""
    scale = 255 * (processor.rescale_factor if processor.do_rescale else 1.0)
    scale = 1.0 if math.isclose(scale, 1.0) else scale
    normalised = processor.do_normalize
    mean = processor.image_mean if normalised else (0.0, 0.0, 0.0)
    std = processor.image_std if normalised else (1.0, 1.0, 1.0)
    mean, std = ([part] * 3 if isinstance(part, float | int) else part for part in (mean, std))
    if type(processor).__name__.startswith("EfficientNet") and processor.include_top:
        std = [value * value for value in std]  # it divides twice
    return tuple(float(value) / scale for value in mean), tuple(float(value) / scale for value in std)


def _check_pixels(folder: Path, processor: Any, read: _Processor) -> None:
    """Compares what was read of a processor with what it does to a picture of odd size."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (301, 417, 3), dtype=np.uint8))
    theirs = np.asarray(processor(picture, return_tensors="np")["pixel_values"][0], np.float64)
    mean, std = (np.reshape(part, (3, 1, 1)) for part in read.normalisation)
    mine = (read.geometry.pixels(picture) / 255 - mean) / std
    if theirs.shape != mine.shape or abs(mine - theirs).max() > _TOLERANCE * abs(1 / std).max():
        raise SuiteError(
            f"model folder {folder}: its {type(processor).__name__} does more to a picture than resize, crop, rescale "
            "and normalise, so its pixels cannot be reproduced here; wrap the network in file.py:function, which does "
            "the rest"
        )


def _check_size(folder: Path, geometry: Preprocessing) -> None:
    """Refuses a processor whose pictures are of another size than the network was built for."""
    size = getattr(config_of(folder), "image_size", None)
    expected = (size, size) if isinstance(size, int) else tuple(size or geometry.crop)
    if expected != geometry.crop:
        raise SuiteError(
            f"model folder {folder}: its {PROCESSOR} makes pictures of {'x'.join(map(str, geometry.crop))}, but its "
            f"{CONFIG} is of a network for {'x'.join(map(str, expected))}; correct one of them"
        )
