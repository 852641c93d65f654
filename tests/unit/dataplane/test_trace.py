"""The histograms of `fabricbios trace`: their buckets, and how a user-space server fills them."""

import socket
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fabricbios.dataplane.batch import STRIDE, Batch
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


class FakeChannel:
    """Serves what is put into its buffers: (op, lease, first payload byte, what send() was told)."""

    def __init__(self, *datagrams: tuple[int, int, int, int]) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unbound:
            self.batch = Batch(unbound, 8)
        self._datagrams = datagrams

    def serve(self, tally: Tally) -> int:
        for b, (op, lease_id, status, _) in enumerate(self._datagrams):
            at = b * STRIDE
            self.batch.arena[at + 21], self.batch.arena[at + 56] = op, status
            self.batch.arena[at + 32 : at + 48] = lease_id.to_bytes(16, "big")
        self.batch._arrange([answer for *_, answer in self._datagrams])
        return len(self._datagrams)


class Watched:
    """A server's stopwatch on a page; its clock makes each batch 100 ns long."""

    def __init__(self, plane: Plane, *datagrams: tuple[int, int, int, int]) -> None:
        page = memoryview(bytearray(PAGE_BYTES))
        self.now, self.trace = 1000, ServerTrace(page)
        self.channel = FakeChannel(*datagrams)
        self.stopwatch = Stopwatch(page, plane, [self.channel], self._clock)

    def _clock(self) -> int:
        self.now += 100
        return self.now

    def serve(self) -> None:
        (channel,) = self.stopwatch.channels()
        channel.serve(Tally(memoryview(bytearray(1024))))


def test_a_batch_is_counted_datagram_by_datagram() -> None:
    watched = Watched(
        Plane.FBBU,
        (DpOp.READ_RESP, 1, 0, 520), (DpOp.READ_RESP, 1, 3, 8), (DpOp.WRITE_RESP, 2, 0, 4), (DpOp.PONG, 1, 9, 0),
        (DpOp.ERROR, 1, 4, 4), (DpOp.WRITE, 1, 0, -1), (0x55, 1, 0, -1), (DpOp.HELLO_ACK, 1, 0, 20),
    )  # fmt: skip
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
    watched = Watched(Plane.FBMU, (DpOp.READ_RESP, 1, 0, 9), (DpOp.READ_RESP, 2, 0, 9))
    watched.trace.start((2).to_bytes(16, "big"), LATE)
    watched.serve()
    assert counted(watched.trace) == {("FBMU", "READ", "ANSWERED"): 1}


def test_the_clock_runs_only_while_somebody_watches() -> None:
    watched = Watched(Plane.FBMU, (DpOp.READ_RESP, 1, 0, 9))
    assert list(watched.stopwatch.channels()) == [watched.channel]
    watched.trace.start(ANY_LEASE, watched.now + 150)
    assert list(watched.stopwatch.channels()) != [watched.channel]
    assert list(watched.stopwatch.channels()) == [watched.channel]  # by now it is over
    watched.trace.extend(LATE)
    watched.serve()
    watched.trace.stop()
    assert list(watched.stopwatch.channels()) == [watched.channel]
    assert counted(watched.trace) == {("FBMU", "READ", "ANSWERED"): 1}  # still to be read
    watched.trace.start(ANY_LEASE, LATE)
    assert watched.trace.read() == []


def test_the_page_holds_all_series_aligned() -> None:
    assert TRACE_PARAMS.size + SERIES_COUNT * TRACE_SERIES.size <= PAGE_BYTES
    assert (PAGE_BYTES - SERIES_COUNT * TRACE_SERIES.size) % 8 == 0
