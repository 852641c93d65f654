"""`fabricbiosd node`: everything made, joined, started, and taken down again. Nothing is decided here."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import secrets
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from random import SystemRandom

from fabricbios.core.node import Node, Setup
from fabricbios.core.trust import TrustMode, TrustStore
from fabricbios.daemon import build, log, loopfaults, ready
from fabricbios.daemon.admin import AdminSocket
from fabricbios.daemon.admin_answers import AdminAnswers
from fabricbios.daemon.announcing import Announcing
from fabricbios.daemon.clock import now
from fabricbios.daemon.config import Config
from fabricbios.daemon.control import Control
from fabricbios.daemon.datastreams import DataStreams
from fabricbios.daemon.effects import Effects
from fabricbios.daemon.journal import Entry, Journal
from fabricbios.daemon.loop import NodeLoop
from fabricbios.daemon.measures import Measures
from fabricbios.daemon.orphans import Orphans
from fabricbios.daemon.pins import Pins
from fabricbios.daemon.planes import Planes
from fabricbios.daemon.statedir import AlreadyRunning, StateDir
from fabricbios.daemon.storewatch import StoreWatch
from fabricbios.daemon.thermal import Thermal
from fabricbios.daemon.tracing import Tracing
from fabricbios.errors import ConfigError
from fabricbios.model import hex128
from fabricbios.ports import TrustedKeys
from fabricbios.transport import trustdir
from fabricbios.transport.cycles import spare_the_living
from fabricbios.transport.identity import Identity
from fabricbios.transport.server import QuicServer

logger = logging.getLogger("fabricbios.node")
DRAIN_SECONDS = 8.0  # D8
LEARNED = "trust.d"


def run(config: Config, reload: Callable[[], Config], discovery: bool = True) -> int:
    """Serve until a signal ends it; return the exit code. ConfigError, AlreadyRunning, OSError before it serves."""
    log.set_up(config.log_format)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # keys and leased bytes are in our memory, and our servers'
    state = StateDir(config.state_dir)
    state.acquire()
    service = NodeService(config, reload, state, discovery)
    try:
        code = asyncio.run(service.serve())
    finally:
        state.release()
    if service.effects.stuck:  # the interpreter would wait for the thread; systemd and people wait for us
        logger.error("a device does not answer: leaving without it")
        logging.shutdown()
        os._exit(code)
    return code


class NodeService:
    """One node's life: `serve` starts the parts in order, waits for a signal, and stops them backwards."""

    def __init__(self, config: Config, reload: Callable[[], Config], state: StateDir, discovery: bool) -> None:
        self._config, self._reload, self._state, self._discovers = config, reload, state, discovery
        self._ending = asyncio.Event()
        self._serving = False
        self._undo = AsyncExitStack()  # whatever a start came to, and each part although another failed to stop
        self._hand_over = config.on_stop == "handover"
        self._threads_busy: Callable[[], bool] = lambda: False
        self._learned = config.state_dir / LEARNED
        self.journal = Journal(config.state_dir / "journal")
        self.measures = Measures()

    async def serve(self) -> int:
        asyncio.get_running_loop().set_exception_handler(loopfaults.Complaints().tell)
        self._signals()  # at once: what a start has bound already must be taken down, too
        async with self._undo as undo:
            undo.callback(sys.stdout.flush)
            undo.callback(self.journal.close)
            try:
                await self._start()
            except BaseException:
                self._hand_over = True  # a port that is taken is no reason to end what a predecessor leased
                raise
            await self._ending.wait()
            ready.notify("STOPPING=1")
        return 0

    async def _start(self) -> None:
        config = self._config
        self.identity = Identity.load_or_create(config.state_dir / "identity")
        self.trust = TrustStore(TrustMode(config.trust), self._trusted_keys())
        entries = self.journal.open()
        self.control = Control(self.measures.took if config.metrics else None)
        self.server = QuicServer(self.identity, self.control)
        self._undo.push_async_callback(self.server.close)
        controls = [await self._listen(bind) for bind in config.bind]
        self._join(controls, entries)  # without a pause: a request may be waiting
        self._undo.push_async_callback(self.announcing.stop)
        if self._discovers:
            await self.announcing.start()
        self._undo.callback(self.thermal.stop)
        self.thermal.start()
        self._undo.callback(self.measures.close)
        metrics = self.measures.start(self, config.metrics) if config.metrics else None
        await self._listen_to_admins()
        self._serving = True
        spare_the_living()
        self._say_ready(controls[0], metrics)

    def _join(self, controls: list[tuple[str, int]], entries: list[Entry]) -> None:
        """Make the parts that know each other."""
        config = self._config
        self.planes = Planes(config, self.identity.node_id)
        self._undo.callback(lambda: self.planes.close(keep=self._hand_over, busy=self._threads_busy()))
        self.planes.open(controls)
        self.node = Node(self._setup(), self.planes.offers, self.trust, SystemRandom())
        self.node.restore(entries, now())
        self.node.trust_changed(now())  # while nobody served
        self.effects = Effects(self.journal, self.planes.by_key, self.planes.slow_steps)
        self._threads_busy = lambda: self.effects.stuck
        self.announcing = Announcing(
            config, self.identity, self.trust, self._state, self.node, controls[0], self.planes.transports
        )
        self.thermal = Thermal(self.node, simulated=config.drivers == "simulated")
        self.loop = NodeLoop(
            self.node, self.trust, Pins(self._learned, config.trust_dir), self.effects, self.journal, self.server,
            changed=self._changed, answered=self.control.answered,
            worked=self._measure if config.metrics else lambda: None,
        )  # fmt: skip
        self.data = DataStreams(self.planes.streams, self._holder_of, self.loop.in_thread)
        self.control.join(self.loop, self.server, self.data)
        self._undo.push_async_callback(self._stop_leasing)
        self._take_back()
        self.loop.pump()
        self.stores = StoreWatch(self.planes.stores, self.loop, self.planes.refit, self._tell_build)
        self._undo.callback(self.stores.stop)
        self.stores.start()

    def _tell_build(self) -> None:
        self.node.set_build_info(build.info(self.planes.reasons(), self.stores.states()))

    def _setup(self) -> Setup:
        config = self._config
        controller = build.controller_key(config.state_dir)
        return Setup(
            node_id=self.identity.node_id,
            token_key=self._token_key(),
            boot=build.boot_id(),
            started=now(),
            policy=config.policy,
            build_info=build.info(self.planes.reasons(), {}),
            controller_key=controller,
            controller_pubkey=build.public(controller),
            max_leases=self.planes.max_leases,
        )

    def _token_key(self) -> bytes:
        key = self._state.read("token.key")
        if key is None:
            key = secrets.token_bytes(32)
            self._state.write("token.key", key)
        if len(key) != 32:
            raise ConfigError(f"{self._config.state_dir / 'token.key'} has not 32 bytes: remove it to make a new one")
        return key

    def _trusted_keys(self) -> TrustedKeys:
        keys = trustdir.load(self._config.trust_dir, self._learned)
        for broken in keys.broken:
            logger.error("trust: %s: nobody may claim this node until it is mended or removed", broken)
        return keys

    def _holder_of(self, lease_id: int) -> int | None:
        lease = self.node.lease(lease_id)
        return None if lease is None else lease.spec.holder

    async def _listen(self, bind: str) -> tuple[str, int]:
        port = self._config.control_port
        try:
            return await self.server.start(bind, port)
        except OSError as e:
            raise AlreadyRunning(f"control-port {port} on {bind}: {e.strerror}") from None

    async def _listen_to_admins(self) -> None:
        """Who may not make the runtime directory serves all the same: it is a convenience, not a lock."""
        tracing = Tracing(self.identity.node_id, self.planes.traced)
        self._undo.push_async_callback(tracing.close)
        answers = AdminAnswers(self.identity.node_id, self.node, self.planes, self.data.counts, tracing)
        admin = AdminSocket(self._config.runtime_dir, answers)
        try:
            await admin.start()
        except OSError as e:
            logger.warning("no admin socket (fabricbios top, trust approve): %s: set runtime-dir", e)
        else:
            self._undo.push_async_callback(admin.stop)

    def _take_back(self) -> None:
        """Free what an earlier daemon left and nobody knows, beside the event loop."""
        known = {lease.spec.lease_id for lease in self.node.leases()}
        orphans = Orphans(self.planes.uppermost_first(), known)
        self._undo.callback(orphans.stop)
        orphans.begin(self.loop.in_thread)

    def _say_ready(self, control: tuple[str, int], metrics: tuple[str, int] | None) -> None:
        endpoints = {
            "control": control,
            "discovery": self.announcing.address,
            **self.planes.endpoints(control[0]),
            "metrics": metrics,
        }
        paths, checks = self.planes.labels(), self.planes.checks()
        print(ready.line(self.identity.node_id, self.trust.claimed, endpoints, paths, checks), flush=True)
        ready.notify("READY=1")
        logger.info("node %s serves on %s port %d", hex128(self.identity.node_id), *control)

    def _changed(self) -> None:
        self.announcing.changed()
        self._measure()

    def _measure(self) -> None:
        """At once where metrics are on: who was answered may ask for them."""
        self.measures.tore_down(self.node.take_teardowns())

    def _signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        loop.add_signal_handler(signal.SIGUSR2, self._end_with_handover)
        loop.add_signal_handler(signal.SIGHUP, self._reload_now)

    def _end_with_handover(self) -> None:
        self._hand_over = True
        self._ending.set()

    def _reload_now(self) -> None:
        """Take over what can change while serving: trust and policy. A broken configuration changes nothing.

        Before we serve there is nothing to take over: it was all read just now.
        """
        if not self._serving:
            return
        ready.notify("RELOADING=1")
        try:
            config, keys = self._reload(), self._trusted_keys()
        except (ConfigError, OSError) as e:
            logger.error("reload: %s; going on as before", e)
        else:
            self.trust.reload(keys)
            self.node.set_policy(config.policy)
            self.loop.pump(lambda: self.node.trust_changed(now()))
            logger.info("reloaded trust and policy; other settings need a restart")
        ready.notify("READY=1")

    async def _stop_leasing(self) -> None:
        """Tear down what is leased, or leave it to a successor; then carry out nothing more."""
        try:
            if not self._hand_over:
                await self.loop.drain(DRAIN_SECONDS)
        finally:
            self.loop.stop()
            self.effects.close()
