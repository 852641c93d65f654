"""FBMU and FBBU as an asker speaks them (D10, D11): questions packed, answers judged. No I/O.

The wire's classes would do, at ten times the cost a datagram; the tests hold these bytes against them.
"""

from __future__ import annotations

import hmac
import struct
from typing import NamedTuple

from fabricbios.errors import FabricError, Fenced, LeaseExpired, NotFound, Refused, TimedOut
from fabricbios.model import BLOCK_SIZE, DpAuth, DpOp, DpStatus, Status
from fabricbios.wire import DP_HEADER_SIZE, DP_VERSION, TAGGED_SIZE, Tagger

_HEAD = struct.Struct(">4sBBHIIQQQ")  # magic version op flags payload_len request_id lease_id (two halves) nonce
_RANGE = struct.Struct(">QI")
_READ_RESP = struct.Struct(">B3xI")
_HELLO_ACK = {b"FBMU": struct.Struct(">B3xQII"), b"FBBU": struct.Struct(">B3xIQI")}
_ZEROS = bytes(2048)
_NO_TAG = bytes(16)
QUESTION_BESIDE = DP_HEADER_SIZE + _RANGE.size  # what of a question is not data
ANSWER_BESIDE = DP_HEADER_SIZE + _READ_RESP.size

READ, WRITE = int(DpOp.READ), int(DpOp.WRITE)
_PONG, _ERROR = int(DpOp.PONG), int(DpOp.ERROR)  # plain numbers: an enum's comparison is felt a datagram
_ANSWER_TO = {
    READ: int(DpOp.READ_RESP),
    WRITE: int(DpOp.WRITE_RESP),
    int(DpOp.HELLO): int(DpOp.HELLO_ACK),
    int(DpOp.PING): _PONG,
}
_STATUS_END = DP_HEADER_SIZE + 4


class Plane(NamedTuple):
    """`unit` is how many bytes one of its `length` or `block_count` stands for."""

    magic: bytes
    unit: int


FBMU, FBBU = Plane(b"FBMU", 1), Plane(b"FBBU", BLOCK_SIZE)


class Silent(TimedOut):
    """The data plane does not answer, and the control plane says that the lease is there."""

    remedy = "another read or write may have taken it up, or that port is closed on the way: --binding quic needs none"


class Question(NamedTuple):
    """What was sent: `tag` to recognise a repeated one, `op`, and the bytes a READ expects."""

    op: int
    nonce: int
    tag: bytes
    length: int


class Greeting(NamedTuple):
    """What HELLO_ACK says, in bytes."""

    length: int
    max_read: int
    max_write: int


class Codec:
    """Speaks for one lease. Without a tagger (QUIC, D11) tags are zero and READs are not padded."""

    def __init__(self, plane: Plane, lease_id: int, tagger: Tagger | None) -> None:
        self.plane, self.lease_id = plane, lease_id
        self._tagger = tagger
        self._lease = lease_id >> 64, lease_id & (1 << 64) - 1
        self._covers_data = tagger is not None and tagger.mode != DpAuth.HMAC_HEADER
        self._repeats = tagger is not None and tagger.mode == DpAuth.HMAC_HEADER

    def read(self, nonce: int, offset: int, length: int) -> tuple[bytes, Question]:
        """Return a READ of `length` bytes, padded to the size of its answer: the kernel path answers in place."""
        padding = max(0, length - (QUESTION_BESIDE - ANSWER_BESIDE)) if self._tagger else 0
        head = self._head(READ, _RANGE.size + padding, nonce)
        params = _RANGE.pack(offset // self.plane.unit, length // self.plane.unit)
        tag = self._tagger.tag(head + params) if self._tagger else _NO_TAG
        return head + tag + params + _ZEROS[:padding], Question(READ, nonce, tag, length)

    def write(self, nonce: int, offset: int, data: bytes | memoryview) -> tuple[bytes, Question]:
        """Return a WRITE of `data`."""
        head = self._head(WRITE, _RANGE.size + len(data), nonce)
        params = _RANGE.pack(offset // self.plane.unit, len(data) // self.plane.unit)
        tag = _NO_TAG
        if self._tagger:
            tag = self._tagger.tag(b"".join((head, params, data)) if self._covers_data else head + params)
        return b"".join((head, tag, params, data)), Question(WRITE, nonce, tag, 0)

    def greet(self, op: int, nonce: int) -> tuple[bytes, Question]:
        """Return a HELLO or PING; on UDP a HELLO is padded to its answer."""
        params = self.lease_id.to_bytes(16, "big") if op == DpOp.HELLO else b""
        padding = 4 if op == DpOp.HELLO and self._tagger else 0
        head = self._head(op, len(params) + padding, nonce)
        tag = self._tagger.tag(head + params if self._covers_data else head) if self._tagger else _NO_TAG
        return head + tag + params + bytes(padding), Question(op, nonce, tag, 0)

    def nonce_of(self, answer: memoryview) -> int:
        """Return the nonce an answer names, 0 where it is none of this lease's."""
        if len(answer) < DP_HEADER_SIZE:
            return 0
        magic, version, _, flags, length, _, high, low, nonce = _HEAD.unpack_from(answer)
        fits = magic == self.plane.magic and version == DP_VERSION and not flags and (high, low) == self._lease
        return int(nonce) if fits and length == len(answer) - DP_HEADER_SIZE else 0

    def proves(self, answer: memoryview, question: Question) -> bool:
        """True if the tag is right: the question's own again (mode 0), else the answer's. QUIC needs none."""
        if self._tagger is None:
            return True
        expected = question.tag
        if not self._repeats:
            expected = self._tagger.tag(bytes(answer[:TAGGED_SIZE]) + answer[DP_HEADER_SIZE:])
        return hmac.compare_digest(answer[TAGGED_SIZE:DP_HEADER_SIZE], expected)

    def status(self, answer: memoryview, question: Question) -> int:
        """Return the DpStatus of a proven answer to `question`, -1 if it is none to it."""
        op = answer[5]
        if int.from_bytes(answer[12:16], "big") != request_id(question.nonce):
            return -1
        if op != _ERROR and op != _ANSWER_TO[question.op]:
            return -1
        if op == _PONG:
            return 0 if len(answer) == DP_HEADER_SIZE else -1
        if len(answer) < _STATUS_END:
            return -1
        found = answer[DP_HEADER_SIZE]
        return found if found or op != _ERROR else -1

    def data(self, answer: memoryview, question: Question) -> memoryview | None:
        """Return what an OK READ_RESP carries, None if it is not the length asked for."""
        if len(answer) != ANSWER_BESIDE + question.length:
            return None
        _, count = _READ_RESP.unpack_from(answer, DP_HEADER_SIZE)
        return answer[ANSWER_BESIDE:] if count * self.plane.unit == question.length else None

    def greeting(self, answer: memoryview) -> Greeting | None:
        """Return what an OK HELLO_ACK says."""
        ack = _HELLO_ACK[self.plane.magic]
        if len(answer) != DP_HEADER_SIZE + ack.size:
            return None
        _, first, second, third = ack.unpack_from(answer, DP_HEADER_SIZE)
        if self.plane is FBMU:
            return Greeting(first, second, third)
        return Greeting(second * first, third * first, third * first)

    def _head(self, op: int, payload_len: int, nonce: int) -> bytes:
        return _HEAD.pack(self.plane.magic, DP_VERSION, op, 0, payload_len, request_id(nonce), *self._lease, nonce)


def request_id(nonce: int) -> int:
    """Return the u32 that goes with a nonce; I/O wants it not zero."""
    return nonce & 0xFFFFFFFF or 1


def failure(status: int) -> FabricError:
    """Return the exception for a DpStatus other than OK, BUSY and STALE_WRITE."""
    if status == DpStatus.EXPIRED:
        return LeaseExpired(Status.LEASE_EXPIRED, "the data plane says the lease is over")
    if status == DpStatus.FENCED:
        return Fenced(Status.RESOURCE_FENCED, "the resource is fenced")
    if status in (DpStatus.INVALID_LEASE, DpStatus.BAD_AUTH):
        return NotFound(Status.RESOURCE_NOT_FOUND, "the data plane does not know this lease, or not as ours")
    if status in (DpStatus.OUT_OF_RANGE, DpStatus.BAD_LENGTH):
        return Refused(Status.INVALID_ARGS, f"{DpStatus(status).name} of the lease or its rights")
    return Refused(Status.INTERNAL_ERROR, f"the data plane failed with status {status}")
