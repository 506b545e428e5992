"""Ways to have the tasks of a run done: one after the other here, by processes on this machine, or by Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evalsuite.config.options import Options
from evalsuite.config.suite import Suite
from evalsuite.errors import UserError
from evalsuite.execution.devices import cores
from evalsuite.execution.executors.base import Executor
from evalsuite.execution.tasks import RunContext
from evalsuite.execution.worker import TaskRunner
from evalsuite.registry import unknown_name
from evalsuite.runs.provenance import environment_fingerprint

NAMES = ("serial", "local", "ray")


def executor(
    name: str, context: RunContext, here: TaskRunner, *, devices: Sequence[str], workers: int
) -> Executor:
    """Returns the executor called `name`; ``ray://host:port`` names a cluster.

    Args:
        name: One of `NAMES`, or Ray's address.
        context: What is run; its device is that of the first worker.
        here: Does tasks in this process.
        devices: One for each worker in turn.
        workers: How many tasks are done at once; Ray has as many as it has room for.

    Raises:
        UserError: If there is none of that name, or Ray is not installed or not there.
    """
    check(name, workers=workers)
    kind, _, address = name.partition("://")
    if kind == "serial":
        from evalsuite.execution.executors.serial import SerialExecutor

        return SerialExecutor(here)
    context = replace(context, fingerprint=environment_fingerprint())
    contexts = [replace(context, device=devices[i % len(devices)]) for i in range(workers)]
    if kind == "local":
        from evalsuite.execution.executors.local import LocalExecutor

        return LocalExecutor(contexts)
    from evalsuite.execution.executors.ray import RayExecutor

    return RayExecutor(replace(context, patience=30.0, scratch=None, cache=None), address)


def check(name: str, *, workers: int) -> None:
    """Checks that there is an executor of that name with room for so many workers, before anything is written.

    Raises:
        UserError: If there is not.
    """
    kind = name.partition("://")[0]
    if kind not in NAMES:
        raise UserError(unknown_name("executor", name, NAMES))
    if kind == "serial" and workers > 1:
        raise UserError(
            f"found {workers} workers for the executor serial, which is one; use --executor local"
        )


def count(options: Options, suite: Suite, places: Sequence[str]) -> int:
    """Returns how many tasks are done at once: as many as asked for, else one for each of the devices `places`.

    Raises:
        UserError: If a number below 0 was asked for.
    """
    if options.workers is None:
        return len(places)
    if options.workers < 0:
        raise UserError(f"found --workers {options.workers}, expected a number from 1 on, or auto")
    return options.workers or max(1, cores() // suite.threads)
