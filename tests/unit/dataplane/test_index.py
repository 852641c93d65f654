"""The shared index: finds what is there, also after many came and went."""

import random

import pytest

from fabricbios.dataplane.index import SlotIndex, index_bytes
from fabricbios.dataplane.slots import SLOT
from fabricbios.errors import LocalMisuse

SLOTS = 32


class Shelf:
    """An index over a table whose slots say whose they are."""

    def __init__(self) -> None:
        self.table = memoryview(bytearray(SLOTS * SLOT.size))
        self.entries = memoryview(bytearray(index_bytes(SLOTS)))
        self.index = SlotIndex(self.entries, self.table)

    def put(self, lease_id: bytes, slot: int) -> None:
        SLOT.set(self.table, slot * SLOT.size, "lease_id", lease_id)
        self.index.insert(lease_id, slot)


def test_nobody_is_found_in_an_empty_index() -> None:
    assert Shelf().index.find(bytes(16)) is None


def test_what_collides_is_found_before_and_after_a_removal() -> None:
    shelf = Shelf()
    same = [bytes([i] * 8 + [i] * 8) for i in range(1, 20)]  # both halves alike: one and the same first entry
    for slot, lease_id in enumerate(same):
        shelf.put(lease_id, slot)
    shelf.index.remove(same[3])
    assert [shelf.index.find(i) for i in same] == [None if s == 3 else s for s in range(19)]


def test_what_is_told_again_has_one_entry() -> None:
    """An index that outlived its daemon is told everything by the next one."""
    shelf = Shelf()
    same = [bytes([i] * 16) for i in range(1, 4)]
    for slot, lease_id in [*enumerate(same), *enumerate(same)]:
        shelf.put(lease_id, slot)
    for lease_id in same:
        shelf.index.remove(lease_id)
    assert not any(shelf.entries)


def test_coming_and_going_leaves_the_index_as_it_was() -> None:
    shelf, rng, live = Shelf(), random.Random(4), dict[bytes, int]()
    for _ in range(5000):
        free = sorted(set(range(SLOTS)) - set(live.values()))
        if free and rng.random() < 0.6:
            lease_id = rng.randbytes(16)
            live[lease_id] = free[0]
            shelf.put(lease_id, free[0])
        elif live:
            gone = rng.choice(sorted(live))
            del live[gone]
            shelf.index.remove(gone)
    assert all(shelf.index.find(lease_id) == slot for lease_id, slot in live.items())
    for lease_id in live:
        shelf.index.remove(lease_id)
    assert sum(1 for entry in shelf.entries.cast("B").cast("I") if entry) < 8


def test_removing_a_stranger_changes_nothing() -> None:
    shelf = Shelf()
    shelf.put(b"a" * 16, 1)
    shelf.index.remove(b"b" * 16)
    assert shelf.index.find(b"a" * 16) == 1


def test_an_odd_size_is_our_own_mistake() -> None:
    with pytest.raises(LocalMisuse):
        SlotIndex(memoryview(bytearray(12)), memoryview(bytearray(SLOT.size)))
