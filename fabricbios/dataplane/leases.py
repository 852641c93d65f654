"""A lease slot as a user-space server holds it: looked up once, then checked with a load a question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import lt
from typing import Any

from fabricbios.dataplane.index import SlotIndex
from fabricbios.dataplane.slots import SLOT, Extent, Plane, SlotState
from fabricbios.dataplane.window import Window
from fabricbios.model import DpAuth, DpStatus, Perm
from fabricbios.wire import Tagger

DataOf = Callable[[Extent], Any]
"""Return what a plane reads and writes: FBMU the leased bytes themselves, FBBU a place in a file."""
_ACTIVE = int(SlotState.ACTIVE)  # naming an enum member costs a lookup each time
_GUARD = SLOT.offset["guard"] // 8
"""The aligned u64 that holds `auth` and `guard`: one load tells whether the slot changed hands."""


class Lease:
    """What one question needs of its lease. What may change under it (state, expiry, write mark) is read each time.

    `readable` and `writable` are the bytes from the start in which that may be done: all, or none without the right.
    """

    __slots__ = (
        "_counters",
        "_rejects",
        "bytes",
        "data",
        "expiry_at",
        "guard",
        "guard_at",
        "has_own_tags",
        "length",
        "max_read",
        "max_write",
        "plane",
        "readable",
        "reads",
        "state_at",
        "tag_after",
        "tags_after",
        "touched",
        "window",
        "words",
        "writable",
        "write_mark_at",
        "writes",
    )

    def __init__(self, table: memoryview, words: memoryview, slot: int, data_of: DataOf) -> None:
        def field(name: str) -> int:
            return int(SLOT.get(table, slot * SLOT.size, name))

        def at(name: str) -> int:
            return (slot * SLOT.size + SLOT.offset[name]) // 8

        self.words = words
        self.guard_at = slot * SLOT.size // 8 + _GUARD
        self.guard = words[self.guard_at]
        self.state_at, self.expiry_at, self.write_mark_at = at("state"), at("expiry_ns"), at("write_mark")
        self._counters = tuple(at(f"user_{name}") for name in ("reads", "writes", "bytes", "rejects"))
        self.reads = self.writes = self.bytes = self._rejects = 0
        self.touched = False  # something may have been counted that is not published
        self.plane, self.length, rights = field("plane"), field("length"), field("rights")
        self.readable = self.length if rights & Perm.READ else 0
        self.writable = self.length if rights & Perm.WRITE else 0
        self.max_read, self.max_write = field("max_read"), field("max_write")
        auth = DpAuth(field("auth"))
        self.has_own_tags = auth != DpAuth.HMAC_HEADER
        self.window = Window(words, slot)
        tagger = Tagger(auth, SLOT.get(table, slot * SLOT.size, "dp_key"))
        self.tag_after, self.tags_after = tagger.tag_after, tagger.tags_after
        self.data = data_of(Extent(field("base"), self.length, field("device")))

    def is_current(self) -> bool:
        """Say whether the slot still belongs to this lease under this key."""
        return bool(self.words[self.guard_at] == self.guard)

    def is_open(self, now_ns: int) -> bool:
        """Say whether its state and its end allow anything at all."""
        return bool(self.words[self.state_at] == _ACTIVE and now_ns < self.words[self.expiry_at])

    def refusal(self) -> DpStatus:
        """Return why a lease that is not open, or is over, refuses every authentic question (D10)."""
        return DpStatus.FENCED if self.words[self.state_at] == SlotState.FENCED else DpStatus.EXPIRED

    def take_write(self, nonce: int) -> bool:
        """Note a WRITE that is about to be carried out; False if a later one was before it (D10)."""
        if nonce <= self.words[self.write_mark_at]:
            return False
        self.words[self.write_mark_at] = nonce
        return True

    def take_writes(self, nonces: Sequence[int]) -> bool:
        """Note WRITEs that are about to be carried out one after the other; False, and nothing is noted, unless each
        is later than the one before."""
        if nonces[0] <= self.words[self.write_mark_at] or not all(map(lt, nonces, nonces[1:])):
            return False
        self.words[self.write_mark_at] = nonces[-1]
        return True

    def count_rejects(self, count: int = 1) -> None:
        """Authentic questions were answered with another status than OK."""
        self._rejects += count

    def publish(self) -> None:
        """Add what was counted since the last time to the slot, if it is still this lease's, and start from zero."""
        if self.is_current():
            for at, counted in zip(self._counters, (self.reads, self.writes, self.bytes, self._rejects), strict=True):
                self.words[at] += counted
        self.reads = self.writes = self.bytes = self._rejects = 0
        self.touched = False


class Leases:
    """The leases of one plane by id, as the daemon's table has them at this very moment."""

    def __init__(self, plane: Plane, table: memoryview, index: SlotIndex, data_of: DataOf) -> None:
        self._plane, self._table, self._index, self._data_of = plane, table, index, data_of
        self.slots = len(table) // SLOT.size
        self.words = table[: self.slots * SLOT.size].cast("Q")
        self._held: dict[bytes, Lease] = {}
        self._touched: list[Lease] = []

    def find(self, lease_id: bytes) -> Lease | None:
        """Return the lease with this id, of whatever plane; None if there is none."""
        lease = self._held.get(lease_id)
        if lease is None or self.words[lease.guard_at] != lease.guard:
            lease = self._look_up(lease_id)
        return lease

    def touch(self, lease: Lease) -> None:
        """Note that something is counted of a lease until the next publish()."""
        lease.touched = True
        self._touched.append(lease)

    def publish(self) -> None:
        """Show in the slots what was counted of each lease that was asked for since the last time."""
        for lease in self._touched:
            lease.publish()
        self._touched.clear()

    def _look_up(self, lease_id: bytes) -> Lease | None:
        self._held.pop(lease_id, None)
        slot = self._index.find(lease_id)
        if slot is None or self.words[slot * SLOT.size // 8] == SlotState.FREE:
            return None
        if len(self._held) >= self.slots:
            self._held.clear()  # leases that ended without another question
        lease = self._held[lease_id] = Lease(self._table, self.words, slot, self._data_of)
        return lease
