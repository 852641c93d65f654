"""From datagrams to their answers: what FBMU and FBBU share (D10).

The order of checks is D10's: header, lease, tag, window, state here; length, rights and range, write order in the
plane's operations (transfers.py). Up to the window a datagram that fails draws no answer and is counted by its reason.

What neighbours in a train have in common is looked at once for all of them (trains.Run), which goes for the state and
the end of their lease too. Who ends a lease waits for the batch (ServerProcess.quiesce), so nothing is answered later.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Set
from hmac import compare_digest
from itertools import chain, groupby
from typing import NamedTuple, Protocol

from fabricbios.dataplane.counters import COUNTED_OPS, DropReason
from fabricbios.dataplane.leases import Lease, Leases
from fabricbios.dataplane.slots import Plane
from fabricbios.dataplane.tally import Tally
from fabricbios.dataplane.trains import HEADER, RANGE, Run, Train, runs
from fabricbios.model import DpOp, DpStatus

_length = struct.Struct(">I").pack
_VERSION = 1

Serve = Callable[[Lease, int, int, int, int, bytes], bytes]
"""serve(lease, run, nonce, first, second, payload) carries out a question for a lease that is open and returns the
payload of its answer. `run` counts the runs of a batch, `payload` is without padding."""


class Operation(NamedTuple):
    """One op of a plane. `parameters` counts the payload bytes that it cannot do without."""

    question: DpOp
    answer: DpOp
    refusal: DpOp
    parameters: int
    is_io: bool  # begins with two parameters, which HMAC_HEADER covers, and has a request_id
    carries_data: bool  # nothing of the payload is padding
    serve: Serve
    refuse: Callable[[DpStatus], bytes]
    """Return the payload of a refusal."""


class PlaneServer(Protocol):
    """A plane: its magic, its number in the slots, what it does for the runs of one batch after the other."""

    magic: bytes
    plane: Plane

    def operations(self) -> tuple[Operation, ...]:
        """Return what this plane answers."""

    def settle(self) -> Set[int]:
        """Make what the runs since the last call did as durable as it must be; return the numbers of those whose
        answers must not be sent because that failed."""


def head_of(magic: bytes, op: DpOp) -> bytes:
    """Return magic, version, op and flags (zero) as they are on the wire."""
    return magic + bytes((_VERSION, op, 0, 0))


class _Row(NamedTuple):
    """An operation as a run wants it, with whole heads."""

    operation: Operation
    counted: int
    answer: bytes
    refusal: bytes


class Responder:
    """Answers datagrams of at most `limit` bytes out of `leases`; `clock` is CLOCK_BOOTTIME in ns."""

    def __init__(self, server: PlaneServer, leases: Leases, tally: Tally, clock: Callable[[], int], limit: int) -> None:
        self._server, self._leases, self._tally, self._clock, self._limit = server, leases, tally, clock, limit
        self._rows = {
            head_of(server.magic, op.question): _Row(
                op, COUNTED_OPS[op.question], head_of(server.magic, op.answer), head_of(server.magic, op.refusal)
            )
            for op in server.operations()
        }
        tally.publish_also(leases.publish)

    def answer(self, trains: Iterable[Train]) -> list[Train]:
        """Return the answers to the trains of a batch."""
        answers: list[list[Train]] = []
        for train in trains:
            if HEADER <= train.size <= self._limit:
                for run in runs(train):
                    answers.append(_coupled(self._answer(len(answers), run), train.origin))
            else:
                self._drop(DropReason.MALFORMED, train.length)
        for number in self._server.settle():
            self._drop(DropReason.INTERNAL, sum(train.length for train in answers[number]))
            answers[number] = []
        return list(chain.from_iterable(answers))

    def _answer(self, number: int, run: Run) -> list[bytes]:
        row = self._rows.get(run.head)
        if row is None or run.payload_len + HEADER != run.size or run.payload_len < row.operation.parameters:
            self._drop(DropReason.MALFORMED, len(run.numbers))
            return []
        lease = self._leases.find(run.lease_id)
        if lease is None or lease.plane != self._server.plane:
            reason = DropReason.UNKNOWN_LEASE if lease is None else DropReason.WRONG_PLANE
            for _ in _well_formed(row.operation, run, self._drop):
                self._drop(reason)
            return []
        is_open = lease.is_open(self._clock())
        answers = self._answers(row if is_open else _refusing(row, lease.refusal()), lease, number, run)
        if not is_open:
            self._tally.statuses[lease.refusal()] += len(answers)
            lease.count_rejects(len(answers))
        self._tally.requests[row.counted] += len(answers)
        if not lease.touched:
            self._leases.touch(lease)
        return answers

    def _answers(self, row: _Row, lease: Lease, number: int, run: Run) -> list[bytes]:
        """Take each question through tag and window to its answer. All that is the same for all is in locals: in
        CPython an attribute or a call costs as much as the check behind it."""
        op, head, serve, has_own_tags = row.operation, row.answer, row.operation.serve, lease.has_own_tags
        tag_after, asked_head, asked_length, take = (
            lease.tag_after,
            run.head,
            _length(run.payload_len),
            lease.window.take,
        )
        covered = None if has_own_tags else RANGE if op.is_io else 0
        answers = []
        for repeated, tag, nonce, first, second, payload in _well_formed(op, run, self._drop):
            if not compare_digest(tag_after(asked_head, asked_length + repeated + payload[:covered]), tag):
                self._drop(DropReason.BAD_TAG)
                continue
            reason = take(nonce)
            if reason is not None:
                self._drop(reason)
                continue
            answer = serve(lease, number, nonce, first, second, payload)
            front = _length(len(answer)) + repeated
            if has_own_tags:  # HMAC_HEADER repeats the question's
                tag = tag_after(head, front + answer)
            answers.append(head + front + tag + answer)
        return answers

    def _drop(self, reason: DropReason, count: int = 1) -> None:
        self._tally.drops[reason] += count


_Question = tuple[bytes, bytes, int, int, int, bytes]
"""What an answer repeats, auth_tag, nonce, the two parameters, payload."""


def _well_formed(op: Operation, run: Run, drop: Callable[[DropReason], None]) -> Iterator[_Question]:
    """Yield the questions of a run that D10's rules for single fields let pass."""
    is_io, names_lease, lease_id = op.is_io, op.question == DpOp.HELLO, run.lease_id
    parts = run.parts(run.payload_len if op.carries_data else op.parameters)
    for (_, request_id, _, nonce, first, second), (repeated, tag, payload) in zip(run.numbers, parts, strict=True):
        if not nonce or (is_io and not request_id) or (names_lease and payload != lease_id):
            drop(DropReason.MALFORMED)
        else:
            yield repeated, tag, nonce, first, second, payload


def _refusing(row: _Row, status: DpStatus) -> _Row:
    """Return an operation as a lease has it that is not open, or is over."""
    payload = row.operation.refuse(status)
    return row._replace(answer=row.refusal, operation=row.operation._replace(serve=lambda *_: payload))


def _coupled(answers: list[bytes], origin: int) -> list[Train]:
    """Return answers as trains: neighbours of one length together."""
    if len(answers) == 1:
        return [Train(answers[0], len(answers[0]), origin)]
    return [Train(b"".join(alike), size, origin) for size, alike in groupby(answers, len)]
