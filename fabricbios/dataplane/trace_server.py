"""Trace a user-space server: a page that it and the daemon share, and the stopwatch that it looks at between batches.

What is measured is a batch, from asking the kernel for datagrams to having given it the answers: that is how long each
of them was in here. While nobody watches, a look at the page between two sleeps is all it costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from fabricbios.dataplane.batch import HEADER, STRIDE, TAG_BYTES, Batch
from fabricbios.dataplane.loop import Serves
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
from fabricbios.dataplane.xdp_layout import DP_HEADER
from fabricbios.model import DpOp, DpStatus

_PARAMS_BYTES = -(-TRACE_PARAMS.size // 64) * 64
PAGE_BYTES = _PARAMS_BYTES + SERIES_COUNT * TRACE_SERIES.size
_OP_AT = TAG_BYTES + DP_HEADER.offset["op"]
_LEASE_AT = TAG_BYTES + DP_HEADER.offset["lease_id"]
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
# Enum members cost a lookup each time they are named: on the path of a datagram they have names of their own.
_ANSWERED, _REFUSED, _DROPPED = int(Outcome.ANSWERED), int(Outcome.REFUSED), int(Outcome.DROPPED)
_OK = int(DpStatus.OK)
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
    """The server's end: what its loop serves, with the clock running or without."""

    def __init__(self, page: memoryview, plane: Plane, channels: Sequence[Serves], clock: Callable[[], int]) -> None:
        self._until, self._clock = page[:8].cast("Q"), clock
        self._plain = channels
        self._timed = [_Timed(channel, _Recorder(page, plane, channel.batch), clock) for channel in channels]

    def channels(self) -> Sequence[Serves]:
        """Return the channels to serve until the loop asks again."""
        until = self._until[0]
        return self._timed if until and self._clock() < until else self._plain


class _Timed(NamedTuple):
    """A channel that is looked at while it works."""

    channel: Serves
    recorder: _Recorder
    clock: Callable[[], int]

    @property
    def batch(self) -> Batch:
        return self.channel.batch

    def serve(self, tally: Tally) -> int:
        began = self.clock()
        n = self.channel.serve(tally)
        if n:
            self.recorder.add(self.clock() - began)
        return n


class _Recorder:
    """Adds the datagrams of a batch that was just sent, whose buffers hold answers, or questions that drew none."""

    def __init__(self, page: memoryview, plane: Plane, batch: Batch) -> None:
        self._page, self._plane, self._batch = page, _PLANES[plane], batch
        self._starts = range(0, len(batch.arena), STRIDE)
        self._series = list(words_of(_series_memory(page)))

    def add(self, ns: int) -> None:
        """Most datagrams of a batch are alike, so they are counted first."""
        bucket, plane = bucket_of(ns), self._plane
        for (op, outcome), n in self._kinds().items():
            words = self._series[series_of(plane, _OPS.get(op, TracedOp.OTHER), outcome)]
            words[0] += ns * n
            words[1] = max(words[1], ns)
            words[2 + bucket] += n

    def _kinds(self) -> dict[tuple[int, int], int]:
        """Return how many datagrams of each op, as it stands in the buffer, came to which outcome.

        PONG alone has no payload and never refuses; every other answer begins with its status.
        """
        arena, wanted = self._batch.arena, TRACE_PARAMS.get(self._page, 0, "lease_id")
        kinds: dict[tuple[int, int], int] = {}
        for at, answer in zip(self._starts, self._batch.answers, strict=False):
            if wanted != ANY_LEASE and wanted != arena[at + _LEASE_AT : at + _LEASE_AT + 16]:
                continue
            outcome = _DROPPED if answer < 0 else _REFUSED if answer and arena[at + HEADER] != _OK else _ANSWERED
            kind = arena[at + _OP_AT], outcome
            kinds[kind] = kinds.get(kind, 0) + 1
        return kinds
