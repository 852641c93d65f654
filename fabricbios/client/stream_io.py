"""Reads and writes over the control connection's QUIC (D11): HELLO first, then one message a stream.

What a lost connection or a reset stream took with it is asked again, as D10 has it for lost datagrams: until nothing
has moved for as long as the caller said.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

from fabricbios.client.bulk import Bulk
from fabricbios.client.message_pace import MOST_AT_ONCE, MessagePace
from fabricbios.client.plane import READ, Codec, Greeting, Question, failure
from fabricbios.client.transfer import Progress
from fabricbios.errors import Disconnected, TimedOut
from fabricbios.model import DpOp, DpStatus
from fabricbios.transport import Link
from fabricbios.transport.link import StreamReset

BUSY_SECONDS = 0.01
RETRY_SECONDS = 0.25
Ask = Callable[[int, int], Awaitable[None]]  # for a piece: start, length


class StreamIo:
    """One lease. `max_read` and `max_write` are bytes a message (LIMITS).

    `connect` returns the node's connection; after one was lost that is another, on which the lease says HELLO again.
    """

    def __init__(self, connect: Callable[[], Awaitable[Link]], codec: Codec, max_read: int, max_write: int) -> None:
        self._connect, self._codec = connect, codec
        self._max_read, self._max_write = max_read, max_write
        self._loop = asyncio.get_running_loop()
        self._nonce = 1
        self._pace = MessagePace()
        self._under_way = 0
        self._turns = asyncio.Condition()
        self._greeted: Link | None = None
        self._greeting = asyncio.Lock()
        self._closed = False

    async def read(self, offset: int, target: memoryview, timeout: float, progress: Progress | None = None) -> None:
        """Fill `target` from `offset`. Raises TimedOut or Disconnected after `timeout` seconds without progress."""
        bulk = self._bulk(len(target), timeout, progress)

        async def fetch(start: int, length: int) -> None:
            target[start : start + length] = await self._ask(bulk, READ, offset + start, length, b"")

        await self._move(bulk, fetch, self._max_read)

    async def write(self, offset: int, data: memoryview, timeout: float, progress: Progress | None = None) -> None:
        """Store `data` at `offset`. As `read`."""
        bulk = self._bulk(len(data), timeout, progress)

        async def store(start: int, length: int) -> None:
            await self._ask(bulk, DpOp.WRITE, offset + start, length, data[start : start + length])

        await self._move(bulk, store, self._max_write)

    async def greet(self, op: DpOp = DpOp.HELLO, timeout: float = 5.0) -> Greeting | None:
        """Ask HELLO (or PING, whose answer is None). Raises as the status says, TimedOut, Disconnected."""
        try:
            async with asyncio.timeout(timeout):
                return await self._greet(await self._connect(), op, timeout)
        except TimeoutError:
            raise TimedOut(f"no answer within {timeout:g} s") from None

    def close(self) -> None:
        """Nothing is held here, the connection is the node's; transfers under way fail with Disconnected."""
        self._closed = True

    def _bulk(self, total: int, timeout: float, progress: Progress | None) -> Bulk:
        return Bulk(total, self._codec.plane.unit, timeout, self._loop.time(), progress)

    async def _move(self, bulk: Bulk, ask: Ask, largest: int) -> None:
        pieces = -(-bulk.total // min(self._pace.size, largest))
        await _all(self._work(bulk, ask, largest) for _ in range(min(pieces, MOST_AT_ONCE)))

    async def _work(self, bulk: Bulk, ask: Ask, largest: int) -> None:
        """Ask for one piece after the other until none is left."""
        while True:
            async with self._turn():
                piece = bulk.take(min(self._pace.size, largest))
                if piece is None:
                    return
                begun = self._loop.time()
                try:
                    await ask(*piece)
                except Disconnected as error:
                    bulk.give_back(*piece)
                    await self._after(error, bulk)
                else:
                    now = self._loop.time()
                    self._pace.took(now - begun, largest)
                    bulk.done(piece[1], now)

    async def _after(self, error: Disconnected, bulk: Bulk) -> None:
        """Wait a little before asking again; raise `error` where that is over. A reset is a sign of life, and
        says that the message took too long."""
        now = self._loop.time()
        if isinstance(error, StreamReset) and self._pace.less():
            bulk.moved_at = now
        if self._closed or now >= bulk.late_at:
            raise error
        await asyncio.sleep(min(RETRY_SECONDS, bulk.timeout / 4))

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Hold one of the places that the pace allows."""
        async with self._turns:
            await self._turns.wait_for(lambda: self._under_way < self._pace.at_once)
            self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            async with self._turns:
                self._turns.notify_all()

    async def _greet(self, link: Link, op: DpOp, timeout: float) -> Greeting | None:
        message, question = self._codec.greet(op, self._take_nonce())
        answer = memoryview(await link.request(message, timeout))
        self._judge(answer, question)
        return self._codec.greeting(answer) if op == DpOp.HELLO else None

    async def _link(self, timeout: float) -> Link:
        """Return the connection; the first message on it for a lease is HELLO (D11)."""
        link = await self._connect()
        if link is not self._greeted:
            async with self._greeting:
                if link is not self._greeted:
                    await self._greet(link, DpOp.HELLO, timeout)
                    self._greeted = link
        return link

    async def _in_time(self, bulk: Bulk) -> Link:
        """Return a connection that knows the lease, before `bulk` is late; TimedOut then."""
        if self._closed:
            raise Disconnected("the lease was closed here")
        try:
            async with asyncio.timeout_at(max(bulk.late_at, self._loop.time())):
                return await self._link(bulk.timeout)
        except TimeoutError:
            raise TimedOut(f"no connection to the node within {bulk.timeout:g} s") from None

    async def _ask(self, bulk: Bulk, op: int, offset: int, length: int, data: bytes | memoryview) -> bytes | memoryview:
        """Put one question until it is answered with anything but BUSY. Raises TimedOut when `bulk` is late."""
        read = op == READ
        while True:
            link = await self._in_time(bulk)
            nonce = self._take_nonce()
            message, question = (
                self._codec.read(nonce, offset, length) if read else self._codec.write(nonce, offset, data)
            )
            answer = memoryview(await link.request(message, bulk.timeout, moving=True))
            if self._judge(answer, question):
                break
            if self._loop.time() >= bulk.late_at:
                raise TimedOut(f"the data plane has been busy for {bulk.timeout:g} s")
            await asyncio.sleep(BUSY_SECONDS)
        found = self._codec.data(answer, question) if read else b""
        if found is None:
            raise Disconnected("the data plane's answer has the wrong length")
        return found

    def _judge(self, answer: memoryview, question: Question) -> bool:
        """True when it went well, False when it is to be repeated."""
        fits = self._codec.nonce_of(answer) == question.nonce
        status = self._codec.status(answer, question) if fits else -1
        if status < 0:
            raise Disconnected("the data plane's answer cannot be read")
        if status in (DpStatus.BUSY, DpStatus.STALE_WRITE):
            return False
        if status != DpStatus.OK:
            raise failure(status)
        return True

    def _take_nonce(self) -> int:
        nonce = self._nonce
        self._nonce += 1
        return nonce


async def _all(jobs: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run the jobs side by side; the first failure ends the others."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
