"""The slot table: what it tells the data paths, and what it must never let slip."""

import errno
import sys
import threading

import pytest

from fabricbios.dataplane import slots
from fabricbios.dataplane.index import SlotIndex, index_bytes
from fabricbios.dataplane.slots import QUARANTINE_NS, SLOT, Extent, Plane, SlotLease, SlotState, SlotTable
from fabricbios.errors import LocalMisuse
from fabricbios.model import DpAuth

LEASE = SlotLease(
    7 << 64 | 9, Plane.FBMU, Extent(4096, 8192, 2), 3, DpAuth.BLAKE2S_FULL, b"k" * 32, 1, 10**9, 1408, 1404
)


@pytest.fixture
def table() -> SlotTable:
    return SlotTable(memoryview(bytearray(4 * SLOT.size)))


def test_hot_parts_start_on_cache_lines() -> None:
    assert SLOT.size % 64 == 0
    assert all(SLOT.offset[name] % 64 == 0 for name in ("state", "plane", "ipad", "dp_key", "kernel_reads", "window"))


def test_install_tells_the_lease(table: SlotTable) -> None:
    slot = table.install(LEASE, now_ns=0)
    told = {name: table.get(slot, name) for name in ("state", "base", "length", "device", "auth", "lease_id", "dp_key")}
    assert told == {
        "state": SlotState.ACTIVE, "base": 4096, "length": 8192, "device": 2, "auth": 2,
        "lease_id": LEASE.lease_id.to_bytes(16, "big"), "dp_key": b"k" * 32,
    }  # fmt: skip


def test_install_again_changes_nothing(table: SlotTable) -> None:
    slot = table.install(LEASE, 0)
    table.set_expiry(slot, 5)
    assert table.install(LEASE, 0) == slot
    assert table.get(slot, "expiry_ns") == 5


def test_a_cleared_slot_rests_and_comes_back_with_another_guard(table: SlotTable) -> None:
    slots = [table.install(LEASE._replace(lease_id=i), 0) for i in range(1, 5)]
    guard = table.get(slots[1], "guard")
    table.clear(2, now_ns=1000)
    with pytest.raises(OSError, match="no free lease slot") as full:
        table.install(LEASE._replace(lease_id=9), 1000 + QUARANTINE_NS - 1)
    assert full.value.errno == errno.ENOSPC
    assert table.install(LEASE._replace(lease_id=9), 1000 + QUARANTINE_NS) == slots[1]
    assert table.get(slots[1], "guard") != guard


def test_clear_wipes_the_key_in_every_form(table: SlotTable) -> None:
    slot = table.install(LEASE, 0)
    table.clear(LEASE.lease_id, 0)
    keys = ("dp_key", "ipad", "opad", "blake2s", "sip")
    assert table.get(slot, "state") == SlotState.FREE
    assert all(not any(table.get(slot, name)) for name in keys)
    assert table.find(LEASE.lease_id) is None
    table.clear(LEASE.lease_id, 0)


def test_rekey_starts_an_empty_window_without_a_write_mark(table: SlotTable) -> None:
    old = table.install(LEASE, 0)
    SLOT.set(table.buffer, old * SLOT.size, "write_mark", 77)
    SLOT.set(table.buffer, old * SLOT.size, "highest", 78)
    new = table.rekey(LEASE._replace(dp_key=b"n" * 32), 0)
    assert (table.find(LEASE.lease_id), table.get(old, "state")) == (new, SlotState.FREE)
    assert (table.get(new, "write_mark"), table.get(new, "highest"), table.get(new, "dp_key")) == (0, 0, b"n" * 32)


def test_rekey_in_a_full_table_leaves_the_lease_as_it_is(table: SlotTable) -> None:
    for lease_id in range(1, 5):
        table.install(LEASE._replace(lease_id=lease_id), 0)
    with pytest.raises(OSError, match="no free lease slot"):
        table.rekey(LEASE._replace(lease_id=2), 0)
    slot = table.find(2)
    assert slot is not None
    assert (table.get(slot, "state"), table.get(slot, "dp_key")) == (SlotState.ACTIVE, b"k" * 32)


def test_a_table_that_is_opened_again_is_adopted(table: SlotTable) -> None:
    slot = table.install(LEASE, 0)
    again = SlotTable(table.buffer)
    assert list(again) == [(LEASE.lease_id, slot)]
    assert again.install(LEASE._replace(lease_id=1), 0) != slot


def test_counters_add_both_paths(table: SlotTable) -> None:
    slot = table.install(LEASE, 0)
    for name in ("kernel_reads", "user_reads", "user_bytes"):
        SLOT.set(table.buffer, slot * SLOT.size, name, 3)
    assert table.counters(slot) == (6, 0, 3, 0)


def test_a_slot_is_whole_and_open_before_an_index_points_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies between is a barrier: a reader on another processor comes to the slot by the index alone."""
    seen: list[object] = []
    buffer = memoryview(bytearray(4 * SLOT.size))

    class Reader:
        def insert(self, lease_id: bytes, slot: int) -> None:
            seen.append(
                [SLOT.get(buffer, slot * SLOT.size, name) for name in ("state", "lease_id", "dp_key", "length")]
            )

        def remove(self, lease_id: bytes) -> None:
            seen.append("removed")

    table = SlotTable(buffer, [Reader()])
    monkeypatch.setattr(slots, "store_fence", lambda: seen.append("barrier"))
    table.install(LEASE, 0)
    table.rekey(LEASE._replace(dp_key=b"n" * 32), 0)
    lease_id = LEASE.lease_id.to_bytes(16, "big")
    opened = [[SlotState.ACTIVE, lease_id, key * 32, 8192] for key in (b"k", b"n")]
    assert seen == ["barrier", opened[0], "removed", "barrier", opened[1]]


def test_a_lease_is_of_one_plane(table: SlotTable) -> None:
    table.install(LEASE, 0)
    with pytest.raises(LocalMisuse, match="another plane"):
        table.install(LEASE._replace(plane=Plane.FBBU), 0)


def test_a_plane_finds_its_own_leases_alone(table: SlotTable) -> None:
    slot = table.install(LEASE, 0)
    other = next(plane for plane in Plane if plane != LEASE.plane)
    found = [table.find(LEASE.lease_id, plane) for plane in (None, LEASE.plane, other)]
    assert found == [slot, slot, None]
    assert table.find(1, other) is None


def test_threads_of_both_planes_never_have_a_slot_together_nor_lose_an_index_entry() -> None:
    buffer = memoryview(bytearray(64 * SLOT.size))
    index = SlotIndex(memoryview(bytearray(index_bytes(64))), buffer)
    table, held, wrong, done = SlotTable(buffer, [index]), set[int](), list[int](), list[int]()

    def come_and_go(number: int) -> None:
        lease = LEASE._replace(lease_id=number << 64 | number, plane=Plane(1 + number % 2))  # all begin at one entry
        for _ in range(200):
            slot = table.install(lease, QUARANTINE_NS)
            wrong.extend([slot] * (slot in held or index.find(lease.lease_id.to_bytes(16, "big")) != slot))
            held.add(slot)
            held.remove(slot)
            table.clear(lease.lease_id, 0)
        done.append(number)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(before)
    assert (len(done), wrong, list(table)) == (8, [], [])
