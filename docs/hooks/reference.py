"""Pages of the reference, written from the code whenever the site is built, so that they cannot drift from it."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import evalsuite.plugins
import evalsuite.testing
from evalsuite.cli.main import app
from evalsuite.cli.plugin_settings import documented_attributes, settings_of
from evalsuite.config.suite import Resources, Suite
from evalsuite.config.suite_file import KEYS, suite_from_tables
from evalsuite.datasets import DATASETS
from evalsuite.detectors.table import DETECTORS
from evalsuite.evaluators import EVALUATORS
from evalsuite.evaluators.base import Evaluator
from evalsuite.models import MODELS
from evalsuite.producers import PRODUCERS
from evalsuite.registry import Registry
from evalsuite.training.recipe import Recipe
from evalsuite.types import ExternalCandidate, Metric

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

KINDS: dict[str, tuple[Registry[Any], str]] = {
    "producers": (PRODUCERS, "Pruning methods and baselines. `[[producers]]` in a suite, with these keys."),
    "evaluators": (EVALUATORS, "The tests of the battery. `[[evaluators]]` in a suite, with these keys."),
    "datasets": (DATASETS, "Image sets. `[data]` in a suite, `--data NAME:KEY=VALUE` on the command line."),
    "models": (
        MODELS,
        "Architectures. `[model]` in a suite, `--model NAME --setting KEY=VALUE` on the command line.",
    ),
}
TABLES = {
    "[recipe] and [retraining]": (
        Recipe,
        "How the parent is trained; `[retraining]` changes keys of it for the candidates.",
    ),
    "[[candidates]]": (ExternalCandidate, "A finished model. A manifest has the same names as columns."),
    "[resources]": (Resources, "What one cell may take."),
}
DEEPEST = {
    "name": "reference",
    "depth": "full",
    "data": "cifar10",
    "model": {"name": "resnet20"},
    "producers": ({"name": "magnitude"},),
    "ratios": (0.5,),
    "evaluators": ({"name": "shift", "sets": ("cifar10.1",)},),
}
PYTHON = """Public is what `evalsuite`, `evalsuite.plugins` and `evalsuite.testing` export; it changes with a
warning of one release. Every other module may move.

```python
import evalsuite

run = evalsuite.run("suites/digits.toml")
print(run.measurements)                              # one row per number
print(run.thresholds(tolerance={"accuracy": 0.005})) # other tolerances in seconds, without the models
```"""
ELSEWHERE = {
    "depth": "`quick`, `standard` or `full`: which tests there are, and how large each is.",
    "evaluators": "Tests: those of the depth, as these tables change them, and further ones.",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages; called by MkDocs."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def pages() -> dict[str, str]:
    """Returns the text of each generated page, by its name."""
    return {
        "cli": command_page(),
        "suite": suite_page(),
        **{kind: plugin_page(kind, *entry) for kind, entry in KINDS.items()},
        "detectors": detector_page(),
        "metrics": metric_page(),
        "python": python_page(),
    }


def plugin_page(kind: str, registry: Registry[Any], text: str) -> str:
    """Returns a page with a section for every plug-in of evalsuite itself: its docstring and its settings."""
    sections = [f"# {kind.capitalize()}", text]
    for entry in registry.entries():
        if entry.defined.startswith("evalsuite."):
            plugin = registry.get(entry.name)
            sections += [f"## `{entry.name}`", prose(inspect.getdoc(plugin) or ""), settings_table(plugin)]
    return joined(sections)


def settings_table(plugin: type) -> str:
    """Returns a table of the settings of a registered dataclass."""
    rows = [
        (f"`{entry.name}`", entry.type, "required" if entry.required else f"`{entry.default}`", entry.meaning)
        for entry in settings_of(plugin)
    ]
    return table(("key", "type", "default", "meaning"), rows) if rows else "No settings."


def suite_page() -> str:
    """Returns the page of every key of a suite file."""
    meanings = {**documented_attributes(Suite.__doc__ or ""), **ELSEWHERE}
    rows = [(f"`{key}`", meanings.get(key, "")) for key in KEYS]
    sections = [
        "# Keys of a suite",
        "A suite is a TOML file. A key that no table knows is an error.",
        table(("key", "meaning"), rows),
    ]
    for name, (kind, text) in TABLES.items():
        sections += [f"## `{name}`" if " " not in name else f"## {name}", text, settings_table(kind)]
    return joined(sections)


def command_page() -> str:
    """Returns the page of every command with its arguments and options."""
    sections = ["# Commands", "`python -m evalsuite COMMAND` and `evalsuite COMMAND` are the same."]
    for name, command in typer.main.get_group(app).commands.items():
        if not command.hidden:
            sections += [
                f"## `{name}`",
                command.help or "",
                table(("argument or option", "meaning"), parameters(command)),
            ]
    return joined(sections)


def parameters(command: Any) -> Iterator[tuple[str, str]]:
    """Yields each parameter of a command with its meaning."""
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        if parameter.param_type_name == "option":
            yield ", ".join(f"`{name}`" for name in parameter.opts), parameter.help or ""
        else:
            yield (
                f"`{(parameter.metavar or parameter.name or '').upper()}`",
                getattr(parameter, "help", "") or "",
            )


def detector_page() -> str:
    """Returns the page of the detectors of out-of-distribution images."""
    rows = [(f"`{name}`", detector.needs, first_line(detector)) for name, detector in DETECTORS.items()]
    return joined(
        [
            "# Detectors",
            "Names for the key `detectors` of the evaluator `ood`. Scores are larger for images that look less "
            "like the training data. [Conditions and metrics](../battery.md) has definitions and sources.",
            table(("detector", "needs", "source"), rows),
        ]
    )


def metric_page() -> str:
    """Returns the page of every metric of the deepest battery, and of tests that need no setting."""
    metrics: dict[str, tuple[Metric, set[str]]] = {}
    for name, evaluator in shipped_tests():
        for metric in evaluator.metrics:
            metrics.setdefault(metric.name, (metric, set()))[1].add(f"`{name}`")
    rows = [
        (
            f"`{name}`",
            metric.unit,
            "larger" if metric.higher_is_better else "smaller",
            ", ".join(sorted(names)),
            metric.text,
        )
        for name, (metric, names) in sorted(metrics.items())
    ]
    return joined(
        [
            "# Metrics",
            "Names for `[tolerances]` and `--metric`. A custom evaluator adds its own.",
            table(("metric", "unit", "better", "tests", "meaning"), rows),
        ]
    )


def shipped_tests() -> Iterator[tuple[str, Evaluator]]:
    """Yields the tests of the depth ``full``, then those that are in no depth and need no setting."""
    suite = suite_from_tables(DEEPEST, source=Path("reference"))
    named = {config.name for config in suite.evaluators}
    yield from ((config.name, config.plugin) for config in suite.evaluators)
    for entry in EVALUATORS.entries():
        plugin = EVALUATORS.get(entry.name)
        needs_none = not any(setting.required for setting in settings_of(plugin))
        if entry.defined.startswith("evalsuite.") and entry.name not in named and needs_none:
            yield entry.name, plugin()


def python_page() -> str:
    """Returns the page of every public name, for mkdocstrings to fill in."""
    sections = ["# Python", PYTHON]
    described: set[str] = set()
    for module in (evalsuite, evalsuite.plugins, evalsuite.testing):
        sections += [f"## {module.__name__}", (inspect.getdoc(module) or "").partition("\n")[0]]
        for name in module.__all__:
            member = getattr(module, name)
            home = sys.modules.get(getattr(member, "__module__", ""))
            address = (
                f"{member.__module__}.{name}" if vars(home or module).get(name) is member and home else ""
            )
            if not address:  # a method of a registry, or an alias of a type
                sections.append(f"### `{name}`\n\n{first_line(member)}")
            elif address not in described:
                more = "\n      inherited_members: true" if has_private_base(member) else ""
                sections.append(f"::: {address}\n    options:\n      heading_level: 3{more}")
            described.add(address)
    return joined(sections)


def has_private_base(member: object) -> bool:
    """Whether a public class has members from a class of the package that has no section of its own."""
    public = {getattr(module, name) for module in (evalsuite, evalsuite.plugins) for name in module.__all__}
    bases = member.__mro__[1:] if isinstance(member, type) else ()
    return any(base.__module__.startswith("evalsuite.") and base not in public for base in bases)


def first_line(thing: object) -> str:
    """Returns the first sentence of what an object says about itself."""
    return getattr(thing, "source", "") or (inspect.getdoc(thing) or "").partition("\n")[0]


def prose(docstring: str) -> str:
    """Returns a docstring without its section of attributes, which the table of settings has, as Markdown."""
    text = re.sub(r"\n\nAttributes:\n.*?(?=\n\n\S|\Z)", "", f"{docstring}\n", flags=re.DOTALL)
    return code(re.sub(r"(?m)^(    .*\n)+", lambda block: f"\n{inspect.cleandoc(block[0])}\n", text))


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Returns a table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def cell(text: str) -> str:
    """Returns text as it stands in a cell of a table."""
    return " ".join(code(text).replace("|", "\\|").split())


def code(text: str) -> str:
    """Returns text with the code of reStructuredText as that of Markdown."""
    return re.sub(r"``(.+?)``", r"`\1`", text)


def joined(sections: Iterable[str]) -> str:
    """Returns sections with an empty line between each two."""
    return "\n\n".join(section for section in sections if section) + "\n"
