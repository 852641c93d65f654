"""The histograms of `fabricbios trace`: their buckets, and how a user-space server fills them."""

import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise

from fbmu_rig import coupled
from hypothesis import given
from hypothesis import strategies as st

from fabricbios.dataplane.loop import Channel
from fabricbios.dataplane.slots import Plane
from fabricbios.dataplane.tally import Tally
from fabricbios.dataplane.trace import (
    ANY_LEASE,
    BUCKETS,
    SERIES_COUNT,
    TRACE_PARAMS,
    TRACE_SERIES,
    Outcome,
    TracedOp,
    TracedPlane,
    bucket_of,
    lowest_of,
    series_of,
    summed,
)
from fabricbios.dataplane.trace_server import PAGE_BYTES, ServerTrace, Stopwatch
from fabricbios.dataplane.trains import Train
from fabricbios.model import DpOp

LATE = 1 << 62
Counted = dict[tuple[str, str, str], int]


@given(st.integers(0, 1 << 40))
def test_a_duration_is_in_the_bucket_that_begins_at_or_below_it(ns: int) -> None:
    bucket = bucket_of(ns)
    assert lowest_of(bucket) <= ns
    assert bucket == BUCKETS - 1 or ns < lowest_of(bucket + 1)


def test_buckets_ascend_and_are_an_eighth_wide() -> None:
    bounds = [lowest_of(bucket) for bucket in range(BUCKETS)]
    assert bounds[:17] == list(range(17))
    widths = [(high - low) / low for low, high in pairwise(bounds[8:])]
    assert min(widths) > 0
    assert max(widths) == 1 / 8
    assert [bucket_of(low) for low in bounds] == list(range(BUCKETS))


def test_what_no_bucket_holds_is_in_the_last() -> None:
    assert bucket_of(1 << 63) == BUCKETS - 1


def test_records_of_several_cpus_add_up() -> None:
    first, second = [10, 7, *([0] * BUCKETS)], [20, 15, *([0] * BUCKETS)]
    first[2 + 7] = 1
    second[2 + 7], second[2 + 9] = 1, 2
    series = summed([first, second], series_of(TracedPlane.FBBU, TracedOp.WRITE, Outcome.REFUSED))
    assert series is not None
    assert series[:5] == (TracedPlane.FBBU, TracedOp.WRITE, Outcome.REFUSED, 30, 15)
    assert (series.buckets[7], series.buckets[9], sum(series.buckets)) == (2, 2, 4)
    assert summed([[0] * (2 + BUCKETS)], 0) is None


def counted(trace: ServerTrace) -> Counted:
    """Return how many datagrams each series has, by name."""
    return {(s.plane.name, s.op.name, s.outcome.name): sum(s.buckets) for s in trace.read()}


def header(op: int, lease_id: int, payload: bytes = b"") -> bytes:
    return struct.pack(">4sBBHII16sQ16x", b"FBMU", 1, op, 0, len(payload), 7, lease_id.to_bytes(16, "big"), 1) + payload


class FakeChannel(Channel):
    """Has been asked, and has answered, what it is told: datagrams, answers."""

    def __init__(self, asked: Sequence[bytes], answered: Sequence[bytes]) -> None:
        self.last = coupled(list(asked)), coupled(list(answered))

    def serve(self, tally: Tally) -> None:
        """It has."""


class Watched:
    """A server's stopwatch on a page; its clock makes each batch 100 ns long."""

    def __init__(self, plane: Plane, asked: Sequence[bytes], answered: Sequence[bytes]) -> None:
        page = memoryview(bytearray(PAGE_BYTES))
        self.now, self.trace = 1000, ServerTrace(page)
        self._channel = FakeChannel(asked, answered)
        self.stopwatch = Stopwatch(page, plane, self._clock)

    def _clock(self) -> int:
        self.now += 100
        return self.now

    def serve(self) -> None:
        self.stopwatch.serving()(self._channel, Tally(memoryview(bytearray(1024))))


def test_a_batch_is_counted_datagram_by_datagram() -> None:
    asked = [header(op, 1) for op in (DpOp.READ, DpOp.READ, DpOp.PING, DpOp.PING, DpOp.WRITE, 0x55, DpOp.HELLO)]
    answered = [
        header(DpOp.READ_RESP, 1, bytes(20)), header(DpOp.READ_RESP, 1, b"\3" + bytes(7)),
        header(DpOp.WRITE_RESP, 2, bytes(4)), header(DpOp.PONG, 1), header(DpOp.ERROR, 1, b"\4" + bytes(3)),
        header(DpOp.HELLO_ACK, 1, bytes(20)),
    ]  # fmt: skip
    watched = Watched(Plane.FBBU, [*asked, header(DpOp.WRITE, 2)], answered)
    watched.trace.start(ANY_LEASE, LATE)
    watched.serve()
    assert counted(watched.trace) == {
        ("FBBU", "READ", "ANSWERED"): 1,
        ("FBBU", "READ", "REFUSED"): 1,
        ("FBBU", "WRITE", "ANSWERED"): 1,
        ("FBBU", "PING", "ANSWERED"): 1,
        ("FBBU", "PING", "REFUSED"): 1,
        ("FBBU", "WRITE", "DROPPED"): 1,
        ("FBBU", "OTHER", "DROPPED"): 1,
        ("FBBU", "HELLO", "ANSWERED"): 1,
    }
    assert {(s.sum_ns, s.max_ns, s.buckets.index(1)) for s in watched.trace.read()} == {(100, 100, bucket_of(100))}


def test_one_lease_of_a_batch() -> None:
    watched = Watched(
        Plane.FBMU,
        [header(DpOp.READ, 1), header(DpOp.READ, 2)],
        [header(DpOp.READ_RESP, 1, bytes(9)), header(DpOp.READ_RESP, 2, bytes(9))],
    )
    watched.trace.start((2).to_bytes(16, "big"), LATE)
    watched.serve()
    assert counted(watched.trace) == {("FBMU", "READ", "ANSWERED"): 1}


def test_the_clock_runs_only_while_somebody_watches() -> None:
    watched = Watched(Plane.FBMU, [header(DpOp.READ, 1)], [header(DpOp.READ_RESP, 1, bytes(9))])
    assert watched.stopwatch.serving() is Channel.serve
    watched.trace.start(ANY_LEASE, watched.now + 150)
    assert watched.stopwatch.serving() is not Channel.serve
    assert watched.stopwatch.serving() is Channel.serve  # by now it is over
    watched.trace.extend(LATE)
    watched.serve()
    watched.trace.stop()
    assert watched.stopwatch.serving() is Channel.serve
    assert counted(watched.trace) == {("FBMU", "READ", "ANSWERED"): 1}  # still to be read
    watched.trace.start(ANY_LEASE, LATE)
    assert watched.trace.read() == []


def test_the_page_holds_all_series_aligned() -> None:
    assert TRACE_PARAMS.size + SERIES_COUNT * TRACE_SERIES.size <= PAGE_BYTES
    assert (PAGE_BYTES - SERIES_COUNT * TRACE_SERIES.size) % 8 == 0


def test_another_trace_that_begins_in_the_middle_of_a_batch() -> None:
    watched = Watched(Plane.FBMU, [header(DpOp.READ, 1)], [header(DpOp.READ_RESP, 1, bytes(8))])
    asked, answered = watched._channel.last

    def until_another_begins() -> Iterator[Train]:
        yield from asked
        watched.trace.start(ANY_LEASE, LATE)

    watched.trace.start(bytes(15) + b"\5", LATE)
    watched._channel.last = until_another_begins(), answered
    watched.serve()
    assert counted(watched.trace) == {}
