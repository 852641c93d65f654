"""What FBMU and FBBU do alike once a question is authentic (D10): HELLO, PING, and ranges of a lease read and written.

A READ or WRITE without the right to it is OUT_OF_RANGE: nothing of the lease is in the range of that operation.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Set

from fabricbios.dataplane.leases import Lease
from fabricbios.dataplane.operations import Operation
from fabricbios.dataplane.slots import Plane
from fabricbios.dataplane.tally import Tally
from fabricbios.dataplane.trains import HEADER, RANGE
from fabricbios.model import DpOp, DpStatus

_READ_RESP = struct.Struct(">II")  # status and reserved (zero) as one number, then what was asked for
_read_resp, _refuse_read, _status = _READ_RESP.pack, struct.Struct(">B7x").pack, struct.Struct(">B3x").pack
LIMITS_BESIDE = HEADER + _READ_RESP.size, HEADER + RANGE
"""What of a datagram is not data: in the answer to a READ, in a WRITE."""
# Enum members cost a lookup each time they are named, and as an index: what a datagram meets is a plain name or number.
_OK, _INTERNAL, _STALE = int(DpStatus.OK), DpStatus.INTERNAL, DpStatus.STALE_WRITE
_BAD_LENGTH, _OUT_OF_RANGE = DpStatus.BAD_LENGTH, DpStatus.OUT_OF_RANGE
WRITTEN = _status(_OK)
"""The payload of the answer to a WRITE that was carried out."""


def read_head(length: int) -> bytes:
    """Return what stands before the data in the answer to a READ of so many units."""
    return _read_resp(_OK, length)


class Transfers(ABC):
    """A plane whose offsets and lengths count `unit` bytes; `limit` is the longest datagram."""

    magic: bytes
    plane: Plane
    unit: int

    def __init__(self, tally: Tally, limit: int) -> None:
        self._tally, self._statuses = tally, tally.statuses
        self.longest_read, self.longest_write = (limit - beside for beside in LIMITS_BESIDE)

    @abstractmethod
    def greet(self, lease: Lease) -> bytes:
        """Return the payload of HELLO_ACK."""

    @abstractmethod
    def refuse_hello(self, status: DpStatus) -> bytes:
        """Return the payload of a HELLO_ACK that refuses, in its full length."""

    @abstractmethod
    def fetch(self, lease: Lease, offset: int, length: int) -> bytes | memoryview | None:
        """Return what stands in a range of the lease, None where it cannot be had."""

    @abstractmethod
    def store(self, lease: Lease, run: int, offset: int, data: bytes) -> bool:
        """Write to a range of the lease; False where that failed. `run`: Serve, settle()."""

    @abstractmethod
    def settle(self) -> Set[int]:
        """See PlaneServer."""

    def operations(self) -> tuple[Operation, ...]:
        """Return D10's ops. A PING, whose PONG has no status, is refused by ERROR."""
        op = DpOp
        return (
            Operation(op.HELLO, op.HELLO_ACK, op.HELLO_ACK, 16, False, False, self._hello, self.refuse_hello),
            Operation(op.READ, op.READ_RESP, op.READ_RESP, 12, True, False, self._read, _refuse_read),
            Operation(op.WRITE, op.WRITE_RESP, op.WRITE_RESP, 12, True, True, self._write, _status),
            Operation(op.PING, op.PONG, op.ERROR, 0, False, False, self._ping, _status),
        )

    def _hello(self, lease: Lease, run: int, nonce: int, first: int, second: int, data: bytes) -> bytes:
        self._statuses[_OK] += 1
        return self.greet(lease)

    def _ping(self, lease: Lease, run: int, nonce: int, first: int, second: int, data: bytes) -> bytes:
        self._statuses[_OK] += 1
        return b""

    def _read(self, lease: Lease, run: int, nonce: int, first: int, second: int, data: bytes) -> bytes:
        offset, length = first * self.unit, second * self.unit
        refusal = self._refusal_to_read(lease, offset, length)
        if refusal is not None:
            return _refuse_read(self._reject(lease, refusal))
        fetched = self.fetch(lease, offset, length)
        if fetched is None:
            return _refuse_read(self._reject(lease, _INTERNAL))
        self._count_reads(lease, 1, length)
        return _read_resp(_OK, second) + fetched

    def _write(self, lease: Lease, run: int, nonce: int, first: int, second: int, data: bytes) -> bytes:
        offset, length = first * self.unit, second * self.unit
        refusal = self._refusal_to_write(lease, offset, length, len(data))
        if refusal is not None:
            return _status(self._reject(lease, refusal))
        if not lease.take_write(nonce):
            return _status(self._reject(lease, _STALE))
        if not self.store(lease, run, offset, data):
            return _status(self._reject(lease, _INTERNAL))
        self._count_writes(lease, 1, length)
        return WRITTEN

    def _refusal_to_read(self, lease: Lease, offset: int, length: int) -> DpStatus | None:
        """Say why a range may not be read. One that may, may be read at any smaller offset too."""
        if not 0 < length <= lease.max_read or length > self.longest_read:
            return _BAD_LENGTH
        return _OUT_OF_RANGE if offset + length > lease.readable else None

    def _refusal_to_write(self, lease: Lease, offset: int, length: int, carried: int) -> DpStatus | None:
        """Say why `carried` bytes may not be written to a range; likewise."""
        if not 0 < length <= lease.max_write or length > self.longest_write or carried != length:
            return _BAD_LENGTH
        return _OUT_OF_RANGE if offset + length > lease.writable else None

    def _count_reads(self, lease: Lease, count: int, length: int) -> None:
        """Count READs of `length` bytes each that are answered OK."""
        lease.reads += count
        lease.bytes += count * length
        self._tally.bytes_read += count * length
        self._statuses[_OK] += count

    def _count_writes(self, lease: Lease, count: int, length: int) -> None:
        lease.writes += count
        lease.bytes += count * length
        self._tally.bytes_written += count * length
        self._statuses[_OK] += count

    def _reject(self, lease: Lease, status: DpStatus) -> DpStatus:
        """Count a question that is refused, and say with what."""
        self._statuses[status] += 1
        lease.count_rejects()
        return status
