"""The replay window against a model that remembers every nonce (D10)."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fabricbios.dataplane.counters import DropReason
from fabricbios.dataplane.slots import SLOT
from fabricbios.dataplane.window import Window

TOP = (1 << 64) - 1


def window() -> Window:
    return Window(memoryview(bytearray(2 * SLOT.size)).cast("Q"), 1)


@st.composite
def nonces(draw: st.DrawFn) -> list[int]:
    """A client's nonces: counting up, jumping, late, repeated, anywhere in u64."""
    at = draw(st.sampled_from([1, 1000, 1 << 32, (1 << 58) - 5, TOP - 3000]))
    steps = draw(st.lists(st.integers(-1100, 1100) | st.sampled_from([1 << 18, 1 << 58, 1 << 62]), max_size=80))
    out = []
    for step in steps:
        at = min(max(at + step, 1), TOP)
        out.append(at)
    return out


@given(nonces())
@example([1, 1025, 1])
@example([5, 5 + (1 << 58), 6 + (1 << 58)])
@example([1, TOP, TOP, TOP - 1007, TOP - 1024])
def test_it_is_the_model(sequence: list[int]) -> None:
    held, seen, highest = window(), set[int](), 0
    for nonce in sequence:
        refused = held.take(nonce)
        if nonce in seen or nonce <= highest - 1024:
            assert refused is not None
        elif nonce >= highest - 1007:
            assert refused is None
        if refused is None:
            seen.add(nonce)
            highest = max(highest, nonce)
        else:
            assert nonce in seen or highest - nonce > 1007


@st.composite
def rows_of_nonces(draw: st.DrawFn) -> list[tuple[int, ...]]:
    """What comes in trains: rows that count up, as long as the window or longer, again, overlapping, and other ones."""
    out: list[tuple[int, ...]] = []
    for first in draw(nonces()):
        count = draw(st.sampled_from([1, 2, 7, 8, 9, 64, 1015, 1016, 1017, 1024, 1030]))
        row = tuple(range(first, min(first + count, TOP + 1)))
        at = draw(st.integers(0, len(row) - 1))
        out.append(
            draw(st.sampled_from([row, row, row, row[::-1], row[:at] + row[at + 1 :], (*row[: at + 1], row[at])]))
        )
    return out


@given(rows_of_nonces())
@example([()])
@example([(1000, 1001), tuple(range(990, 1010))])
@example([(5000,), tuple(range(3970, 4000)), tuple(range(4990, 5030))])
@example([tuple(range(1, 2000)), tuple(range(1, 2000))])
@example([(8,), (3,), (1, 2, 3, 4)])
@example([(2000,), tuple(range(977, 1000))])
def test_a_row_is_taken_as_one_by_one(rows: list[tuple[int, ...]]) -> None:
    raw, plain_raw = bytearray(2 * SLOT.size), bytearray(2 * SLOT.size)
    held, plain = (Window(memoryview(buffer).cast("Q"), 1) for buffer in (raw, plain_raw))
    for row in rows:
        assert held.take_all(row) == tuple(plain.take(nonce) for nonce in row)
        assert raw == plain_raw


def test_a_word_that_was_marked_first_ends_a_row() -> None:
    """XDP marks the window's word, then raises `highest`: between the two only the word knows of a nonce."""
    words = memoryview(bytearray(2 * SLOT.size)).cast("Q")
    held = Window(words, 1)
    words[held.first_at + 1] = 1 << 3
    assert held.take_all(tuple(range(5, 13))) == (None,) * 6 + (DropReason.REPLAYED, None)
    assert words[held.highest_at] == 12
    words[held.first_at + 4] = 1 << 3 | 1 << 4
    assert held.take_all((35, 36)) == (DropReason.REPLAYED,) * 2
    assert words[held.highest_at] == 12


def test_the_reasons_are_told_apart() -> None:
    held = window()
    assert [held.take(n) for n in (2000, 2000, 976, 993)] == [None, DropReason.REPLAYED, DropReason.TOO_OLD, None]


@pytest.mark.parametrize("distance", [1, 8, 1007])
def test_what_is_late_is_taken_once(distance: int) -> None:
    held = window()
    assert [held.take(n) for n in (9000, 9000 - distance, 9000 - distance)] == [None, None, DropReason.REPLAYED]


def test_neighbouring_slots_are_left_alone() -> None:
    words = memoryview(bytearray(3 * SLOT.size)).cast("Q")
    middle = Window(words, 1)
    for nonce in range(1, 3000):
        middle.take(nonce)
    assert not any(words[: SLOT.size // 8])
    assert not any(words[2 * SLOT.size // 8 :])
