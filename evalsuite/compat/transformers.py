"""The library transformers: imported when it is needed, quiet, and offline."""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from evalsuite.errors import CheckpointError, SuiteError, first_few, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from torch import nn

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
"""Files of a model folder that hold its architecture and its preprocessing."""


def is_model_folder(path: Path) -> bool:
    """Returns whether a path is a folder as ``save_pretrained`` writes it."""
    return path.is_dir() and (path / CONFIG).is_file()


def folder_files(path: Path) -> list[Path]:
    """Returns the files of a model folder that decide what the network computes, sorted by name."""
    kinds = (".safetensors", ".bin", ".json")
    return sorted(file for file in path.iterdir() if file.suffix in kinds and file.is_file())


def config_of(folder: Path, **settings: Any) -> Any:
    """Returns the configuration in a model folder, with `settings` in the place of its own.

    Raises:
        SuiteError: If transformers is not there, or cannot read it.
    """
    with _library() as library:
        try:
            return library.AutoConfig.from_pretrained(folder, local_files_only=True, **settings)
        except Exception as error:  # a configuration is of untrusted origin and fails in many ways
            raise SuiteError(
                f"model folder {folder}: transformers cannot read its {CONFIG}: {first_line(error)}"
            ) from error


def network_of(config: Any) -> nn.Module:
    """Returns a classifier as a configuration describes it, with weights as they are drawn."""
    import torch

    with _library() as library:
        network: nn.Module = library.AutoModelForImageClassification.from_config(config, dtype=torch.float32)
    return network


def network_of_settings(kind: str, **settings: Any) -> nn.Module:
    """Returns a classifier from settings, with weights as they are drawn.

    Args:
        kind: The library's name of the architecture, such as ``vit``.
        settings: Keys of its configuration.

    Raises:
        SuiteError: If transformers is not installed.
    """
    with _library() as library:
        config = library.AutoConfig.for_model(kind, **settings)
    return network_of(config)


def pretrained_network(folder: Path) -> nn.Module:
    """Returns the classifier in a model folder with its weights, single precision, on the processor.

    The library renames tensors between its releases: what is on disk is read by nothing else.

    Raises:
        CheckpointError: If it cannot be read, or its weights are not those of its configuration.
    """
    import torch

    with _library() as library:
        try:
            network, report = library.AutoModelForImageClassification.from_pretrained(
                folder,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # else the report is an exception without the names
                dtype=torch.float32,
            )
        except Exception as error:  # as above
            raise CheckpointError(
                f"model folder {folder}: transformers cannot load it as an image classifier: {first_line(error)}"
            ) from error
    _check_complete(folder, report)
    loaded: nn.Module = network
    return loaded


def processor_of(folder: Path) -> Any:
    """Returns the image processor of a model folder.

    Raises:
        SuiteError: If there is none, or it cannot be read.
    """
    with _library() as library:
        try:
            return library.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # as above
            raise SuiteError(
                f"model folder {folder}: transformers cannot read its {PROCESSOR}: {first_line(error)}; correct it, "
                "or give mean, std and crop"
            ) from error


def _check_complete(folder: Path, report: dict[str, Any]) -> None:
    found = {
        "missing": sorted(map(str, report["missing_keys"])),
        "unexpected": sorted(map(str, report["unexpected_keys"])),
        "of another shape": sorted(str(key[0]) for key in report["mismatched_keys"]),
    }
    problems = [f"{len(names)} {what} ({first_few(names)})" for what, names in found.items() if names]
    if problems:
        raise CheckpointError(
            f"model folder {folder}: its weights are not those of its {CONFIG}: {'; '.join(problems)}; transformers "
            "would draw new ones in their place: save the model again with save_pretrained"
        )


@contextmanager
def _library() -> Iterator[ModuleType]:
    """The library without its reports, warnings and progress bars.

    Raises:
        SuiteError: If it is not installed.
    """
    from evalsuite.compat.calls import quiet_imports  # imports torch

    with quiet_imports():
        try:
            library = importlib.import_module("transformers")
        except ImportError as error:
            raise SuiteError(
                "model folders need the library transformers, which is not installed: "
                "pip install 'evalsuite[transformers]'"
            ) from error
        logging: Any = importlib.import_module("transformers.utils.logging")
        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()
        try:
            yield library
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
