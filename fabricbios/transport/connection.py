"""One client's connection at the server: proves the peer, collects requests, bounds what it may cost."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import NamedTuple, Protocol

from aioquic.quic import events
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import AlertDescription

from fabricbios.ports import StreamPeer
from fabricbios.transport.certificate import PeerKey
from fabricbios.transport.datagrams import Address, Endpoint, plain, route_mtu
from fabricbios.transport.limits import Limits
from fabricbios.transport.quic import ALERT_BASE, ServerConnection

UNREADABLE, TOO_SLOW = 1, 2  # application error codes on a reset stream; 1 is D6's
ENOUGH_TO_JUDGE = 64  # bytes that show a frame's header and the request's op


class Handler(Protocol):
    """What the daemon gives the server. Nothing here may block."""

    def connection_opened(self, peer: StreamPeer) -> None:
        """A handshake completed. `peer.stream` is -1; `peer.public_key` is b"" without a certificate."""

    def connection_closed(self, connection: int) -> None:
        """The connection is gone and so are its streams."""

    def request(self, data: bytes, peer: StreamPeer) -> None:
        """One whole client stream. Answer with `QuicServer.answer` or `reset`, now or later."""

    def request_limit(self, peer: StreamPeer, first_bytes: bytes) -> int:
        """Return how long this request may be; more than twice `Limits.first_request` says the peer is trusted."""


class Counts(NamedTuple):
    """The server's counters, shared by its connections; their names are listed at QuicServer."""

    handshakes: Counter[str]
    faults: Counter[str]


class Session:
    """A connection as the server keeps it."""

    def __init__(
        self,
        number: int,
        quic: ServerConnection,
        endpoint: Endpoint,
        handler: Handler,
        limits: Limits,
        counts: Counts,
        now: float,
    ) -> None:
        self.number, self.quic, self.endpoint = number, quic, endpoint
        self.started = self.active = now
        self.local = b""  # pktinfo of the latest datagram: answers leave from that address
        self.cids: set[bytes] = set()
        self.opened = self.trusted = self.leaving = self.ended = False
        self.timer: asyncio.TimerHandle | None = None
        self._handler, self._limits, self._counts = handler, limits, counts
        self._key = PeerKey(b"", b"")
        self.node_id = 0  # 0 until a key is proven
        self._held: dict[int, bytearray] = {}  # requests on their way in
        self._limit: dict[int, int] = {}
        self._since: dict[int, float] = {}  # when the sweep first saw a stream unfinished
        self._unanswered: set[int] = set()
        self._put = 0  # requests since take_events was called
        self._remote: tuple[Address, tuple[str, int]] = (("", 0), ("", 0))
        self._reached: tuple[bytes | None, tuple[str, int]] = (None, ("", 0))

    # -- what the engine reports ------------------------------------------------------------

    def take_events(self, requests: int) -> tuple[list[events.QuicEvent], int]:
        """Handle what the connection has to say until it has put so many requests, and leave no fewer than that.

        Of small pieces a client makes small pieces again, and each is a packet. Return the events that are the
        server's business, and how many requests there were.
        """
        rest: list[events.QuicEvent] = []
        self._put = 0
        quic = self.quic
        while (self._put < requests or quic.events_waiting < requests) and (event := quic.next_event()) is not None:
            if isinstance(event, events.StreamDataReceived):
                self._data(event.stream_id, event.data, event.end_stream)
            elif isinstance(event, events.StreamReset):
                self._given_up(event.stream_id)
            elif isinstance(event, events.StopSendingReceived):
                self._unanswered.discard(event.stream_id)
            elif isinstance(event, events.HandshakeCompleted):
                self._handshake_completed(event)
            else:
                rest.append(event)
        return rest, self._put

    @property
    def unheard(self) -> bool:
        """Whether there is more for `take_events` of a connection that lives."""
        return not self.ended and self.quic.events_waiting > 0

    def handshake_result(self) -> str:
        """Name how a handshake that did not complete ended, for the counters."""
        code = self.quic.closed_with
        if code is None:
            return "abandoned"
        if ALERT_BASE <= code < ALERT_BASE + 256:
            number = code - ALERT_BASE
            known = number in AlertDescription._value2member_map_
            return f"alert_{AlertDescription(number).name if known else number}"
        return "protocol_error"

    def _handshake_completed(self, event: events.HandshakeCompleted) -> None:
        key = self.quic.proof.key
        if key is None or event.session_resumed:  # cannot be: no tickets, and tls.py settles it first
            self.quic.close(QuicErrorCode.INTERNAL_ERROR)
            return
        self._key, self.node_id = key, key.node_id if key.public_key else 0
        self.opened = True
        self.quic.widen(route_mtu(self.quic.validated_address()))
        self._counts.handshakes["ok" if key.public_key else "no_certificate"] += 1
        self._handler.connection_opened(self.peer(-1))

    def _data(self, stream: int, data: bytes, fin: bool) -> None:
        if not self.opened or not self.quic.has_stream(stream):
            return
        held = self._held.get(stream)
        if held is None and fin and self.trusted and len(data) <= self._limits.first_request:
            self._deliver(stream, data)  # nearly every request is one packet
            return
        if held is None:
            held = self._held[stream] = bytearray()
        held += data
        if not self._within_limit(stream, held, fin):
            self._counts.faults["request_too_long"] += 1
            self.reset(stream, UNREADABLE)
        elif fin:
            self._forget(stream)
            self._deliver(stream, bytes(held))

    def _within_limit(self, stream: int, held: bytearray, fin: bool) -> bool:
        limit = self._limit.get(stream)
        if limit is None:
            if not fin and len(held) < ENOUGH_TO_JUDGE:
                return True
            limit = self._limit[stream] = self._handler.request_limit(self.peer(stream), bytes(held[:ENOUGH_TO_JUDGE]))
            if self._limits.says_trusted(limit):
                self._trust()
            self.quic.grant(stream, limit + 1)  # a byte too many must show, not stall
        return len(held) <= limit

    def _trust(self) -> None:
        if not self.trusted:
            self.trusted = True
            self.quic.window = self._limits.window

    def _deliver(self, stream: int, data: bytes) -> None:
        self._unanswered.add(stream)
        self._put += 1
        self._handler.request(data, self.peer(stream))

    def _given_up(self, stream: int) -> None:
        """The client reset its stream: whatever was asked, nobody waits for the answer."""
        self._counts.faults["stream_given_up"] += 1
        self.reset(stream, UNREADABLE)

    # -- what the daemon does ---------------------------------------------------------------

    def peer(self, stream: int) -> StreamPeer:
        """Return who asks on `stream`."""
        address = self.quic.validated_address()
        if address != self._remote[0]:
            self._remote = address, plain(address)
        if self.local != self._reached[0]:
            self._reached = self.local, self.endpoint.reached(self.local)
        key = self._key
        return StreamPeer(
            self.number, stream, self.node_id, key.public_key, key.certificate, self._remote[1], self._reached[1]
        )

    def answer(self, stream: int, data: bytes) -> bool:
        """Write and finish; False when the client no longer waits."""
        wanted = stream in self._unanswered and self.quic.takes_answer(stream)
        self._unanswered.discard(stream)
        if not wanted:
            self._counts.faults["answer_unwanted"] += 1
            return False
        self.quic.send_stream_data(stream, data, end_stream=True)
        return True

    def reset(self, stream: int, code: int) -> None:
        """Abandon the stream in both directions."""
        self._forget(stream)
        self._unanswered.discard(stream)
        self.quic.abandon(stream, code)

    @property
    def owes_events(self) -> bool:
        """Whether events are on their way that the peer has not acknowledged."""
        return self.opened and not self.ended and self.quic.pushes_open() > 0

    def push(self, data: bytes) -> bool:
        """Send `data` on a unidirectional stream of its own; False when too many await their acknowledgement."""
        if not self.opened or self.ended or self.quic.pushes_open() >= self._limits.pushes:
            self._counts.faults["push_dropped"] += 1
            return False
        self.quic.send_stream_data(self.quic.get_next_available_stream_id(True), data, end_stream=True)
        return True

    def sweep(self, now: float) -> bool:
        """Reset requests that take too long. Return whether there is something to send."""
        unfinished = self.quic.open_requests()
        since = self._since
        self._since = {stream: since.get(stream, now) for stream in unfinished}
        late = [n for n, seen in self._since.items() if now - seen >= self._limits.stream_seconds]
        for stream in late:
            self._counts.faults["stream_timeout"] += 1
            self.reset(stream, TOO_SLOW)
        return bool(late)

    def _forget(self, stream: int) -> None:
        self._held.pop(stream, None)
        self._limit.pop(stream, None)
