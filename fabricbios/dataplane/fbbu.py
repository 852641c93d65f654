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
import stat
import struct
from collections.abc import Sequence
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
_OK = DpStatus.OK  # naming an enum member costs a lookup each time
LIMITS_BESIDE = HEADER + _READ_HEAD, HEADER + _WRITE_HEAD
"""What of a datagram is not data: in the answer to a READ, in a WRITE."""


class Sync(StrEnum):
    """How durable an acknowledged WRITE is: in the page cache, or on the device."""

    NONE = "none"
    DATASYNC = "datasync"


class Span(NamedTuple):
    """Where a lease's blocks lie: from byte `base` of the file or device `fd`, which has `size` bytes or is broken."""

    fd: int
    base: int
    size: int
    is_device: bool

    def read(self, offset: int, into: memoryview) -> bool:
        """Fill `into`; False where that is not possible any more (truncated, gone, EIO)."""
        try:
            return os.preadv(self.fd, [into], self.base + offset) == len(into)
        except OSError:
            return False

    def write(self, offset: int, data: memoryview) -> bool:
        """Store `data`; False where that is not possible any more."""
        try:
            return os.pwrite(self.fd, data, self.base + offset) == len(data)
        except OSError:
            return False

    def is_whole(self) -> bool:
        """Say whether all of the store is there; a WRITE would make a file that was cut short longer, with a hole."""
        return self.is_device or os.fstat(self.fd).st_size >= self.size

    def flush(self) -> bool:
        """Make what was written durable; False where it was not."""
        try:
            os.fdatasync(self.fd)
        except OSError:
            return False
        return True


class Stores:
    """The files and devices that this server was handed, as (descriptor, bytes), opened anew: a failed write-back is
    told once to each open file description, and the daemon, which wipes through its own, must not hear of ours nor we
    of its."""

    def __init__(self, inherited: Sequence[tuple[int, int]]) -> None:
        self._fds = [os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC) for fd, _ in inherited]
        self._sizes = [size for _, size in inherited]
        self._is_device = [stat.S_ISBLK(os.fstat(fd).st_mode) for fd in self._fds]

    def span(self, extent: Extent) -> Span:
        """Return where an extent lies; Extent.device counts in the order of the descriptors."""
        at = extent.device
        return Span(self._fds[at], extent.base, self._sizes[at], self._is_device[at])

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
        self._longest_read = (batch.limit - LIMITS_BESIDE[0]) // BLOCK_SIZE * BLOCK_SIZE
        self._longest_write = (batch.limit - LIMITS_BESIDE[1]) // BLOCK_SIZE * BLOCK_SIZE
        self._unsettled: dict[int, list[tuple[int, Lease]]] = {}
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
        for writes in self._unsettled.values():
            if self._sync is Sync.DATASYNC and writes and not writes[0][1].data.flush():
                unsafe |= {at // STRIDE for at, _ in writes}
                self._broken = {lease for lease in self._broken if lease.is_current()} | {lease for _, lease in writes}
        self._unsettled.clear()
        return unsafe

    def _hello(self, lease: Lease, at: int, payload_len: int, nonce: int, first: int, second: int) -> int:
        most = min(lease.max_read, lease.max_write, self._longest_read, self._longest_write) // BLOCK_SIZE
        _HELLO_ACK.pack_into(self._arena, at + PAYLOAD, _OK, BLOCK_SIZE, lease.length // BLOCK_SIZE, most)
        return self._count(_OK, _HELLO_ACK.size)

    def _ping(self, lease: Lease, at: int, payload_len: int, nonce: int, first: int, second: int) -> int:
        return self._count(_OK, 0)

    def _read(self, lease: Lease, at: int, payload_len: int, nonce: int, index: int, count: int) -> int:
        length = count * BLOCK_SIZE
        if not 0 < length <= lease.max_read or length > self._longest_read:
            return self._reject_read(lease, at, DpStatus.BAD_LENGTH)
        if index * BLOCK_SIZE + length > lease.readable:
            return self._reject_read(lease, at, DpStatus.OUT_OF_RANGE)
        start = at + PAYLOAD + _READ_HEAD
        into = self._view[start : start + length]
        if lease in self._broken or not lease.data.read(index * BLOCK_SIZE, into):
            return self._reject_read(lease, at, DpStatus.INTERNAL)
        _READ_RESP.pack_into(self._arena, at + PAYLOAD, _OK, count)
        lease.count_read(length)
        self._tally.bytes_read += length
        return self._count(_OK, _READ_HEAD + length)

    def _write(self, lease: Lease, at: int, payload_len: int, nonce: int, index: int, count: int) -> int:
        length = count * BLOCK_SIZE
        status = self._take_write(lease, payload_len, nonce, index * BLOCK_SIZE, length)
        if status or (status := self._store(lease, at, index * BLOCK_SIZE, length)):
            lease.count_reject()
            return self._refuse(at, status)
        lease.count_write(length)
        self._tally.bytes_written += length
        return self._refuse(at, _OK)

    def _take_write(self, lease: Lease, payload_len: int, nonce: int, offset: int, length: int) -> DpStatus:
        if not 0 < length <= lease.max_write or length > self._longest_write or payload_len != _WRITE_HEAD + length:
            return DpStatus.BAD_LENGTH
        if offset + length > lease.writable:
            return DpStatus.OUT_OF_RANGE
        return _OK if lease.take_write(nonce) else DpStatus.STALE_WRITE

    def _store(self, lease: Lease, at: int, offset: int, length: int) -> DpStatus:
        """Write, to be made durable by settle(). Once a batch is looked whether the store is still whole."""
        start, span = at + PAYLOAD + _WRITE_HEAD, lease.data
        writes = self._unsettled.get(span.fd)
        if writes is None:
            if not span.is_whole():
                return DpStatus.INTERNAL
            writes = self._unsettled[span.fd] = []
        if lease in self._broken or not span.write(offset, self._view[start : start + length]):
            return DpStatus.INTERNAL
        writes.append((at, lease))
        return _OK

    def _reject_read(self, lease: Lease, at: int, status: DpStatus) -> int:
        lease.count_reject()
        return self._refuse_read(at, status)

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
    """One socket of the block plane: as express.MemoryChannel, but answers wait until what they say is durable."""

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
        for b in unsafe:
            answers[b] = -1
        tally.drops[DropReason.INTERNAL] += len(unsafe) + batch.send(answers)
        tally.end_batch()
        return n
