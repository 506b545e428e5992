"""``list``: what can be named in a suite, and the settings of one of them."""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evalsuite.cli import console
from evalsuite.errors import UserError
from evalsuite.registry import Registry, RegistryEntry, unknown_name

if TYPE_CHECKING:
    from evalsuite.cli.plugin_settings import Setting

KINDS = ("producers", "evaluators", "datasets", "models", "recipes", "suites")


def list_command(
    kind: Annotated[str, typer.Argument(help=", ".join(KINDS) + ".")],
    name: Annotated[
        str, typer.Argument(help="One of them: print its settings with type, default and meaning.")
    ] = "",
    prunable: Annotated[
        bool,
        typer.Option(
            "--prunable",
            help="models: which units structured methods can remove of small versions of the libraries' networks, or "
            "of the model that is named (timm:..., file.py:function).",
        ),
    ] = False,
    side: Annotated[int, typer.Option(help="Pixels of the images of a named model, with --prunable.")] = 32,
) -> None:
    """List what can be named in a suite: name, one line, where it is defined; or all settings of one of them."""
    if kind not in KINDS:
        raise UserError(unknown_name("listing", kind, KINDS))
    if prunable:
        if kind != "models":
            raise UserError(f"found list {kind} --prunable, expected list models --prunable")
        _print_prunable(name, side)
        return
    if not name:
        print_listing(entries_of(kind))
        return
    from evalsuite.cli.plugin_settings import settings_of

    kinds = registries()
    if kind not in kinds:
        raise UserError(f"list {kind} {name}: {kind} have no settings; expected one of {', '.join(kinds)}")
    plugin = kinds[kind].get(name)
    (entry,) = [entry for entry in kinds[kind].entries() if entry.name == name]
    print_settings(entry, settings_of(plugin))


def _print_prunable(name: str, side: int) -> None:
    """Prints which units can be removed: of small networks of the libraries, or of one model with its layers."""
    from evalsuite.models.architectures.base import build_model
    from evalsuite.models.architectures.small_networks import SMALL_NETWORKS
    from evalsuite.models.architectures.uris import architecture_from_uri
    from evalsuite.producers.structured.fit import prunable_row, prunable_units_of

    if name:
        architecture = architecture_from_uri(name)
        shape = (len(architecture.mean), side, side)
        units = prunable_units_of(build_model(architecture).eval(), shape)
        console.print_facts({**prunable_row(name, units), "methods": ""} | units.methods)
        console.print_facts({layer.name: layer.reason for layer in units.left_out})
        return
    for label, small in SMALL_NETWORKS.items():
        model = build_model(small.architecture()).eval()
        console.print_facts(prunable_row(label, prunable_units_of(model, (3, small.side, small.side))))


def entries_of(kind: str) -> list[RegistryEntry]:
    """Returns what there is of one of `KINDS`."""
    if kind == "suites":
        from evalsuite.config.suite_file import shipped_suites

        return [RegistryEntry(name, _description(path), str(path)) for name, path in shipped_suites().items()]
    if kind == "recipes":
        from evalsuite.training.published_recipes import RECIPES

        return [
            RegistryEntry(name, recipe.text, "evalsuite.training.published_recipes")
            for name, recipe in sorted(RECIPES.items())
        ]
    return registries()[kind].entries()


def registries() -> dict[str, Registry[Any]]:
    """Returns the registries of those of `KINDS` that have settings."""
    from evalsuite.datasets import DATASETS
    from evalsuite.evaluators import EVALUATORS
    from evalsuite.models import MODELS
    from evalsuite.producers import PRODUCERS

    return {"producers": PRODUCERS, "evaluators": EVALUATORS, "datasets": DATASETS, "models": MODELS}


def _description(path: Path) -> str:
    return str(tomllib.loads(path.read_text("utf-8")).get("description", ""))


def print_listing(entries: Sequence[RegistryEntry]) -> None:
    """Prints the lines of a listing."""
    for line in listing(entries, width=console.out.width if console.out.is_terminal else None):
        console.out.print(line, soft_wrap=True, markup=False)


def listing(entries: Sequence[RegistryEntry], *, width: int | None) -> Iterator[str]:
    """Yields the lines of a listing: three columns; where they do not fit, the last one or two stand below.

    Args:
        entries: What is listed.
        width: Columns of the terminal; ``None`` for any number.
    """
    rows = [RegistryEntry("name", "what it is", "defined in"), *entries]
    names, texts, addresses = (
        max(len(getattr(row, field)) for row in rows) for field in ("name", "text", "defined")
    )
    if width is None or names + texts + addresses + 4 <= width:
        yield from (f"{row.name:<{names}}  {row.text:<{texts}}  {row.defined}" for row in rows)
        return
    beside = width - names - 2
    for row in rows:
        if beside < console.NARROW:
            yield row.name
            yield from (f"  {line}" for line in [*textwrap.wrap(row.text, width - 2), row.defined])
            continue
        lines = [*textwrap.wrap(row.text, beside), row.defined]
        yield from (f"{name:<{names}}  {line}" for name, line in zip_longest([row.name], lines, fillvalue=""))


def print_settings(entry: RegistryEntry, settings: Sequence[Setting]) -> None:
    """Prints a plug-in and its settings: name, type, default, and the meaning below."""
    width = console.out.width if console.out.is_terminal else console.PIPE_WIDTH
    console.out.print(f"{entry.name}: {entry.text}", soft_wrap=True, markup=False)
    console.out.print(f"defined in {entry.defined}", soft_wrap=True, markup=False)
    if not settings:
        console.out.print("It has no settings.")
    for setting in settings:
        default = "required" if setting.required else f"default {setting.default}"
        console.out.print(f"\n{setting.name}: {setting.type}, {default}", soft_wrap=True, markup=False)
        for line in textwrap.wrap(setting.meaning, max(console.NARROW, width) - 4, break_long_words=False):
            console.out.print(f"    {line}", soft_wrap=True, markup=False)
