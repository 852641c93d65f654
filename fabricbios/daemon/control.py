"""What the QUIC server hands us, handed on: control frames to core, data streams to the data plane."""

from __future__ import annotations

import time
from collections.abc import Callable

from fabricbios.daemon.clock import now
from fabricbios.daemon.datastreams import MAX_MESSAGE, DataStreams
from fabricbios.daemon.loop import NodeLoop
from fabricbios.model import Op
from fabricbios.ports import StreamPeer
from fabricbios.transport.connection import UNREADABLE
from fabricbios.transport.server import QuicServer

_OP = slice(44, 46)  # of a REQUEST's payload, behind the 44-byte header of a frame without FRAG_V2 (D2)
_FRAME_ROOM = 44 + 8 + 64  # header, fragment fields, signature: beside what D1 counts
_FIRST = 4 << 10
_NAMES = {op.value: op.name for op in Op}

Took = Callable[[str, float], None]  # an op's name, and the seconds from its request to its answer


class Control:
    """The transport's Handler (transport.connection.Handler); `join` it before the event loop runs on.

    `took` is told of every answer; None when nobody measures.
    """

    def __init__(self, took: Took | None) -> None:
        self._took = took
        self._begun: dict[tuple[int, int], tuple[float, str]] = {}
        self._asked = False  # core heard something since it was pumped

    def join(self, loop: NodeLoop, server: QuicServer, data: DataStreams) -> None:
        self.loop, self.server, self.data = loop, server, data
        server.on_heard = self._heard

    def connection_opened(self, peer: StreamPeer) -> None:
        self.loop.node.connection_opened(peer)

    def connection_closed(self, connection: int) -> None:
        self.loop.node.connection_closed(connection)
        self.data.closed(connection)
        for key in [k for k in self._begun if k[0] == connection]:
            del self._begun[key]

    def request_limit(self, peer: StreamPeer, first_bytes: bytes) -> int:
        """D1 and D11: what a request may weigh before it is read at all."""
        if self.data.takes(first_bytes[:4]):
            return MAX_MESSAGE if self.loop.trust.trusted(peer, now()) else _FIRST
        return self.loop.node.request_limit(peer, now()) + _FRAME_ROOM

    def request(self, data: bytes, peer: StreamPeer) -> None:
        if self.data.takes(data[:4]):
            self.data.request(data, peer, lambda answer: self._answer(peer, answer))
            return
        if self._took is not None:
            self._begun[peer.connection, peer.stream] = time.monotonic(), _op_name(data[_OP])
        self._asked = True
        self.loop.receive(data, peer)

    def _heard(self) -> None:
        if self._asked:
            self._asked = False
            self.loop.answer()

    def answered(self, peer: StreamPeer) -> None:
        """Called when a control answer leaves."""
        begun, op = self._begun.pop((peer.connection, peer.stream), (0.0, ""))
        if op and self._took is not None:
            self._took(op, time.monotonic() - begun)

    def _answer(self, peer: StreamPeer, answer: bytes | None) -> None:
        if answer is None:
            self.server.reset(peer, UNREADABLE)
        else:
            self.server.answer(peer, answer)


def _op_name(op: bytes) -> str:
    """Return a label of bounded variety: peers choose the number."""
    return _NAMES.get(int.from_bytes(op, "big"), "unknown")
