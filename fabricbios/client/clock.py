"""The node's wall clock as seen from here, so that its dates can be counted down without trusting ours."""

from __future__ import annotations

import asyncio
from typing import NamedTuple


class NodeClock(NamedTuple):
    """`unix` seconds at the node when our loop's clock said `at`."""

    unix: float
    at: float

    def unix_now(self) -> float:
        """Return the node's Unix time now."""
        return self.unix + asyncio.get_running_loop().time() - self.at
