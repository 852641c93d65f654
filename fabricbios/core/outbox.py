"""What is to be sent: answers on their streams, pushes to connections, resets of streams."""

from __future__ import annotations

from typing import Any, NamedTuple

from fabricbios.model import Instant, LeaseEventKind, Op, Status
from fabricbios.ports import StreamPeer
from fabricbios.wire import ErrorResult, Frame, LeaseEvent, MsgType, Reason, Response

BAD_FRAME = 1  # D6: application error of a stream whose frame cannot be read
MAX_REASON = 200
_KNOWN = frozenset(map(int, Op))
_RESPONSE, _LEASE_EVENT = int(MsgType.RESPONSE), int(MsgType.LEASE_EVENT)


class Push(NamedTuple):
    """A server-initiated unidirectional stream on this connection."""

    connection: int


class Reset(NamedTuple):
    """Reset this stream with an application error; nothing is sent."""

    connection: int
    stream: int
    code: int


class Close(NamedTuple):
    """Close this connection; nothing is sent."""

    connection: int


Destination = StreamPeer | Push | Reset | Close


class Outbox:
    """Frames as bytes, with a nonce of their own each; and how the ops went, counted."""

    def __init__(self, node_id: int) -> None:
        self._node_id = node_id
        self._nonce = 0
        self._waiting: list[tuple[bytes, Destination]] = []
        self._connections: dict[int, dict[int, None]] = {}  # node_id -> connections, in order of opening
        self._peers: dict[int, StreamPeer] = {}  # by connection
        self._had_trust: set[int] = set()  # connections
        self._counts: dict[tuple[int, Status], int] = {}
        self._resets = 0

    @property
    def ops(self) -> dict[tuple[str, str], int]:
        """Return answers by op and status name; ("unreadable", "RESET") counts resets."""
        counts = {(Op(op).name if op >= 0 else "unknown", s.name): n for (op, s), n in self._counts.items()}
        return {**counts, ("unreadable", "RESET"): self._resets} if self._resets else counts

    def take(self) -> list[tuple[bytes, Destination]]:
        waiting, self._waiting = self._waiting, []
        return waiting

    def opened(self, peer: StreamPeer, trusted: bool = False) -> None:
        self._peers[peer.connection] = peer
        if trusted:
            self.trusts(peer.connection)
        self._connections.setdefault(peer.node_id, {})[peer.connection] = None

    def closed(self, connection: int) -> None:
        peer = self._peers.pop(connection, None)
        self._had_trust.discard(connection)
        if peer is None:
            return
        theirs = self._connections[peer.node_id]
        theirs.pop(connection, None)
        if not theirs:
            del self._connections[peer.node_id]

    def peers(self) -> list[StreamPeer]:
        """Return who is connected, once a connection."""
        return list(self._peers.values())

    def trusts(self, connection: int) -> None:
        """Whoever is there is trusted now: it has something to lose."""
        if connection in self._peers:
            self._had_trust.add(connection)

    def had_trust(self, connection: int) -> bool:
        """Whether whoever is there was ever trusted, and was not told yet that this is over."""
        return connection in self._had_trust

    def close(self, connection: int) -> None:
        """Have a connection closed, after what waits for it has been handed over."""
        self._had_trust.discard(connection)
        self._waiting.append((b"", Close(connection)))

    def answer(self, ask: Any, result: bytes, now: Instant) -> None:
        """Send OK to an `Ask`."""
        self.respond(ask.peer, ask.request_id, ask.op, Status.OK, result, now)

    def refuse(self, ask: Any, status: Status, reason: str, now: Instant) -> None:
        self.refuse_op(ask.peer, ask.request_id, ask.op, status, reason, now)

    def refuse_op(self, peer: StreamPeer, request_id: int, op: int, status: Status, reason: str, now: Instant) -> None:
        """Send a status other than OK, with its REASON."""
        result = ErrorResult(tlvs=(Reason(reason[:MAX_REASON] or status.name),)).pack()
        self.respond(peer, request_id, op, status, result, now)

    def respond(self, peer: StreamPeer, request_id: int, op: int, status: Status, result: bytes, now: Instant) -> None:
        key = (op if op in _KNOWN else -1, status)  # bounded: peers choose the number
        self._counts[key] = self._counts.get(key, 0) + 1
        payload = Response(status, op, result).pack()
        self._waiting.append((self._frame(_RESPONSE, request_id, payload, now), peer))

    def push(self, holder: int, lease_id: int, event: LeaseEventKind, at: int, now: Instant) -> None:
        """Tell every live connection of the holder; `at` is Unix seconds."""
        for connection in self._connections.get(holder, ()):
            payload = LeaseEvent(lease_id, int(event), at).pack()
            self._waiting.append((self._frame(_LEASE_EVENT, 0, payload, now), Push(connection)))

    def reset(self, peer: StreamPeer) -> None:
        self._resets += 1
        self._waiting.append((b"", Reset(peer.connection, peer.stream, BAD_FRAME)))

    def _frame(self, msg_type: int, request_id: int, payload: bytes, now: Instant) -> bytes:
        self._nonce = max(self._nonce + 1, now.unix_ms)
        return Frame(msg_type, 0, request_id, self._nonce, self._node_id, payload).pack()
