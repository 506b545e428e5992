"""Where a mistake in a check is said to be: what the user wrote, and no file whose name only begins in the same way."""

from __future__ import annotations

import pytest

from evalsuite.errors import SuiteError
from evalsuite.execution.check_places import named_places

PLACES = {"/home/me/check, [data]": "--data photos", "/home/me/check": "gate.toml"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/home/me/check, [data]: found no images", "--data photos: found no images"),
        ("/home/me/check, [model]: found two means", "gate.toml, [model]: found two means"),
        ("/home/me/check: found no tests", "gate.toml: found no tests"),
        ("/home/me/checkpoints/dense.pt: not there", "/home/me/checkpoints/dense.pt: not there"),
        ("/home/me/check_photos: found no folders", "/home/me/check_photos: found no folders"),
        ("/home/me/check/photos: found no folders", "/home/me/check/photos: found no folders"),
        ("photos: found no folders", "photos: found no folders"),
    ],
)
def test_a_message_begins_with_what_the_user_wrote(text: str, said: str) -> None:
    with pytest.raises(SuiteError) as refusal, named_places(PLACES):
        raise SuiteError(text)
    assert str(refusal.value) == said
