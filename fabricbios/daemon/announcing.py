"""Tells the fabric what this node has: keeps discovery's facts as core's leases change."""

from __future__ import annotations

import asyncio
import secrets

from fabricbios.core.announcer import NodeFacts
from fabricbios.core.discovery import Discovery
from fabricbios.core.node import Node
from fabricbios.core.trust import TrustStore
from fabricbios.daemon.clock import now
from fabricbios.daemon.config import Config
from fabricbios.daemon.discovery import SEQUENCE_FILE, DiscoveryService, load_sequence
from fabricbios.daemon.statedir import StateDir
from fabricbios.model import Binding
from fabricbios.transport.identity import Identity

NEWS_AFTER = 0.2  # seconds: what changes together is told together


class Announcing:
    """Owns core's Discovery and its sockets. `address` is None before `start`."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        trust: TrustStore,
        state: StateDir,
        node: Node,
        control: tuple[str, int],
        transports: tuple[Binding, ...],
    ) -> None:
        self._node, self._control, self._transports = node, control, transports
        self._certificate = identity.certificate
        self._core = Discovery(
            identity.private_key,
            self._facts(),
            last_sequence=load_sequence(state),
            interval_secs=config.announce_interval,
            trust=trust,
            rng=secrets.token_bytes,
        )
        self._service = DiscoveryService(
            self._core,
            bind=config.bind,
            port=config.discovery_port,
            ifaces=config.discovery_iface,
            relays=config.relay,
            store=lambda sequence: state.write(SEQUENCE_FILE, b"%d\n" % sequence),
        )
        self._news: asyncio.TimerHandle | None = None
        self.address: tuple[str, int] | None = None

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        return dict(self._service.counts)

    async def start(self) -> None:
        """Bind and announce. AlreadyRunning, ConfigError."""
        await self._service.start()
        self.address = self._service.address

    async def stop(self) -> None:
        """Say goodbye and close."""
        if self._news:
            self._news.cancel()
        self.address = None
        await self._service.stop()

    def changed(self) -> None:
        """Something may have changed: look soon, and announce if it did."""
        if self._news is None and self.address is not None:
            self._news = asyncio.get_running_loop().call_later(NEWS_AFTER, self._tell)

    def _tell(self) -> None:
        self._news = None
        self._core.update(self._facts(), now())
        self._service.wake()

    def _facts(self) -> NodeFacts:
        host, port = self._control
        return NodeFacts(
            control_addr=host,
            control_port=port,
            resources=self._node.summaries(),
            transports=self._transports,
            certificate=self._certificate,
        )
