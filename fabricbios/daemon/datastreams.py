"""The QUIC data plane (D11): FBMU and FBBU messages on streams of the control connection.

One message a bidirectional stream, the 56-byte header as in datagrams; TLS authenticates, so auth_tag is
ignored and the peer must be the lease's holder. The first stream of a connection for a lease is HELLO.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol

from fabricbios.errors import WireError
from fabricbios.model import DpOp, DpStatus
from fabricbios.ports import StreamPeer
from fabricbios.wire.dataplane import DP_HEADER_SIZE, DP_VERSION, DpHeader

LONGEST = 1 << 20  # of a message, its header included (D11)
MAX_MESSAGE = LONGEST + DP_HEADER_SIZE
MAX_GREETED = 4096  # leases one connection may have said HELLO to
MAX_UNDER_WAY = 128  # messages of one peer, up to 1 MiB each, that wait for a disk; its connections may long be gone
MAX_IN_LANE = 512  # messages of all peers that wait for one and the same disk
_OP_AT, _PARAMETERS_END = 5, DP_HEADER_SIZE + 12

Answer = Callable[[bytes | None], None]
Work = Callable[[], bytes]


class StreamPlane(Protocol):
    """One plane's messages. `slow`: its reads and writes may block, so they run in a thread of their `lane`."""

    slow: bool
    kinds: Mapping[int, Any]  # op -> message class

    def hello(self, message: Any, status: DpStatus) -> tuple[DpStatus, bytes]:
        """Return the status and the packed answer; a `status` other than OK is what it says."""

    def lane(self, lease_id: int) -> Hashable:
        """Return what I/O on this lease waits for, of bounded variety: its store."""

    def serve(self, message: Any, status: DpStatus) -> tuple[bytes, int, int]:
        """Return the packed answer of READ, WRITE or PING, and the data bytes read and written."""

    def misfit(self, header: DpHeader, status: DpStatus) -> bytes:
        """Return the packed refusal of a WRITE whose data is not as long as it says."""


class DataStreams:
    """Answers data streams. `holder_of` returns a lease's holder, None if there is no such lease; `in_thread` runs
    work elsewhere and calls back with its result; nothing but its lane holds it up."""

    def __init__(
        self,
        planes: Mapping[bytes, StreamPlane],
        holder_of: Callable[[int], int | None],
        in_thread: Callable[[Work, Answer, Hashable], None],
    ) -> None:
        self._planes, self._holder_of, self._in_thread = planes, holder_of, in_thread
        self._greeted: dict[int, set[int]] = {}
        self._under_way: Counter[int] = Counter()  # by node_id
        self._in_lane: Counter[Hashable] = Counter()
        self.counts: dict[bytes, dict[str, Counter[str]]] = {
            magic: {"requests": Counter(), "drops": Counter({"malformed": 0}), "bytes": Counter(read=0, written=0)}
            for magic in planes
        }

    def takes(self, magic: bytes) -> bool:
        """Say whether a stream that begins like this is a data stream."""
        return magic in self._planes

    def closed(self, connection: int) -> None:
        self._greeted.pop(connection, None)

    def request(self, data: bytes, peer: StreamPeer, answer: Answer) -> None:
        """Serve one message; `answer` gets its answer, or None to reset the stream because it cannot be read."""
        plane, counts = self._planes[data[:4]], self.counts[data[:4]]
        message = _message(plane, data)
        if message is None:
            answer(self._unfit(plane, data, peer, counts))
            return
        op = DpOp(message.op)
        counts["requests"][op.name.lower()] += 1
        if op is DpOp.HELLO:
            answer(self._hello(plane, message, peer))
            return
        status = self._open(message.lease_id, peer)
        if not plane.slow or status or op is DpOp.PING:
            answer(_served(plane, message, status, counts))
            return
        lane = plane.lane(message.lease_id)
        if self._under_way[peer.node_id] >= MAX_UNDER_WAY or self._in_lane[lane] >= MAX_IN_LANE:
            answer(_served(plane, message, DpStatus.BUSY, counts))
        else:
            self._serve_slowly(lambda: _served(plane, message, status, counts), peer.node_id, lane, answer)

    def _unfit(
        self, plane: StreamPlane, data: bytes, peer: StreamPeer, counts: dict[str, Counter[str]]
    ) -> bytes | None:
        """Refuse a WRITE of another length than it says, as a datagram's is (D10); None for what cannot be read."""
        header = _misfit(data)
        if header is None:
            counts["drops"]["malformed"] += 1
            return None
        counts["requests"]["write"] += 1
        return plane.misfit(header, self._open(header.lease_id, peer))

    def _serve_slowly(self, work: Work, node_id: int, lane: Hashable, answer: Answer) -> None:
        self._under_way[node_id] += 1
        self._in_lane[lane] += 1

        def done(packed: bytes | None) -> None:
            self._in_lane[lane] -= 1
            self._under_way[node_id] -= 1
            if not self._under_way[node_id]:
                del self._under_way[node_id]
            answer(packed)

        self._in_thread(work, done, lane)

    def _hello(self, plane: StreamPlane, message: Any, peer: StreamPeer) -> bytes:
        greeted = self._greeted.setdefault(peer.connection, set())
        status = self._right(message.lease_id, peer)
        if not status and len(greeted) >= MAX_GREETED:
            greeted.intersection_update([known for known in greeted if self._holder_of(known) is not None])
            status = DpStatus.BUSY if len(greeted) >= MAX_GREETED else status
        status, packed = plane.hello(message, status)
        if not status:
            greeted.add(message.lease_id)
        return packed

    def _right(self, lease_id: int, peer: StreamPeer) -> DpStatus:
        """Only its holder may use a lease; whoever else asks learns no more than that."""
        holder = self._holder_of(lease_id)
        if holder is None:
            return DpStatus.INVALID_LEASE
        return DpStatus.OK if peer.public_key and holder == peer.node_id else DpStatus.BAD_AUTH

    def _open(self, lease_id: int, peer: StreamPeer) -> DpStatus:
        """HELLO said that this connection's peer is the holder; the plane says whether the lease is alive."""
        if lease_id in self._greeted.get(peer.connection, ()):
            return DpStatus.OK
        return self._right(lease_id, peer) or DpStatus.INVALID_LEASE


def _message(plane: StreamPlane, data: bytes) -> Any:
    kind = plane.kinds.get(data[_OP_AT]) if len(data) > _OP_AT else None
    try:
        return kind.unpack(data, "quic") if kind is not None else None
    except WireError:
        return None


def _misfit(data: bytes) -> DpHeader | None:
    """Return the header of a WRITE that has its parameters, and that the length of its data alone spoiled."""
    if not _PARAMETERS_END <= len(data) <= LONGEST:
        return None
    header = DpHeader.unpack(data[:DP_HEADER_SIZE])
    fixed = header.version, header.op, header.flags, header.payload_len
    if fixed != (DP_VERSION, DpOp.WRITE, 0, len(data) - DP_HEADER_SIZE):
        return None
    return header if header.request_id and header.nonce else None


def _served(plane: StreamPlane, message: Any, status: DpStatus, counts: dict[str, Counter[str]]) -> bytes:
    packed, read, written = plane.serve(message, status)
    counts["bytes"]["read"] += read
    counts["bytes"]["written"] += written
    return packed
