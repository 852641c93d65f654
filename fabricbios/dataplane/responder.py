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
from fabricbios.dataplane.slots import Plane, SlotState
from fabricbios.dataplane.tally import Tally
from fabricbios.model import DpOp, DpStatus

_unpack = struct.Struct(">16sQII16sQQI").unpack_from
"""A buffer of batch.py: auth_tag, then magic .. flags as one number, payload_len, request_id, lease_id, nonce
of the header, then the two parameters that READ, WRITE and their BLOCK forms begin with."""
_pack_answer = struct.Struct(">QI").pack_into  # magic .. flags, payload_len; the rest of the header is the question's
PAYLOAD = TAG_BYTES + HEAD_BYTES
"""Where a payload begins in a buffer."""
_TWO_PARAMETERS = 12
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


_Row = tuple[CountedOp, int, bool, bool, int, int | None, Serve, int, Refuse, int]


def _row(magic: bytes, op: Operation) -> _Row:
    """Return an operation as the path of a datagram wants it: a tuple to unpack, plain numbers, whole heads.

    HELLO's payload repeats the header's lease_id. Under a full tag None stands for the whole payload.
    """
    return (
        COUNTED_OPS[op.question],
        op.parameters,
        op.is_io,
        op.question == DpOp.HELLO,
        _TWO_PARAMETERS if op.is_io else 0,
        None if op.carries_data else op.parameters,
        op.serve,
        head_of(magic, op.answer),
        op.refuse,
        head_of(magic, op.refusal),
    )


# Enum members cost a lookup each time they are named: on the path of a datagram they have names of their own.
_MALFORMED, _UNKNOWN, _WRONG_PLANE, _BAD_TAG = (
    DropReason.MALFORMED,
    DropReason.UNKNOWN_LEASE,
    DropReason.WRONG_PLANE,
    DropReason.BAD_TAG,
)
_ACTIVE = SlotState.ACTIVE


class Responder:
    """Answers the datagrams in the buffers of `batch` out of `leases`; `clock` is CLOCK_BOOTTIME in ns."""

    def __init__(
        self, server: PlaneServer, batch: Batch, leases: Leases, tally: Tally, clock: Callable[[], int]
    ) -> None:
        self._rows = {head_of(server.magic, op.question): _row(server.magic, op) for op in server.operations()}
        tally.publish_also(leases.publish)
        self._plane, self._find, self._touch, self._words = server.plane, leases.find, leases.touch, leases.words
        self._tally, self._clock = tally, clock
        self._arena, self._view, self._limit = batch.arena, memoryview(batch.arena), batch.limit
        starts = range(TAG_BYTES, len(batch.arena), STRIDE)
        self._short_messages = [self._view[at : at + HEAD_BYTES + _TWO_PARAMETERS] for at in starts]

    def respond(self, b: int, n: int) -> int:
        """Turn the datagram of n bytes in buffer b into its answer; return its payload's length, or -1 for none."""
        at = b * STRIDE
        tag, head, payload_len, request_id, lease_id, nonce, first, second = _unpack(self._arena, at)
        row = self._rows.get(head)
        if row is None or payload_len + HEADER != n or n > self._limit or not nonce:
            return self._tally.drop(_MALFORMED)
        counted, parameters, is_io, names_lease, by_header, covered, serve, answer, refuse, refusal = row
        if payload_len < parameters or (is_io and not request_id):
            return self._tally.drop(_MALFORMED)
        if names_lease and self._arena[at + PAYLOAD : at + PAYLOAD + 16] != lease_id:
            return self._tally.drop(_MALFORMED)
        lease = self._find(lease_id)
        if lease is None:
            return self._tally.drop(_UNKNOWN)
        if lease.plane != self._plane:
            return self._tally.drop(_WRONG_PLANE)
        if not lease.has_own_tags:
            covered = by_header
        if covered == _TWO_PARAMETERS:
            message = self._short_messages[b]
        else:
            message = self._view[at + TAG_BYTES : at + PAYLOAD + (payload_len if covered is None else covered)]
        if not compare_digest(lease.tag(message), tag):
            return self._tally.drop(_BAD_TAG)
        reason = lease.window.take(nonce)
        if reason is not None:
            return self._tally.drop(reason)
        self._tally.requests[counted] += 1
        if not lease.touched:
            self._touch(lease)
        words = self._words
        if words[lease.state_at] == _ACTIVE and self._clock() < words[lease.expiry_at]:
            head, length = answer, serve(lease, at, payload_len, nonce, first, second)
        else:
            lease.count_reject()
            head, length = refusal, refuse(at, lease.refusal())
        _pack_answer(self._arena, at + TAG_BYTES, head, length)
        if lease.has_own_tags:  # HMAC_HEADER repeats the question's, which stands there
            self._view[at : at + TAG_BYTES] = lease.tag(self._view[at + TAG_BYTES : at + PAYLOAD + length])
        return length
