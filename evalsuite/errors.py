"""The exceptions of evalsuite.

::

    EvalsuiteError
    ├── UserError               a mistake that the user can fix: the command line exits with 2
    │   ├── UnknownNameError    a name that is in no registry (also a KeyError)
    │   ├── SuiteError          a mistake in a suite file
    │   ├── DataError           images or labels that are missing or malformed
    │   ├── CheckpointError     weights that are missing, unsafe, or do not fit
    │   └── StoreError          a run folder that cannot be read or written
    └── CellError               one cell of a run failed: it is recorded and the run goes on
        ├── SkippedError        does not apply to this candidate: no mistake
        ├── InvalidModelError   a model broke its contract; no number may be reported for it
        └── ContractError       a plug-in broke its contract

Every message is one sentence: what was found, what was expected, what to do.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class EvalsuiteError(Exception):
    """Base class of all errors that evalsuite raises on purpose."""


class UserError(EvalsuiteError):
    """A mistake that the user can fix."""


class UnknownNameError(UserError, KeyError):
    """A name that a registry does not have, with the nearest names that it has."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would print the sentence in quotes


class SuiteError(UserError):
    """A mistake in a suite, with the file, the table and the key."""


class DataError(UserError):
    """Images or labels that are missing or malformed."""


class CheckpointError(UserError):
    """Weights that cannot be loaded."""


class StoreError(UserError):
    """A run folder that cannot be read or written."""


class CellError(EvalsuiteError):
    """The failure of one cell of a run; the others go on."""


class SkippedError(CellError):
    """A reason why a producer or evaluator does not apply to a candidate."""


class InvalidModelError(CellError):
    """A model that broke its contract."""


class ContractError(CellError):
    """A producer or evaluator that broke its contract."""


def first_few(names: Iterable[object], limit: int = 3) -> str:
    """Returns the first few of `names` as text for a message: short, and without control characters.

    >>> first_few("abcde")
    'a, b, c and 2 more'
    """
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(_printable(name) for name in listed[:limit]) + more


def first_line(reason: object) -> str:
    r"""Returns the first line of an error or text, at most 200 characters, for a message; its type if it is empty.

    >>> first_line(ValueError("a bad number\nin line 3"))
    'a bad number'
    """
    return str(reason).strip().partition("\n")[0][:200] or type(reason).__name__


def printable(text: str) -> str:
    r"""Returns a text for a terminal: control characters and changes of direction are written as escapes.

    Names in other people's files may hold commands to the terminal; line breaks and tabs stay.

    >>> printable("layer\x1b[2J.weight\n")
    'layer\\x1b[2J.weight\n'
    """
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def _printable(name: object) -> str:
    text = str(name) if isinstance(name, str | int | float) else type(name).__name__
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= 120 else f"{text[:117]}..."
