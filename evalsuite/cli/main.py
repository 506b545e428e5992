"""The command line: the commands put together, and how they end."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from evalsuite.cli import console, endings
from evalsuite.cli.commands.cache import cache_command
from evalsuite.cli.commands.check import check_command
from evalsuite.cli.commands.inspection import inspect_command
from evalsuite.cli.commands.listing import list_command
from evalsuite.cli.commands.report import compare_command, export_command, report_command
from evalsuite.cli.commands.run import run_command
from evalsuite.cli.commands.sample_size import sample_size_command
from evalsuite.cli.commands.status import status_command
from evalsuite.cli.commands.threshold import factorial_command, threshold_command
from evalsuite.errors import EvalsuiteError

app = typer.Typer(
    name="evalsuite",
    help="How far can a network be pruned before it stops being as good as its parent, beyond test accuracy?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # brackets in help texts are brackets
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, Callable[..., None]] = {
    "run": run_command,
    "status": status_command,
    "check": check_command,
    "inspect": inspect_command,
    "report": report_command,
    "compare": compare_command,
    "threshold": threshold_command,
    "factorial": factorial_command,
    "export": export_command,
    "sample-size": sample_size_command,
    "list": list_command,
    "cache": cache_command,
}
"""In the order in which help lists them."""
RENAMED = {"recipe-cross": "factorial", "plan": "sample-size"}
"""Old names of commands, which are hidden and warn."""


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        console.out.print(f"evalsuite {version('evalsuite')}", markup=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[  # its callback prints it
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Takes the options that stand before a command."""


def _renamed(old: str, new: str) -> Callable[..., None]:
    """The command of an old name, which warns and does what the new one does."""

    @wraps(COMMANDS[new])
    def call(*arguments: Any, **options: Any) -> None:
        console.print_warning(
            f"the command {old} is now called {new}; the old name stops working with the next release"
        )
        COMMANDS[new](*arguments, **options)

    return call


for _name, _command in COMMANDS.items():
    app.command(_name)(_command)
for _old, _new in RENAMED.items():
    app.command(_old, hidden=True)(_renamed(_old, _new))


def main() -> None:
    """Runs the command line; a mistake of the user is one sentence and exit code 2."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a suite has a number of threads
    warnings.filterwarnings(
        "default", category=DeprecationWarning, module="evalsuite"
    )  # and users' plug-in files
    endings.open_standard_streams()
    if logging.lastResort is not None:  # prints warnings where the caller has set up no logging
        logging.lastResort.setFormatter(endings.PlainMessages())
    with endings.signals_as_interrupts() as received:
        code = _exit_code(received)
    sys.exit(_written(code))


def _exit_code(received: endings.Received) -> int:
    """Runs a command, prints why it ended if it did not end well, and returns its exit code."""
    try:
        app(prog_name="evalsuite")  # also by python -m: completions are installed under this name
    except EvalsuiteError as error:
        console.print_error(str(error))
        return endings.WRONG
    except KeyboardInterrupt:
        return _interrupted(received)
    except OSError as error:
        console.print_error(f"{error}; make room, or correct the path or its permissions")
        return endings.WRONG
    except SystemExit as end:
        if end.code == endings.INTERRUPTED:  # what typer makes of an interrupt
            return _interrupted(received)
        if isinstance(end.__context__, BrokenPipeError):  # met while it printed a help text
            return endings.CLOSED_PIPE
        return int(end.code or 0)
    except Exception:
        traceback.print_exc()
        console.print_error(
            "this is a fault of evalsuite or of a plug-in and no answer: report it with the lines above"
        )
        return endings.CRASHED
    return 0


def _interrupted(received: endings.Received) -> int:
    console.err.print("Stopped. What is finished is kept: the same command goes on from here.")
    return received.exit_code


def _written(code: int) -> int:
    """The exit code of a command, if all that it printed was written."""
    error = endings.output_failure()
    if error is None:
        return code
    endings.discard_output()
    if isinstance(error, BrokenPipeError):
        return endings.CLOSED_PIPE
    console.print_error(str(endings.OutputError(error)))
    return endings.WRONG
