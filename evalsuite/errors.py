"""The exceptions of evalsuite.

::

    EvalsuiteError
    ├── UserError               something that the user can mend: the command line exits with 2
    │   ├── UnknownNameError    a name that no registry knows (also a KeyError)
    │   ├── SuiteError          a suite file that does not say what it must
    │   ├── DataError           images or labels that are missing or malformed
    │   ├── CheckpointError     weights that are missing, unsafe, or do not fit
    │   └── StoreError          a run folder that cannot be read or written
    └── CellError               one cell of a run failed: it is recorded and the run goes on
        ├── SkippedError        does not apply to this candidate: nothing is wrong
        ├── InvalidModelError   a model broke its contract; no number may be reported for it
        └── ContractError       a plug-in broke its contract

Every message is one sentence: what was found, what was expected, what to do.
"""

from __future__ import annotations


class EvalsuiteError(Exception):
    """Is the root of everything that evalsuite raises on purpose."""


class UserError(EvalsuiteError):
    """Says what the user can change."""


class UnknownNameError(UserError, KeyError):
    """Says that a registry does not know a name, and which near one it knows."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would print the sentence in quotes


class SuiteError(UserError):
    """Names the file, the table and the key of a mistake in a suite."""


class DataError(UserError):
    """Says which images or labels are missing or malformed."""


class CheckpointError(UserError):
    """Says why weights cannot be loaded."""


class StoreError(UserError):
    """Says why a run folder cannot be read or written."""


class CellError(EvalsuiteError):
    """Stops one cell of a run; the others go on."""


class SkippedError(CellError):
    """Says why something does not apply to a candidate."""


class InvalidModelError(CellError):
    """Says which part of the contract a model broke."""


class ContractError(CellError):
    """Says which part of the contract a producer or evaluator broke."""
