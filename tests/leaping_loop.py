"""An event loop that does not wait: where nothing happens, its clock leaps to the next timer.

Who sleeps for a second in a test sleeps for a millisecond, and everything else comes in the order in which it would
have come. For tests whose parties all live in one loop, and whose sockets are on loopback.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from typing import Any

QUIET_SECONDS = 0.001  # nothing came for so long: what the kernel may still be carrying over loopback has arrived


class _Leaping(selectors.DefaultSelector):
    """Waits as it should for what is there within a moment, or while a thread is at work; else leaps."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = 0.0
        self.threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= QUIET_SECONDS or self.threads:
            return super().select(timeout)
        found = super().select(QUIET_SECONDS)
        if not found:
            self.ahead += timeout - QUIET_SECONDS
        return found


class LeapingLoop(asyncio.SelectorEventLoop):
    """`ahead` is by how many seconds its clock is ahead of the machine's."""

    def __init__(self) -> None:
        self._leaping = _Leaping()
        super().__init__(self._leaping)

    @property
    def ahead(self) -> float:
        return self._leaping.ahead

    def time(self) -> float:
        return time.monotonic() + self.ahead

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """Time does not leap while a thread works: it would be late by seconds, whatever it does."""
        future = super().run_in_executor(executor, func, *args)
        self._leaping.threads += 1
        future.add_done_callback(self._thread_is_over)
        return future

    def _thread_is_over(self, _: object) -> None:
        self._leaping.threads -= 1


def ahead() -> float:
    """Return by how many seconds the running loop's clock is ahead of the machine's; 0 in an ordinary loop."""
    loop = asyncio.get_running_loop()
    return loop.ahead if isinstance(loop, LeapingLoop) else 0.0
