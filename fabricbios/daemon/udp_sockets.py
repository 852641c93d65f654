"""All sockets of the discovery port as one thing that hears and sends.

One an address bound, one a family for multicast heard, one an interface and group for multicast sent.
What is to be sent waits in a bounded queue and leaves in small batches, so that a long answer does not
overrun the buffer of who asked.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence

from fabricbios.core.discovery import multicast_peers
from fabricbios.daemon import multicast
from fabricbios.daemon.udp_port import UdpPort, bound, reaches, to_address
from fabricbios.ports import UdpPeer

MAX_DATAGRAM = 2048  # a frame has at most 1400 (D2); asyncio allocates this much for each
MAX_QUEUED = 8192  # datagrams that wait to be sent
MAX_UNSENT = 1 << 20  # bytes that wait in asyncio for a full socket
BATCH, PAUSE = 32, 0.001  # so many datagrams, then so many seconds

Datagram = tuple[bytes, UdpPeer]


class UdpSockets:
    """`received(data, peer)` gets what comes; what cannot be sent is counted in `counts` and lost, as on any way."""

    def __init__(self, received: Callable[[bytes, UdpPeer], None], counts: Counter[tuple[str, str]]) -> None:
        self._received, self._counts = received, counts
        self._ports: list[tuple[asyncio.DatagramTransport, UdpPort]] = []
        self._heard_by: list[asyncio.DatagramTransport] = []  # of the multicast groups
        self._multicast: dict[str, socket.socket] = {}  # "group%iface" -> the socket that sends there
        self._queue: deque[Datagram] = deque()
        self._pump: asyncio.TimerHandle | None = None
        self.port = 0

    @property
    def is_open(self) -> bool:
        return bool(self._ports)

    @property
    def is_idle(self) -> bool:
        """Whether all that was to be sent is out."""
        return not self._queue

    async def open(self, bind: Sequence[str], port: int, ifaces: Sequence[str]) -> None:
        """Bind and join; port 0 picks one. Errors as `udp_port.bound` and `multicast` raise them; then `close`."""
        self.port = port
        for address in bind:
            sock = bound(address, self.port)
            self.port = sock.getsockname()[1]
            self._ports.append(await self._serve(sock, address))
        if not ifaces:
            return
        for sock in multicast.receiving(ifaces, self.port):
            self._heard_by.append((await self._serve(sock, ""))[0])
        for peer in multicast_peers(ifaces, self.port):
            group, _, iface = peer.host.partition("%")
            self._multicast[peer.host] = multicast.sending(iface, group)

    def close(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
        for transport in (*self._heard_by, *(t for t, _ in self._ports)):
            transport.close()
        for sock in self._multicast.values():
            sock.close()
        self._queue.clear()

    def reaches(self, peer: UdpPeer) -> bool:
        """Whether any of the sockets can send to this address."""
        return any(reaches(_family(t), port.local, peer) for t, port in self._ports)

    def send(self, datagrams: Iterable[Datagram]) -> None:
        """Queue datagrams; what does not fit is counted and dropped."""
        for datagram in datagrams:
            if len(self._queue) < MAX_QUEUED:
                self._queue.append(datagram)
            else:
                self._counts["udp", "queue_full"] += 1
        if self._queue and self._pump is None:
            self._send_some()

    def _send_some(self) -> None:
        self._pump = None
        for _ in range(min(BATCH, len(self._queue))):
            self._send(*self._queue.popleft())
        if self._queue:
            self._pump = asyncio.get_running_loop().call_later(PAUSE, self._send_some)

    def _send(self, data: bytes, peer: UdpPeer) -> None:
        try:
            sender = self._multicast.get(peer.host)
            if sender is not None:
                host = peer.host if sender.family == socket.AF_INET6 else peer.host.partition("%")[0]
                sender.sendto(data, to_address(peer._replace(host=host), sender.family))
                return
            transport = self._port_for(peer)
            if transport.get_write_buffer_size() > MAX_UNSENT:  # type: ignore[attr-defined]  # asyncio's, and uvloop's
                raise BlockingIOError
            transport.sendto(data, to_address(peer, _family(transport)))
        except OSError:  # the socket is full, the interface is gone, nobody is there
            self._failed()

    def _port_for(self, peer: UdpPeer) -> asyncio.DatagramTransport:
        """Return the socket that the peer wrote to, else one that reaches it: it may have asked by multicast."""
        for transport, port in self._ports:
            if peer.local and port.local == peer.local:
                return transport
        for transport, port in self._ports:
            if reaches(_family(transport), port.local, peer):
                return transport
        raise OSError("no socket reaches it")

    def _failed(self) -> None:
        self._counts["udp", "error"] += 1

    async def _serve(self, sock: socket.socket, local: str) -> tuple[asyncio.DatagramTransport, UdpPort]:
        loop = asyncio.get_running_loop()
        transport, port = await loop.create_datagram_endpoint(
            lambda: UdpPort(local, self._received, self._failed), sock=sock
        )
        transport.max_size = MAX_DATAGRAM  # type: ignore[attr-defined]  # 256 KiB a datagram otherwise
        return transport, port


def _family(transport: asyncio.DatagramTransport) -> int:
    family: int = transport.get_extra_info("socket").family
    return family
