"""aioquic's pacer, which also says when nothing is left to write.

aioquic finds that out by starting one packet more and leaving it empty, which is a tenth of all that a small question
and its answer cost. Before each packet it asks the pacer whether it may leave now, so the pacer can spare it that.
"""

from __future__ import annotations

from collections.abc import Callable

from aioquic.quic.recovery import QuicPacketPacer


class Pacer(QuicPacketPacer):
    """Holds back the packet behind the last one. `more()` says whether anything is left that could fill it."""

    def __init__(self, *, max_datagram_size: int, more: Callable[[], bool]) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self._more = more
        self._wrote = self.idle = False

    def begin(self) -> None:
        """Call before packets are made: the first is never held back for want of something to write."""
        self._wrote = self.idle = False

    def next_send_time(self, now: float) -> float | None:  # type: ignore[override]  # the base returns None too
        """As the base. `idle` says afterwards that the time returned means nothing: there is no more to send."""
        if self._wrote and not self._more():
            self.idle = True
            return now
        return super().next_send_time(now)

    def update_after_send(self, now: float) -> None:
        self._wrote = True
        super().update_after_send(now)
