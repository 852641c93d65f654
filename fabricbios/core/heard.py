"""What a relay has heard: the latest valid ANNOUNCE of each node, bounded, each for its own time (D4).

Nodes that somebody vouches for come first. The rest, whom nothing but their own key proves (tofu), share what is left
by where they were heard from: keys cost nothing, addresses do. One source may have a share of the table, and where
the table is full a source with few entries takes the place of the one with the most. The machine's own processes are
held to no share: whoever can speak from its loopback address can do worse to a relay.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Iterator
from enum import Enum
from typing import NamedTuple

from fabricbios.model import NS, Instant
from fabricbios.wire.discovery import Announce

MAX_TTL_SECS = 86_400  # nobody is believed for longer than a day
SHARE = 16  # one source has at most the 16th part of the table for nodes that nobody vouches for
MIN_SHARE = 64  # a small site behind one address, as a table of any size has to take it
LOOPBACK = "loopback"
_V6_SITE = 64  # bits: who has one IPv6 address has all of its /64


class Heard(NamedTuple):
    """`listed` is the entry as answers carry it. `vouched` means pinned or certified, not just self-proven."""

    announce: Announce
    listed: bytes
    until_ns: int
    vouched: bool
    source: str


class Put(Enum):
    """What became of an entry; the values are results of the metric. DISPLACED: accepted in somebody else's place."""

    ACCEPTED = "accepted"
    DISPLACED = "displaced"
    FULL = "full"
    SOURCE_FULL = "source_full"


class HeardNodes:
    """Entries by node id. Sequences are remembered beyond their entry, so that no old word comes back."""

    def __init__(self, max_nodes: int) -> None:
        self._max_nodes = max_nodes
        self._share = max(MIN_SHARE, max_nodes // SHARE)
        self._nodes: dict[int, Heard] = {}
        self._unvouched: dict[str, OrderedDict[int, None]] = {}  # source -> its nodes, heard longest ago first
        self._sequences: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, node_id: int) -> Heard | None:
        return self._nodes.get(node_id)

    def is_new(self, node_id: int, sequence: int) -> bool:
        """Whether a sequence is above the last one of its node."""
        return sequence > self._sequences.get(node_id, -1)

    def put(self, announce: Announce, listed: bytes, vouched: bool, host: str, now: Instant) -> Put:
        """Keep an entry heard from `host`, unless there is no room for it or for more of its source."""
        node_id, source = announce.node_id, source_of(host)
        outcome = self._make_room(node_id, vouched, source)
        if outcome in (Put.FULL, Put.SOURCE_FULL):
            return outcome
        until = now.boot_ns + min(announce.ttl_secs, MAX_TTL_SECS) * NS
        self._forget(node_id)
        self._nodes[node_id] = Heard(announce, listed, until, vouched, source)
        if not vouched:
            self._unvouched.setdefault(source, OrderedDict())[node_id] = None
        self._remember(node_id, announce.sequence)
        return outcome

    def drop(self, node_id: int, sequence: int) -> None:
        """The node is gone by its own word; a 16-byte WITHDRAW has sequence 0 and moves nothing."""
        self._forget(node_id)
        self._remember(node_id, max(sequence, self._sequences.get(node_id, -1)))

    def expire(self, now: Instant) -> int:
        """Drop what is over; return how many that were."""
        over = [i for i, heard in self._nodes.items() if heard.until_ns <= now.boot_ns]
        for node_id in over:
            self._forget(node_id)
        return len(over)

    def recheck(self, keeps: Callable[[Heard], bool]) -> int:
        """Drop the entries that `keeps` has nothing for any more; return how many that were."""
        gone = [i for i, heard in self._nodes.items() if not keeps(heard)]
        for node_id in gone:
            self._forget(node_id)
        return len(gone)

    def live(self, now: Instant) -> Iterator[Heard]:
        return (heard for heard in self._nodes.values() if heard.until_ns > now.boot_ns)

    def _make_room(self, node_id: int, vouched: bool, source: str) -> Put:
        """Say whether an entry may come in; where it may in somebody else's place, that one is gone."""
        held = self._nodes.get(node_id)
        theirs = self._unvouched.get(source, ())
        if not vouched and node_id not in theirs and len(theirs) >= self._share_of(source):
            return Put.SOURCE_FULL  # also for one that was heard from elsewhere: it stays listed as it was
        if held is not None or len(self._nodes) < self._max_nodes:
            return Put.ACCEPTED
        most = max(self._unvouched.values(), key=len, default=OrderedDict[int, None]())
        if len(most) <= (0 if vouched else len(theirs) + 1):
            return Put.FULL
        self._forget(next(iter(most)))
        return Put.DISPLACED

    def _share_of(self, source: str) -> int:
        return self._max_nodes if source == LOOPBACK else self._share

    def _forget(self, node_id: int) -> None:
        held = self._nodes.pop(node_id, None)
        if held is None or held.vouched:
            return
        theirs = self._unvouched[held.source]
        del theirs[node_id]
        if not theirs:
            del self._unvouched[held.source]

    def _remember(self, node_id: int, sequence: int) -> None:
        self._sequences[node_id] = sequence
        self._sequences.move_to_end(node_id)
        while len(self._sequences) > 2 * self._max_nodes:
            self._sequences.popitem(last=False)


def source_of(host: str) -> str:
    """Return what counts as one source: an IPv4 address, the /64 of an IPv6 one, or LOOPBACK."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address.is_loopback:
        return LOOPBACK
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((address, _V6_SITE), strict=False))
