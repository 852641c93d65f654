"""FBBU, the block plane over datagrams (D10): HELLO, READ_BLOCK, WRITE_BLOCK and PING on leased extents.

Blocks have 512 bytes whatever the device has. I/O goes through the page cache, so on a device with larger blocks
the kernel does the read-modify-write, under the lock of the page; O_DIRECT would make it ours. One process serves
the plane, one question at a time, so a block is read and written whole.

A WRITE is acknowledged when it is as durable as `Sync` says: the answers of a batch wait for one fdatasync(2) a
device. Where that fails they are not sent, and the leases that wrote get INTERNAL from then on: the kernel
reports a lost write once and forgets it, so a later success would mean nothing.

Where XDP stands before the socket it is trusted in nothing: a datagram may have come another way. Every check is made
here, and here alone a nonce is taken (daemon/blockcheck.py).

Payloads and status codes are FBBT's (wire encoding, "TCP block storage protocol").
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from fabricbios.dataplane import transfers
from fabricbios.dataplane.leases import Lease
from fabricbios.dataplane.slots import Extent, Plane
from fabricbios.dataplane.store_faults import UNCOUNTED, StoreFaults
from fabricbios.dataplane.tally import Tally
from fabricbios.model import BLOCK_SIZE, DpStatus

_HELLO_ACK = struct.Struct(">B3xIQI")
LIMITS_BESIDE = transfers.LIMITS_BESIDE


class Sync(StrEnum):
    """How durable an acknowledged WRITE is: in the page cache, or on the device."""

    NONE = "none"
    DATASYNC = "datasync"


class Span(NamedTuple):
    """Where a lease's blocks lie: from byte `base` of the file or device `fd`, which has `size` bytes or is broken.
    `faults` is where the store's errors are counted."""

    fd: int
    base: int
    size: int
    is_device: bool
    faults: StoreFaults = UNCOUNTED

    def read(self, offset: int, into: memoryview) -> bool:
        """Fill `into`; False where that is not possible any more (truncated, gone, EIO)."""
        try:
            return os.preadv(self.fd, [into], self.base + offset) == len(into)
        except OSError as error:
            self.faults.note("reads", error)
            return False

    def bytes_at(self, offset: int, length: int) -> bytes | None:
        """Return `length` bytes; None where that is not possible any more."""
        try:
            data = os.pread(self.fd, length, self.base + offset)
        except OSError as error:
            self.faults.note("reads", error)
            return None
        return data if len(data) == length else None

    def write(self, offset: int, data: bytes | memoryview) -> bool:
        """Store `data`; False where that is not possible any more."""
        try:
            return os.pwrite(self.fd, data, self.base + offset) == len(data)
        except OSError as error:
            self.faults.note("writes", error)
            return False

    def is_whole(self) -> bool:
        """Say whether all of the store is there; a WRITE would make a file that was cut short longer, with a hole."""
        return self.is_device or os.fstat(self.fd).st_size >= self.size

    def flush(self) -> bool:
        """Make what was written durable; False where it was not."""
        try:
            os.fdatasync(self.fd)
        except OSError as error:
            self.faults.note("flushes", error)
            return False
        return True


_NOWHERE = Span(-1, 0, 0, True)


class Stores:
    """The files and devices that this server was handed, as (descriptor, bytes), opened anew: a failed write-back is
    told once to each open file description, and the daemon, which wipes through its own, must not hear of ours nor we
    of its. The inherited ones are kept: they keep others out until our last batch is through (O_EXCL, flock). What
    cannot be opened, a disk that is gone, keeps its place, and nothing in it is read or written.

    `faults` has a record a store. A store's number of a descriptor stays while the store comes and goes.
    """

    def __init__(self, inherited: Sequence[tuple[int, int]], faults: Sequence[StoreFaults] = ()) -> None:
        self._faults = faults or [UNCOUNTED] * len(inherited)
        self._inherited = [fd for fd, _ in inherited]
        self._fds = [_opened(fd) for fd in self._inherited]
        self._sizes = [size for _, size in inherited]
        self._is_device = [stat.S_ISBLK(os.fstat(fd).st_mode) for fd in self._fds]

    def span(self, extent: Extent) -> Span:
        """Return where an extent lies; Extent.device counts in the order of the descriptors.

        A lease that is over may be on a store that is not configured any more: nothing of it is read or written.
        """
        at = extent.device
        if at >= len(self._fds):
            return _NOWHERE
        return Span(self._fds[at], extent.base, self._sizes[at], self._is_device[at], self._faults[at])

    def refit(self, at: int, inherited: int) -> None:
        """Go on with another descriptor of the store with this number: it is gone, or back. Closes `inherited`."""
        os.dup2(inherited, self._inherited[at], inheritable=False)
        os.close(inherited)
        fd = _opened(self._inherited[at])
        os.dup2(fd, self._fds[at], inheritable=False)
        os.close(fd)
        self._is_device[at] = stat.S_ISBLK(os.fstat(self._fds[at]).st_mode)

    def close(self) -> None:
        for fd in (*self._fds, *self._inherited):
            os.close(fd)


def _opened(inherited: int) -> int:
    """Open a descriptor anew; where that fails return one that refuses all I/O (O_PATH), as the inherited one does."""
    try:
        return os.open(f"/proc/self/fd/{inherited}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return os.open("/", os.O_PATH | os.O_CLOEXEC)


class Fbbu(transfers.Transfers):
    """`lease.data` is a Span."""

    magic = b"FBBU"
    plane = Plane.FBBU
    unit = BLOCK_SIZE

    def __init__(self, tally: Tally, limit: int, sync: Sync) -> None:
        super().__init__(tally, limit)
        self._sync = sync
        self._unsettled: dict[int, list[tuple[int, Lease]]] = {}
        self._broken: set[Lease] = set()

    def greet(self, lease: Lease) -> bytes:
        most = min(lease.max_read, lease.max_write, self.longest_read, self.longest_write) // BLOCK_SIZE
        return _HELLO_ACK.pack(DpStatus.OK, BLOCK_SIZE, lease.length // BLOCK_SIZE, most)

    def refuse_hello(self, status: DpStatus) -> bytes:
        return _HELLO_ACK.pack(status, 0, 0, 0)

    def fetch(self, lease: Lease, offset: int, length: int) -> bytes | None:
        data: bytes | None = None if lease in self._broken else lease.data.bytes_at(offset, length)
        return data

    def store(self, lease: Lease, run: int, offset: int, data: bytes) -> bool:
        """Write, to be made durable by settle(). Once a batch is looked whether the store is still whole."""
        span = lease.data
        writes = self._unsettled.get(span.fd)
        if writes is None:
            if not span.is_whole():
                return False
            writes = self._unsettled[span.fd] = []
        if lease in self._broken or not span.write(offset, data):
            return False
        writes.append((run, lease))
        return True

    def settle(self) -> set[int]:
        """Make the WRITEs since the last call durable; return the runs whose answers must not be sent."""
        unsafe: set[int] = set()
        for writes in self._unsettled.values():
            if self._sync is Sync.DATASYNC and writes and not writes[0][1].data.flush():
                unsafe |= {run for run, _ in writes}
                self._broken = {lease for lease in self._broken if lease.is_current()} | {lease for _, lease in writes}
        self._unsettled.clear()
        return unsafe
