"""How long a datagram the path takes: less where ICMP says so, or where long ones vanish (RFC 8899). No I/O, no clock.

A node's LIMITS know its own interface, not what lies between: a tunnel, a PPPoE line. Where a router says what fits,
that holds. Where it says nothing, long datagrams that vanish again and again make them short; a long one
now and then, of data that has to go anyway, finds out whether they still must be.
"""

from __future__ import annotations

from fabricbios.transport.blackhole import DATAGRAM_SIZE, SUSPECT

SMALLEST = 548  # what IPv4's smallest reassembly buffer holds of UDP (RFC 1122, 3.3.2)
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 64.0  # seconds until a long one is tried again


class DatagramSize:
    """Sizes are bytes of UDP payload; `most` is what the interface, or the route as far as it is known, takes."""

    def __init__(self, most: int) -> None:
        self.most = self._now = max(most, SMALLEST)
        self._swallowed = 0
        self._try_at = float("inf")
        self._pause = FIRST_PAUSE

    @property
    def short(self) -> bool:
        """Whether long ones seem to vanish."""
        return self._now < self.most

    def take(self, now: float) -> int:
        """Return how long the next datagram may be."""
        if now < self._try_at:
            return self._now
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._try_at = now + self._pause
        return self.most

    def passed(self, size: int) -> None:
        """A datagram of `size` was answered."""
        if size > DATAGRAM_SIZE:
            self._swallowed = 0
            if size > self._now:
                self._now, self._try_at, self._pause = self.most, float("inf"), FIRST_PAUSE

    def lost(self, size: int, now: float) -> None:
        """Of what was sent before an answer was due, the longest that was lost had `size`."""
        if size <= DATAGRAM_SIZE:
            return
        self._swallowed += 1
        if self._swallowed >= SUSPECT and not self.short:
            self._now, self._try_at = DATAGRAM_SIZE, now + self._pause

    def told(self, most: int) -> None:
        """The kernel learned what the route takes; a forged word of ICMP cannot make it useless."""
        self.most = min(self.most, max(most, SMALLEST))
        self._now = min(self._now, self.most)
