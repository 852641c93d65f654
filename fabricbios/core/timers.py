"""Deadlines of very many leases: a heap with lazy deletion.

Each item is armed at most once for a time that is never after its real deadline. When that time comes
the item is asked again, so that putting a deadline off (a renewal) costs nothing and leaks nothing. An
entry that a nearer deadline replaced stays until it is due or until stale entries outnumber live ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

_STALE_ALLOWED = 1024


class Timed(Protocol):
    armed_ns: int  # -1 when not armed; written by Timers alone

    def next_deadline(self) -> int | None: ...


Item = TypeVar("Item", bound=Timed)


class Timers(Generic[Item]):
    """Times are CLOCK_BOOTTIME nanoseconds."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Item]] = []
        self._count = 0  # breaks ties: first armed, first served
        self._stale = 0

    def __len__(self) -> int:
        return len(self._heap)

    def arm(self, item: Item) -> None:
        """Call whenever an item's deadline may have changed."""
        at = item.next_deadline()
        if at is None or 0 <= item.armed_ns <= at:
            return
        self._stale += item.armed_ns >= 0
        item.armed_ns = at
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, item))
        if self._stale > _STALE_ALLOWED + len(self._heap) // 2:
            self._sweep()

    def disarm(self, item: Item) -> None:
        """The item is gone for good."""
        self._stale += item.armed_ns >= 0
        item.armed_ns = -1

    def next_deadline(self) -> int | None:
        """Return when to look again; never too late, now and then too early."""
        heap = self._heap
        while heap and heap[0][2].armed_ns != heap[0][0]:
            heapq.heappop(heap)
            self._stale -= 1
        return heap[0][0] if heap else None

    def due(self, now_ns: int) -> Iterator[Item]:
        """Yield each item whose deadline has come, disarmed: arm it again after serving it."""
        while (at := self.next_deadline()) is not None and at <= now_ns:
            item = heapq.heappop(self._heap)[2]
            item.armed_ns = -1
            deadline = item.next_deadline()
            if deadline is not None and deadline > now_ns:
                self.arm(item)
            elif deadline is not None:
                yield item

    def _sweep(self) -> None:
        live = {id(entry[2]): entry for entry in self._heap if entry[2].armed_ns == entry[0]}
        self._heap = list(live.values())
        heapq.heapify(self._heap)
        self._stale = 0
