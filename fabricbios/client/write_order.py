"""Two overlapping WRITEs are never under way at once (D10): the later one waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class WriteOrder:
    """The ranges being written; who comes first is served first where ranges meet."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int, asyncio.Event]] = []

    @asynccontextmanager
    async def claim(self, start: int, stop: int) -> AsyncIterator[None]:
        """Hold [start, stop) until the block ends, waiting for every earlier claim that meets it."""
        before = [done for a, b, done in self._ranges if a < stop and start < b]
        mine = (start, stop, asyncio.Event())
        self._ranges.append(mine)
        try:
            for done in before:
                await done.wait()
            yield
        finally:
            self._ranges.remove(mine)
            mine[2].set()
