"""The short way of an ordinary READ or WRITE of FBMU.

Nearly all questions are alike: in order, about a live lease, within its rights and limits. For those there is one
flat function a lease and op, with all it needs in locals, because in CPython a call or an attribute costs as much
as the check behind it. It changes nothing before it knows that a question is ordinary, and leaves every other one
to the careful way (responder.py, fbmu.py), which alone says what is refused and how.
tests/property/test_express.py holds both ways to the same answers, slots and counters.

A lease is looked at once a batch: what was received together is judged by the state and the clock of the moment
after. Who ends a lease waits for the batch (ServerProcess.quiesce), so nothing is answered later than that.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from hmac import compare_digest

from fabricbios.dataplane.batch import HEAD_BYTES, HEADER, STRIDE, TAG_BYTES, Batch
from fabricbios.dataplane.counters import CountedOp, DropReason
from fabricbios.dataplane.fbmu import LIMITS_BESIDE, Fbmu
from fabricbios.dataplane.leases import Lease, Leases
from fabricbios.dataplane.responder import PAYLOAD, Responder, head_of
from fabricbios.dataplane.tally import Tally
from fabricbios.model import DpOp, DpStatus

_PARAMETERS = 12
_questions = struct.Struct(f">16sQII16sQQI{STRIDE - PAYLOAD - _PARAMETERS}x").iter_unpack
"""Buffers of batch.py one after the other, as responder.py decodes them one by one."""
_read_resp = struct.Struct(
    ">QII16sQQ"
).pack  # the header less its tag, then status OK, reserved and length as one number
_write_resp = struct.Struct(">QII16sQI").pack
_READ_HEAD, _WRITE_HEAD, _STATUS = 8, 12, 4
_READ, _READ_RESP, _WRITE, _WRITE_RESP = (
    head_of(Fbmu.magic, op) for op in (DpOp.READ, DpOp.READ_RESP, DpOp.WRITE, DpOp.WRITE_RESP)
)
_BAD_TAG, _OK = DropReason.BAD_TAG, int(DpStatus.OK)
_A_READ, _A_WRITE = int(CountedOp.READ), int(CountedOp.WRITE)

Way = Callable[[int, memoryview, bytes, int, int, int, int, int], int | None]
"""way(at, covered, tag, payload_len, request_id, nonce, offset, length) answers the question of the buffer at `at`,
whose tag covers `covered` where it covers parameters only, and returns the length of the answer's payload, -1 for
none; None leaves the question as it is."""
Ways = dict[int, Way]
"""By head (responder.head_of)."""


def ways_of(lease_id: bytes, lease: Lease, batch: Batch, tally: Tally) -> Ways:
    """Return the short ways of one lease through the buffers of one batch."""
    return {_READ: _reader(lease_id, lease, batch, tally), _WRITE: _writer(lease_id, lease, batch, tally)}


def _reader(lease_id: bytes, lease: Lease, batch: Batch, tally: Tally) -> Way:
    words, data, tag_of, has_own_tags = lease.words, lease.data, lease.tag, lease.has_own_tags
    highest_at, first_at = lease.window.highest_at, lease.window.first_at
    view, requests, statuses, drop = memoryview(batch.arena), tally.requests, tally.statuses, tally.drop
    end, longest = lease.readable, min(lease.max_read, batch.limit - LIMITS_BESIDE[0])

    def read(
        at: int,
        covered: memoryview,
        tag: bytes,
        payload_len: int,
        request_id: int,
        nonce: int,
        offset: int,
        length: int,
    ) -> int | None:
        if not 0 < length <= longest or offset + length > end or payload_len < _PARAMETERS or not request_id:
            return None
        mark, bits = first_at + (nonce >> 3 & 127), nonce >> 10 << 8 | 1 << (nonce & 7)
        word = words[mark]
        if nonce <= words[highest_at] or word >= bits:
            return None
        if not compare_digest(tag_of(covered), tag):
            return drop(_BAD_TAG)
        words[mark] = bits | word if word ^ bits < 256 else bits
        words[highest_at] = nonce
        requests[_A_READ] += 1
        statuses[_OK] += 1
        lease.reads += 1
        lease.bytes += length
        tally.bytes_read += length
        answer = _read_resp(_READ_RESP, _READ_HEAD + length, request_id, lease_id, nonce, length)
        answer += data[offset : offset + length]
        view[at : at + PAYLOAD + _READ_HEAD + length] = (tag_of(answer) if has_own_tags else tag) + answer
        return _READ_HEAD + length

    return read


def _writer(lease_id: bytes, lease: Lease, batch: Batch, tally: Tally) -> Way:
    words, data, tag_of, has_own_tags = lease.words, lease.data, lease.tag, lease.has_own_tags
    highest_at, first_at, write_mark_at = lease.window.highest_at, lease.window.first_at, lease.write_mark_at
    view, requests, statuses, drop = memoryview(batch.arena), tally.requests, tally.statuses, tally.drop
    end, longest = lease.writable, lease.max_write

    def write(
        at: int,
        covered: memoryview,
        tag: bytes,
        payload_len: int,
        request_id: int,
        nonce: int,
        offset: int,
        length: int,
    ) -> int | None:
        if not 0 < length <= longest or offset + length > end or payload_len != _WRITE_HEAD + length or not request_id:
            return None
        mark, bits = first_at + (nonce >> 3 & 127), nonce >> 10 << 8 | 1 << (nonce & 7)
        word = words[mark]
        if nonce <= words[highest_at] or word >= bits:  # above the highest is above the write mark too
            return None
        stop = at + PAYLOAD + payload_len
        if not compare_digest(tag_of(view[at + TAG_BYTES : stop] if has_own_tags else covered), tag):
            return drop(_BAD_TAG)
        words[mark] = bits | word if word ^ bits < 256 else bits
        words[highest_at] = words[write_mark_at] = nonce
        requests[_A_WRITE] += 1
        statuses[_OK] += 1
        lease.writes += 1
        lease.bytes += length
        tally.bytes_written += length
        data[offset : offset + length] = view[stop - length : stop]
        answer = _write_resp(_WRITE_RESP, _STATUS, request_id, lease_id, nonce, 0)
        view[at : at + PAYLOAD + _STATUS] = (tag_of(answer) if has_own_tags else tag) + answer
        return _STATUS

    return write


class MemoryChannel:
    """One socket of the memory plane with its buffers, and who answers what comes in."""

    def __init__(self, batch: Batch, leases: Leases, tally: Tally, clock: Callable[[], int]) -> None:
        self.batch = batch
        self._leases, self._tally, self._clock = leases, tally, clock
        self._respond = Responder(Fbmu(batch, tally), batch, leases, tally, clock).respond
        starts = range(0, len(batch.arena), STRIDE)
        view, covered = memoryview(batch.arena), HEAD_BYTES + _PARAMETERS
        self._places = [(at, view[at + TAG_BYTES :][:covered]) for at in starts]
        self._built: dict[Lease, Ways] = {}
        self._entered: dict[bytes, Ways] = {}

    def serve(self, tally: Tally) -> int:
        """Answer what is there now; return how many datagrams that were."""
        tally.begin_batch()
        n = self.batch.receive()
        tally.drops[DropReason.INTERNAL] += self.batch.send(self.answer(self.batch.lengths(n)))
        tally.end_batch()
        return n

    def answer(self, sizes: list[int]) -> list[int]:
        """Answer in place the datagrams of so many bytes in the first buffers; return what Batch.send wants."""
        entered, now, limit, answers = self._entered, self._clock(), self.batch.limit, []
        entered.clear()
        for size, (at, covered), question in zip(sizes, self._places, _questions(self.batch.arena), strict=False):
            tag, head, payload_len, request_id, lease_id, nonce, first, second = question
            ways = entered.get(lease_id)
            if ways is None:
                ways = self._enter(lease_id, now)
            answer, way = None, ways.get(head)
            if way is not None and payload_len + HEADER == size <= limit:
                answer = way(at, covered, tag, payload_len, request_id, nonce, first, second)
            answers.append(self._respond(at // STRIDE, size) if answer is None else answer)
        return answers

    def _enter(self, lease_id: bytes, now: int) -> Ways:
        """Return the ways of a lease in this batch: none for one that is not here, not open, or over."""
        lease = self._leases.find(lease_id)
        found: Ways = {}
        if lease is not None and lease.plane == Fbmu.plane and lease.is_open(now):
            found = self._built.get(lease) or self._build(lease_id, lease)
            if not lease.touched:
                self._leases.touch(lease)
        self._entered[lease_id] = found
        return found

    def _build(self, lease_id: bytes, lease: Lease) -> Ways:
        if len(self._built) >= self._leases.slots:
            self._built.clear()  # of leases that ended
        self._built[lease] = built = ways_of(lease_id, lease, self.batch, self._tally)
        return built
