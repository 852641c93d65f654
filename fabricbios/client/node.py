"""A node as its clients see it: every control op a method, leases as context managers, events as a stream."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fabricbios.client.clock import NodeClock
from fabricbios.client.control import Control
from fabricbios.client.known_nodes import FILE, KnownNodes
from fabricbios.client.leases import BlockLease, Lease, MemoryLease, Wish
from fabricbios.client.tokens import TTL_SECONDS, Tokens
from fabricbios.client.verify import FirstUse, Verifier, take
from fabricbios.errors import Disconnected, InvalidToken
from fabricbios.model import CONTROL_PORT, Binding, DpAuth, Op, Perm, ResourceType, RevokeOutcome
from fabricbios.transport import Identity, Link
from fabricbios.wire import (
    ActiveLease,
    BindingTlv,
    CapRefreshParams,
    CapRevokeParams,
    Certificate,
    DpAuthTlv,
    EnrollRequestParams,
    FenceClearParams,
    GetBuildInfoResult,
    GetIdentityResult,
    GetInventoryResult,
    GetThermalResult,
    LeaseAllocParams,
    LeaseAllocResult,
    LeaseAttachParams,
    LeaseAttachResult,
    LeaseEvent,
    LeaseFreeParams,
    LeaseListActiveResult,
    LeaseQueryParams,
    LeaseQueryResult,
    LeaseRenewParams,
    LeaseRenewResult,
    LeaseRevokeParams,
    LeaseRevokeResult,
    PingResult,
    ResourceSummary,
    RevokeBroadcast,
    SchedulerFenceGetResult,
    SchedulerFenceSetParams,
    TimeSyncParams,
    TimeSyncResult,
    Token,
)

HOLD = Perm.ALLOC | Perm.RENEW | Perm.READ | Perm.WRITE
EVENTS_KEPT = 1024  # a listener that does not keep up loses the oldest


class Node:
    """One node. Made by `connect`; use as `async with`. Tokens are fetched and kept where none is given."""

    def __init__(self, control: Control, epoch: int | None = None) -> None:
        self.leases: dict[int, Lease] = {}
        self.tokens = Tokens(control, epoch)
        self._control = control
        self._clock: NodeClock | None = None
        self._listeners: set[asyncio.Queue[LeaseEvent | None]] = set()
        control.on_event, control.on_lost = self._heard, self._lost

    async def __aenter__(self) -> Self:
        await self._control.link()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Free every lease taken here, then say goodbye."""
        try:  # side by side: where the node is gone, all of them wait for it once
            await asyncio.gather(*(lease.close() for lease in list(self.leases.values())))
        finally:
            self._control.close()

    @property
    def node_id(self) -> int:
        """The node's proven id."""
        return self._control.node_id

    @property
    def host(self) -> str:
        return self._control.host

    @property
    def port(self) -> int:
        return self._control.port

    async def link(self) -> Link:
        """Return the QUIC connection, dialled anew if it was lost."""
        return await self._control.link()

    def call(self, op: Op, params: bytes = b"", resource_id: int = 0, token: bytes = b"") -> Coroutine[Any, Any, bytes]:
        """Ask any op and return its result bytes; for ops that have no method here."""
        return self._control.call(op, params, resource_id, token)

    async def doubt(self) -> None:
        """Find out whether the connection still lives, where something took too long; one that is dead is given up."""
        await self._control.doubt()

    # -- about the node ---------------------------------------------------------------------

    async def ping(self) -> int:
        """Return the node's uptime in seconds."""
        return PingResult.unpack(await self.call(Op.PING)).uptime_secs

    async def identity(self) -> GetIdentityResult:
        """Return the node's id and the key of the controller that enrolled it (zeros if none)."""
        return GetIdentityResult.unpack(await self.call(Op.GET_IDENTITY))

    async def inventory(self) -> tuple[ResourceSummary, ...]:
        """Return what the node leases."""
        return GetInventoryResult.unpack(await self.call(Op.GET_INVENTORY)).resources

    async def build_info(self) -> dict[str, str]:
        """Return the node's software facts."""
        return {i.key: i.value for i in GetBuildInfoResult.unpack(await self.call(Op.GET_BUILD_INFO)).items}

    async def thermal(self) -> tuple[Any, ...]:
        """Return the thermal readings (wire TLVs)."""
        return GetThermalResult.unpack(await self.call(Op.GET_THERMAL)).tlvs

    async def time_sync(self) -> TimeSyncResult:
        """Return the node's clocks."""
        params = TimeSyncParams(client_unix_ms=time.time_ns() // 1_000_000)
        return TimeSyncResult.unpack(await self.call(Op.TIME_SYNC, params.pack()))

    async def clock(self, again: bool = False) -> NodeClock:
        """Return the node's wall clock, asked once a connection, or `again`."""
        if self._clock is None or again:
            loop = asyncio.get_running_loop()
            before = loop.time()
            found = await self.time_sync()
            self._clock = NodeClock(found.node_unix_ms / 1000, (before + loop.time()) / 2)
        return self._clock

    # -- capabilities -----------------------------------------------------------------------

    async def cap_request(
        self, perms: Perm = HOLD, ttl: int = TTL_SECONDS, resource_id: int = 0, lease_id: int | None = None
    ) -> Token:
        """Ask for a token of our own (D7)."""
        return await self.tokens.request(perms, ttl, resource_id, lease_id)

    async def cap_refresh(self, token: Token, ttl: int = TTL_SECONDS) -> Token:
        """Return the token with new dates."""
        params = CapRefreshParams(ttl_secs=ttl)
        return Token.unpack(await self.call(Op.CAP_REFRESH, params.pack(), token.resource_id, token.pack()))

    async def cap_revoke(self, token_id: int, ttl: int = TTL_SECONDS, token: bytes = b"") -> RevokeBroadcast:
        """Revoke a token for `ttl` seconds. Return the broadcast that says so."""
        params = CapRevokeParams(token_id=token_id, ttl_secs=ttl).pack()
        answer = await self._with_token(Op.CAP_REVOKE, params, Perm.REVOKE, 0, token)
        self.tokens.forget()
        return RevokeBroadcast.unpack(answer)

    async def enroll(self, identity: Identity | None = None, token: bytes = b"") -> Certificate:
        """Ask the node, which must hold a controller key, to certify a key of ours (D3)."""
        who = identity or self._control.identity
        if who is None:
            raise Disconnected("enrolment needs an identity")
        params = EnrollRequestParams(node_id=who.node_id, public_key=who.public_key)
        return Certificate.unpack(await self.call(Op.ENROLL_REQUEST, params.pack(), token=token))

    # -- leases -----------------------------------------------------------------------------

    def lease_memory(
        self,
        size: int,
        ttl: int,
        grace: int = 0,
        dp_auth: DpAuth = DpAuth.BLAKE2S_FULL,
        binding: Binding = Binding.UDP,
        resource_id: int = 0,
        intents: tuple[Any, ...] = (),
    ) -> MemoryLease:
        """Memory of `size` bytes for `ttl` seconds, renewed until the `async with` block ends."""
        return MemoryLease(self, Wish(ResourceType.MEM, size, ttl, grace, dp_auth, binding, resource_id, intents))

    def lease_block(
        self,
        size: int,
        ttl: int,
        grace: int = 0,
        dp_auth: DpAuth = DpAuth.BLAKE2S_FULL,
        binding: Binding = Binding.UDP,
        resource_id: int = 0,
        intents: tuple[Any, ...] = (),
    ) -> BlockLease:
        """Block storage, as `lease_memory`."""
        return BlockLease(self, Wish(ResourceType.BLOCK, size, ttl, grace, dp_auth, binding, resource_id, intents))

    def lease(self, wish: Wish) -> Lease:
        """Any kind of lease; its `bindings` say how to use it."""
        return Lease(self, wish)

    def attach_memory(self, lease_id: int, ttl: int, binding: Binding | None = None) -> MemoryLease:
        """Take up a memory lease of ours again, after a crash (LEASE_ATTACH); the old key is dead at once.

        It has the binding that it was allocated with; naming one only insists on it.
        """
        return MemoryLease(self, Wish(ResourceType.MEM, 0, ttl, binding=binding, lease_id=lease_id))

    def attach_block(self, lease_id: int, ttl: int, binding: Binding | None = None) -> BlockLease:
        """As `attach_memory`, for block storage."""
        return BlockLease(self, Wish(ResourceType.BLOCK, 0, ttl, binding=binding, lease_id=lease_id))

    async def allocate(self, wish: Wish, token: bytes = b"") -> LeaseAllocResult:
        """LEASE_ALLOC alone: nothing renews or frees what it returns."""
        return await self.lease_alloc(
            wish.ttl,
            wish.kind,
            wish.size,
            wish.grace,
            wish.dp_auth,
            wish.binding,
            wish.resource_id,
            wish.intents,
            token,
        )

    async def lease_alloc(
        self,
        ttl: int,
        kind: ResourceType,
        size: int,
        grace: int = 0,
        dp_auth: DpAuth | None = None,
        binding: Binding | None = None,
        resource_id: int = 0,
        intents: tuple[Any, ...] = (),
        token: bytes = b"",
    ) -> LeaseAllocResult:
        """LEASE_ALLOC, spelled out."""
        wishes = list(intents)
        if dp_auth is not None and binding in (Binding.UDP, None):
            wishes.append(DpAuthTlv(dp_auth))
        if binding is not None:
            wishes.append(BindingTlv(binding))
        params = LeaseAllocParams(
            duration_secs=ttl, grace_secs=grace, resource_type=kind, requested_bytes=size, intents=tuple(wishes)
        )
        answer = await self._with_token(Op.LEASE_ALLOC, params.pack(), HOLD, resource_id, token)
        return LeaseAllocResult.unpack(answer)

    async def renew(self, lease_id: int, ttl: int, token: bytes = b"") -> LeaseRenewResult:
        """Extend a lease to `ttl` seconds from now; never shortens."""
        params = LeaseRenewParams(lease_id=lease_id, duration_secs=ttl).pack()
        return LeaseRenewResult.unpack(await self._with_token(Op.LEASE_RENEW, params, HOLD, 0, token))

    async def free(self, lease_id: int) -> None:
        """Give a lease of ours back."""
        await self.call(Op.LEASE_FREE, LeaseFreeParams(lease_id=lease_id).pack())

    async def query(self, lease_id: int) -> LeaseQueryResult:
        """Return a lease's status and end."""
        return LeaseQueryResult.unpack(await self.call(Op.LEASE_QUERY, LeaseQueryParams(lease_id=lease_id).pack()))

    async def list_active(self, admin: bool = False, token: bytes = b"") -> tuple[ActiveLease, ...]:
        """Return the live leases; whose the others are is shown to who has ADMIN."""
        if admin and not token:
            token = await self.tokens.get(Perm.ADMIN)
        return LeaseListActiveResult.unpack(await self.call(Op.LEASE_LIST_ACTIVE, token=token)).leases

    async def revoke(self, lease_id: int, grace: int = 0, token: bytes = b"") -> RevokeOutcome:
        """Take a lease from its holder, after `grace` seconds of warning."""
        params = LeaseRevokeParams(lease_id=lease_id, grace_secs=grace).pack()
        answer = await self._with_token(Op.LEASE_REVOKE, params, Perm.REVOKE, 0, token)
        return RevokeOutcome(LeaseRevokeResult.unpack(answer).outcome)

    async def attach(self, lease_id: int) -> LeaseAttachResult:
        """LEASE_ATTACH alone: the bindings again, with a new key."""
        return LeaseAttachResult.unpack(await self.call(Op.LEASE_ATTACH, LeaseAttachParams(lease_id=lease_id).pack()))

    async def fence_clear(self, resource_id: int, token: bytes = b"") -> None:
        """Give a fenced resource back to use, once its teardown works again."""
        params = FenceClearParams(resource_id=resource_id).pack()
        await self._with_token(Op.FENCE_CLEAR, params, Perm.ADMIN, 0, token)

    async def scheduler_fence_set(self, epoch: int, token: bytes = b"") -> None:
        """Install a scheduler epoch: lower ones get no tokens any more."""
        params = SchedulerFenceSetParams(new_epoch=epoch).pack()
        await self._with_token(Op.SCHEDULER_FENCE_SET, params, Perm.ADMIN, 0, token)
        self.tokens.forget()
        self.tokens.epoch = epoch

    async def scheduler_fence_get(self) -> int | None:
        """Return the installed epoch, None without a fence."""
        found = SchedulerFenceGetResult.unpack(await self.call(Op.SCHEDULER_FENCE_GET))
        return found.epoch if found.installed else None

    # -- events -----------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[LeaseEvent]:
        """Yield the LEASE_EVENTs of our leases from now on. Raises Disconnected when the connection is lost."""
        queue: asyncio.Queue[LeaseEvent | None] = asyncio.Queue(EVENTS_KEPT)
        self._listeners.add(queue)
        try:
            await self._control.link()
            while (event := await queue.get()) is not None:
                yield event
            raise Disconnected("the connection was lost; events may have been missed")
        finally:
            self._listeners.discard(queue)

    def _heard(self, event: LeaseEvent) -> None:
        lease = self.leases.get(event.lease_id)
        if lease is not None:
            lease.heard(event)
        self._tell(event)

    def _lost(self) -> None:
        self._clock = None
        self._tell(None)

    def _tell(self, event: LeaseEvent | None) -> None:
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    async def _with_token(self, op: Op, params: bytes, perms: Perm, resource_id: int, token: bytes) -> bytes:
        """Ask with the token given, else with one of our own; one that the node no longer takes is replaced once."""
        if token:
            return await self.call(op, params, resource_id, token)
        try:
            return await self.call(op, params, resource_id, await self.tokens.get(perms))
        except InvalidToken:
            self.tokens.forget()
            return await self.call(op, params, resource_id, await self.tokens.get(perms))


def connect(
    host: str,
    port: int = CONTROL_PORT,
    *,
    identity: Identity | str | os.PathLike[str] | None = None,
    node_id: int | None = None,
    controllers: Sequence[bytes] = (),
    known_nodes: KnownNodes | None = None,
    first_use: FirstUse = take,
    epoch: int | None = None,
    timeout: float = 5.0,
) -> Node:
    """Return a node to be used as `async with connect(...) as node`.

    `identity` is ours, or the directory that holds it (made on first use); without one only PING and
    GET_IDENTITY are answered. The node must be `node_id`, else certified by one of `controllers` (raw keys),
    else the one met at this address before (`known_nodes`, by default the file in the identity's directory), else
    `first_use` decides. Raises, on entering: Untrusted, TimedOut, Disconnected.
    """
    if identity is not None and not isinstance(identity, Identity):
        directory = Path(identity)
        known_nodes = known_nodes or KnownNodes(directory / FILE)
        identity = Identity.load_or_create(directory)
    verifier = Verifier(host, port, node_id, controllers, known_nodes, first_use)
    return Node(Control(host, port, identity, verifier, timeout), epoch)
