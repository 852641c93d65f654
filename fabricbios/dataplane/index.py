"""From a lease id to its slot, in shared memory: the daemon writes, the user-space servers read.

Open addressing with linear probing over u32 entries (0 empty, 1 deleted, slot + 2). There are four
entries a slot, so a probe ends soon, also for a flood of ids that nobody has. An entry is one aligned
store, and the slot itself says whose it is, so a reader never needs a lock.
"""

from __future__ import annotations

import struct

from fabricbios.dataplane.slots import SLOT
from fabricbios.errors import LocalMisuse

_EMPTY, _DELETED, _FIRST = 0, 1, 2
_SPREAD = 0x9E3779B97F4A7C15
_HALVES = struct.Struct(">QQ")  # of a lease id
_ID_AT = SLOT.offset["lease_id"]


def index_bytes(slots: int) -> int:
    """Return the size of the index of a table of `slots` slots: a power of two of entries, 4 bytes each."""
    return 4 << (4 * slots - 1).bit_length()


class SlotIndex:
    """The index in `buffer` (index_bytes long) of the slots in `table`, both shared."""

    def __init__(self, buffer: memoryview, table: memoryview) -> None:
        self._entries = buffer.cast("B").cast("I")
        self._table = table.cast("B")
        self._mask = len(self._entries) - 1
        self._shift = 64 - self._mask.bit_length()
        if len(self._entries) & self._mask:
            raise LocalMisuse("an index has a power of two of entries")

    def find(self, lease_id: bytes) -> int | None:
        """Return the slot whose lease_id this is. What the slot answers is for its state to say."""
        at = self._probe(lease_id)
        return None if at is None else self._entries[at] - _FIRST

    def insert(self, lease_id: bytes, slot: int) -> None:
        """Point an id at its slot, which holds the id already; an index that outlived its daemon knows it."""
        at = self._start(lease_id)
        if self._entries[at] != _EMPTY and self.find(lease_id) == slot:
            return
        while self._entries[at] not in (_EMPTY, _DELETED):
            at = at + 1 & self._mask
        self._entries[at] = slot + _FIRST

    def remove(self, lease_id: bytes) -> None:
        """Take an id out; nothing happens if it is not there."""
        at = self._probe(lease_id)
        if at is not None:
            self._entries[at] = _DELETED
            self._sweep(at)

    def _sweep(self, at: int) -> None:
        """Turn a run of deleted entries that ends at an empty one into empty ones: probes stay short for good."""
        if self._entries[at + 1 & self._mask] != _EMPTY:
            return
        while self._entries[at] == _DELETED:
            self._entries[at] = _EMPTY
            at = at - 1 & self._mask

    def _start(self, lease_id: bytes) -> int:
        """Return the first entry to look at: multiplicative hashing, the top bits of 64."""
        high, low = _HALVES.unpack(lease_id)
        return int((high ^ low) * _SPREAD & 0xFFFFFFFFFFFFFFFF) >> self._shift

    def _probe(self, lease_id: bytes) -> int | None:
        at = self._start(lease_id)
        for _ in range(len(self._entries)):
            entry = self._entries[at]
            if entry == _EMPTY:
                return None
            if entry != _DELETED and self._id_in(entry - _FIRST) == lease_id:
                return at
            at = at + 1 & self._mask
        return None

    def _id_in(self, slot: int) -> bytes:
        base = slot * SLOT.size + _ID_AT
        return bytes(self._table[base : base + 16])
