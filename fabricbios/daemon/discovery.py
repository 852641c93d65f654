"""Clock, disk and sockets for discovery: drives core's `Discovery` (a node) or `Relay` on UDP 5700.

Everything runs in the event loop's thread; only the sequence is written in another, because a disk may be slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence

from fabricbios.core.announcer import StoreSequence
from fabricbios.core.discovery import Discovery, multicast_peers
from fabricbios.core.relay import Relay
from fabricbios.daemon.clock import now
from fabricbios.daemon.reachable import reachable_address
from fabricbios.daemon.statedir import StateDir
from fabricbios.daemon.udp_port import to_peer
from fabricbios.daemon.udp_sockets import UdpSockets
from fabricbios.errors import ConfigError
from fabricbios.model import DISCOVERY_PORT, NS
from fabricbios.ports import UdpPeer
from fabricbios.wire.discovery import WithdrawReason

SEQUENCE_FILE = "announce.sequence"
RESOLVE_AGAIN = 60.0
GOODBYE_TIMEOUT = 2.0
FIRST_TIMEOUT = 2.0
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
        self._sockets = UdpSockets(self._received, core.counts)
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._storing: asyncio.Task[None] | None = None  # the last sequence's way to the disk
        self._closing = False
        self._targets: tuple[UdpPeer, ...] = ()
        self._afar: tuple[UdpPeer, ...] = ()  # who asked us from elsewhere while we knew no address but loopback

    @property
    def address(self) -> tuple[str, int]:
        """(first address bound, port), for the ready line. Once started."""
        return self._bind[0], self._sockets.port

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """(message type, result) -> how often, for `fabricbios_discovery_messages_total`."""
        return self._core.counts

    async def start(self) -> None:
        """Bind, join, announce. AlreadyRunning: the port is taken. ConfigError: no such address or interface here.

        A node answers SOLICIT with what it announces, so it is ready once the first sequence is stored; a disk that
        takes longer than FIRST_TIMEOUT holds nobody up.
        """
        try:
            await self._sockets.open(self._bind, self._port, self._ifaces)
        except BaseException:
            self._sockets.close()
            raise
        if isinstance(self._core, Discovery):
            await self._resolve(self._core)
            self._spawn(self._keep_resolving(self._core))
        self.wake()
        if self._storing is not None:
            await asyncio.wait({self._storing}, timeout=FIRST_TIMEOUT)

    async def stop(self, reason: WithdrawReason = WithdrawReason.GRACEFUL_SHUTDOWN) -> None:
        """Say WITHDRAW if this is a node, let it out, close everything. Safe to call twice."""
        if self._closing:
            return
        self._closing = True
        if isinstance(self._core, Discovery) and self._sockets.is_open:
            await self._say_goodbye(self._core, reason)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._schedule(None)
        self._sockets.close()

    def wake(self) -> None:
        """Look at the core again. Call it after `core.update`."""
        self._schedule(None)
        self._core.handle_timer(now())
        self._follow_up()

    def _received(self, data: bytes, peer: UdpPeer) -> None:
        self._core.receive(data, peer, now())
        if isinstance(self._core, Discovery) and (asker := self._core.asked_from_afar) is not None:
            self._core.asked_from_afar, self._afar = None, (asker,)
            self._find_reachable(self._core)
        self._follow_up()

    def _follow_up(self) -> None:
        """Carry out, send and schedule what the core wants now."""
        while (effect := self._core.next_effect()) is not None:
            self._storing = self._spawn(self._carry_out(effect))
        self._sockets.send(self._core.datagrams_to_send(now()))
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

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

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

    async def _say_goodbye(self, core: Discovery, reason: WithdrawReason) -> None:
        core.withdraw(reason, now())
        self._follow_up()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_TIMEOUT):
                while not (core.has_left and self._sockets.is_idle):
                    await asyncio.sleep(0.001)

    async def _resolve(self, core: Discovery) -> None:
        """Look up the relays' names, and which of our addresses lead there. Either may change, or work later."""
        found = []
        for host, port in self._relays:
            try:
                infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
            except socket.gaierror as error:
                _log.warning("relay %s: %s", host, error.strerror)
                continue
            usable = [peer for info in infos if self._sockets.reaches(peer := to_peer(info[4], ""))]
            found += usable[:1]
        self._targets = (*found, *multicast_peers(self._ifaces, self._sockets.port))
        core.set_targets(self._targets)
        self._find_reachable(core)

    def _find_reachable(self, core: Discovery) -> None:
        """Without a default route, and no relay, only who asks shows us which address of ours leads anywhere."""
        try:
            core.set_reachable(reachable_address([*self._targets, *self._afar]), now())
        except OSError as error:
            _log.warning("which address of ours others reach: %s; as before", error)

    async def _keep_resolving(self, core: Discovery) -> None:
        while True:
            await asyncio.sleep(RESOLVE_AGAIN)
            await self._resolve(core)
            self._follow_up()
