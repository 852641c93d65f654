"""What the event loop itself complains of: one line where the system refused something, else all of it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

log = logging.getLogger("fabricbios.node")


def tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An exception handler (asyncio, loop.set_exception_handler). A process without descriptors for a new connection is
    no fault: asyncio tries again each second."""
    error = context.get("exception")
    if isinstance(error, OSError):
        log.error("%s: %s", context.get("message", "event loop"), error)
    else:
        loop.default_exception_handler(context)
