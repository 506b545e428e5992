"""Files that hold several networks: a list of state dicts, or a dictionary of them, of which one is taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from evalsuite.errors import CheckpointError, first_few
from evalsuite.models.checkpoints.state_dict_keys import find_state_dict

if TYPE_CHECKING:
    from pathlib import Path

Entry = int | str
"""A network of a file: its place in the list, from 0 on, or its key in the dictionary; empty for the only one."""


def single_network(path: Path, content: object, entry: Entry = "") -> tuple[object, str]:
    """Returns the network that is taken of a file's content, and a note where there were several.

    Args:
        path: For the errors.
        content: What the file holds.
        entry: Which of its networks; empty for the only one.

    Returns:
        The content itself where it is no list of networks, which is for others to refuse.

    Raises:
        CheckpointError: If there are several and no entry is given, or there is no such entry.
    """
    kind, networks = _networks(content)
    wanted = str(entry)
    if wanted and wanted in networks:
        others = [name for name in networks if name != wanted]
        note = f"{path.name} is a {kind}: entry {wanted} was taken." if others else ""
        return networks[wanted], note
    if wanted:
        held = f"a {kind}, expected one of {first_few(networks)}" if len(networks) > 1 else "one network"
        advice = "" if len(networks) > 1 else ", which needs no entry: leave it out"
        raise CheckpointError(f"weights {path}: found no entry {wanted!r} but {held}{advice}")
    if isinstance(content, Mapping) and find_state_dict(content)[1]:
        return content, ""
    if len(networks) > 1:
        raise CheckpointError(
            f"weights {path}: found a {kind} ({first_few(networks, 12)}); --entry {next(iter(networks))} takes one, as "
            "the key checkpoint_entry of a suite and the key or column entry of a candidate do"
        )
    return next(iter(networks.values()), content), ""


def _networks(content: object) -> tuple[str, dict[str, object]]:
    """What a content with several networks is called, and these by place or key; none if it is a state dict itself."""
    if isinstance(content, list | tuple):
        networks = {str(place): part for place, part in enumerate(content) if find_state_dict(part)[1]}
        return f"list of {len(networks)} networks", networks
    wrapper, tensors = find_state_dict(content, ())
    if not isinstance(content, Mapping) or (tensors and not wrapper):
        return "", {}
    lists = [value for value in content.values() if isinstance(value, list | tuple) and _networks(value)[1]]
    if len(lists) == 1 and not find_state_dict(content)[1]:
        return _networks(lists[0])
    networks = {
        key: part
        for key, part in content.items()
        if isinstance(key, str) and isinstance(part, Mapping) and find_state_dict(part)[1]
    }
    return f"dictionary of {len(networks)} networks", networks
