"""Provenance: suite, command, code, versions and hardware, which ``run.json`` records so that a run can be repeated."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evalsuite.config.options import Options
from evalsuite.config.suite import Suite
from evalsuite.config.suite_file import shipped_suites

PACKAGES = (
    "evalsuite",
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "foolbox",
    "robustbench",
    "pyautoattack",
    "torch-pruning",
)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that numbers depend on."""
    packages = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = "not installed"
    return packages


def environment_fingerprint() -> dict[str, str]:
    """Returns what must be the same wherever parts of one run are computed: versions, and a digest of the code."""
    return {**versions(), "code": _package_digest()}


@cache
def _package_digest() -> str:
    """Digest of every source file of the package: workers on other machines must have the same."""
    total = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()


def git_revision(folder: Path) -> str:
    """Returns the commit of the checkout that holds the code in `folder`, with ``+changes`` if dirty; else nothing.

    A repository in which the code is merely installed does not tell its revision.
    """
    if not _git(folder, "ls-files", "__init__.py"):
        return ""
    return _git(folder, "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*")


def _git(folder: Path, *words: str) -> str:
    command = ("git", "-C", str(folder), *words)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603  # fixed words
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def hardware(device: str) -> dict[str, Any]:
    """Returns what the run computes on."""
    return {
        "device": device,
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
    }


def described(suite: Suite) -> dict[str, Any]:
    """Returns a suite as plain JSON, every default written out."""
    return {
        "name": suite.name,
        "description": suite.description,
        "seeds": list(suite.seeds),
        "ratios": list(suite.ratios),
        "data": suite.data.table,
        "model": suite.model.table,
        "checkpoint": suite.checkpoint,
        "recipe": dataclasses.asdict(suite.recipe),
        "retraining": dataclasses.asdict(suite.retraining),
        "retrainings": {label: dataclasses.asdict(recipe) for label, recipe in suite.retrainings.items()},
        "producers": [
            {"label": config.label, **config.table, **config.plugin.run_metadata}
            for config in suite.producers
        ],
        "candidates": [dataclasses.asdict(candidate) for candidate in suite.candidates],
        "evaluators": [{"label": config.label, **config.table} for config in suite.evaluators],
        "tolerances": dict(suite.tolerances),
        "threads": suite.threads,
        "data_root": suite.data_root,
        "plugins": list(suite.plugins),
        "resources": _without_defaults(
            dataclasses.asdict(suite.resources), batch_size=0, engine="auto", precision="exact"
        ),
        "source": _called(suite),
        **({"limit": suite.limit} if suite.limit else {}),
        **({"sequential": True} if suite.sequential else {}),
        **({} if suite.parent_accuracy is None else {"parent_accuracy": suite.parent_accuracy}),
        **({} if suite.control else {"control": False}),
        **({"pruned_only": list(suite.pruned_only)} if suite.pruned_only else {}),
        **({"conditions": dataclasses.asdict(suite.conditions)} if suite.conditions else {}),
        **({"check": dict(suite.check)} if suite.check else {}),
    }


def _without_defaults(table: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """A table without keys that have their defaults, so that records of suites that do not use them stay the same."""
    return {name: value for name, value in table.items() if name not in defaults or value != defaults[name]}


def _called(suite: Suite) -> str:
    """What a command line calls a suite: its name if it ships with the package, else its path."""
    return suite.name if shipped_suites().get(suite.name) == suite.source else str(suite.source)


def command(suite: Suite, options: Options) -> str:
    """Returns the command that runs this again."""
    if options.command:
        return options.command
    words = ["python", "-m", "evalsuite", "run", _called(suite)]
    words += ["--seed", str(options.seed)] if options.seed is not None else []
    for name in ("recipe", "search"):
        words += [f"--{name}", value] if (value := getattr(options, name)) else []
    words += ["--limit", str(options.limit)] if options.limit else []
    words += ["--batch-size", str(options.batch_size)] if options.batch_size else []
    words += ["--device", options.device] if options.device != "cpu" else []
    words += ["--data-root", str(options.data_root)] if options.data_root is not None else []
    words += ["--download"] if options.download else []
    words += ["--precision", options.precision] if options.precision else []
    words += ["--skip-unreadable"] if options.skip_unreadable else []
    words += [word for name in options.only for word in ("--only", name)]
    return shlex.join(words)


def record(suite: Suite, options: Options) -> dict[str, Any]:
    """Returns what ``run.json`` holds before the clock has run."""
    return {
        "suite": described(suite),
        "suite_text": suite.text,
        "command": command(suite, options),
        "versions": versions(),
        "git_revision": git_revision(Path(__file__).parent),
        "hardware": hardware(options.device),
        "python": sys.version,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
