"""What the event loop itself complains of: one line where the system refused something, else all of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

log = logging.getLogger("fabricbios.node")
AGAIN_SECONDS = 1.0
_CLOSED = "Invalid file descriptor"
"""asyncio tries to listen again a second after it had no descriptor, also on a socket that was closed meanwhile."""


class Complaints:
    """`tell` is an exception handler (asyncio, loop.set_exception_handler).

    A process without descriptors for a new connection is no fault, and asyncio says so a hundred times at once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said, self._at = "", 0.0

    def tell(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError):
            self._say(f"{context.get('message', 'event loop')}: {error}")
        elif not (isinstance(error, ValueError) and str(error).startswith(_CLOSED)):
            loop.default_exception_handler(context)

    def _say(self, what: str) -> None:
        now = self._clock()
        if what != self._said or now - self._at >= AGAIN_SECONDS:
            self._said, self._at = what, now
            log.error("%s", what)
