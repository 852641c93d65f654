"""The counters of one server process: plain numbers while batches are worked on, published between them."""

from __future__ import annotations

from collections.abc import Callable

from fabricbios.dataplane.counters import COUNTERS, DropReason


class Tally:
    """Counts on from what `record` (COUNTERS.size bytes of shared memory) holds: a server that died had counted too."""

    def __init__(self, record: memoryview) -> None:
        self._record, self._words = record, record.cast("B").cast("Q")
        self._batch_at = COUNTERS.offset["batch"] // 8
        self.requests = list(COUNTERS.get(record, 0, "requests"))
        self.drops = list(COUNTERS.get(record, 0, "drops"))
        self.statuses = list(COUNTERS.get(record, 0, "statuses"))
        self.bytes_read = COUNTERS.get(record, 0, "bytes_read")
        self.bytes_written = COUNTERS.get(record, 0, "bytes_written")
        self._others: list[Callable[[], None]] = []
        self._words[self._batch_at] += self._words[self._batch_at] & 1

    def drop(self, reason: DropReason) -> int:
        """Count a datagram that draws no answer; return -1, which says so."""
        self.drops[reason] += 1
        return -1

    def begin_batch(self) -> None:
        """Say that leases may be in use from now on, before any slot is read."""
        self._words[self._batch_at] += 1

    def end_batch(self) -> None:
        """Say that nothing that was read of a slot is in use any more."""
        self._words[self._batch_at] += 1

    def publish_also(self, other: Callable[[], None]) -> None:
        """Call `other` with each publish()."""
        if other not in self._others:
            self._others.append(other)

    def publish(self) -> None:
        """Show the counts to the daemon."""
        for name in ("requests", "drops", "statuses", "bytes_read", "bytes_written"):
            COUNTERS.set(self._record, 0, name, getattr(self, name))
        for other in self._others:
            other()
