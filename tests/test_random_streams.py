from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.random_streams import BLOCK, address, blocks, generator

Part = int | float | str
PARTS: st.SearchStrategy[Part] = st.one_of(
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=4),
    st.sampled_from(["\x1f", "int:1", "'", "1"]),
)


@pytest.mark.parametrize(
    ("key", "seed"),
    [
        ((), 8203414616412130826),
        ((0,), 3696793467068528757),
        ((0, "fog", 3), 2269827468833092437),
        ((1, "uniform", 8.0), 3581947147283712948),
    ],
    ids=str,
)
def test_an_address_never_changes(key: tuple[Part, ...], seed: int) -> None:
    """Another hash would change every number of every report."""
    assert address(*key) == seed


@given(st.lists(PARTS, max_size=4), st.lists(PARTS, max_size=4))
def test_addresses_are_seeds_that_differ_where_keys_differ(first: list[Part], second: list[Part]) -> None:
    assert 0 <= address(*first) < 2**63
    typed = [[(type(part), repr(part)) for part in key] for key in (first, second)]
    assert (address(*first) == address(*second)) == (typed[0] == typed[1])


@pytest.mark.parametrize(
    ("numpy", "plain"), [(np.float64(0.5), 0.5), (np.int64(3), 3), (np.float32(0.25), 0.25)], ids=str
)
def test_numpy_numbers_have_the_address_of_plain_ones(numpy: float, plain: float) -> None:
    assert address("eps", numpy) == address("eps", plain)


def test_generators_repeat_and_differ_by_key() -> None:
    draws = {key: generator(0, key).random(4).tolist() for key in ("a", "b")}
    assert draws["a"] == generator(0, "a").random(4).tolist()
    assert draws["a"] != draws["b"]


@pytest.mark.parametrize("count", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_blocks_cover_every_image_once(count: int) -> None:
    rows = [list(range(count))[part] for part, _ in blocks(count, "x")]
    assert list(itertools.chain(*rows)) == list(range(count))
    assert all(len(part) == BLOCK for part in rows[:-1])


def test_an_images_draws_do_not_depend_on_the_number_of_images() -> None:
    def drawn(count: int) -> list[float]:
        parts = [draws.random(BLOCK)[: rows.stop - rows.start] for rows, draws in blocks(count, 7, "fog")]
        return [float(value) for part in parts for value in part]

    assert drawn(BLOCK + 3) == drawn(2 * BLOCK)[: BLOCK + 3]
    assert drawn(BLOCK + 1)[-1] == generator(7, "fog", 1).random(BLOCK)[0]  # the second block's address
    assert len(set(drawn(2 * BLOCK))) == 2 * BLOCK
