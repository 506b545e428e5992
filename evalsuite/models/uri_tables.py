"""Architecture URIs as tables of settings, without importing torch; see `evalsuite.models.architectures.uris`."""

from __future__ import annotations

from pathlib import Path

from evalsuite.errors import SuiteError

LIBRARIES = ("torchvision", "timm", "robustbench")
"""Schemes whose networks have names within a library."""

FOLDER = "hf"
"""Scheme of model folders of transformers."""

REGISTERED = "evalsuite"
NEED_A_TARGET = (*LIBRARIES, FOLDER, "python")
"""Names of models that are a library and not a network."""


def settings_of_uri(uri: str, *, base: Path | None = None) -> dict[str, str]:
    """Returns name and target of the architecture that a URI names, as keys of a table of settings.

    Args:
        uri: Such as ``resnet20``, ``timm:resnet18``, ``hf:folder`` or ``folder/file.py:function``.
        base: Folder where relative paths start, where such a file is there; else the working directory.

    Raises:
        SuiteError: If a library is named without a network of it.

    >>> settings_of_uri("timm:resnet18"), settings_of_uri("resnet20")
    ({'name': 'timm', 'model': 'resnet18'}, {'name': 'resnet20'})
    """
    scheme, colon, target = uri.partition(":")
    if (colon and scheme == FOLDER) or placed(uri, base).is_dir():
        return {"name": FOLDER, "model": str(placed(target if scheme == FOLDER else uri, base))}
    if colon and scheme in LIBRARIES:
        return {"name": scheme, "model": target}
    if colon and scheme != REGISTERED:
        file, _, function = uri.rpartition(":")
        return {
            "name": "python",
            "target": f"{placed(file, base)}:{function}" if file.endswith(".py") else uri,
        }
    name = target if colon else uri
    if name in NEED_A_TARGET or name.endswith(".py"):
        example = f"{name}:function" if name.endswith(".py") or name == "python" else f"{name}:resnet18"
        raise SuiteError(f"model {uri!r}: expected a name behind a colon, such as {example}")
    return {"name": name}


def placed(path: str, base: Path | None) -> Path:
    """Returns a path made absolute: in `base` if something is there, else in the working directory."""
    plain = Path(path).expanduser()
    inside = None if base is None else base / plain
    return (inside if inside is not None and inside.exists() else plain).resolve()
