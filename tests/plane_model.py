"""FBMU as D10 tells it, one datagram after the other and nothing prepared: what the server is held against.

Only the replay window is the server's own, which tests/unit/dataplane/test_window.py holds against a set.
"""

import struct
from collections import Counter

from fabricbios.dataplane.slots import SLOT, SlotLease, SlotState
from fabricbios.dataplane.window import Window
from fabricbios.model import DpAuth, DpOp, DpStatus
from fabricbios.wire import Tagger

_ANSWERS = {DpOp.HELLO: 2, DpOp.READ: 0x11, DpOp.WRITE: 0x21, DpOp.PING: 0x31}
_PARAMETERS = {DpOp.HELLO: 16, DpOp.READ: 12, DpOp.WRITE: 12, DpOp.PING: 0}
LIMIT = 1472


class Model:
    """One lease over `data`, whose state and clock are given with each question."""

    def __init__(self, lease: SlotLease, data: bytearray) -> None:
        self.lease, self.data = lease, data
        self.drops: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.counted: Counter[str] = Counter()  # READs and WRITEs carried out, and the bytes of each
        self._window = Window(memoryview(bytearray(SLOT.size)).cast("Q"), 0)
        self._tagger, self._write_mark = Tagger(lease.auth, lease.dp_key), 0

    def answer(self, datagram: bytes, now: int, state: SlotState) -> bytes | None:
        reason = self._reason_to_drop(datagram)
        if reason is not None:
            self.drops[reason] += 1
            return None
        op = datagram[5]
        if state != SlotState.ACTIVE or now >= self.lease.expires_ns:
            status, rest = DpStatus.FENCED if state == SlotState.FENCED else DpStatus.EXPIRED, b""
        else:
            status, rest = self._carried_out(op, datagram)
        self.statuses[status] += 1
        return self._sealed(datagram, op, status, rest)

    def _reason_to_drop(self, datagram: bytes) -> str | None:
        if not 56 <= len(datagram) <= LIMIT or datagram[:5] != b"FBMU\x01" or datagram[6:8] != bytes(2):
            return "malformed"
        op, payload = datagram[5], datagram[56:]
        payload_len, request_id, lease_id, nonce = struct.unpack_from(">II16sQ", datagram, 8)
        if (
            op not in _ANSWERS
            or payload_len != len(payload) < LIMIT
            or len(payload) < _PARAMETERS[DpOp(op)]
            or not nonce
        ):
            return "malformed"
        if (op in (DpOp.READ, DpOp.WRITE) and not request_id) or (op == DpOp.HELLO and payload[:16] != lease_id):
            return "malformed"
        if int.from_bytes(lease_id, "big") != self.lease.lease_id:
            return "unknown_lease"
        if self._tagger.tag(self._message(datagram)) != datagram[40:56]:
            return "bad_tag"
        refused = self._window.take(nonce)
        return None if refused is None else refused.name.lower()

    def _message(self, datagram: bytes) -> bytes:
        op, payload = DpOp(datagram[5]), datagram[56:]
        if self.lease.auth == DpAuth.HMAC_HEADER:
            return datagram[:40] + (payload[:12] if op in (DpOp.READ, DpOp.WRITE) else b"")
        return datagram[:40] + (payload if op == DpOp.WRITE else payload[: _PARAMETERS[op]])

    def _carried_out(self, op: int, datagram: bytes) -> tuple[DpStatus, bytes]:
        if op == DpOp.PING:
            return DpStatus.OK, b""
        if op == DpOp.HELLO:
            return DpStatus.OK, struct.pack(">QII", self.lease.extent.length, LIMIT - 64, LIMIT - 68)
        nonce, offset, length = struct.unpack_from(">Q16xQI", datagram, 32)
        if not 0 < length <= LIMIT - (64 if op == DpOp.READ else 68):
            return DpStatus.BAD_LENGTH, b""
        if op == DpOp.WRITE and length != len(datagram) - 68:
            return DpStatus.BAD_LENGTH, b""
        right = 1 if op == DpOp.READ else 2
        if not self.lease.rights & right or offset + length > self.lease.extent.length:
            return DpStatus.OUT_OF_RANGE, b""
        at = self.lease.extent.base + offset
        if op == DpOp.READ:
            self.counted.update(reads=1, bytes_read=length)
            return DpStatus.OK, struct.pack(">I", length) + self.data[at : at + length]
        if nonce <= self._write_mark:
            return DpStatus.STALE_WRITE, b""
        self._write_mark = nonce
        self.counted.update(writes=1, bytes_written=length)
        self.data[at : at + length] = datagram[68:]
        return DpStatus.OK, b""

    def _sealed(self, datagram: bytes, op: int, status: DpStatus, rest: bytes) -> bytes:
        payload = bytes([status, 0, 0, 0]) + rest
        if status and op in (DpOp.HELLO, DpOp.READ):
            payload = payload.ljust(20 if op == DpOp.HELLO else 8, b"\0")
        if op == DpOp.PING:
            payload = payload if status else b""
        answer = DpOp.ERROR if op == DpOp.PING and status else _ANSWERS[DpOp(op)]
        head = b"FBMU\x01" + bytes([answer, 0, 0]) + struct.pack(">I", len(payload)) + datagram[12:40]
        own = self.lease.auth != DpAuth.HMAC_HEADER
        return head + (self._tagger.tag(head + payload) if own else datagram[40:56]) + payload
