"""From datagrams to their answers: what FBMU and FBBU share (D10).

The order of checks is D10's: header, lease, tag, window, state here; length, rights and range, write order in the
plane's operations (transfers.py). Up to the window a datagram that fails draws no answer and is counted by its reason.

What neighbours in a train have in common is looked at once for all of them (trains.Run), which goes for the state and
the end of their lease too. Who ends a lease waits for the batch (ServerProcess.quiesce), so nothing is answered later.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Set
from hmac import compare_digest
from itertools import chain, groupby
from typing import NamedTuple, Protocol

from fabricbios.dataplane.counters import COUNTED_OPS, DropReason
from fabricbios.dataplane.leases import Lease, Leases
from fabricbios.dataplane.slots import Plane
from fabricbios.dataplane.tally import Tally
from fabricbios.dataplane.trains import HEADER, RANGE, Run, Train, questions, runs
from fabricbios.model import DpOp, DpStatus

_length = struct.Struct(">I").pack
_VERSION = 1

Serve = Callable[[Lease, int, int, int, int, bytes], bytes]
"""serve(lease, run, nonce, first, second, data) carries out a question for a lease that is open and returns the
payload of its answer. `run` counts the runs of a batch, `data` is what follows the two parameters, without padding."""


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
    """An operation as a run wants it: plain numbers, whole heads. `covered` bytes of payload are under every tag."""

    counted: int
    parameters: int
    is_io: bool
    names_lease: bool
    carries_data: bool
    covered: int
    serve: Serve
    answer: bytes
    refusal: bytes
    refuse: Callable[[DpStatus], bytes]


def _row(magic: bytes, op: Operation) -> _Row:
    """HELLO's payload repeats the header's lease_id."""
    return _Row(
        int(COUNTED_OPS[op.question]),
        op.parameters,
        op.is_io,
        op.question == DpOp.HELLO,
        op.carries_data,
        RANGE if op.is_io else 0,
        op.serve,
        head_of(magic, op.answer),
        head_of(magic, op.refusal),
        op.refuse,
    )


_Question = tuple[bytes, bytes, int, int, int, bytes, bytes]
"""What an answer repeats, auth_tag, nonce, the two parameters as numbers, the payload that every tag covers, and what
only a full tag covers."""


class Responder:
    """Answers datagrams of at most `limit` bytes out of `leases`; `clock` is CLOCK_BOOTTIME in ns."""

    def __init__(self, server: PlaneServer, leases: Leases, tally: Tally, clock: Callable[[], int], limit: int) -> None:
        self._server, self._leases, self._tally, self._clock, self._limit = server, leases, tally, clock, limit
        self._plane = int(server.plane)
        self._rows = {head_of(server.magic, op.question): _row(server.magic, op) for op in server.operations()}
        tally.publish_also(leases.publish)

    def answer(self, trains: Iterable[Train]) -> list[Train]:
        """Return the answers to the trains of a batch."""
        answers: list[list[Train]] = []
        for data, size, origin in trains:
            if HEADER <= size <= self._limit:
                for run in runs(data, size):
                    answers.append(_coupled(self._answer(len(answers), size, run), origin))
            else:
                self._drop(DropReason.MALFORMED, Train(data, size, origin).length)
        for number in self._server.settle():
            self._drop(DropReason.INTERNAL, sum(train.length for train in answers[number]))
            answers[number] = []
        return answers[0] if len(answers) == 1 else list(chain.from_iterable(answers))

    def _answer(self, number: int, size: int, run: Run) -> list[bytes]:
        front, lease_id, numbers, _ = run
        row, payload_len = self._rows.get(front[:8]), size - HEADER
        if row is None or front[8:] != _length(payload_len) or payload_len < row.parameters:
            self._drop(DropReason.MALFORMED, len(numbers))
            return []
        asked = self._well_formed(row, payload_len, run)
        lease = self._leases.find(lease_id)
        if lease is None or lease.plane != self._plane:
            self._drop(DropReason.UNKNOWN_LEASE if lease is None else DropReason.WRONG_PLANE, len(asked))
            return []
        if lease.is_open(self._clock()):
            answers = self._answers(front, row.answer, row.serve, lease, number, asked)
        else:
            answers = self._refusals(front, row, lease, number, asked)
        self._tally.requests[row.counted] += len(answers)
        if not lease.touched:
            self._leases.touch(lease)
        return answers

    def _well_formed(self, row: _Row, payload_len: int, run: Run) -> list[_Question]:
        """Return the questions of a run that D10's rules for single fields let pass."""
        _, lease_id, numbers, data = run
        _, parameters, is_io, names_lease, carries_data, covered, *_ = row
        further = (payload_len if carries_data else parameters) - covered
        passed = [
            (repeated, tag, nonce, first, second, short, rest)
            for (_, request_id, _, nonce, first, second), (repeated, tag, short, rest) in questions(
                numbers, data, covered, further
            )
            if nonce and (request_id or not is_io) and not (names_lease and rest != lease_id)
        ]
        if len(passed) != len(numbers):
            self._drop(DropReason.MALFORMED, len(numbers) - len(passed))
        return passed

    def _answers(
        self, front: bytes, head: bytes, serve: Serve, lease: Lease, number: int, asked: list[_Question]
    ) -> list[bytes]:
        """Take each question through tag and window to its answer. All that is the same for all is in locals: in
        CPython an attribute or a call costs as much as the check behind it."""
        asked_head, asked_length, has_own_tags = front[:8], front[8:], lease.has_own_tags
        tag_after, take, answers = lease.tag_after, lease.window.take, []
        for repeated, tag, nonce, first, second, parameters, data in asked:
            message = asked_length + repeated + parameters
            if not compare_digest(tag_after(asked_head, message + data if has_own_tags else message), tag):
                self._drop(DropReason.BAD_TAG)
                continue
            reason = take(nonce)
            if reason is not None:
                self._drop(reason)
                continue
            answer = serve(lease, number, nonce, first, second, data)
            answered = _length(len(answer)) + repeated
            if has_own_tags:  # HMAC_HEADER repeats the question's
                tag = tag_after(head, answered + answer)
            answers.append(head + answered + tag + answer)
        return answers

    def _refusals(self, front: bytes, row: _Row, lease: Lease, number: int, asked: list[_Question]) -> list[bytes]:
        """Return the answers of a lease that is not open, or is over."""
        status = lease.refusal()
        payload = row.refuse(status)
        answers = self._answers(front, row.refusal, lambda *_: payload, lease, number, asked)
        self._tally.statuses[status] += len(answers)
        lease.count_rejects(len(answers))
        return answers

    def _drop(self, reason: DropReason, count: int = 1) -> None:
        self._tally.drops[reason] += count


def _coupled(answers: list[bytes], origin: int) -> list[Train]:
    """Return answers as trains: neighbours of one length together."""
    if len(answers) == 1:
        return [Train(answers[0], len(answers[0]), origin)]
    return [Train(b"".join(alike), size, origin) for size, alike in groupby(answers, len)]
