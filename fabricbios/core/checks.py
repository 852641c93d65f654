"""Which signatures are looked at (D2, "Order of work"): a check costs us a hundred times what a forger pays.

Whoever sends under a node's id, or under its address, must not keep that node out. So checks are paid for by whom
they are of: a node at the endpoint where it proved itself lately has checks of its own, enough for what a node has to
say, which nobody can use up without its very id, address and port. What it needs beyond that all such nodes share, and
all strangers share another allowance; of it one source may waste a little on forgeries.

Who imitates all three of a node does keep its datagrams out. That one is asked back (core/asking.py).
"""

from __future__ import annotations

from collections import OrderedDict

from fabricbios.core.heard import source_of
from fabricbios.core.ratelimit import MAX_SOURCES, TokenBuckets
from fabricbios.model import Instant
from fabricbios.ports import UdpPeer

OWN_PER_SECOND, OWN_BURST = 0.25, 64  # an announcement every 30 s; 64 frames are one of the longest a relay takes
SHARED_PER_SECOND, SHARED_BURST = 500, 1000  # each of both allowances: about a tenth of a core
STRANGERS = "strangers"
PROVEN = "proven"

_Seat = tuple[int, str, int]  # (node_id, host, port)


class Checks:
    """Bounded in memory: as many seats as there are sources in a table of token buckets (D5)."""

    def __init__(self, seats: int = MAX_SOURCES) -> None:
        self._max_seats = seats
        self._seats: OrderedDict[_Seat, None] = OrderedDict()  # who proved itself where, longest ago first
        self._own = TokenBuckets(OWN_PER_SECOND, OWN_BURST, seats)
        self._shared = TokenBuckets(SHARED_PER_SECOND, SHARED_BURST)
        self._forgers = TokenBuckets()

    def __len__(self) -> int:
        return len(self._seats)

    def take(self, sender: int, peer: UdpPeer, now: Instant) -> bool:
        """Pay for one check of a frame that names `sender`; False if it is not worth it now."""
        if self.is_proven(sender, peer):
            return self._own.take(_seat(sender, peer), now) or self._shared.take(PROVEN, now)
        return not self._forgers.is_empty(source_of(peer.host), now) and self._shared.take(STRANGERS, now)

    def failed(self, sender: int, peer: UdpPeer, now: Instant) -> None:
        """It was forged: whoever sends from there as a stranger may do so a few times a second."""
        if not self.is_proven(sender, peer):
            self._forgers.take(source_of(peer.host), now)

    def proved(self, sender: int, peer: UdpPeer) -> None:
        """A whole and fresh message was the sender's own."""
        seat = _seat(sender, peer)
        self._seats[seat] = None
        self._seats.move_to_end(seat)
        if len(self._seats) > self._max_seats:
            self._seats.popitem(last=False)

    def is_proven(self, sender: int, peer: UdpPeer) -> bool:
        return _seat(sender, peer) in self._seats


def _seat(sender: int, peer: UdpPeer) -> _Seat:
    return sender, peer.host, peer.port
