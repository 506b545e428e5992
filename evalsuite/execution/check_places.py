"""Where a mistake in a check is: the option of the command, or the table of the suite that it names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from evalsuite.errors import UserError

NAME = "check"
"""Name of the suite that answers a request; it is in no file."""


@contextlib.contextmanager
def named_places(places: Mapping[str, str]) -> Iterator[None]:
    """Puts what the user wrote in the place of the suite that a check makes of it, where a message begins with that.

    Args:
        places: Begin of a message to what the user knows that place as; the first that fits holds.
    """
    try:
        yield
    except UserError as error:
        text = str(error)
        for place, name in places.items():
            rest = text.removeprefix(place)
            is_whole = place.endswith("]") or rest[:1] in ("", ":", ",")  # checkpoints/ begins with check too
            if rest != text and is_whole:
                error.args = (name + rest, *error.args[1:])
                break
        raise
