"""A node's QUIC endpoint on loopback that echoes, and a client that behaves, for every transport test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fabricbios.ports import StreamPeer
from fabricbios.transport import Identity, Limits, Link, QuicServer, accept_anyone, dial

PATIENT = Limits(stream_seconds=60.0, handshake_seconds=60.0)  # nothing ends by itself, however slow the machine is
TRUSTED_LIMIT, FIRST_LIMIT = 65_536, 4096 + 116  # a frame beside what D1 counts, as the daemon has it


class Echo:
    """Echoes requests; trusts the keys in `trusted`. What it saw stays in `opened`, `closed` and `asked`."""

    def __init__(self) -> None:
        self.server: QuicServer
        self.trusted: set[bytes] = set()
        self.opened: list[StreamPeer] = []
        self.closed: list[int] = []
        self.asked: list[tuple[bytes, StreamPeer]] = []
        self.silent = False

    def connection_opened(self, peer: StreamPeer) -> None:
        self.opened.append(peer)

    def connection_closed(self, connection: int) -> None:
        self.closed.append(connection)

    def request_limit(self, peer: StreamPeer, first_bytes: bytes) -> int:
        return TRUSTED_LIMIT if peer.public_key in self.trusted else FIRST_LIMIT

    def request(self, data: bytes, peer: StreamPeer) -> None:
        self.asked.append((data, peer))
        if not self.silent:
            self.server.answer(peer, data)


class Rig:
    def __init__(self, server: QuicServer, echo: Echo, port: int) -> None:
        self.server, self.echo, self.port = server, echo, port
        self.friend = Identity.generate()
        echo.trusted.add(self.friend.public_key)

    async def dial(self, identity: Identity | None = None) -> Link:
        return await dial("127.0.0.1", self.port, identity, accept_anyone, timeout=60)

    async def assert_friend_is_served(self) -> None:
        """A good, trusted client gets its answers while whatever else goes on."""
        link = await self.dial(self.friend)
        try:
            assert await link.request(b"friend", timeout=60) == b"friend"
        finally:
            link.close()


@asynccontextmanager
async def served(limits: Limits = PATIENT, host: str = "127.0.0.1") -> AsyncIterator[Rig]:
    echo = Echo()
    server = echo.server = QuicServer(Identity.generate(), echo, limits)
    _, port = await server.start(host, 0)
    try:
        yield Rig(server, echo, port)
    finally:
        await server.close()


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for `condition`, failing after `seconds`: so long that a slow machine is no failure."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def run(test: Callable[[], Awaitable[None]], loop: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
    """Run an async test body, in an ordinary loop unless told; exceptions in callbacks of its loop fail it too."""
    failures: list[dict[str, object]] = []

    async def body() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        await test()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(body())
    assert not failures, failures
