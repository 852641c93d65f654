"""The QUIC data plane (D11): FBMU messages on streams of the control connection.

One message a bidirectional stream, the 56-byte header as in datagrams; TLS authenticates, so auth_tag is
ignored and the peer must be the lease's holder. The first stream of a connection for a lease is HELLO.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from fabricbios.errors import WireError
from fabricbios.model import DpOp, DpStatus
from fabricbios.ports import StreamPeer
from fabricbios.wire import (
    FbmuHello,
    FbmuHelloAck,
    FbmuPing,
    FbmuPong,
    FbmuRead,
    FbmuReadResp,
    FbmuWrite,
    FbmuWriteResp,
)
from fabricbios.wire.dataplane import DP_HEADER_SIZE, HelloAck, Pong, ReadResp, StatusOnly

MAGIC = b"FBMU"
MAX_MESSAGE = (1 << 20) + DP_HEADER_SIZE
MAX_GREETED = 4096  # leases one connection may have said HELLO to
MAX_READ, MAX_WRITE = (1 << 20) - 8, (1 << 20) - 12
_OP_AT = 5


class Store(Protocol):
    """Leased bytes; dataplane.memory.MemoryPlane is one."""

    def length(self, lease_id: int) -> tuple[DpStatus, int]: ...
    def read(self, lease_id: int, offset: int, length: int) -> tuple[DpStatus, bytes]: ...
    def write(self, lease_id: int, offset: int, data: bytes) -> DpStatus: ...


class DataStreams:
    """Answers data streams; `holder_of` returns a lease's holder, None if there is no such lease."""

    def __init__(self, store: Store, holder_of: Callable[[int], int | None]) -> None:
        self._store, self._holder_of = store, holder_of
        self._greeted: dict[int, set[int]] = {}
        self.requests: Counter[str] = Counter()  # by op
        self.drops: Counter[str] = Counter()  # by reason
        self.bytes: Counter[str] = Counter()  # read, written
        self._serve: dict[int, tuple[Any, Callable[[Any, StreamPeer], bytes]]] = {
            DpOp.HELLO: (FbmuHello, self._hello),
            DpOp.READ: (FbmuRead, self._read),
            DpOp.WRITE: (FbmuWrite, self._write),
            DpOp.PING: (FbmuPing, self._ping),
        }

    def closed(self, connection: int) -> None:
        self._greeted.pop(connection, None)

    def answer(self, data: bytes, peer: StreamPeer) -> bytes | None:
        """Return the answer to one message, None to reset the stream because it cannot be read."""
        kind, serve = self._serve.get(data[_OP_AT] if len(data) > _OP_AT else 0, (None, None))
        if kind is None or serve is None:
            self.drops["malformed"] += 1
            return None
        try:
            message = kind.unpack(data, "quic")
        except WireError:
            self.drops["malformed"] += 1
            return None
        self.requests[DpOp(message.op).name.lower()] += 1
        return serve(message, peer)

    def _hello(self, m: FbmuHello, peer: StreamPeer) -> bytes:
        status, length = self._right(m.lease_id, peer), 0
        if not status:
            status, length = self._store.length(m.lease_id)
        greeted = self._greeted.setdefault(peer.connection, set())
        if not status and len(greeted) >= MAX_GREETED:
            status, length = DpStatus.BUSY, 0
        if not status:
            greeted.add(m.lease_id)
        limits = (MAX_READ, MAX_WRITE) if not status else (0, 0)
        return FbmuHelloAck(m.request_id, m.lease_id, m.nonce, HelloAck(status, length, *limits)).pack()

    def _read(self, m: FbmuRead, peer: StreamPeer) -> bytes:
        status, data = self._open(m.lease_id, peer), b""
        if not status:
            status, data = self._store.read(m.lease_id, m.payload.offset, m.payload.length)
        self.bytes["read"] += len(data)
        return FbmuReadResp(m.request_id, m.lease_id, m.nonce, ReadResp(status, len(data), data)).pack()

    def _write(self, m: FbmuWrite, peer: StreamPeer) -> bytes:
        status = self._open(m.lease_id, peer)
        if not status:
            status = self._store.write(m.lease_id, m.payload.offset, m.payload.data)
        self.bytes["written"] += 0 if status else len(m.payload.data)
        return FbmuWriteResp(m.request_id, m.lease_id, m.nonce, StatusOnly(status)).pack()

    def _ping(self, m: FbmuPing, peer: StreamPeer) -> bytes:
        return FbmuPong(m.request_id, m.lease_id, m.nonce, Pong()).pack()

    def _right(self, lease_id: int, peer: StreamPeer) -> DpStatus:
        """Only its holder may use a lease; whoever else asks learns no more than that."""
        holder = self._holder_of(lease_id)
        if holder is None:
            return DpStatus.INVALID_LEASE
        return DpStatus.OK if peer.public_key and holder == peer.node_id else DpStatus.BAD_AUTH

    def _open(self, lease_id: int, peer: StreamPeer) -> DpStatus:
        """HELLO said that this connection's peer is the holder; the store says whether the lease is alive."""
        return DpStatus.OK if lease_id in self._greeted.get(peer.connection, ()) else self._ungreeted(lease_id, peer)

    def _ungreeted(self, lease_id: int, peer: StreamPeer) -> DpStatus:
        return self._right(lease_id, peer) or DpStatus.INVALID_LEASE
