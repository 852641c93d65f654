"""A transfer over QUIC in pieces, and how long they are."""

from fabricbios.client.bulk import Bulk
from fabricbios.client.message_pace import (
    FIRST_SIZE,
    MOST_AT_ONCE,
    QUICK_SECONDS,
    SLOW_SECONDS,
    SMALLEST_SIZE,
    MessagePace,
)


def test_what_failed_is_asked_again_in_pieces_of_the_size_of_the_day() -> None:
    seen: list[tuple[int, int]] = []
    bulk = Bulk(10_000, 512, 10.0, 0.0, lambda done, total: seen.append((done, total)))
    assert bulk.take(4096) == (0, 4096)
    assert bulk.take(4096) == (4096, 4096)
    bulk.give_back(0, 4096)
    assert bulk.take(1500) == (0, 1024)
    bulk.done(1024, 1.0)
    assert bulk.take(1 << 20) == (1024, 3072)
    assert bulk.take(1 << 20) == (8192, 1808)
    assert bulk.take(1) is None
    assert seen == [(1024, 10_000)]


def test_a_block_is_never_cut() -> None:
    assert Bulk(2048, 512, 10.0, 0.0, None).take(100) == (0, 512)


def test_it_is_late_when_nothing_moved() -> None:
    bulk = Bulk(100, 1, 10.0, 5.0, None)
    assert bulk.late_at == 15.0
    bulk.done(1, 12.0)
    assert bulk.late_at == 22.0


def test_quick_messages_grow_first_and_multiply_then() -> None:
    pace = MessagePace()
    sizes = []
    for _ in range(20):
        pace.took(QUICK_SECONDS / 2, 8 * FIRST_SIZE)
        sizes.append(pace.size)
    assert sizes[:4] == [2 * FIRST_SIZE, 4 * FIRST_SIZE, 8 * FIRST_SIZE, 8 * FIRST_SIZE]
    assert (pace.size, pace.at_once) == (8 * FIRST_SIZE, MOST_AT_ONCE)


def test_slow_ones_become_fewer_first_and_shorter_then() -> None:
    pace = MessagePace()
    pace.took(SLOW_SECONDS * 2, 1 << 20)
    assert (pace.size, pace.at_once) == (FIRST_SIZE, 1)
    while pace.less():
        pass
    assert (pace.size, pace.at_once) == (SMALLEST_SIZE, 1)
