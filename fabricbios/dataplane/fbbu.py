"""FBBU, the block plane over datagrams (D10): HELLO, READ_BLOCK, WRITE_BLOCK and PING on leased extents.

Blocks have 512 bytes whatever the device has. I/O goes through the page cache, so on a device with larger blocks
the kernel does the read-modify-write, under the lock of the page; O_DIRECT would make it ours. One process serves
the plane, one question at a time, so a block is read and written whole.

A WRITE is acknowledged when it is as durable as `Sync` says: the answers of a batch wait for one fdatasync(2) a
device. Where that fails they are not sent, and the leases that wrote get INTERNAL from then on: the kernel
reports a lost write once and forgets it, so a later success would mean nothing.

Payloads and status codes are FBBT's (wire encoding, "TCP block storage protocol"). As in FBMU, an operation without
the right to it is OUT_OF_RANGE.
"""

from __future__ import annotations

import os
import struct
from enum import StrEnum
from typing import NamedTuple

from fabricbios.dataplane.batch import HEADER, STRIDE, Batch
from fabricbios.dataplane.counters import DropReason
from fabricbios.dataplane.leases import Lease
from fabricbios.dataplane.responder import PAYLOAD, Operation, Responder
from fabricbios.dataplane.slots import Extent, Plane
from fabricbios.dataplane.tally import Tally
from fabricbios.model import BLOCK_SIZE, DpOp, DpStatus

_HELLO_ACK = struct.Struct(">B3xIQI")
_READ_RESP = struct.Struct(">B3xI")
_STATUS = struct.Struct(">B3x")
_READ_HEAD = _READ_RESP.size
_WRITE_HEAD = 12
LIMITS_BESIDE = HEADER + _READ_HEAD, HEADER + _WRITE_HEAD
"""What of a datagram is not data: in the answer to a READ, in a WRITE."""


class Sync(StrEnum):
    """How durable an acknowledged WRITE is: in the page cache, or on the device."""

    NONE = "none"
    DATASYNC = "datasync"


class Span(NamedTuple):
    """Where a lease's blocks lie: `base` is a byte of the open file or device `fd`; up to `end` it must exist."""

    fd: int
    base: int
    end: int
    is_device: bool

    def read(self, offset: int, into: memoryview) -> bool:
        """Fill `into`; False where that is not possible any more (truncated, gone, EIO)."""
        try:
            return os.preadv(self.fd, [into], self.base + offset) == len(into)
        except OSError:
            return False

    def write(self, offset: int, data: memoryview) -> bool:
        """Store `data`; False where that is not possible any more. A file that was cut short is not made longer."""
        try:
            if not self.is_device and os.fstat(self.fd).st_size < self.end:
                return False
            return os.pwrite(self.fd, data, self.base + offset) == len(data)
        except OSError:
            return False

    def flush(self) -> bool:
        """Make what was written durable; False where it was not."""
        try:
            os.fdatasync(self.fd)
        except OSError:
            return False
        return True


class Stores:
    """The files and devices that this server was handed, opened anew: a failed write-back is told once to each
    open file description, and the daemon, which wipes through its own, must not hear of ours nor we of its."""

    def __init__(self, inherited: list[int]) -> None:
        self._fds = [os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC) for fd in inherited]
        self._is_device = [os.fstat(fd).st_rdev != 0 for fd in self._fds]

    def span(self, extent: Extent) -> Span:
        """Return where an extent lies; Extent.device counts in the order of the descriptors."""
        fd = self._fds[extent.device]
        return Span(fd, extent.base, extent.base + extent.length, self._is_device[extent.device])

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


class Fbbu:
    """Serves the buffers of one batch. `lease.data` is a Span."""

    magic = b"FBBU"
    plane = Plane.FBBU

    def __init__(self, batch: Batch, tally: Tally, sync: Sync) -> None:
        self._arena, self._view = batch.arena, memoryview(batch.arena)
        self._tally, self._sync = tally, sync
        self._longest_read = (batch.limit - LIMITS_BESIDE[0]) // BLOCK_SIZE
        self._longest_write = (batch.limit - LIMITS_BESIDE[1]) // BLOCK_SIZE
        self._written: dict[int, list[tuple[int, Lease]]] = {}
        self._broken: set[Lease] = set()

    def operations(self) -> tuple[Operation, ...]:
        """Return D10's ops. A PING, whose PONG has no status, is refused by ERROR."""
        op = DpOp
        return (
            Operation(op.HELLO, op.HELLO_ACK, op.HELLO_ACK, 16, False, False, self._hello, self._refuse_hello),
            Operation(op.READ, op.READ_RESP, op.READ_RESP, 12, True, False, self._read, self._refuse_read),
            Operation(op.WRITE, op.WRITE_RESP, op.WRITE_RESP, 12, True, True, self._write, self._refuse),
            Operation(op.PING, op.PONG, op.ERROR, 0, False, False, self._ping, self._refuse),
        )

    def settle(self) -> set[int]:
        """Make the WRITEs since the last call durable; return the buffers whose answers must not be sent."""
        unsafe: set[int] = set()
        for writes in self._written.values():
            if not writes[0][1].data.flush():
                unsafe |= {at // STRIDE for at, _ in writes}
                self._broken |= {lease for _, lease in writes}
        self._written.clear()
        return unsafe

    def _hello(self, lease: Lease, at: int, payload_len: int, nonce: int, first: int, second: int) -> int:
        most = min(self._most(lease.max_read, self._longest_read), self._most(lease.max_write, self._longest_write))
        _HELLO_ACK.pack_into(self._arena, at + PAYLOAD, DpStatus.OK, BLOCK_SIZE, lease.length // BLOCK_SIZE, most)
        return self._count(DpStatus.OK, _HELLO_ACK.size)

    def _ping(self, lease: Lease, at: int, payload_len: int, nonce: int, first: int, second: int) -> int:
        return self._count(DpStatus.OK, 0)

    def _read(self, lease: Lease, at: int, payload_len: int, nonce: int, index: int, count: int) -> int:
        status, length = self._may_read(lease, index, count), count * BLOCK_SIZE
        start = at + PAYLOAD + _READ_HEAD
        if not status and not lease.data.read(index * BLOCK_SIZE, self._view[start : start + length]):
            status = DpStatus.INTERNAL
        if status:
            lease.count_reject()
            return self._refuse_read(at, status)
        _READ_RESP.pack_into(self._arena, at + PAYLOAD, DpStatus.OK, count)
        lease.count_read(length)
        self._tally.bytes_read += length
        return self._count(DpStatus.OK, _READ_HEAD + length)

    def _write(self, lease: Lease, at: int, payload_len: int, nonce: int, index: int, count: int) -> int:
        status, length = self._take_write(lease, payload_len, nonce, index, count), count * BLOCK_SIZE
        if not status:
            status = self._store(lease, at, index * BLOCK_SIZE, length)
        if status:
            lease.count_reject()
            return self._refuse(at, status)
        lease.count_write(length)
        self._tally.bytes_written += length
        return self._refuse(at, DpStatus.OK)

    def _store(self, lease: Lease, at: int, offset: int, length: int) -> DpStatus:
        """Write, and remember to make it durable."""
        start = at + PAYLOAD + _WRITE_HEAD
        if not lease.data.write(offset, self._view[start : start + length]):
            return DpStatus.INTERNAL
        if self._sync is Sync.DATASYNC:
            self._written.setdefault(lease.data.fd, []).append((at, lease))
        return DpStatus.OK

    def _may_read(self, lease: Lease, index: int, count: int) -> DpStatus:
        if not 0 < count <= self._most(lease.max_read, self._longest_read):
            return DpStatus.BAD_LENGTH
        if (index + count) * BLOCK_SIZE > lease.readable:
            return DpStatus.OUT_OF_RANGE
        return DpStatus.INTERNAL if lease in self._broken else DpStatus.OK

    def _take_write(self, lease: Lease, payload_len: int, nonce: int, index: int, count: int) -> DpStatus:
        if not 0 < count <= self._most(lease.max_write, self._longest_write):
            return DpStatus.BAD_LENGTH
        if payload_len != _WRITE_HEAD + count * BLOCK_SIZE:
            return DpStatus.BAD_LENGTH
        if (index + count) * BLOCK_SIZE > lease.writable:
            return DpStatus.OUT_OF_RANGE
        if not lease.take_write(nonce):
            return DpStatus.STALE_WRITE
        return DpStatus.INTERNAL if lease in self._broken else DpStatus.OK

    def _most(self, limit: int, longest: int) -> int:
        """Return how many blocks one operation may move: the lease's limit, and what a datagram holds."""
        return min(limit // BLOCK_SIZE, longest)

    def _refuse_read(self, at: int, status: DpStatus) -> int:
        _READ_RESP.pack_into(self._arena, at + PAYLOAD, status, 0)
        return self._count(status, _READ_HEAD)

    def _refuse_hello(self, at: int, status: DpStatus) -> int:
        _HELLO_ACK.pack_into(self._arena, at + PAYLOAD, status, 0, 0, 0)
        return self._count(status, _HELLO_ACK.size)

    def _refuse(self, at: int, status: DpStatus) -> int:
        """Write WRITE_BLOCK_RESP's or ERROR's payload, which is a status and no more."""
        _STATUS.pack_into(self._arena, at + PAYLOAD, status)
        return self._count(status, _STATUS.size)

    def _count(self, status: DpStatus, payload_len: int) -> int:
        self._tally.statuses[status] += 1
        return payload_len


class BlockChannel(NamedTuple):
    """One socket of the block plane: as loop.Channel, but answers wait until what they acknowledge is durable."""

    batch: Batch
    responder: Responder
    server: Fbbu

    def serve(self, tally: Tally) -> int:
        """Answer what is there now; return how many datagrams that were."""
        batch, respond = self.batch, self.responder.respond
        tally.begin_batch()
        n = batch.receive()
        answers = [respond(b, length) for b, length in enumerate(batch.lengths(n))]
        unsafe = self.server.settle()
        for b, payload_len in enumerate(answers):
            if payload_len >= 0 and b not in unsafe:
                batch.queue(b, payload_len)
        tally.drops[DropReason.INTERNAL] += len(unsafe) + batch.flush()
        tally.end_batch()
        return n
