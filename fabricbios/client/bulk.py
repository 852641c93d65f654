"""One read or write over QUIC: which bytes are still to be asked for, and how far it came."""

from __future__ import annotations

from collections import deque

from fabricbios.client.transfer import Progress


class Bulk:
    """`total` bytes, handed out piece by piece; what failed is given back. Times are the loop's, in seconds."""

    def __init__(self, total: int, unit: int, timeout: float, now: float, progress: Progress | None) -> None:
        self.total, self.timeout, self.moved_at = total, timeout, now
        self._unit, self._done, self._progress = unit, 0, progress
        self._left: deque[tuple[int, int]] = deque([(0, total)] if total else ())

    @property
    def late_at(self) -> float:
        """When it fails unless something moves before."""
        return self.moved_at + self.timeout

    def take(self, size: int) -> tuple[int, int] | None:
        """Return (start, length) of a piece of about `size` bytes, whole blocks; None where nothing is left."""
        if not self._left:
            return None
        start, length = self._left.popleft()
        most = max(size // self._unit, 1) * self._unit
        if length > most:
            self._left.appendleft((start + most, length - most))
        return start, min(length, most)

    def give_back(self, start: int, length: int) -> None:
        """It failed, and is to be asked for again."""
        self._left.appendleft((start, length))

    def done(self, length: int, now: float) -> None:
        """Count a piece that was answered."""
        self._done, self.moved_at = self._done + length, now
        if self._progress is not None:
            self._progress(self._done, self.total)
