"""Trace a user-space server: a page that it and the daemon share, and the stopwatch that it looks at between batches.

What is measured is a batch, from asking the kernel for datagrams to having given it the answers: that is how long each
of them was in here. While nobody watches, a look at the page between two sleeps is all it costs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import compress

from fabricbios.dataplane.loop import Channel, Serving
from fabricbios.dataplane.shared import Region
from fabricbios.dataplane.slots import Plane
from fabricbios.dataplane.tally import Tally
from fabricbios.dataplane.trace import (
    ANY_LEASE,
    SERIES_COUNT,
    TRACE_PARAMS,
    TRACE_SERIES,
    Outcome,
    Series,
    TracedOp,
    TracedPlane,
    bucket_of,
    found,
    series_of,
    words_of,
)
from fabricbios.dataplane.trains import Train
from fabricbios.dataplane.xdp_layout import DP_HEADER
from fabricbios.model import DpOp, DpStatus

_PARAMS_BYTES = -(-TRACE_PARAMS.size // 64) * 64
PAGE_BYTES = _PARAMS_BYTES + SERIES_COUNT * TRACE_SERIES.size
_OP_AT = DP_HEADER.offset["op"]
_LEASE_ID = slice(DP_HEADER.offset["lease_id"], DP_HEADER.offset["lease_id"] + 16)
_OPS: dict[int, TracedOp] = {
    DpOp.HELLO: TracedOp.HELLO,
    DpOp.HELLO_ACK: TracedOp.HELLO,
    DpOp.READ: TracedOp.READ,
    DpOp.READ_RESP: TracedOp.READ,
    DpOp.WRITE: TracedOp.WRITE,
    DpOp.WRITE_RESP: TracedOp.WRITE,
    DpOp.PING: TracedOp.PING,
    DpOp.PONG: TracedOp.PING,
    DpOp.ERROR: TracedOp.PING,
}
_PLANES: dict[int, TracedPlane] = {Plane.FBMU: TracedPlane.FBMU, Plane.FBBU: TracedPlane.FBBU}


def trace_page() -> Region:
    """Make the page of one server process: it outlives the process."""
    return Region.create("trace", PAGE_BYTES)


def _series_memory(page: memoryview) -> memoryview:
    return page[_PARAMS_BYTES:PAGE_BYTES]


class ServerTrace:
    """The daemon's end; an implementation of trace.Traced."""

    def __init__(self, page: memoryview) -> None:
        self._page = page

    def load(self) -> None:
        """There is nothing to make."""

    def start(self, lease_id: bytes, until_ns: int) -> None:
        self.stop()
        _series_memory(self._page)[:] = bytes(SERIES_COUNT * TRACE_SERIES.size)
        TRACE_PARAMS.set(self._page, 0, "lease_id", lease_id)
        self.extend(until_ns)

    def extend(self, until_ns: int) -> None:
        TRACE_PARAMS.set(self._page, 0, "until_ns", until_ns)

    def read(self) -> list[Series]:
        """Return what the process has recorded since start(); a batch may be half in it."""
        records = list(words_of(bytes(_series_memory(self._page))))
        return found(lambda number: [records[number]])

    def stop(self) -> None:
        self.extend(0)


class Stopwatch:
    """The server's end: its loop asks it how to serve, with the clock running or without."""

    def __init__(self, page: memoryview, plane: Plane, clock: Callable[[], int]) -> None:
        self._until, self._clock, self._recorder = page[:8].cast("Q"), clock, _Recorder(page, plane)

    def serving(self) -> Serving:
        """Return how to serve until the loop asks again."""
        until = self._until[0]
        return self._timed if until and self._clock() < until else Channel.serve

    def _timed(self, channel: Channel, tally: Tally) -> None:
        began = self._clock()
        channel.serve(tally)
        self._recorder.add(*channel.last, self._clock() - began)


class _Recorder:
    """Adds the datagrams of a batch that was just answered."""

    def __init__(self, page: memoryview, plane: Plane) -> None:
        self._page, self._plane = page, _PLANES[plane]
        self._series = list(words_of(_series_memory(page)))

    def add(self, asked: Iterable[Train], answers: Iterable[Train], ns: int) -> None:
        """Count what was answered, and what was asked besides as dropped. Most are alike, so they are counted first.

        Whose they must be is looked up once: another trace may begin in the middle.
        """
        wanted = TRACE_PARAMS.get(self._page, 0, "lease_id")
        counts: Counter[tuple[TracedOp, Outcome]] = Counter()
        for (op, _), n in _kinds(asked, wanted).items():
            counts[_OPS.get(op, TracedOp.OTHER), Outcome.DROPPED] += n
        for (op, status), n in _kinds(answers, wanted).items():
            counts[_OPS[op], Outcome.ANSWERED if status == DpStatus.OK else Outcome.REFUSED] += n
            counts[_OPS[op], Outcome.DROPPED] -= n
        for (traced, outcome), n in counts.items():
            if n:
                self._count(self._series[series_of(self._plane, traced, outcome)], n, ns)

    def _count(self, words: memoryview, n: int, ns: int) -> None:
        words[0] += ns * n
        words[1] = max(words[1], ns)
        words[2 + bucket_of(ns)] += n


def _kinds(trains: Iterable[Train], wanted: bytes) -> Counter[tuple[int, int]]:
    """Return how many datagrams of a lease have which op and, as an answer, which status (PONG has none: OK)."""
    kinds: Counter[tuple[int, int]] = Counter()
    for train in trains:
        found = zip(_bytes_at(train, _OP_AT), _bytes_at(train, DP_HEADER.size), strict=True)
        kinds.update(found if wanted == ANY_LEASE else compress(found, _of_lease(train, wanted)))
    return kinds


def _bytes_at(train: Train, at: int) -> bytes:
    """Return one byte of each datagram, zeros where they end before it."""
    return train.data[at :: train.size] if train.size > at else bytes(train.length)


def _of_lease(train: Train, lease_id: bytes) -> list[bool]:
    return [datagram[_LEASE_ID] == lease_id for datagram in train.datagrams()]
