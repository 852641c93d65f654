"""Ask relays, or the link, which nodes there are. For the client library, the CLI and the daemon alike."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import Sequence

from fabricbios.errors import Disconnected, TimedOut
from fabricbios.model import MULTICAST_V4, MULTICAST_V6, NS, Instant
from fabricbios.transport.asker import Question
from fabricbios.transport.node_entry import NodeEntry
from fabricbios.wire.discovery import Filter

RECEIVE_BUFFER = 4 << 20  # a long list comes in a burst; the kernel may give less
MAX_DATAGRAM = 2048  # a frame has at most 1400 (D2)
_MAX_RELAYS = 64

Address = tuple[str, int, int, int] | tuple[str, int]


def now() -> Instant:
    return Instant(time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns() // 1_000_000)


async def solicit(
    relays: Sequence[tuple[str, int]] = (),
    *,
    ifaces: Sequence[str] = (),
    port: int = 5700,
    filters: Sequence[Filter] = (),
    sender: int = 0,
    timeout: float = 3.0,
) -> list[NodeEntry]:
    """Return the nodes that relays (or nodes) at these addresses tell of, and those that answer on the links named.

    One entry a node, the best proven and newest of all answers, in order of their ids. Disconnected
    for a name that does not resolve, TimedOut if nobody answered within `timeout` seconds, OSError
    for an interface that is not there.
    """
    asked = [await _resolve(host, p) for host, p in relays[:_MAX_RELAYS]]
    asks = [_ask(family, to, "", filters, sender, timeout) for family, to in asked]
    for iface in ifaces:
        index = socket.if_nametoindex(iface)
        asks.append(_ask(socket.AF_INET, (MULTICAST_V4, port), iface, filters, sender, timeout))
        asks.append(_ask(socket.AF_INET6, (MULTICAST_V6, port, 0, index), iface, filters, sender, timeout))
    questions = await asyncio.gather(*asks)
    if not any(question.answered for question in questions):
        names = ", ".join([*(f"{host}:{p}" for host, p in relays), *ifaces])
        raise TimedOut(f"no answer to SOLICIT from {names} within {timeout:g} s")
    return _merged(questions)


async def _resolve(host: str, port: int) -> tuple[int, Address]:
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except socket.gaierror as error:
        raise Disconnected(f"{host}: {error.strerror}") from None
    family, _, _, _, address = infos[0]
    return family, address  # type: ignore[return-value]  # AF_INET and AF_INET6 have no other shapes


async def _ask(
    family: int, to: Address, iface: str, filters: Sequence[Filter], sender: int, timeout: float
) -> Question:
    """Put one question to one address; it is always returned, answered or not."""
    question = Question(sender=sender, filters=filters, rng=os.urandom, many=bool(iface))
    loop = asyncio.get_running_loop()
    sock = _socket(family, iface)
    transport, protocol = await loop.create_datagram_endpoint(lambda: _Asking(question, to), sock=sock)
    transport.max_size = MAX_DATAGRAM  # type: ignore[attr-defined]  # asyncio allocates this much a datagram
    try:
        await protocol.run(timeout)
    finally:
        transport.close()
    return question


def _socket(family: int, iface: str) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    if not iface:
        return sock
    index = socket.if_nametoindex(iface)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
    else:
        request = struct.pack("=4s4si", b"", b"", index)  # struct ip_mreqn, ip(7)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
    return sock


class _Asking(asyncio.DatagramProtocol):
    """Drives one Question with one socket.

    The answer of a host with many addresses may come from another one than was asked. What ties it to
    the question is the request_id, 64 random bits.
    """

    def __init__(self, question: Question, to: Address) -> None:
        self._question = question
        self._to = to
        self._transport: asyncio.DatagramTransport | None = None
        self._done = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: Address) -> None:
        host = f"[{addr[0]}]" if ":" in addr[0] else addr[0]
        again = self._question.receive(data, f"{host}:{addr[1]}", now())
        if again is not None and self._transport is not None:
            self._transport.sendto(again, addr)
        if self._question.done:
            self._done.set()

    def error_received(self, exc: Exception) -> None:
        """ICMP says nobody is there. It may come up, and anybody can forge ICMP: keep asking until the time is up."""

    async def run(self, timeout: float) -> None:
        end = now().boot_ns + int(timeout * NS)
        while not self._done.is_set():
            moment = now()
            for data in self._question.questions_to_send(moment):
                assert self._transport is not None
                self._transport.sendto(data, self._to)
            deadline = self._question.next_deadline()
            until = end if deadline is None else min(end, deadline)
            if moment.boot_ns >= end:
                return
            await _wait(self._done, max(0.0, (until - now().boot_ns) / NS))


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _merged(questions: Sequence[Question]) -> list[NodeEntry]:
    best: dict[int, NodeEntry] = {}
    for question in questions:
        for entry in question.entries:
            known = best.get(entry.node_id)
            if known is None or (entry.verified, entry.sequence) > (known.verified, known.sequence):
                best[entry.node_id] = entry
    return sorted(best.values(), key=lambda entry: entry.node_id)
