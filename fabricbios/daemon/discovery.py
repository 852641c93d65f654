"""Sockets, clock and disk for discovery: drives core's `Discovery` (a node) or `Relay` on UDP 5700.

One socket an address bound, one a family for multicast heard, one an interface for multicast sent.
Everything runs in the event loop's thread; only the sequence is written in another, because a disk may be slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence

from fabricbios.core.announcer import StoreSequence
from fabricbios.core.discovery import Discovery, multicast_peers
from fabricbios.core.relay import Relay
from fabricbios.daemon import multicast
from fabricbios.daemon.reachable import reachable_address
from fabricbios.daemon.statedir import StateDir
from fabricbios.daemon.udp_port import UdpPort, bound, reaches, to_address, to_peer
from fabricbios.errors import ConfigError
from fabricbios.model import DISCOVERY_PORT, NS
from fabricbios.ports import UdpPeer
from fabricbios.transport.solicit import now
from fabricbios.wire.discovery import WithdrawReason

SEQUENCE_FILE = "announce.sequence"
MAX_DATAGRAM = 2048  # a frame has at most 1400 (D2); asyncio allocates this much for each
MAX_QUEUED = 8192  # datagrams that wait to be sent
MAX_UNSENT = 1 << 20  # bytes that wait in asyncio for a full socket
BATCH, PAUSE = 32, 0.001  # so many datagrams, then so many seconds for the other side's buffer to drain
RESOLVE_AGAIN = 60.0
GOODBYE_TIMEOUT = 2.0
_log = logging.getLogger(__name__)


def load_sequence(state: StateDir) -> int:
    """Return the last sequence stored, 0 if none; ConfigError for a file that holds something else."""
    data = state.read(SEQUENCE_FILE)
    if data is None:
        return 0
    if not data.strip().isdigit():
        raise ConfigError(f"{state.path / SEQUENCE_FILE} holds no number: remove it if the clock is right")
    return int(data)


def store_sequence(state: StateDir) -> Callable[[int], None]:
    """Return what makes a sequence durable in this state directory."""
    return lambda sequence: state.write(SEQUENCE_FILE, b"%d\n" % sequence)


class DiscoveryService:
    """Runs one core object. `store(sequence)` makes a sequence durable (OSError if it cannot); a relay needs none."""

    def __init__(
        self,
        core: Discovery | Relay,
        *,
        bind: Sequence[str] = ("::",),
        port: int = DISCOVERY_PORT,
        ifaces: Sequence[str] = (),
        relays: Sequence[tuple[str, int]] = (),
        store: Callable[[int], None] | None = None,
    ) -> None:
        self._core = core
        self._bind, self._port, self._ifaces, self._relays = tuple(bind), port, tuple(ifaces), tuple(relays)
        self._store = store
        self._ports: list[tuple[asyncio.DatagramTransport, UdpPort]] = []
        self._heard_by: list[asyncio.DatagramTransport] = []  # of the multicast groups
        self._multicast: dict[str, socket.socket] = {}  # "group%iface" -> the socket that sends there
        self._queue: deque[tuple[bytes, UdpPeer]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns: int | None = None
        self._pump: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def address(self) -> tuple[str, int]:
        """(first address bound, port), for the ready line. Once started."""
        return self._bind[0], self._port

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """(message type, result) -> how often, for `fabricbios_discovery_messages_total`."""
        return self._core.counts

    async def start(self) -> None:
        """Bind, join, announce. AlreadyRunning: the port is taken. ConfigError: no such address or interface here."""
        try:
            await self._open()
        except BaseException:
            self._close()
            raise
        if isinstance(self._core, Discovery):
            await self._resolve(self._core)
            self._spawn(self._keep_resolving(self._core))
        self.wake()

    async def stop(self, reason: WithdrawReason = WithdrawReason.GRACEFUL_SHUTDOWN) -> None:
        """Say WITHDRAW if this is a node, let it out, close everything. Safe to call twice."""
        if self._closing:
            return
        self._closing = True
        if isinstance(self._core, Discovery) and self._ports:
            self._core.withdraw(reason, now())
            self.wake()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_TIMEOUT):
                    while self._queue or not self._core.has_left:
                        await asyncio.sleep(PAUSE)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._close()

    def wake(self) -> None:
        """Look at the core again. Call it after `core.update`."""
        self._timer = self._due_ns = None
        self._core.handle_timer(now())
        self._follow_up()

    def _received(self, data: bytes, peer: UdpPeer) -> None:
        self._core.receive(data, peer, now())
        self._follow_up()

    def _failed(self) -> None:
        self.counts["udp", "error"] += 1

    def _follow_up(self) -> None:
        """Carry out, send and schedule what the core wants now."""
        moment = now()
        while (effect := self._core.next_effect()) is not None:
            self._spawn(self._carry_out(effect))
        for datagram in self._core.datagrams_to_send(moment):
            if len(self._queue) < MAX_QUEUED:
                self._queue.append(datagram)
            else:
                self.counts["udp", "queue_full"] += 1
        if self._queue and self._pump is None:
            self._send_some()
        self._schedule(self._core.next_deadline())

    def _schedule(self, deadline: int | None) -> None:
        if deadline == self._due_ns:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due_ns, self._timer = deadline, None
        if deadline is not None:
            delay = max(0.0, (deadline - now().boot_ns) / NS)
            self._timer = asyncio.get_running_loop().call_later(delay, self.wake)

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
        except OSError:  # the socket is full, the interface is gone, nobody is there: as good as lost on the way
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

    async def _open(self) -> None:
        for address in self._bind:
            sock = bound(address, self._port)
            self._port = sock.getsockname()[1]
            self._ports.append(await self._serve(sock, address))
        if not self._ifaces:
            return
        for sock in multicast.receiving(self._ifaces, self._port):
            self._heard_by.append((await self._serve(sock, ""))[0])
        for peer in multicast_peers(self._ifaces, self._port):
            group, _, iface = peer.host.partition("%")
            self._multicast[peer.host] = multicast.sending(iface, group)

    async def _serve(self, sock: socket.socket, local: str) -> tuple[asyncio.DatagramTransport, UdpPort]:
        loop = asyncio.get_running_loop()
        transport, port = await loop.create_datagram_endpoint(
            lambda: UdpPort(local, self._received, self._failed), sock=sock
        )
        transport.max_size = MAX_DATAGRAM  # type: ignore[attr-defined]  # facts: 256 KiB a datagram otherwise
        return transport, port

    def _close(self) -> None:
        for handle in (self._timer, self._pump):
            if handle is not None:
                handle.cancel()
        for transport in (*self._heard_by, *(t for t, _ in self._ports)):
            transport.close()
        for sock in self._multicast.values():
            sock.close()
        self._queue.clear()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, effect: StoreSequence) -> None:
        core = self._core
        if not isinstance(core, Discovery):
            return
        try:
            if self._store is not None:
                await asyncio.to_thread(self._store, effect.sequence)
        except OSError as error:
            _log.error("cannot store the announcement's sequence: %s: announcing waits", error)
            core.effect_failed(effect, now())
        else:
            core.effect_succeeded(effect, now())
        self._follow_up()

    async def _resolve(self, core: Discovery) -> None:
        """Look up the relays' names, and which of our addresses lead there. Either may change, or work later."""
        found = []
        for host, port in self._relays:
            try:
                infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
            except socket.gaierror as error:
                _log.warning("relay %s: %s", host, error.strerror)
                continue
            peers = [to_peer(info[4], "") for info in infos]
            usable = [p for p in peers if any(reaches(_family(t), u.local, p) for t, u in self._ports)]
            found += usable[:1]
        targets = [*found, *(UdpPeer(name, self._port) for name in self._multicast)]
        core.set_targets(targets)
        core.set_reachable(reachable_address(targets), now())

    async def _keep_resolving(self, core: Discovery) -> None:
        while True:
            await asyncio.sleep(RESOLVE_AGAIN)
            await self._resolve(core)
            self._follow_up()


def _family(transport: asyncio.DatagramTransport) -> int:
    family: int = transport.get_extra_info("socket").family
    return family
