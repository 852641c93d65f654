"""How many questions to have under way, and how long to wait for an answer. No I/O, no clock.

TCP's way (RFC 6298, RFC 5681) with three liberties. A question that later ones have overtaken is lost sooner than one
that was followed by silence, as in QUIC (RFC 9002, 6.1.2). Losses on a path where no queue builds up are the path's
own, such as a radio's, and asking less would not make them fewer: they leave a window as large as what TCP begins
with. And where answers are long on their way the window may grow beyond what a near node needs.
"""

from __future__ import annotations

FIRST_WAIT, SHORTEST_WAIT, LONGEST_WAIT = 0.2, 0.02, 2.0
SHORTEST_OVERTAKEN = 0.002
SMALLEST_WINDOW, SMALLEST_WITHOUT_QUEUE, SMALLEST_REORDERED = 4, 16, 32
FAR_SECONDS, FAR_WINDOW = 0.01, 256
QUEUE_SECONDS = 0.01  # of waiting beyond twice the shortest round trip: somewhere a queue is full


class Pace:
    """`window` is how many questions may be under way, `wait` the seconds until one that nothing later has overtaken
    is lost, `overtaken` those of one that has been."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.wait = self.overtaken = FIRST_WAIT
        self._largest = window
        self._mean = self._spread = 0.0
        self._least = float("inf")
        self._credit = 0
        self._lost_any = False
        self._cut_at = 0.0
        self._before: tuple[int, bool] | None = None  # window and _lost_any as they were before the last cut

    def answered(self, took: float) -> None:
        """An answer came after `took` seconds."""
        if self._mean:
            self._spread += (abs(took - self._mean) - self._spread) / 4
            self._mean += (took - self._mean) / 8
        else:
            self._mean, self._spread = took, took / 2
        if took < self._least:
            self._least = took
        waited = self._mean + 4 * self._spread
        self.wait = min(max(waited, SHORTEST_WAIT), LONGEST_WAIT)
        self.overtaken = min(max(waited, SHORTEST_OVERTAKEN), LONGEST_WAIT)
        if self.window < self._largest or (self._least > FAR_SECONDS and self.window < FAR_WINDOW):
            self._grow()

    def lost(self, now: float, overtaken: bool = False) -> None:
        """A question drew no answer in time. Silence makes us wait longer; one of many that was lost does not."""
        if self._cut(now, SMALLEST_WINDOW if self._queueing else SMALLEST_WITHOUT_QUEUE) and not overtaken:
            self.wait = min(self.wait * 2, LONGEST_WAIT)

    def reordered(self, now: float) -> None:
        """The network changed the order of writes, which costs all but the last one of them: fewer are as fast."""
        self._cut(now, SMALLEST_REORDERED)
        self._before = None

    def late(self) -> None:
        """What was called lost was only slow, so there was nothing to cut the window for."""
        if self._before is not None:
            window, self._lost_any = self._before
            self.window, self._before = max(self.window, window), None

    @property
    def _queueing(self) -> bool:
        return not self._mean or self._mean > 2 * self._least + QUEUE_SECONDS

    def _grow(self) -> None:
        """By one an answer until something is lost, then by one a full window."""
        self._credit += 1
        if self._credit >= self.window or not self._lost_any:
            self.window, self._credit = self.window + 1, 0

    def _cut(self, now: float, floor: int) -> bool:
        """Halve the window, once a round trip; return whether it was time to."""
        if now - self._cut_at < max(self._mean, self.wait):
            return False
        self._before = self.window, self._lost_any
        self._cut_at, self._credit, self._lost_any = now, 0, True
        self.window = max(self.window // 2, min(floor, self.window))
        return True
