"""Token buckets by source, in bounded memory (D5: 10 a second, burst 20, 65,536 sources)."""

from __future__ import annotations

from collections.abc import Hashable

from fabricbios.model import NS, Instant

MAX_SOURCES = 65_536


class TokenBuckets:
    """One bucket a source, kept as the single time at which it will be full again (GCRA).

    A source that is not in the table has a full bucket, so one that has refilled may be forgotten at
    no cost. When the table is full the source heard longest ago goes: under a flood of invented
    sources each of them gets its burst in any case, and those who keep talking stay limited.
    """

    def __init__(self, per_second: float = 10, burst: int = 20, sources: int = MAX_SOURCES) -> None:
        self._gap_ns = int(NS / per_second)
        self._depth_ns = self._gap_ns * burst
        self._sources = sources
        self._full_at: dict[Hashable, int] = {}  # in order of last use

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, source: Hashable, now: Instant) -> bool:
        """Take one token; False, and nothing is taken, when there is none."""
        full_at = max(self._full_at.pop(source, 0), now.boot_ns)
        allowed = full_at + self._gap_ns - now.boot_ns <= self._depth_ns
        self._full_at[source] = full_at + self._gap_ns if allowed else full_at
        if len(self._full_at) > self._sources:
            del self._full_at[next(iter(self._full_at))]
        return allowed

    def is_empty(self, source: Hashable, now: Instant) -> bool:
        """Whether `take` would refuse; changes nothing."""
        return max(self._full_at.get(source, 0), now.boot_ns) + self._gap_ns - now.boot_ns > self._depth_ns
