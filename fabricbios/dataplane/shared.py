"""The memory that the daemon and its data-path processes share beside the leased bytes."""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import NamedTuple

from fabricbios.dataplane.counters import COUNTERS
from fabricbios.dataplane.index import SlotIndex, index_bytes
from fabricbios.dataplane.slots import SLOT, SlotTable


class Region(NamedTuple):
    """`size` bytes mapped from the start of `fd`."""

    fd: int
    size: int
    buffer: memoryview

    @staticmethod
    def create(name: str, size: int) -> Region:
        """Make a zeroed memfd that keeps its size."""
        fd = os.memfd_create(f"fabricbios-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            return Region.attach(fd, size)
        except OSError:
            os.close(fd)
            raise

    @staticmethod
    def attach(fd: int, size: int) -> Region:
        """Map what somebody else made."""
        return Region(fd, size, memoryview(mmap.mmap(fd, size)))

    def close(self) -> None:
        """Close the descriptor; the mapping goes with the last view of it."""
        os.close(self.fd)


class LeaseBoard(NamedTuple):
    """The slot table, and the index by which user-space servers find a slot in it."""

    slots: Region
    lookup: Region

    @staticmethod
    def create(slots: int) -> LeaseBoard:
        """Make an empty board for so many leases."""
        return LeaseBoard(
            Region.create("slots", slots * SLOT.size),
            Region.create("index", index_bytes(slots)),
        )

    def table(self) -> SlotTable:
        """Return the daemon's, the writing, end."""
        return SlotTable(self.slots.buffer, [self.slot_index()], fresh=True, midstates=False)

    def slot_index(self) -> SlotIndex:
        return SlotIndex(self.lookup.buffer, self.slots.buffer)


def counter_page() -> Region:
    """Make the counters of one server process."""
    return Region.create("counters", COUNTERS.size)
