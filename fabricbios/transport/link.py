"""The asker's end of a connection: dial a node, prove it, put many questions at once."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import NamedTuple

from aioquic.quic import events

from fabricbios.errors import Disconnected, TimedOut
from fabricbios.transport.certificate import PeerKey
from fabricbios.transport.datagrams import Address, Endpoint, connect, reconnected, route_mtu
from fabricbios.transport.identity import Identity
from fabricbios.transport.limits import DEFAULTS, Limits
from fabricbios.transport.quic import ENGINE_FAULTS, ClientConnection, unix_now

Accept = Callable[[PeerKey], None]


def accept_anyone(key: PeerKey) -> None:
    """For tests and first looks: any proven key will do."""


class StreamReset(Disconnected):
    """The node gave up the question's stream: it took too long to arrive, or could not be read."""


ELSEWHERE_SECONDS = 1.0  # of silence, until we look whether this machine has another address now
LOOKS = 4  # at a moving message's bytes in the time that it may stand still


class _Asked(NamedTuple):
    """At `deadline` it is late, or with `patience`, seconds it may stand still, it is looked at again.

    `moved` are the bytes that had moved at `since`. Times are the loop's.
    """

    answer: asyncio.Future[bytes]
    deadline: float
    patience: float
    moved: int
    since: float


class Link:
    """One QUIC connection to a node. `key` is the node's proven key; made by `dial`."""

    def __init__(self, quic: ClientConnection, sock: socket.socket, address: Address, limits: Limits) -> None:
        self._limits = limits
        self.on_push: Callable[[bytes], None] = lambda data: None
        self.on_closed: Callable[[], None] = lambda: None
        self.remote = address
        self._quic = quic
        self._loop = asyncio.get_running_loop()
        self._endpoint = Endpoint(sock, self._receive, self._received, self._refused)
        self._heard_at = self._looked_at = self._loop.time()
        self._waiting: dict[int, _Asked] = {}
        self._reaper: asyncio.TimerHandle | None = None
        self._held: dict[int, bytearray] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._flush_due = False
        self._node_id = 0
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._failure: Disconnected | None = None
        self._alive_every = limits.idle_seconds / 3
        self._keeper: asyncio.TimerHandle | None = None

    @property
    def key(self) -> PeerKey:
        """The node's key, proven."""
        assert self._quic.proof.key is not None, "dial() returns only proven links"
        return self._quic.proof.key

    @property
    def node_id(self) -> int:
        """The id of the node's proven key."""
        if not self._node_id:
            self._node_id = self.key.node_id
        return self._node_id

    @property
    def closed(self) -> bool:
        return self._failure is not None

    async def open(self) -> None:
        """Run the handshake. Raises Disconnected or Untrusted; `dial` limits the time."""
        self._quic.connect(self.remote, self._loop.time())
        self._transmit()
        await self._connected
        self._keep_alive()

    async def request(self, data: bytes, timeout: float = 10.0, moving: bool = False) -> bytes:
        """Put one question on a stream of its own and return the whole answer. With `moving` the time counts from
        when a byte of it last arrived, either way: a long message may take long.

        Raises TimedOut (the stream is given up), StreamReset, Disconnected when the node goes away.
        """
        stream, answer = self.ask(data, timeout, moving)
        try:
            return await answer
        finally:
            if self._waiting.pop(stream, None) is not None:  # cancelled
                self._give_up(stream)

    def ask(self, data: bytes, timeout: float = 10.0, moving: bool = False) -> tuple[int, asyncio.Future[bytes]]:
        """Send one question; return its stream and the answer to come. Questions of one turn share packets."""
        if self._failure is not None:
            raise Disconnected(str(self._failure))
        stream = self._quic.get_next_available_stream_id()
        self._quic.send_stream_data(stream, data, end_stream=True)
        answer = self._loop.create_future()
        now = self._loop.time()
        deadline = now + (timeout / LOOKS if moving else timeout)
        self._waiting[stream] = _Asked(answer, deadline, timeout if moving else 0.0, 0, now)
        if self._reaper is None or self._reaper.when() > deadline:
            self._reap_at(deadline)
        self._touch()
        return stream, answer

    def close(self) -> None:
        """Say goodbye and be gone; nothing is waited for."""
        self._end(Disconnected("the connection was closed here"))

    # -- inside -----------------------------------------------------------------------------

    def _receive(self, data: bytes, address: Address, local: bytes, endpoint: Endpoint) -> None:
        try:
            self._quic.receive_datagram(data, address, self._loop.time())
        except ENGINE_FAULTS as error:
            self._end(Disconnected(f"{self.remote[0]} sent what QUIC cannot be: {error}"))

    def _refused(self, error: OSError) -> None:
        """ICMP says that nobody listens there. Once connected it may be forged, and the timers know better. What is
        too long for the route is believed: QUIC's smallest datagrams fit every path."""
        if error.errno == errno.EMSGSIZE:
            self._quic.narrow()
        elif not self._connected.done():
            self._end(Disconnected(f"{self.remote[0]} port {self.remote[1]}: {error.strerror}"))

    def _received(self) -> None:
        """Hand out what a batch brought. Sending waits a turn: whoever got an answer may ask the next thing."""
        self._heard_at = self._loop.time()
        self._hand_out()

    def _hand_out(self) -> None:
        while (event := self._quic.next_event()) is not None:
            self._take(event)
        if self._quic.proof.refusal is not None:
            self._end(None)
        self._touch()

    def _flush(self) -> None:
        self._flush_due = False
        if self._failure is None:
            self._transmit()

    def _take(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.StreamDataReceived):
            self._data(event.stream_id, event.data, event.end_stream)
        elif isinstance(event, events.StreamReset):
            self._held.pop(event.stream_id, None)
            self._settle(event.stream_id, StreamReset(f"the node reset the stream (code {event.error_code})"))
        elif isinstance(event, events.HandshakeCompleted):
            self._quic.widen(route_mtu(self.remote))
            if not self._connected.done():
                self._connected.set_result(None)
        elif isinstance(event, events.ConnectionTerminated):
            why = event.reason_phrase or f"code 0x{event.error_code:x}"
            self._end(Disconnected(f"the connection to {self.remote[0]} ended: {why}"))

    def _data(self, stream: int, data: bytes, fin: bool) -> None:
        if not stream & 2 and stream not in self._waiting:
            return  # given up; its last bytes may still be on their way
        held = self._held.pop(stream, None)
        if held is not None:
            held += data
        if not fin:
            self._held[stream] = bytearray(data) if held is None else held
        elif stream & 2:
            self.on_push(data if held is None else bytes(held))
        else:
            self._settle(stream, data if held is None else bytes(held))

    def _settle(self, stream: int, result: bytes | Disconnected) -> None:
        asked = self._waiting.pop(stream, None)
        if asked is None or asked.answer.done():
            return
        answer = asked.answer
        if isinstance(result, bytes):
            answer.set_result(result)
        else:
            _fail(answer, result)

    def _give_up(self, stream: int) -> None:
        self._held.pop(stream, None)
        if self._failure is None:
            self._quic.cancel(stream)
            self._touch()

    def _reap_at(self, deadline: float) -> None:
        if self._reaper is not None:
            self._reaper.cancel()
        self._reaper = self._loop.call_at(deadline, self._reap)

    def _reap(self) -> None:
        """Time out what is late. One timer for all questions: most are answered long before it fires."""
        self._reaper, now = None, self._loop.time()
        late = [stream for stream, asked in self._waiting.items() if asked.deadline <= now]
        for stream in late:
            if self._still_moving(stream, now):
                continue
            self._settle(stream, TimedOut(f"no answer from {self.remote[0]} in time"))
            self._give_up(stream)
        if self._waiting:
            self._reap_at(min(asked.deadline for asked in self._waiting.values()))

    def _still_moving(self, stream: int, now: float) -> bool:
        """Look again later where bytes have moved since the last look."""
        asked, moved = self._waiting[stream], self._quic.bytes_moved(stream)
        since = asked.since if moved == asked.moved else now
        self._waiting[stream] = asked._replace(deadline=now + asked.patience / LOOKS, moved=moved, since=since)
        return now - since < asked.patience

    def _touch(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _transmit(self) -> None:
        for data, address in self._quic.datagrams_to_send(self._loop.time()):
            self._endpoint.send(data, address)
        at = self._quic.get_timer()
        if at is None:
            return
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._timer_due)

    def _timer_due(self) -> None:
        self._timer = None
        at, now = self._quic.get_timer(), self._loop.time()
        if at is None or at <= now:
            self._quic.handle_timer(now)
            self._look_elsewhere(now)
            self._hand_out()
        else:
            self._timer = self._loop.call_at(at, self._timer_due)

    def _look_elsewhere(self, now: float) -> None:
        """After a silence, speak from the address that this machine has now, if it is another: the node's QUIC follows
        whoever holds the keys (RFC 9000, 9)."""
        if now - max(self._heard_at, self._looked_at) < ELSEWHERE_SECONDS:
            return
        self._looked_at = now
        found = reconnected(self._endpoint.sock, self.remote, self._limits.receive_buffer)
        if found is not None:
            self._endpoint.close()
            self._endpoint = Endpoint(found, self._receive, self._received, self._refused)

    def _keep_alive(self) -> None:
        """Events can only reach a connection that lives."""
        if self._failure is None:
            self._quic.send_ping(0)
            self._touch()
            self._keeper = self._loop.call_later(self._alive_every, self._keep_alive)

    def _end(self, why: Disconnected | None) -> None:
        """Fail whatever waits, send the close that is due, and free the socket."""
        if self._failure is not None:
            return
        self._failure = why or Disconnected("the node's key was refused")
        self._quic.close()
        for data, address in self._quic.datagrams_to_send(self._loop.time()):
            self._endpoint.send(data, address)
        self._endpoint.close()
        for handle in (self._timer, self._keeper, self._reaper):
            if handle is not None:
                handle.cancel()
        self._fail_all(self._quic.proof.refusal or self._failure)
        self.on_closed()

    def _fail_all(self, why: Exception) -> None:
        if not self._connected.done():
            self._connected.set_exception(why)
        waiting, self._waiting = self._waiting, {}
        for asked in waiting.values():
            if not asked.answer.done():
                _fail(asked.answer, why)


def _fail(answer: asyncio.Future[bytes], why: Exception) -> None:
    answer.set_exception(why)
    answer.exception()  # its owner may be gone, and that is not worth a line in the log


async def dial(
    host: str,
    port: int,
    identity: Identity | None,
    accept: Accept,
    timeout: float = 5.0,
    limits: Limits = DEFAULTS,
    clock: Callable[[], int] = unix_now,
) -> Link:
    """Connect to the first address of `host` that answers and whose proven key `accept` takes.

    Raises Untrusted when `accept` does, TimedOut or Disconnected when no address answers.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except TimeoutError:
        raise TimedOut(f"no name server says within {timeout:g} s where {host} is") from None
    except OSError as error:
        raise Disconnected(f"{host}: {error.strerror or error}") from error
    failure: Disconnected | None = None
    for *_, address in found:
        try:
            return await open_link(address, ClientConnection(identity, limits, clock, accept), timeout, limits)
        except Disconnected as error:
            failure = error
    raise failure or Disconnected(f"{host} has no address")


async def open_link(address: Address, quic: ClientConnection, timeout: float, limits: Limits) -> Link:
    """Connect to one address with a connection made before. As `dial`."""
    try:
        sock = connect(address, limits.receive_buffer)
    except OSError as error:  # no descriptors, say: who asks again later may have some
        raise Disconnected(f"{address[0]}: {error.strerror}") from error
    link = Link(quic, sock, address, limits)
    try:
        async with asyncio.timeout(timeout):
            await link.open()
    except TimeoutError:
        link.close()
        raise TimedOut(f"{address[0]} port {address[1]} does not answer within {timeout:g} s") from None
    except asyncio.CancelledError:
        link.close()
        raise
    return link
