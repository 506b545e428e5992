"""What to tell the owner of a file that is more than data, and how its tensors get out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalsuite.errors import CheckpointError
from evalsuite.models.checkpoints.names import WRAPPERS, some
from evalsuite.models.checkpoints.pickles import Table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from evalsuite.models.checkpoints.containers import Container
    from evalsuite.models.checkpoints.pickles import Survey

RECIPE = """\
import torch
class Kept:  # stands in for what the file names, so that nothing of that runs
    def __init__(self, *values): pass
    def __setstate__(self, state): pass
names = {names}
with torch.serialization.safe_globals([(Kept, name) for name in names]):
    checkpoint = torch.load({path!r}, map_location="cpu", weights_only=True)
weights = checkpoint{keys}
torch.save({{name: value for name, value in weights.items() if torch.is_tensor(value)}}, "weights.pt")
"""
"""Takes the tensors out of a state dict that lies beside pickled objects, with torch 2.6 or later."""

_MOST = 200  # names in the lines that a person is asked to run
_MODULES = frozenset(
    {
        "asyncio",
        "commands",
        "ctypes",
        "importlib",
        "io",
        "nt",
        "os",
        "pickle",
        "posix",
        "pty",
        "runpy",
        "shutil",
    }
    | {"socket", "subprocess", "sys", "webbrowser"}
)
_BUILTINS = frozenset({"breakpoint", "compile", "eval", "exec", "getattr", "open", "setattr", "__import__"})


def refusal(file: Container, found: Survey) -> CheckpointError:
    """Returns the error for a file whose pickle wants more than plain data.

    Args:
        file: As `container` returns it.
        found: As `survey` returns it; wants something, or is of a protocol that is not read as data.
    """
    start = f"weights {file.path} wants to run {some(found.wanted, 8)}, but a checkpoint is data, never code"
    keys, inner = _wrapped(found.content)
    if not found.wanted:
        return CheckpointError(
            f"weights {file.path} is written with pickle protocol {found.protocol}, of which only 2 is read as "
            "data: save it again without pickle_protocol"
        )
    if any(_is_attack(name) for name in found.wanted):
        return CheckpointError(
            f"{start}, and no checkpoint needs that: do not load it with anything, "
            "and ask whoever made it for the tensors alone"
        )
    if isinstance(inner, Table) and _has_recipe(found):
        recipe = RECIPE.format(names=list(found.wanted), path=str(file.path), keys=keys)
        return CheckpointError(f"{start}; these lines take out its tensors and run nothing of it:\n{recipe}")
    what = f"checkpoint{keys}" + ("" if isinstance(inner, Table) else ".state_dict()")
    return CheckpointError(
        f"{start}; convert it where you trust it and can import that: checkpoint = torch.load({str(file.path)!r}, "
        f"map_location='cpu', weights_only=False), then torch.save({what}, 'weights.pt')"
    )


def _wrapped(content: object, wrappers: Iterable[str] = WRAPPERS) -> tuple[str, object]:
    """The subscripts that lead to the state dict or model in `content`, and that."""
    if isinstance(content, Table):
        inside = {name: content.entries[name] for name in wrappers if name in content.entries}
        tables = [name for name, value in inside.items() if isinstance(value, Table)]
        objects = [name for name, value in inside.items() if value is None]
        for wrapper in (tables + objects)[:1]:
            keys, inner = _wrapped(inside[wrapper], [name for name in wrappers if name != wrapper])
            return f"[{wrapper!r}]{keys}", inner
    return "", content


def _has_recipe(found: Survey) -> bool:
    names = found.wanted
    regular = all(part.isidentifier() for name in names for part in name.split("."))
    return found.fillable and regular and len(names) <= _MOST


def _is_attack(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    return module.partition(".")[0] in _MODULES or (module == "builtins" and attribute in _BUILTINS)
