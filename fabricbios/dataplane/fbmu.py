"""FBMU, the memory plane over datagrams (D10): HELLO, READ, WRITE and PING on leased bytes.

Payloads and status codes are FBMT's (wire encoding, "TCP memory protocol"). A READ or WRITE without
the right to it is OUT_OF_RANGE: nothing of the lease is in the range of that operation.
"""

from __future__ import annotations

import struct

from fabricbios.dataplane.batch import HEADER, Batch
from fabricbios.dataplane.leases import Lease
from fabricbios.dataplane.responder import PAYLOAD, Operation
from fabricbios.dataplane.slots import Plane
from fabricbios.dataplane.tally import Tally
from fabricbios.model import DpOp, DpStatus

_HELLO_ACK = struct.Struct(">B3xQII")
_READ_RESP = struct.Struct(">B3xI")
_pack_read_resp = _READ_RESP.pack_into
_STATUS = struct.Struct(">B3x")
_READ_HEAD = _READ_RESP.size
_WRITE_HEAD = 12
_OK = DpStatus.OK  # naming an enum member costs a lookup each time
LIMITS_BESIDE = HEADER + _READ_HEAD, HEADER + _WRITE_HEAD
"""What of a datagram is not data: in the answer to a READ, in a WRITE."""


class Fbmu:
    """Serves the buffers of one batch."""

    magic = b"FBMU"
    plane = Plane.FBMU

    def __init__(self, batch: Batch, tally: Tally) -> None:
        self._arena, self._view = batch.arena, memoryview(batch.arena)
        self._tally, self._statuses = tally, tally.statuses
        self._longest_read = batch.limit - LIMITS_BESIDE[0]
        self._longest_write = batch.limit - LIMITS_BESIDE[1]

    def operations(self) -> tuple[Operation, ...]:
        """Return D10's ops. A PING, whose PONG has no status, is refused by ERROR."""
        op = DpOp
        return (
            Operation(op.HELLO, op.HELLO_ACK, op.HELLO_ACK, 16, False, False, self._hello, self._refuse_hello),
            Operation(op.READ, op.READ_RESP, op.READ_RESP, 12, True, False, self._read, self._refuse_read),
            Operation(op.WRITE, op.WRITE_RESP, op.WRITE_RESP, 12, True, True, self._write, self._refuse),
            Operation(op.PING, op.PONG, op.ERROR, 0, False, False, self._ping, self._refuse),
        )

    def _hello(self, lease: Lease, at: int, payload_len: int, nonce: int, first: int, second: int) -> int:
        limits = min(lease.max_read, self._longest_read), min(lease.max_write, self._longest_write)
        _HELLO_ACK.pack_into(self._arena, at + PAYLOAD, _OK, lease.length, *limits)
        return self._count(_OK, _HELLO_ACK.size)

    def _ping(self, lease: Lease, at: int, payload_len: int, nonce: int, first: int, second: int) -> int:
        return self._count(_OK, 0)

    def _read(self, lease: Lease, at: int, payload_len: int, nonce: int, offset: int, length: int) -> int:
        if not 0 < length <= lease.max_read or length > self._longest_read:
            return self._reject_read(lease, at, DpStatus.BAD_LENGTH)
        if offset + length > lease.readable:
            return self._reject_read(lease, at, DpStatus.OUT_OF_RANGE)
        _pack_read_resp(self._arena, at + PAYLOAD, 0, length)
        start = at + PAYLOAD + _READ_HEAD
        self._view[start : start + length] = lease.data[offset : offset + length]
        lease.reads += 1
        lease.bytes += length
        self._tally.bytes_read += length
        self._statuses[0] += 1
        return _READ_HEAD + length

    def _write(self, lease: Lease, at: int, payload_len: int, nonce: int, offset: int, length: int) -> int:
        status = self._take_write(lease, payload_len, nonce, offset, length)
        if status:
            lease.count_reject()
            return self._refuse(at, status)
        start = at + PAYLOAD + _WRITE_HEAD
        lease.data[offset : offset + length] = self._view[start : start + length]
        lease.count_write(length)
        self._tally.bytes_written += length
        return self._refuse(at, _OK)

    def _take_write(self, lease: Lease, payload_len: int, nonce: int, offset: int, length: int) -> DpStatus:
        if not 0 < length <= lease.max_write or payload_len != _WRITE_HEAD + length:
            return DpStatus.BAD_LENGTH
        if offset + length > lease.writable:
            return DpStatus.OUT_OF_RANGE
        return _OK if lease.take_write(nonce) else DpStatus.STALE_WRITE

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
        """Write WRITE_RESP's or ERROR's payload, which is a status and no more."""
        _STATUS.pack_into(self._arena, at + PAYLOAD, status)
        return self._count(status, _STATUS.size)

    def _count(self, status: DpStatus, payload_len: int) -> int:
        self._statuses[status] += 1
        return payload_len
