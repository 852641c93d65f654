"""The daemon's two clocks, read together; core gets them as values."""

from __future__ import annotations

import time

from fabricbios.model import Instant


def now() -> Instant:
    """Return CLOCK_BOOTTIME and Unix time as of this call."""
    return Instant(time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns() // 1_000_000)
