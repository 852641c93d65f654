"""A lease as its holder has it: bound, renewed by itself, read and written, freed at the end."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from fabricbios.client.datagram_io import DatagramIo
from fabricbios.client.plane import FBBU, FBMU, Codec, Silent
from fabricbios.client.reach import STREAMS, Bindings, Reach, read_bindings
from fabricbios.client.stream_io import StreamIo
from fabricbios.client.transfer import Progress
from fabricbios.client.write_order import WriteOrder
from fabricbios.errors import (
    Disconnected,
    FabricError,
    Fenced,
    LeaseExpired,
    LocalMisuse,
    NotFound,
    Refused,
    Revoked,
    TimedOut,
    Untrusted,
)
from fabricbios.model import BLOCK_SIZE, Binding, DpAuth, DpOp, LeaseEventKind, LeaseStatus, ResourceType, Status
from fabricbios.wire import LeaseAllocResult, LeaseAttachResult, LeaseEvent, Tagger

if TYPE_CHECKING:
    from fabricbios.client.node import Node

_PASSING = (Status.RATE_LIMITED, Status.RESOURCE_BUSY, Status.INTERNAL_ERROR)  # a node out of disk says the last one
RENEW_AT = 0.5  # of what is left; a lost renewal leaves time for several more
RETRY_SECONDS = 0.25
PATIENCE = 0.25  # of what is left, for one renewal: a connection that died is found out while there is time for another
LONGEST_GRACE = 300.0  # seconds (D8): after the end and that, no node has the lease any more
IO_SECONDS = 10.0
WHY_SECONDS = 5.0  # for asking the node, after a failure, what became of the lease

_ENDS: dict[int, tuple[type[Refused], Status, str]] = {
    LeaseEventKind.REVOKED: (Revoked, Status.LEASE_EXPIRED, "the node took the lease back"),
    LeaseEventKind.EXPIRED: (LeaseExpired, Status.LEASE_EXPIRED, "the lease is over"),
    LeaseEventKind.FENCED: (Fenced, Status.RESOURCE_FENCED, "the resource was fenced"),
}


class Wish(NamedTuple):
    """What to ask for. `size` is in the unit of the kind's capacity (D4), times in seconds.

    `lease_id` names a lease to attach to again instead (LEASE_ATTACH); a `binding` of None then takes what it has.
    """

    kind: ResourceType
    size: int
    ttl: int
    grace: int = 0
    dp_auth: DpAuth = DpAuth.BLAKE2S_FULL
    binding: Binding | None = Binding.UDP
    resource_id: int = 0
    intents: tuple[Any, ...] = ()
    lease_id: int = 0


class Lease:
    """Use as `async with node.lease(...) as lease`. Other coroutines may share it.

    `warned` is set when the node announces that it will take the lease back. `over` says why the lease
    has ended, None while it lives.
    """

    def __init__(self, node: Node, wish: Wish) -> None:
        self.node, self.wish = node, wish
        self.lease_id = 0
        self.expires_at = 0  # Unix seconds of the node, for people
        self.bindings: tuple[Any, ...] = ()
        self.warned = asyncio.Event()
        self.over: FabricError | None = None
        self._ends_at = self._forgotten_at = 0.0  # loop time
        self._renewer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> Self:
        """Allocate (or attach) and begin to renew. Raises Refused in its kinds, Disconnected, Unsupported.

        Where this fails or is interrupted, a lease allocated here is freed; one that was attached to lives on:
        it was there before, and so is its data.
        """
        answer = await (self.node.attach(self.wish.lease_id) if self.wish.lease_id else self.node.allocate(self.wish))
        self.lease_id, self.expires_at, self.bindings = answer.lease_id, answer.expires_at, answer.bindings
        self.node.leases[self.lease_id] = self
        try:
            await self._bound(answer)
            await self._note_end(answer.expires_at)
        except BaseException:
            await (self.detach() if self.wish.lease_id else self.close())
            raise
        self._renewer = asyncio.create_task(self._keep_renewing())
        return self

    async def close(self) -> None:
        """Stop renewing and free. A lease that cannot be freed ends by itself."""
        if self._renewer is not None:
            self._renewer.cancel()
            self._renewer = None
        self.node.leases.pop(self.lease_id, None)
        if self.over is None:
            self.over = LeaseExpired(Status.LEASE_EXPIRED, "the lease was closed here")
            with contextlib.suppress(Disconnected, NotFound, LeaseExpired):
                await self.node.free(self.lease_id)

    async def detach(self) -> None:
        """Stop renewing and let go without freeing: the lease lives on until its end, for `attach` or others."""
        if self._renewer is not None:
            self._renewer.cancel()
            self._renewer = None
        self.node.leases.pop(self.lease_id, None)

    async def renew(self, ttl: int | None = None) -> int:
        """Extend to `ttl` seconds from now (the wish's). Return the new end, Unix seconds."""
        result = await self.node.renew(self.lease_id, ttl or self.wish.ttl)
        self.expires_at = result.expires_at
        await self._note_end(result.expires_at)
        return result.expires_at

    def heard(self, event: LeaseEvent) -> None:
        """Take a LEASE_EVENT about this lease."""
        if event.event == LeaseEventKind.REVOKE_WARNING:
            self.warned.set()
        elif event.event in _ENDS:
            error, status, why = _ENDS[event.event]
            self.over = self.over or error(status, why)

    async def _bound(self, answer: LeaseAllocResult | LeaseAttachResult) -> None:
        """What a kind of lease has to set up."""

    async def _note_end(self, expires_at: int) -> None:
        """Keep the end by our own clock. Never later than what was asked for lasts: the node's clock may have been set
        since we asked for it, and a renewal that comes early costs nothing."""
        left = expires_at - (await self.node.clock()).unix_now()
        if not 0 < left <= self.wish.ttl + 1:
            left = expires_at - (await self.node.clock(again=True)).unix_now()
        now = asyncio.get_running_loop().time()
        self._ends_at, self._forgotten_at = (
            now + min(left, self.wish.ttl),
            now + max(left, self.wish.ttl) + LONGEST_GRACE,
        )

    async def _keep_renewing(self) -> None:
        """Renew half way to the end, again and again; a warned lease runs out (D8)."""
        loop = asyncio.get_running_loop()
        pause = (self._ends_at - loop.time()) * RENEW_AT
        while self.over is None and not self.warned.is_set():
            await asyncio.sleep(max(pause, RETRY_SECONDS / 4))
            if loop.time() > self._forgotten_at:
                self.over = LeaseExpired(Status.LEASE_EXPIRED, "the lease ended while its node could not be reached")
                return
            try:
                await self.node.link()  # dialling has its own time, which a far node may need
                async with asyncio.timeout(max((self._ends_at - loop.time()) * PATIENCE, RETRY_SECONDS)):
                    await self.renew()
                pause = (self._ends_at - loop.time()) * RENEW_AT
            except TimeoutError:
                await self.node.doubt()
                pause = 0
            except (Disconnected, Untrusted):  # who else answers there now does not end what the node holds for us
                pause = RETRY_SECONDS
            except Refused as error:
                if not self.warned.is_set() and error.status not in _PASSING:
                    self.over = self.over or await self._why(error)
                pause = RETRY_SECONDS

    async def _why(self, error: FabricError) -> FabricError:
        """Return what is behind a failure: ask the node what became of the lease where that may be it."""
        if self.over is not None:
            return self.over
        if not isinstance(error, (LeaseExpired, NotFound, TimedOut)):
            return error
        try:
            async with asyncio.timeout(WHY_SECONDS):
                return await self._told_by_the_node(error)
        except TimeoutError:
            return error

    async def _told_by_the_node(self, error: FabricError) -> FabricError:
        if isinstance(error, TimedOut):
            await self.node.doubt()
        try:
            found = await self.node.query(self.lease_id)
        except NotFound as forgotten:
            return NotFound(forgotten.status, "the node does not know the lease any more: was it started anew?")
        except (Refused, Disconnected):
            return error
        return _told(found.lease_status, error)


def _told(status: int, error: FabricError) -> FabricError:
    if status == LeaseStatus.REVOKED:
        return Revoked(Status.LEASE_EXPIRED, "the node took the lease back")
    if status == LeaseStatus.EXPIRED:
        return LeaseExpired(Status.LEASE_EXPIRED, "the lease is over")
    return Silent(f"{error}, though the node holds the lease") if isinstance(error, TimedOut) else error


class DataLease(Lease):
    """A lease of bytes: memory or block storage. `size` is what was granted, in bytes."""

    plane = FBMU
    unit = 1

    def __init__(self, node: Node, wish: Wish) -> None:
        super().__init__(node, wish)
        self.size = 0
        self.dp_auth = wish.dp_auth
        self.reach: Reach | None = None
        self._io: DatagramIo | StreamIo | None = None
        self._order = WriteOrder()

    async def read(
        self, offset: int, length: int, timeout: float = IO_SECONDS, progress: Progress | None = None
    ) -> bytes:
        """Return `length` bytes from `offset`. Raises LeaseExpired, Revoked, Fenced, TimedOut (no progress so long)."""
        target = bytearray(length)
        await self.read_into(offset, target, timeout, progress)
        return bytes(target)

    async def read_into(
        self, offset: int, target: bytearray | memoryview, timeout: float = IO_SECONDS, progress: Progress | None = None
    ) -> None:
        """Fill a writable buffer, as `read`."""
        io = self._ready(offset, len(target))
        try:
            await io.read(offset, memoryview(target), timeout, progress)
        except (Refused, TimedOut) as error:
            raise await self._why(error) from error

    async def write(
        self,
        offset: int,
        data: bytes | bytearray | memoryview,
        timeout: float = IO_SECONDS,
        progress: Progress | None = None,
    ) -> None:
        """Store `data` at `offset`, as `read`. When it returns, all of it is there."""
        io = self._ready(offset, len(data))
        try:
            async with self._order.claim(offset, offset + len(data)):
                await io.write(offset, memoryview(data), timeout, progress)
        except (Refused, TimedOut) as error:
            raise await self._why(error) from error

    async def ping(self, timeout: float = 5.0) -> None:
        """Ask the data plane for a sign of life."""
        try:
            await self._ready(0, 0).greet(DpOp.PING, timeout)
        except (Refused, TimedOut) as error:
            raise await self._why(error) from error

    async def close(self) -> None:
        """As `Lease.close`; reads and writes under way end in Disconnected."""
        if self._io is not None:
            self._io.close()
        await super().close()

    async def detach(self) -> None:
        """As `Lease.detach`; reads and writes under way end in Disconnected."""
        if self._io is not None:
            self._io.close()
        await super().detach()

    async def _bound(self, answer: LeaseAllocResult | LeaseAttachResult) -> None:
        found = read_bindings(answer.bindings, self.node.host)
        reach = self.reach = found.pick(self.wish.kind, self.wish.binding)
        self.size, self.dp_auth = reach.length, found.dp_auth
        self._io = self._open_io(found, reach)

    def _open_io(self, found: Bindings, reach: Reach) -> DatagramIo | StreamIo:
        unit = self.unit
        limits = reach.max_read // unit * unit, reach.max_write // unit * unit
        if reach.transport in STREAMS:
            return StreamIo(self.node.link, Codec(self.plane, self.lease_id, None), *limits)
        tagger = Tagger(found.dp_auth, found.dp_key)
        return DatagramIo((reach.host, reach.port), Codec(self.plane, self.lease_id, tagger), *limits)

    def _ready(self, offset: int, length: int) -> DatagramIo | StreamIo:
        if self.over is not None:
            raise self.over
        if self._io is None:
            raise LocalMisuse("open the lease first: `async with node.lease_memory(...) as lease`")
        if offset < 0 or offset + length > self.size:
            raise LocalMisuse(f"bytes {offset} to {offset + length} are not within the lease's {self.size}")
        if offset % self.unit or length % self.unit:
            raise LocalMisuse(f"offset and length must be multiples of {self.unit}")
        return self._io


class MemoryLease(DataLease):
    """Leased memory: any offset, any length."""


class BlockLease(DataLease):
    """Leased storage: offsets and lengths are multiples of 512 (D10)."""

    plane = FBBU
    unit = BLOCK_SIZE
