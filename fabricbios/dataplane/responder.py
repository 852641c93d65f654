"""From a datagram to its answer, in place: what FBMU and FBBU share (D10).

The order of checks is D10's: header, lease, tag, window, state here; length, rights and range, write
order in the plane's operations. Up to the window a datagram that fails draws no answer and is counted
by its reason.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from hmac import compare_digest
from typing import NamedTuple, Protocol

from fabricbios.dataplane.batch import HEAD_BYTES, HEADER, STRIDE, TAG_BYTES, Batch
from fabricbios.dataplane.counters import COUNTED_OPS, CountedOp, DropReason
from fabricbios.dataplane.leases import Lease, Leases
from fabricbios.dataplane.slots import Plane
from fabricbios.dataplane.tally import Tally
from fabricbios.model import DpAuth, DpOp, DpStatus

_QUESTION = struct.Struct(">16sQII16sQQI")
"""A buffer of batch.py: auth_tag, then magic .. flags as one number, payload_len, request_id, lease_id, nonce
of the header, then the two parameters that READ, WRITE and their BLOCK forms begin with."""
_ANSWER = struct.Struct(">QI")  # magic .. flags, payload_len; the rest of the header is the question's
PAYLOAD = TAG_BYTES + HEAD_BYTES
"""Where a payload begins in a buffer."""
_PARAMETERS_UNDER_HEADER_TAG = 12
_VERSION = 1

Serve = Callable[[Lease, int, int, int, int, int], int]
"""serve(lease, at, payload_len, nonce, first, second) carries out the question of the buffer at `at`, writes the
answer's payload there and returns its length."""
Refuse = Callable[[int, DpStatus], int]
"""refuse(at, status) writes the payload of a refusal there and returns its length."""


class Operation(NamedTuple):
    """One op of a plane. `parameters` counts the payload bytes that it cannot do without."""

    question: DpOp
    answer: DpOp
    refusal: DpOp
    parameters: int
    is_io: bool  # begins with two parameters, which HMAC_HEADER covers, and has a request_id
    carries_data: bool  # nothing of the payload is padding
    serve: Serve
    refuse: Refuse


class PlaneServer(Protocol):
    """A plane: its magic, its number in the slots, what it does with the buffers of one batch."""

    magic: bytes
    plane: Plane

    def operations(self) -> tuple[Operation, ...]:
        """Return what this plane answers."""


def head_of(magic: bytes, op: DpOp) -> int:
    """Return magic, version, op and flags (zero) as the number that they are on the wire."""
    return int.from_bytes(magic + bytes((_VERSION, op, 0, 0)), "big")


class _Row(NamedTuple):
    """An operation as the path of a datagram wants it."""

    counted: CountedOp
    parameters: int
    is_io: bool
    names_lease: bool  # HELLO: its payload repeats the header's lease_id
    under_header_tag: int
    under_full_tag: int | None  # None: all
    serve: Serve
    answer: int
    refuse: Refuse
    refusal: int


def _row(magic: bytes, op: Operation) -> _Row:
    return _Row(
        COUNTED_OPS[op.question],
        op.parameters,
        op.is_io,
        op.question == DpOp.HELLO,
        _PARAMETERS_UNDER_HEADER_TAG if op.is_io else 0,
        None if op.carries_data else op.parameters,
        op.serve,
        head_of(magic, op.answer),
        op.refuse,
        head_of(magic, op.refusal),
    )


class Responder:
    """Answers the datagrams in the buffers of `batch` out of `leases`; `clock` is CLOCK_BOOTTIME in ns."""

    def __init__(
        self, server: PlaneServer, batch: Batch, leases: Leases, tally: Tally, clock: Callable[[], int]
    ) -> None:
        self._rows = {head_of(server.magic, op.question): _row(server.magic, op) for op in server.operations()}
        self._plane, self._leases, self._tally, self._clock = server.plane, leases, tally, clock
        self._arena, self._view, self._limit = batch.arena, memoryview(batch.arena), batch.limit

    def respond(self, b: int, n: int) -> int:
        """Turn the datagram of n bytes in buffer b into its answer; return its payload's length, or -1 for none."""
        at = b * STRIDE
        tag, head, payload_len, request_id, lease_id, nonce, first, second = _QUESTION.unpack_from(self._arena, at)
        row = self._rows.get(head)
        if row is None or payload_len + HEADER != n or n > self._limit or not nonce:
            return self._tally.drop(DropReason.MALFORMED)
        if payload_len < row.parameters or (row.is_io and not request_id):
            return self._tally.drop(DropReason.MALFORMED)
        if row.names_lease and self._arena[at + PAYLOAD : at + PAYLOAD + 16] != lease_id:
            return self._tally.drop(DropReason.MALFORMED)
        lease = self._leases.find(lease_id)
        if lease is None:
            return self._tally.drop(DropReason.UNKNOWN_LEASE)
        if lease.plane != self._plane:
            return self._tally.drop(DropReason.WRONG_PLANE)
        if not compare_digest(lease.tag(self._covered(row, lease, at, payload_len)), tag):
            return self._tally.drop(DropReason.BAD_TAG)
        reason = lease.window.take(nonce)
        if reason is not None:
            return self._tally.drop(reason)
        self._tally.requests[row.counted] += 1
        status = lease.status(self._clock())
        if status:
            lease.count_reject()
            return self._seal(lease, at, row.refusal, row.refuse(at, status))
        return self._seal(lease, at, row.answer, row.serve(lease, at, payload_len, nonce, first, second))

    def _covered(self, row: _Row, lease: Lease, at: int, payload_len: int) -> memoryview:
        """Return the M of a question (D10): the header without its tag, then what of the payload the mode covers."""
        covered = row.under_header_tag if lease.auth == DpAuth.HMAC_HEADER else row.under_full_tag
        return self._view[at + TAG_BYTES : at + PAYLOAD + (payload_len if covered is None else covered)]

    def _seal(self, lease: Lease, at: int, head: int, payload_len: int) -> int:
        """Finish an answer: its header, and its own tag where the mode has one; HMAC_HEADER repeats the question's."""
        _ANSWER.pack_into(self._arena, at + TAG_BYTES, head, payload_len)
        if lease.auth != DpAuth.HMAC_HEADER:
            self._view[at : at + TAG_BYTES] = lease.tag(self._view[at + TAG_BYTES : at + PAYLOAD + payload_len])
        return payload_len
