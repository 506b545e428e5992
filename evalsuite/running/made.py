"""What came of a production: a candidate, the reason why there is none, or weights that are no longer its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evalsuite.records import Candidate
    from evalsuite.storage.store import Key


@dataclass(frozen=True)
class Made:
    """Is one candidate, or the reason why there is none.

    Attributes:
        key: Which one.
        candidate: ``None`` if its production failed.
        reason: Why it failed.
        computed: False if it was in the store already.
        digest: Of what it depends on.
        notes: Sentences that whoever reads its numbers should know.
        again: Whether another try may succeed: its failure is not of a kind that somebody foresaw.
    """

    key: Key
    candidate: Candidate | None
    reason: str = ""
    computed: bool = True
    digest: str = ""
    notes: tuple[str, ...] = ()
    again: bool = False


class LostError(Exception):
    """Says that weights on disk are not those of the candidate's record."""

    def __init__(self, key: Key, reason: str) -> None:
        super().__init__(reason)
        self.key = key
