"""What FBMU and FBBU do alike once a question is authentic (D10): HELLO, PING, and ranges of a lease read and written.

A READ or WRITE without the right to it is OUT_OF_RANGE: nothing of the lease is in the range of that operation.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Set

from fabricbios.dataplane.leases import Lease
from fabricbios.dataplane.responder import Operation
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
_WRITTEN = _status(_OK)


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
        if not 0 < length <= lease.max_read or length > self.longest_read:
            return _refuse_read(self._reject(lease, _BAD_LENGTH))
        if offset + length > lease.readable:
            return _refuse_read(self._reject(lease, _OUT_OF_RANGE))
        fetched = self.fetch(lease, offset, length)
        if fetched is None:
            return _refuse_read(self._reject(lease, _INTERNAL))
        lease.reads += 1
        lease.bytes += length
        self._tally.bytes_read += length
        self._statuses[_OK] += 1
        return _read_resp(_OK, second) + fetched

    def _write(self, lease: Lease, run: int, nonce: int, first: int, second: int, data: bytes) -> bytes:
        offset, length = first * self.unit, second * self.unit
        if not 0 < length <= lease.max_write or length > self.longest_write or len(data) != length:
            return _status(self._reject(lease, _BAD_LENGTH))
        if offset + length > lease.writable:
            return _status(self._reject(lease, _OUT_OF_RANGE))
        if not lease.take_write(nonce):
            return _status(self._reject(lease, _STALE))
        if not self.store(lease, run, offset, data):
            return _status(self._reject(lease, _INTERNAL))
        lease.writes += 1
        lease.bytes += length
        self._tally.bytes_written += length
        self._statuses[_OK] += 1
        return _WRITTEN

    def _reject(self, lease: Lease, status: DpStatus) -> DpStatus:
        """Count a question that is refused, and say with what."""
        self._statuses[status] += 1
        lease.count_rejects()
        return status
