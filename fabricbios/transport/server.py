"""The node's QUIC endpoint: one server, several sockets, connections that are proven and bounded (D3, D6).

Receives in batches and sends once a batch and connection, so that answers and acknowledgements of what
came together leave together; but about AT_ONCE, so that a client who asks very much at once has answers to
work on while the node works on the rest. All state is of the event loop's thread.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable

from aioquic._buffer import Buffer
from aioquic.quic import events
from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from fabricbios.ports import StreamPeer
from fabricbios.transport import datagrams
from fabricbios.transport.connection import Counts, Handler, Session
from fabricbios.transport.cycles import Ended
from fabricbios.transport.datagrams import Address, Endpoint
from fabricbios.transport.identity import Identity
from fabricbios.transport.limits import DEFAULTS, Limits
from fabricbios.transport.quic import ENGINE_FAULTS, ServerConnection, unix_now
from fabricbios.transport.versions import SMALLEST_INITIAL, negotiation

CID_LENGTH = 8
LEAVING_SECONDS = 1.0  # what a peer that is to go has to say that it has its events
AT_ONCE = 16  # requests heard before any is answered, up to twice as many if fewer would be left


class QuicServer:
    """Serves `handler` under `identity`.

    `handshakes` counts how handshakes ended: ok, no_certificate, alert_<name>, retry_sent, bad_token, busy,
    timed_out, abandoned, protocol_error, evicted. `faults` counts the rest: junk, version_negotiation,
    engine_fault, request_too_long, stream_timeout, stream_given_up, answer_unwanted, push_dropped.

    `on_heard` is called once the handler has all requests that came together, or about AT_ONCE of them: what is
    answered there leaves in as few packets as what the handler answers at once.
    """

    def __init__(
        self, identity: Identity, handler: Handler, limits: Limits = DEFAULTS, clock: Callable[[], int] = unix_now
    ) -> None:
        self.identity, self.handler, self.limits = identity, handler, limits
        self.on_heard: Callable[[], None] = lambda: None
        self.handshakes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._counts = Counts(self.handshakes, self.faults)
        self._clock = clock
        self._retry = QuicRetryTokenHandler()
        self._endpoints: list[Endpoint] = []
        self._by_cid: dict[bytes, Session] = {}
        self._sessions: dict[int, Session] = {}
        self._half_open: dict[int, Session] = {}  # oldest first
        self._next = 1
        self._dirty: set[Session] = set()
        self._flush_due = False
        self._sweeper: asyncio.TimerHandle | None = None
        self._ended = Ended()

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Serve on one more numeric address ("::" takes IPv4 too); return it with the port that was picked.

        Raises OSError when it cannot be bound.
        """
        sock = datagrams.bind(host, port, self.limits.receive_buffer)
        endpoint = Endpoint(sock, self._receive, self._flush)
        self._endpoints.append(endpoint)
        self._loop = asyncio.get_running_loop()
        if self._sweeper is None:
            self._sweep()
        return endpoint.host, endpoint.port

    async def close(self) -> None:
        """Say goodbye to every peer and close the sockets. Handlers hear connection_closed."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for session in list(self._sessions.values()):
            self._drop(session)
        for endpoint in self._endpoints:
            endpoint.close()
        self._endpoints.clear()

    @property
    def connections(self) -> int:
        """How many connections there are, half-open ones included."""
        return len(self._sessions)

    def answer(self, peer: StreamPeer, data: bytes) -> bool:
        """Answer the request of `peer` and finish its stream; False when nobody waits for it any more."""
        session = self._sessions.get(peer.connection)
        if session is None:
            self.faults["answer_unwanted"] += 1
            return False
        self._touch(session)
        return session.answer(peer.stream, data)

    def reset(self, peer: StreamPeer, code: int) -> None:
        """Reset the request's stream with an application error code (D6: 1 for a frame that cannot be read)."""
        session = self._sessions.get(peer.connection)
        if session is not None:
            session.reset(peer.stream, code)
            self._touch(session)

    def push(self, connection: int, data: bytes) -> bool:
        """Send an event on a stream of its own; False when the connection is gone or does not keep up."""
        session = self._sessions.get(connection)
        if session is None:
            return False
        self._touch(session)
        return session.push(data)

    def disconnect(self, connection: int) -> None:
        """Close a connection, for a peer whose trust was withdrawn: once it has the events pushed to it, but soon."""
        session = self._sessions.get(connection)
        if session is None or session.leaving:
            return
        if not session.owes_events:
            self._drop(session)
            return
        session.leaving = True
        self._touch(session)
        self._loop.call_later(LEAVING_SECONDS, self._let_go, session, True)

    # -- datagrams in -----------------------------------------------------------------------

    def _receive(self, data: bytes, address: Address, local: bytes, endpoint: Endpoint) -> None:
        session = self._by_cid.get(_destination(data)) or self._greet(data, address, local, endpoint)
        if session is None:
            return
        now = self._loop.time()
        session.local, session.active, session.endpoint = local, now, endpoint
        self._dirty.add(session)
        try:
            session.quic.receive_datagram(data, address, now)
        except ENGINE_FAULTS:
            self.faults["engine_fault"] += 1
            self._drop(session, tell=False)

    def _greet(self, data: bytes, address: Address, local: bytes, endpoint: Endpoint) -> Session | None:
        """Judge a datagram of no known connection; only an Initial with our own Retry token makes one."""
        other_versions = negotiation(data)
        if other_versions is not None:
            self.faults["version_negotiation"] += 1
            endpoint.send(other_versions, address, local)
            return None
        header = _parse_initial(data)
        if header is None or header.version is None:
            self.faults["junk"] += 1
            return None
        if not header.token:
            self._send_retry(header.version, header, address, local, endpoint)
            return None
        return self._admit(header, address, endpoint)

    def _send_retry(self, version: int, header: QuicHeader, address: Address, local: bytes, endpoint: Endpoint) -> None:
        self.handshakes["retry_sent"] += 1
        cid = os.urandom(CID_LENGTH)
        token = self._retry.create_token(
            address=address,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=cid,
            now=self._loop.time(),
        )
        packet = encode_quic_retry(
            version=version,
            source_cid=cid,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )
        endpoint.send(packet, address, local)

    def _admit(self, header: QuicHeader, address: Address, endpoint: Endpoint) -> Session | None:
        now = self._loop.time()
        try:
            original = self._retry.validate_token(
                address=address, destination_cid=header.destination_cid, token=header.token, now=now
            )
        except ValueError:
            self.handshakes["bad_token"] += (
                1  # dropped: the INVALID_TOKEN answer of the RFC costs more than it is worth
            )
            return None
        if not self._make_room():
            self.handshakes["busy"] += 1
            return None
        quic = ServerConnection(self.identity, self.limits, self._clock, original, header.destination_cid)
        session = Session(self._next, quic, endpoint, self.handler, self.limits, self._counts, now)
        self._next += 1
        self._sessions[session.number] = self._half_open[session.number] = session
        for cid in (header.destination_cid, quic.host_cid):
            self._issue(session, cid)
        return session

    def _make_room(self) -> bool:
        """A full table gives up its oldest handshake, or the untrusted connection that has been silent longest."""
        if len(self._half_open) >= self.limits.half_open:
            self._evict(next(iter(self._half_open.values())))
        if len(self._sessions) < self.limits.connections:
            return True
        candidates = [session for session in self._sessions.values() if not session.trusted]
        if not candidates:
            return False
        self._evict(min(candidates, key=lambda session: session.active))
        return True

    def _keep_to_its_share(self, session: Session) -> None:
        """A peer with too many connections loses the one silent longest: no one may fill the table alone."""
        theirs = [s for s in self._sessions.values() if s.node_id == session.node_id and s.opened]
        if session.node_id and len(theirs) > self.limits.connections_a_peer:
            self._evict(min(theirs, key=lambda s: s.active))

    def _evict(self, session: Session) -> None:
        self.handshakes["evicted"] += 1
        self._drop(session)

    # -- connections ------------------------------------------------------------------------

    def _flush(self) -> None:
        """Hear every connection that was touched, and let each of them speak, AT_ONCE requests at a time."""
        self._flush_due = True  # whoever is touched meanwhile speaks below
        try:
            while self._dirty:
                self._round()
        finally:
            self._flush_due = False
            for session in list(self._dirty):  # a handler raised: the others come next
                self._touch(session)

    def _round(self) -> None:
        """Hear some requests, and let everybody speak who was heard or answered. The others' turn comes next."""
        heard: set[Session] = set()
        room = AT_ONCE
        try:
            while self._dirty and room > 0:
                session = self._dirty.pop()
                heard.add(session)
                room -= self._hear(session, room)
            self.on_heard()
        finally:
            touched, self._dirty = self._dirty, {s for s in heard | self._dirty if s.unheard}
            for session in heard | (touched - self._dirty):
                self._speak(session)

    def _hear(self, session: Session, room: int) -> int:
        """Hear about `room` requests of a connection; return how many they were."""
        others, asked = session.take_events(room)
        for event in others:
            self._connection_event(session, event)
        return asked

    def _speak(self, session: Session) -> None:
        self._account(session)
        self._let_go(session)
        if not session.ended:
            self._transmit(session)

    def _connection_event(self, session: Session, event: events.QuicEvent) -> None:
        if isinstance(event, events.ConnectionIdIssued):
            self._issue(session, event.connection_id)
        elif isinstance(event, events.ConnectionIdRetired):
            self._by_cid.pop(event.connection_id, None)
            session.cids.discard(event.connection_id)
        elif isinstance(event, events.ConnectionTerminated):
            self._forget(session)

    def _account(self, session: Session) -> None:
        """Settle a handshake that is over, one way or the other."""
        if session.number not in self._half_open:
            return
        over = session.ended or session.quic.closed_with is not None
        if not (session.opened or over):
            return
        del self._half_open[session.number]
        if not session.opened:
            self.handshakes[session.handshake_result()] += 1
        elif not over:
            self._keep_to_its_share(session)

    def _issue(self, session: Session, cid: bytes) -> None:
        self._by_cid[cid] = session
        session.cids.add(cid)

    def _transmit(self, session: Session) -> None:
        self._send_all(session)
        self._arm(session)

    def _send_all(self, session: Session) -> None:
        quic, endpoint, local = session.quic, session.endpoint, session.local
        for data, address in quic.datagrams_to_send(self._loop.time()):
            endpoint.send(data, address, local)

    def _arm(self, session: Session) -> None:
        """Keep a timer that is early enough: one that fires too soon looks again, which is cheaper than re-arming."""
        at = session.quic.get_timer()
        if at is None:
            return
        if session.timer is not None:
            if session.timer.when() <= at:
                return
            session.timer.cancel()
        session.timer = self._loop.call_at(at, self._timer_due, session)

    def _timer_due(self, session: Session) -> None:
        session.timer = None
        at, now = session.quic.get_timer(), self._loop.time()
        if at is not None and at > now:
            self._arm(session)
            return
        session.quic.handle_timer(now)
        self._dirty.add(session)
        self._flush()

    def _touch(self, session: Session) -> None:
        """Something waits to be sent: now if a batch is being handled, else as soon as the loop gets to it."""
        self._dirty.add(session)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _drop(self, session: Session, tell: bool = True) -> None:
        """Close at once and forget, without aioquic's closing period: a late packet then counts as junk.

        What was said before leaves before: close() would silence it, and with it the news that a lease is revoked.
        """
        if tell and session.quic.closed_with is None and session.quic.can_speak:
            self._send_all(session)
            session.quic.close()
            self._send_all(session)
        self._half_open.pop(session.number, None)  # the caller counted why
        self._forget(session)

    def _let_go(self, session: Session, late: bool = False) -> None:
        """Drop who is to leave and has its events, or had the time for it."""
        if session.leaving and not session.ended and (late or not session.owes_events):
            self._drop(session)

    def _forget(self, session: Session) -> None:
        if session.ended:
            return
        session.ended = True
        self._ended.count += 1
        self._account(session)
        for cid in session.cids:
            self._by_cid.pop(cid, None)
        if session.timer is not None:
            session.timer.cancel()
        self._dirty.discard(session)
        del self._sessions[session.number]
        if session.opened:
            self.handler.connection_closed(session.number)

    def _sweep(self) -> None:
        """Once in a while: end handshakes and requests that take too long, and free what has ended."""
        self._ended.collect()
        now = self._loop.time()
        late = [s for s in self._half_open.values() if now - s.started >= self.limits.handshake_seconds]
        for session in late:
            self.handshakes["timed_out"] += 1
            self._drop(session)
        for session in self._sessions.values():
            if session.sweep(now):
                self._touch(session)
        period = min(1.0, self.limits.stream_seconds / 4, self.limits.handshake_seconds / 4)
        self._sweeper = self._loop.call_later(period, self._sweep)


def _destination(data: bytes) -> bytes:
    """Return the destination connection id where a datagram has one, b"" for junk."""
    if len(data) < 1 + CID_LENGTH:
        return b""
    return data[6 : 6 + data[5]] if data[0] & 0x80 else data[1 : 1 + CID_LENGTH]


def _parse_initial(data: bytes) -> QuicHeader | None:
    """Return the header of what may open a connection, an Initial of a version we speak."""
    if len(data) < SMALLEST_INITIAL or not data[0] & 0x80:
        return None
    try:
        header = pull_quic_header(Buffer(data=data), host_cid_length=CID_LENGTH)
    except ValueError:
        return None
    if header.packet_type != QuicPacketType.INITIAL or len(header.destination_cid) < CID_LENGTH:
        return None
    return header
