"""From datagrams to their answers: what FBMU and FBBU share (D10).

The order of checks is D10's: header, lease, tag, window, state here; length, rights and range, write order in the
plane's operations (transfers.py). Up to the window a datagram that fails draws no answer and is counted by its reason.

A datagram that came alone goes straight through. Many neighbours in a train that have op, lease and length in common
(trains.Run) take each check together, which costs them less than two thirds: in CPython a call or an attribute costs as
much as the check behind it. State and end of their lease are looked at once for all. Who ends a lease waits for the
batch (ServerProcess.quiesce), so nothing is answered later.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from hmac import compare_digest
from itertools import chain, groupby, repeat
from operator import add, itemgetter

from fabricbios.dataplane.counters import DropReason
from fabricbios.dataplane.leases import Lease, Leases
from fabricbios.dataplane.operations import Asked, PlaneServer, Row, head_of, row_of
from fabricbios.dataplane.tally import Tally
from fabricbios.dataplane.trains import HEADER, RANGE, Run, Train, numbers, pieces, runs

_length = struct.Struct(">I").pack
_MANY = 8
"""Datagrams from which on it pays to look at them together."""
_HEAD, _REPEATED, _TAG = 8, 12, HEADER - 16
"""Where of a datagram payload_len, what an answer repeats, and auth_tag begin."""


class Responder:
    """Answers datagrams of at most `limit` bytes out of `leases`; `clock` is CLOCK_BOOTTIME in ns."""

    def __init__(self, server: PlaneServer, leases: Leases, tally: Tally, clock: Callable[[], int], limit: int) -> None:
        self._server, self._leases, self._tally, self._clock, self._limit = server, leases, tally, clock, limit
        self._plane = int(server.plane)
        self._rows = {head_of(server.magic, op.question): row_of(server.magic, op) for op in server.operations()}
        tally.publish_also(leases.publish)

    def answer(self, trains: Iterable[Train]) -> list[Train]:
        """Return the answers to the trains of a batch."""
        answers: list[list[Train]] = []
        for data, size, origin in trains:
            if not HEADER <= size <= self._limit:
                self._drop(DropReason.MALFORMED, Train(data, size, origin).length)
            elif len(data) < _MANY * size:
                self._one_by_one(data, size, origin, answers)
            else:
                self._by_runs(data, size, origin, answers)
        for number in self._server.settle():
            self._drop(DropReason.INTERNAL, sum(train.length for train in answers[number]))
            answers[number] = []
        return answers[0] if len(answers) == 1 else _coupled(chain.from_iterable(answers))

    def _by_runs(self, data: bytes, size: int, origin: int, answers: list[list[Train]]) -> None:
        for run in runs(data, size):
            if len(run.nonces) < _MANY:
                self._one_by_one(run.data, size, origin, answers)
            else:
                answers.append(self._together(len(answers), size, origin, run))

    def _one_by_one(self, data: bytes, size: int, origin: int, answers: list[list[Train]]) -> None:
        for at in range(0, len(data), size):
            answers.append(self._alone(len(answers), data[at : at + size], origin))

    def _alone(self, number: int, data: bytes, origin: int) -> list[Train]:
        """Answer one datagram."""
        front, request_id, lease_id, nonce, first, second = numbers(data)
        row = self._row(front, len(data))
        if (
            row is None
            or not nonce
            or (row.is_io and not request_id)
            or (row.names_lease and data[HEADER : row.end] != lease_id)
        ):
            return self._drop(DropReason.MALFORMED)
        lease = self._lease(lease_id)
        if lease is None:
            return []
        end = row.end or len(data)
        covered = data[_HEAD:_TAG] + data[HEADER : end if lease.has_own_tags else row.covered]
        if not compare_digest(lease.tag_after(front[:_HEAD], covered), data[_TAG:HEADER]):
            return self._drop(DropReason.BAD_TAG)
        reason = lease.window.take(nonce)
        if reason is not None:
            return self._drop(reason)
        self._count(row, lease, 1)
        if not lease.is_open(self._clock()):
            return _sealed_alone(lease, row.refusal, data, self._refusal(row, lease, 1), origin)
        payload = row.serve(lease, number, nonce, first, second, data[HEADER + RANGE : end])
        return _sealed_alone(lease, row.answer, data, payload, origin)

    def _together(self, number: int, size: int, origin: int, run: Run) -> list[Train]:
        """Answer the datagrams of a run."""
        row = self._row(run.front, size)
        if row is None:
            return self._drop(DropReason.MALFORMED, len(run.nonces))
        asked = self._well_formed(row, size, run)
        lease = self._lease(run.lease_id, len(asked.nonces))
        if lease is None:
            return []
        asked = self._fresh(lease, self._authentic(lease, run.front, asked))
        count = len(asked.nonces)
        if not count:
            return []
        self._count(row, lease, count)
        if not lease.is_open(self._clock()):
            return _sealed(lease, row.refusal, asked, [self._refusal(row, lease, count)] * count, origin)
        return _sealed(lease, row.answer, asked, row.serve_all(lease, number, asked), origin)

    def _row(self, front: bytes, size: int) -> Row | None:
        """Return what a datagram of `size` bytes asks for; None if it has not the header or the length for that."""
        row = self._rows.get(front[:_HEAD])
        return None if row is None or front[_HEAD:] != _length(size - HEADER) or size < row.shortest else row

    def _lease(self, lease_id: bytes, count: int = 1) -> Lease | None:
        """Return the lease that `count` questions name; None if they are dropped."""
        lease = self._leases.find(lease_id)
        if lease is not None and lease.plane == self._plane:
            return lease
        self._drop(DropReason.UNKNOWN_LEASE if lease is None else DropReason.WRONG_PLANE, count)
        return None

    def _well_formed(self, row: Row, size: int, run: Run) -> Asked:
        """Return the questions of a run that D10's rules for single fields let pass."""
        asked = Asked(run.nonces, run.firsts, run.seconds, *pieces(run.data, size, row.covered, row.end or size))
        has_ids = not row.is_io or 0 not in run.request_ids
        names_lease = not row.names_lease or asked.data.count(run.lease_id) == len(asked.data)
        if has_ids and names_lease and 0 not in run.nonces:
            return asked
        passed = [
            bool(nonce and (request_id or not row.is_io) and (named == run.lease_id or not row.names_lease))
            for nonce, request_id, named in zip(run.nonces, run.request_ids, asked.data, strict=True)
        ]
        self._drop(DropReason.MALFORMED, passed.count(False))
        return asked.only(passed)

    def _authentic(self, lease: Lease, front: bytes, asked: Asked) -> Asked:
        """Return the questions with the right tags, which are compared in constant time: all at once, or each."""
        covered = map(add, asked.repeated, asked.covered)
        tags = lease.tags_after(front, map(add, covered, asked.data) if lease.has_own_tags else covered)
        if compare_digest(b"".join(tags), b"".join(asked.tags)):
            return asked
        passed = list(map(compare_digest, tags, asked.tags))
        self._drop(DropReason.BAD_TAG, passed.count(False))
        return asked.only(passed)

    def _fresh(self, lease: Lease, asked: Asked) -> Asked:
        """Return the questions that the window lets pass."""
        reasons = lease.window.take_all(asked.nonces)
        if reasons.count(None) == len(reasons):
            return asked
        for reason in reasons:
            if reason is not None:
                self._drop(reason)
        return asked.only([reason is None for reason in reasons])

    def _refusal(self, row: Row, lease: Lease, count: int) -> bytes:
        """Return the payload that answers for a lease that is not open, or is over, and count it."""
        status = lease.refusal()
        self._tally.statuses[status] += count
        lease.count_rejects(count)
        return row.refuse(status)

    def _count(self, row: Row, lease: Lease, count: int) -> None:
        """Count authentic questions."""
        self._tally.requests[row.counted] += count
        if not lease.touched:
            self._leases.touch(lease)

    def _drop(self, reason: DropReason, count: int = 1) -> list[Train]:
        """Count datagrams that draw no answer; return it."""
        self._tally.drops[reason] += count
        return []


def _sealed_alone(lease: Lease, head: bytes, question: bytes, payload: bytes, origin: int) -> list[Train]:
    """Return one answer. HMAC_HEADER repeats the question's tag."""
    answered = _length(len(payload)) + question[_REPEATED:_TAG]
    tag = lease.tag_after(head, answered + payload) if lease.has_own_tags else question[_TAG:HEADER]
    return [Train(head + answered + tag + payload, HEADER + len(payload), origin)]


def _sealed(lease: Lease, head: bytes, asked: Asked, payloads: Sequence[bytes], origin: int) -> list[Train]:
    """Return the answers of a run as trains: neighbours of one length together."""
    trains: list[Train] = []
    start = 0
    for length, alike in groupby(payloads, len):
        some, front = list(alike), head + _length(length)
        these = slice(start, start + len(some))
        repeated, tags = asked.repeated[these], asked.tags[these]
        made = lease.tags_after(front, map(add, repeated, some)) if lease.has_own_tags else tags
        answers = b"".join(chain.from_iterable(zip(repeat(front), repeated, made, some, strict=False)))
        trains.append(Train(answers, HEADER + length, origin))
        start += len(some)
    return trains


def _coupled(trains: Iterable[Train]) -> list[Train]:
    """Return neighbours of one length to one asker as one train."""
    return [
        Train(b"".join([train.data for train in alike]), size, origin)
        for (size, origin), alike in groupby(trains, itemgetter(1, 2))
    ]
