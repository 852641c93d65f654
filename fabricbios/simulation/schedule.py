"""Time as the simulation has it: what is to happen, in order, and a log of what did."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable

from fabricbios.model import NS
from fabricbios.testing import SimClock

Work = Callable[[], None]


class Schedule:
    """One clock for the whole fleet. What is due at the same time happens in the order in which it was asked for."""

    def __init__(self) -> None:
        self.clock = SimClock()
        self.happened: Counter[str] = Counter()
        self._begun_ns = self.now_ns
        self._due: list[tuple[int, int, Work]] = []
        self._number = 0
        self._log = hashlib.sha256()

    @property
    def now_ns(self) -> int:
        return self.clock.now.boot_ns

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return (self.now_ns - self._begun_ns) / NS

    def at(self, boot_ns: int, work: Work) -> None:
        self._number += 1
        heapq.heappush(self._due, (max(boot_ns, self.now_ns), self._number, work))

    def after(self, seconds: float, work: Work) -> None:
        self.at(self.now_ns + int(seconds * NS), work)

    def run(self, seconds: float) -> None:
        """Let so much time pass, with all that is due in it."""
        end = self.now_ns + int(seconds * NS)
        while self._due and self._due[0][0] <= end:
            at, _, work = heapq.heappop(self._due)
            self.clock.advance_to(at)
            work()
        self.clock.advance_to(end)

    def note(self, event: str, *about: object) -> None:
        """Write one event into the log, and count it by name."""
        self.happened[event] += 1
        self._log.update(f"{self.now_ns} {event} {' '.join(map(str, about))}\n".encode())

    def note_bytes(self, event: str, data: bytes) -> None:
        """As `note`, for what was on the wire."""
        self.note(event, hashlib.sha256(data).hexdigest()[:16])

    @property
    def digest(self) -> str:
        return self._log.hexdigest()
