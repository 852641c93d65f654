"""Extents: nothing overlaps, nothing is lost."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabricbios.dataplane.extents import GRANULE, Extents
from fabricbios.errors import LocalMisuse


def test_the_same_lease_gets_the_same_bytes() -> None:
    extents = Extents(8 * GRANULE)
    assert extents.allocate(1, 5) == extents.allocate(1, 5) == (0, GRANULE)


@pytest.mark.parametrize("size", [0, -1])
def test_an_empty_extent_is_our_own_mistake(size: int) -> None:
    with pytest.raises(LocalMisuse):
        Extents(GRANULE).allocate(1, size)


def test_full_is_no_space() -> None:
    extents = Extents(2 * GRANULE)
    extents.allocate(1, GRANULE + 1)
    with pytest.raises(OSError, match="in one piece") as full:
        extents.allocate(2, 1)
    assert full.value.errno == errno.ENOSPC


def test_neighbours_merge() -> None:
    extents = Extents(4 * GRANULE)
    for lease in range(4):
        extents.allocate(lease, GRANULE)
    for lease in (0, 2, 1, 3):
        extents.free(lease)
    assert extents.gaps() == [(0, 4 * GRANULE)]
    extents.free(3)
    assert extents.allocate(9, 4 * GRANULE) == (0, 4 * GRANULE)


def test_what_was_held_before_a_restart_is_claimed_once() -> None:
    extents = Extents(4 * GRANULE)
    extents.claim(7, GRANULE, 10)
    assert extents.allocate(8, 2 * GRANULE) == (2 * GRANULE, 2 * GRANULE)
    with pytest.raises(LocalMisuse):
        extents.claim(9, GRANULE, 1)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=60))
def test_held_and_free_bytes_tile_the_capacity(steps: list[tuple[int, int]]) -> None:
    extents, held = Extents(16 * GRANULE), {}
    for lease, granules in steps:
        if not granules:
            extents.free(lease)
            held.pop(lease, None)
            continue
        try:
            held[lease] = extents.allocate(lease, granules * GRANULE)
        except OSError:
            assert all(length < granules * GRANULE for _, length in extents.gaps())
    at = 0
    for base, length in sorted([*held.values(), *extents.gaps()]):
        assert base == at
        at += length
    assert at == 16 * GRANULE
    assert all(a + n < b for (a, n), (b, _) in zip(extents.gaps(), extents.gaps()[1:], strict=False))
