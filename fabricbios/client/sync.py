"""The client for code that does not speak asyncio: the same names, each call waits for its end.

    with sync.connect("node.example", identity="~/.config/fabricbios") as node:
        with node.lease_memory(64 << 20, ttl=300) as lease:
            lease.write(0, b"hello")

A private event loop runs in a thread of its own, so that leases renew while the caller thinks. Objects may
be shared between threads.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from fabricbios.client import leases as slow
from fabricbios.client import node as asynchronous
from fabricbios.client.known_nodes import KnownNodes
from fabricbios.client.verify import FirstUse, take
from fabricbios.errors import LocalMisuse
from fabricbios.model import CONTROL_PORT, Binding
from fabricbios.transport import Identity
from fabricbios.wire import LeaseEvent

A = TypeVar("A", covariant=True)
L = TypeVar("L", bound=slow.Lease, covariant=True)
D = TypeVar("D", bound=slow.DataLease, covariant=True)
P = ParamSpec("P")
R = TypeVar("R")


class Loop:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fabricbios-client", daemon=True)
        self._thread.start()

    def wait(self, work: Coroutine[Any, Any, R]) -> R:
        """Run `work` there and return its result; an interrupt here cancels it there."""
        if threading.current_thread() is self._thread or self._loop.is_closed():
            work.close()
            raise LocalMisuse("this client is closed, or called from its own callback")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


class Blocking(Generic[A]):
    """`inner` is the async object, `loop` where it lives."""

    def __init__(self, inner: A, loop: Loop) -> None:
        self.inner, self.loop = inner, loop


def _waits(method: Callable[Concatenate[A, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[Blocking[A], P], R]:
    """Make a blocking method of an async one, types and documentation kept."""

    def call(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.loop.wait(method(self.inner, *args, **kwargs))

    call.__doc__, call.__name__ = method.__doc__, method.__name__
    return call


class Lease(Blocking[L]):
    """See `fabricbios.client.Lease`; `inner` has its attributes (lease_id, expires_at, bindings, over)."""

    renew = _waits(slow.Lease.renew)
    close = _waits(slow.Lease.close)

    def __enter__(self) -> Self:
        self.loop.wait(self.inner.open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def lease_id(self) -> int:
        return self.inner.lease_id


class DataLease(Lease[D]):
    """Memory or block storage; see `fabricbios.client.MemoryLease`."""

    read = _waits(slow.DataLease.read)
    read_into = _waits(slow.DataLease.read_into)
    write = _waits(slow.DataLease.write)
    ping = _waits(slow.DataLease.ping)

    @property
    def size(self) -> int:
        """Bytes granted."""
        return self.inner.size


class Node(Blocking[asynchronous.Node]):
    """See `fabricbios.client.Node`. Made by `connect`; use as `with`."""

    ping = _waits(asynchronous.Node.ping)
    identity = _waits(asynchronous.Node.identity)
    inventory = _waits(asynchronous.Node.inventory)
    build_info = _waits(asynchronous.Node.build_info)
    thermal = _waits(asynchronous.Node.thermal)
    time_sync = _waits(asynchronous.Node.time_sync)
    cap_request = _waits(asynchronous.Node.cap_request)
    cap_refresh = _waits(asynchronous.Node.cap_refresh)
    cap_revoke = _waits(asynchronous.Node.cap_revoke)
    enroll = _waits(asynchronous.Node.enroll)
    allocate = _waits(asynchronous.Node.allocate)
    lease_alloc = _waits(asynchronous.Node.lease_alloc)
    renew = _waits(asynchronous.Node.renew)
    free = _waits(asynchronous.Node.free)
    query = _waits(asynchronous.Node.query)
    list_active = _waits(asynchronous.Node.list_active)
    revoke = _waits(asynchronous.Node.revoke)
    attach = _waits(asynchronous.Node.attach)
    fence_clear = _waits(asynchronous.Node.fence_clear)
    scheduler_fence_set = _waits(asynchronous.Node.scheduler_fence_set)
    scheduler_fence_get = _waits(asynchronous.Node.scheduler_fence_get)
    call = _waits(asynchronous.Node.call)

    def __enter__(self) -> Self:
        try:
            self.loop.wait(self.inner.__aenter__())
        except BaseException:
            self.loop.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free every lease taken here, say goodbye, end the thread."""
        try:
            self.loop.wait(self.inner.close())
        finally:
            self.loop.stop()

    @property
    def node_id(self) -> int:
        """The node's proven id."""
        return self.inner.node_id

    def lease_memory(self, size: int, ttl: int, **wishes: Any) -> DataLease[slow.MemoryLease]:
        """As `fabricbios.client.Node.lease_memory`, which lists the wishes."""
        return DataLease(self.inner.lease_memory(size, ttl, **wishes), self.loop)

    def lease_block(self, size: int, ttl: int, **wishes: Any) -> DataLease[slow.BlockLease]:
        """As `lease_memory`, for block storage."""
        return DataLease(self.inner.lease_block(size, ttl, **wishes), self.loop)

    def lease(self, wish: slow.Wish) -> Lease[slow.Lease]:
        """Any kind of lease."""
        return Lease(self.inner.lease(wish), self.loop)

    def attach_memory(self, lease_id: int, ttl: int, binding: Binding | None = None) -> DataLease[slow.MemoryLease]:
        """Take up a memory lease of ours again after a crash."""
        return DataLease(self.inner.attach_memory(lease_id, ttl, binding), self.loop)

    def attach_block(self, lease_id: int, ttl: int, binding: Binding | None = None) -> DataLease[slow.BlockLease]:
        """As `attach_memory`, for block storage."""
        return DataLease(self.inner.attach_block(lease_id, ttl, binding), self.loop)

    def events(self) -> Iterator[LeaseEvent]:
        """Yield LEASE_EVENTs, waiting for each. Raises Disconnected when the connection is lost."""
        source: AsyncIterator[LeaseEvent] = self.inner.events()
        while True:
            yield self.loop.wait(_next(source))


async def _next(source: AsyncIterator[LeaseEvent]) -> LeaseEvent:
    return await anext(source)


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
    """As `fabricbios.client.connect`, for `with`."""
    node = asynchronous.connect(
        host,
        port,
        identity=identity,
        node_id=node_id,
        controllers=controllers,
        known_nodes=known_nodes,
        first_use=first_use,
        epoch=epoch,
        timeout=timeout,
    )
    return Node(node, Loop())
