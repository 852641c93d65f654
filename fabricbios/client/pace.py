"""How many questions to have under way, and how long to wait for an answer. No I/O, no clock."""

from __future__ import annotations

SHORTEST_WAIT, LONGEST_WAIT = 0.02, 2.0
SMALLEST_WINDOW = 4


class Pace:
    """Waits as TCP does (RFC 6298); the window halves once a round trip with losses and grows by one a full window."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.wait = 0.1
        self._largest = window
        self._mean = 0.0
        self._spread = 0.0
        self._credit = 0
        self._halved_at = 0.0

    def answered(self, took: float) -> None:
        """An answer came after `took` seconds."""
        if self._mean:
            self._spread += (abs(took - self._mean) - self._spread) / 4
            self._mean += (took - self._mean) / 8
        else:
            self._mean, self._spread = took, took / 2
        self.wait = min(max(self._mean + 4 * self._spread, SHORTEST_WAIT), LONGEST_WAIT)
        if self.window < self._largest:
            self._credit += 1
            if self._credit >= self.window:
                self.window, self._credit = self.window + 1, 0

    def lost(self, now: float) -> None:
        """A question drew no answer in time."""
        if now - self._halved_at < max(self._mean, self.wait):
            return
        self._halved_at, self._credit = now, 0
        self.window = max(self.window // 2, SMALLEST_WINDOW)
        self.wait = min(self.wait * 2, LONGEST_WAIT)
