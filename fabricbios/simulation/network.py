"""The wire: datagrams are lost, doubled and overtaken; streams arrive whole, or break with their connection."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from fabricbios.ports import StreamPeer, UdpPeer
from fabricbios.simulation.schedule import Schedule

SHORTEST, LONGEST = 0.0001, 0.02  # seconds on the way
GIVE_UP = 5.0  # seconds after which who asked a dead node knows
_DOUBLED = 0.25  # of the loss: datagrams that come twice
_BROKEN = 0.1  # of the loss: questions that their connection does not survive

Heard = Callable[[bytes | None], None]
Receive = Callable[[bytes, UdpPeer], None]


class Server(Protocol):
    """A machine as the wire sees it."""

    address: UdpPeer
    up: bool

    def connected(self, peer: StreamPeer) -> None: ...
    def disconnected(self, connection: int) -> None: ...
    def asked(self, data: bytes, peer: StreamPeer) -> None: ...


class Caller(Protocol):
    """Who holds connections: a client with a proven key."""

    node_id: int
    public_key: bytes
    address: UdpPeer

    def pushed(self, data: bytes) -> None: ...


class Connection:
    """One QUIC connection, from its handshake until either end loses it."""

    def __init__(self, number: int, caller: Caller, server: Server) -> None:
        self.number, self.caller, self.server = number, caller, server
        self.waiting: dict[int, Heard] = {}
        self._stream = 0

    def next_peer(self) -> StreamPeer:
        """Return who asks on the next stream."""
        self._stream += 4
        c, to = self.caller, self.server.address
        where = (c.address.host, c.address.port)
        return StreamPeer(self.number, self._stream, c.node_id, c.public_key, b"", where, (to.host, 5701))


class Network:
    """Everybody's. `loss` is the part of datagrams that never arrive."""

    def __init__(self, schedule: Schedule, rng: random.Random, loss: float) -> None:
        self._schedule, self._rng, self.loss = schedule, rng, loss
        self._receivers: dict[UdpPeer, Receive] = {}
        self._connections: dict[int, Connection] = {}
        self._number = 0

    # -- datagrams

    def attach(self, address: UdpPeer, receive: Receive) -> None:
        self._receivers[address] = receive

    def send(self, data: bytes, source: UdpPeer, to: UdpPeer) -> None:
        """Lose it, or deliver it once or twice, each at its own time."""
        self._schedule.note_bytes("datagram.sent", data)
        if self._rng.random() < self.loss:
            self._schedule.note("datagram.lost", to.host)
            return
        for _ in range(2 if self._rng.random() < self.loss * _DOUBLED else 1):
            self._schedule.after(self._way(), lambda: self._deliver(data, source, to))

    def _deliver(self, data: bytes, source: UdpPeer, to: UdpPeer) -> None:
        receive = self._receivers.get(to)
        if receive is not None:
            receive(data, source)

    def _way(self) -> float:
        return self._rng.uniform(SHORTEST, LONGEST)

    # -- streams

    def connect(self, caller: Caller, server: Server) -> Connection:
        self._number += 1
        connection = self._connections[self._number] = Connection(self._number, caller, server)
        return connection

    def is_open(self, connection: Connection) -> bool:
        return connection.number in self._connections

    def ask(self, connection: Connection, data: bytes, heard: Heard) -> None:
        """Bring one request to the server; `heard` gets its answer, or None if there will be none."""
        peer = connection.next_peer()
        connection.waiting[peer.stream] = heard
        breaks = self._rng.random() < self.loss * _BROKEN
        self._schedule.after(self._way(), lambda: self._arrive(connection, data, peer, breaks))

    def _arrive(self, connection: Connection, data: bytes, peer: StreamPeer, breaks: bool) -> None:
        if not self.is_open(connection):
            return
        server = connection.server
        if not server.up:
            self._schedule.after(GIVE_UP, lambda: self.hang_up(connection))
            return
        if peer.stream == 4:
            server.connected(peer)
        server.asked(data, peer)
        if breaks:
            server.disconnected(connection.number)
            self.hang_up(connection)

    def answer(self, connection: int, stream: int, data: bytes | None) -> None:
        """Bring an answer back; None resets the stream."""
        self._schedule.after(self._way(), lambda: self._answered(connection, stream, data))

    def _answered(self, number: int, stream: int, data: bytes | None) -> None:
        connection = self._connections.get(number)
        heard = connection.waiting.pop(stream, None) if connection else None
        if heard is not None:
            heard(data)

    def push(self, number: int, data: bytes) -> None:
        """Bring an event to who holds this connection."""
        self._schedule.after(self._way(), lambda: self._pushed(number, data))

    def _pushed(self, number: int, data: bytes) -> None:
        connection = self._connections.get(number)
        if connection is not None:
            connection.caller.pushed(data)

    def hang_up(self, connection: Connection) -> None:
        """End a connection: who waits on it hears that there will be no answer."""
        if self._connections.pop(connection.number, None) is None:
            return
        self._schedule.note("connection.lost", connection.number)
        waiting = list(connection.waiting.values())
        connection.waiting.clear()
        for heard in waiting:
            self._schedule.after(self._way(), lambda heard=heard: heard(None))  # type: ignore[misc]

    def close(self, number: int) -> None:
        """The server closes a connection."""
        connection = self._connections.get(number)
        if connection is not None:
            self.hang_up(connection)
            connection.server.disconnected(number)

    def lose(self, server: Server) -> None:
        """A machine died: everybody's connections to it are gone."""
        for connection in list(self._connections.values()):
            if connection.server is server:
                self.hang_up(connection)

    def forget(self, caller: Caller) -> None:
        """A client died: its servers hear that, in time."""
        for connection in list(self._connections.values()):
            if connection.caller is caller:
                connection.waiting.clear()
                self._schedule.after(GIVE_UP, lambda c=connection: c.server.disconnected(c.number))  # type: ignore[misc]
                del self._connections[connection.number]
