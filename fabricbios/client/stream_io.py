"""Reads and writes over the control connection's QUIC (D11): HELLO first, then one message a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any

from fabricbios.client.plane import READ, Codec, Greeting, Question, failure
from fabricbios.client.transfer import Progress
from fabricbios.errors import Disconnected, TimedOut
from fabricbios.model import DpOp, DpStatus
from fabricbios.transport import Link

AT_ONCE = 8  # messages under way; with the largest ones that is 8 MiB
BUSY_SECONDS = 0.01


class StreamIo:
    """One lease. `max_read` and `max_write` are bytes a message (LIMITS).

    `connect` returns the node's connection; after one was lost that is another, on which the lease says HELLO again.
    """

    def __init__(self, connect: Callable[[], Awaitable[Link]], codec: Codec, max_read: int, max_write: int) -> None:
        self._connect, self._codec = connect, codec
        self._max_read, self._max_write = max_read, max_write
        self._nonce = 1
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._greeted: Link | None = None
        self._greeting = asyncio.Lock()

    async def read(self, offset: int, target: memoryview, timeout: float, progress: Progress | None = None) -> None:
        """Fill `target` from `offset`; `timeout` is seconds a message."""
        pieces = _cut(len(target), self._max_read)
        count = _Counter(len(target), progress)

        async def fetch(start: int, length: int) -> None:
            target[start : start + length] = await self._ask(READ, offset + start, length, b"", timeout)
            count.add(length)

        await _all(fetch(start, length) for start, length in pieces)

    async def write(self, offset: int, data: memoryview, timeout: float, progress: Progress | None = None) -> None:
        """Store `data` at `offset`; `timeout` is seconds a message."""
        pieces = _cut(len(data), self._max_write)
        count = _Counter(len(data), progress)

        async def store(start: int, length: int) -> None:
            await self._ask(DpOp.WRITE, offset + start, length, data[start : start + length], timeout)
            count.add(length)

        await _all(store(start, length) for start, length in pieces)

    async def greet(self, op: DpOp = DpOp.HELLO, timeout: float = 5.0) -> Greeting | None:
        """Ask HELLO (or PING, whose answer is None). Raises as the status says."""
        return await self._greet(await self._connect(), op, timeout)

    def close(self) -> None:
        """Nothing is held here: the connection is the node's."""

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

    async def _ask(
        self, op: int, offset: int, length: int, data: bytes | memoryview, timeout: float
    ) -> bytes | memoryview:
        async with self._gate:
            link = await self._link(timeout)
            deadline = asyncio.get_running_loop().time() + timeout  # of this message: those before it took their own
            while True:
                if asyncio.get_running_loop().time() > deadline:
                    raise TimedOut(f"the data plane has been busy for {timeout:g} s")
                nonce = self._take_nonce()
                read = op == READ
                message, question = (
                    self._codec.read(nonce, offset, length) if read else self._codec.write(nonce, offset, data)
                )
                answer = memoryview(await link.request(message, timeout))
                if self._judge(answer, question):
                    break
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


class _Counter:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def add(self, length: int) -> None:
        self._done += length
        if self._progress is not None:
            self._progress(self._done, self._total)


def _cut(total: int, size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(size, total - start)) for start in range(0, total, size))


async def _all(jobs: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run the jobs side by side; the first failure ends the others."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
