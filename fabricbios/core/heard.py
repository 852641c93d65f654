"""What a relay has heard: the latest valid ANNOUNCE of each node, bounded, each for its own time (D4).

Nodes that somebody vouches for come first. The rest, whom nothing but their own key proves (tofu), share what is left
by where they were heard from: keys cost nothing, addresses do. One source may have a share of the table, and where
the table is full a source with few entries takes the place of the one with the most. The machine's own processes are
held to no share: whoever can speak from its loopback address can do worse to a relay.

A source address costs nothing either until it has answered a question (core/asking.py). Whose has comes before whose
has not, in the table and in its source's share; so who finds no room is asked, and nobody else is.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Iterator
from enum import Enum, IntEnum
from functools import lru_cache
from typing import NamedTuple

from fabricbios.core.crowd import Crowd
from fabricbios.model import NS, Instant
from fabricbios.wire.discovery import Announce

MAX_TTL_SECS = 86_400  # nobody is believed for longer than a day
SHARE = 16  # one source has at most the 16th part of the table for nodes that nobody vouches for
MIN_SHARE = 64  # a small site behind one address, as a table of any size has to take it
LOOPBACK = "loopback"
MAX_REMEMBERED = 4096  # hosts whose source was made out
_V6_SITE = 64  # bits: who has one IPv6 address has all of its /64


class Standing(IntEnum):
    """What stands behind an entry, beside its own key: nothing, an address that answered, or a pin or certificate."""

    STRANGER = 0
    REACHED = 1
    VOUCHED = 2


class Heard(NamedTuple):
    """`listed` is the entry as answers carry it."""

    announce: Announce
    listed: bytes
    until_ns: int
    standing: Standing
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
        self._crowds = {Standing.STRANGER: Crowd(), Standing.REACHED: Crowd()}
        self._sequences: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, node_id: int) -> Heard | None:
        return self._nodes.get(node_id)

    def is_new(self, node_id: int, sequence: int) -> bool:
        """Whether a sequence is above the last one of its node."""
        return sequence > self._sequences.get(node_id, -1)

    def put(self, announce: Announce, listed: bytes, standing: Standing, host: str, now: Instant) -> Put:
        """Keep an entry heard from `host`, unless there is no room for it or for more of its source."""
        node_id, source = announce.node_id, source_of(host)
        outcome = self._make_room(node_id, standing, source)
        if outcome in (Put.FULL, Put.SOURCE_FULL):
            return outcome
        until = now.boot_ns + min(announce.ttl_secs, MAX_TTL_SECS) * NS
        held = self._forget(node_id)
        if standing is Standing.STRANGER and held is not None and held.source == source:
            standing = held.standing if held.standing is Standing.REACHED else standing
        self._keep(Heard(announce, listed, until, standing, source))
        self._remember(node_id, announce.sequence)
        return outcome

    def reach(self, node_id: int, host: str) -> bool:
        """The address from which a node was heard has proved itself; False for another one, or for no such node."""
        held = self._nodes.get(node_id)
        if held is None or held.source != source_of(host):
            return False
        if held.standing is Standing.STRANGER:
            self._forget(node_id)
            self._keep(held._replace(standing=Standing.REACHED))
        return True

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

    def live(self, now: Instant, only: int | None = None) -> Iterator[Heard]:
        """Yield the entries whose time is not over, or the one of this id."""
        one = None if only is None else self._nodes.get(only)
        among = self._nodes.values() if only is None else (one,) if one else ()
        return (heard for heard in among if heard.until_ns > now.boot_ns)

    def _make_room(self, node_id: int, standing: Standing, source: str) -> Put:
        """Say whether an entry may come in; where it may in somebody else's place, that one is gone."""
        held = self._nodes.get(node_id)
        is_listed_there = held is not None and held.source == source and held.standing is not Standing.VOUCHED
        if standing is not Standing.VOUCHED and not is_listed_there and self._count(source) >= self._share_of(source):
            strangers = self._crowds[Standing.STRANGER].of(source) if standing is Standing.REACHED else ()
            return self._displace(next(iter(strangers), None), Put.SOURCE_FULL)
        if held is not None or len(self._nodes) < self._max_nodes:
            return Put.ACCEPTED
        return self._displace(self._weakest(standing, source), Put.FULL)

    def _weakest(self, standing: Standing, source: str) -> int | None:
        """Return whose place an entry of this standing may take: one below it, or one of its own in a fuller source."""
        for crowd_of, crowd in self._crowds.items():
            most = crowd.fullest()
            if len(most) > (0 if crowd_of < standing else self._count(source) + 1):
                return next(iter(most))
            if crowd_of == standing:
                break
        return None

    def _displace(self, node_id: int | None, otherwise: Put) -> Put:
        if node_id is None:
            return otherwise
        self._forget(node_id)
        return Put.DISPLACED

    def _count(self, source: str) -> int:
        return sum(len(crowd.of(source)) for crowd in self._crowds.values())

    def _share_of(self, source: str) -> int:
        return self._max_nodes if source == LOOPBACK else self._share

    def _keep(self, heard: Heard) -> None:
        self._nodes[heard.announce.node_id] = heard
        if heard.standing is not Standing.VOUCHED:
            self._crowds[heard.standing].add(heard.source, heard.announce.node_id)

    def _forget(self, node_id: int) -> Heard | None:
        held = self._nodes.pop(node_id, None)
        if held is not None and held.standing is not Standing.VOUCHED:
            self._crowds[held.standing].remove(held.source, node_id)
        return held

    def _remember(self, node_id: int, sequence: int) -> None:
        self._sequences[node_id] = sequence
        self._sequences.move_to_end(node_id)
        while len(self._sequences) > 2 * self._max_nodes:
            self._sequences.popitem(last=False)


@lru_cache(MAX_REMEMBERED)
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
