"""One read or write of any size, cut into pieces that fit one question each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all, after every piece."""


class Transfer:
    """`memory` is the caller's buffer: filled by a read, sent by a write. `offset` is in bytes of the lease.

    `timeout` bounds the seconds without progress from when its first piece leaves.
    """

    __slots__ = ("_cut", "_done", "_progress", "alive", "finished", "memory", "moved_at", "offset", "op", "timeout")

    def __init__(self, op: int, offset: int, memory: memoryview, timeout: float, progress: Progress | None) -> None:
        self.op, self.offset, self.memory, self.timeout = op, offset, memory, timeout
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.alive = True
        self.moved_at = float("inf")
        self._cut = self._done = 0
        self._progress = progress

    def next_piece(self, most: int, now: float) -> tuple[int, int] | None:
        """Return (start, length) within `memory` of the next piece of at most `most` bytes, None when all are out."""
        start = self._cut
        if not start:
            self.moved_at = now
        length = min(most, len(self.memory) - start)
        self._cut += length
        return (start, length) if length else None

    def piece_done(self, length: int, now: float) -> None:
        """Count a piece; the last one finishes the transfer."""
        if not self.alive:
            return
        self._done += length
        self.moved_at = now
        if self._progress is not None:
            self._progress(self._done, len(self.memory))
        if self._done == len(self.memory):
            self.alive = False
            self.finished.set_result(None)

    def fail(self, why: Exception) -> None:
        """End it; pieces still under way are forgotten when they come back."""
        if self.alive:
            self.alive = False
            self.finished.set_exception(why)

    @property
    def late_at(self) -> float:
        """When it fails unless another piece is answered before."""
        return self.moved_at + self.timeout

    async def wait(self) -> None:
        """Wait for the end; when cancelled, nothing more of it is sent."""
        try:
            await self.finished
        finally:
            self.alive = False
