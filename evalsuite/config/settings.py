"""Settings of an architecture that are written as ``key=value``, on a command line or in a cell of a manifest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evalsuite.errors import SuiteError
from evalsuite.models.uri_tables import FOLDER, settings_of_uri

_PER_CHANNEL = ("mean", "std")
_TRUTH = {"true": True, "false": False}


def settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Returns ``key=value`` pairs as settings: numbers, lists of numbers between commas, or words.

    >>> settings(["shortcut=B", "mean=0.5,0.5,0.5", "depth=20"])
    {'shortcut': 'B', 'mean': [0.5, 0.5, 0.5], 'depth': 20}
    >>> settings(["mean=0.5"])  # of images with one channel
    {'mean': [0.5]}
    >>> settings(["options.depth=2", "options.transform_input=false"])  # arguments of the function that builds it
    {'options': {'depth': 2, 'transform_input': False}}
    """
    values: dict[str, Any] = {}
    for key, text in map(_pair, pairs):
        table, dot, option = key.partition(".")
        if dot:
            values.setdefault(table, {})[option] = _TRUTH.get(text, _value(text))
        else:
            values[key] = _value(text)
    lists = {key: [values[key]] for key in _PER_CHANNEL if isinstance(values.get(key), float | int)}
    return values | lists


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key.strip() and equals and value.strip()):
        raise SuiteError(f"found {text!r}, expected key=value")
    return key.strip(), value.strip()


def _value(text: str) -> Any:
    if "," in text:
        return [_value(part.strip()) for part in text.split(",")]
    return number_or_text(text)


def number_or_text(text: str) -> int | float | str:
    """Returns the number that a text is, or the text.

    >>> number_or_text("3"), number_or_text("3e-1"), number_or_text("B")
    (3, 0.3, 'B')
    """
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def model_with_settings(text: str) -> tuple[str, dict[str, Any]]:
    """Returns the architecture's URI in a text, and the settings behind it.

    >>> model_with_settings("timm:vit_tiny_patch16_224 options.depth=6 mean=0.5,0.5,0.5")
    ('timm:vit_tiny_patch16_224', {'options': {'depth': 6}, 'mean': [0.5, 0.5, 0.5]})
    """
    words = text.split(" ")
    first = next((place for place, word in enumerate(words) if place and "=" in word), len(words))
    return " ".join(words[:first]).strip(), settings(word for word in words[first:] if word)


def placed_model(text: str, base: Path) -> str:
    """Returns the architecture of a candidate with a file or folder that is in `base` made absolute.

    Args:
        text: As for `model_with_settings`; may be empty.
        base: Folder where relative paths start.
    """
    if not text:
        return text
    uri, *rest = text.split(" ", 1)
    table = settings_of_uri(uri, base=base)
    places = {"python": table.get("target", ""), FOLDER: f"{FOLDER}:{table.get('model', '')}"}
    return " ".join([places.get(table["name"], uri), *rest])
