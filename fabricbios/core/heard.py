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
from collections.abc import Callable, Collection, Iterator
from enum import Enum, IntEnum
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from fabricbios.core.crowd import Crowd
from fabricbios.model import NS, Instant
from fabricbios.wire.discovery import Announce
from fabricbios.wire.inventory import NodeCertificate, ResourceSummary

MAX_TTL_SECS = 86_400  # nobody is believed for longer than a day
SHARE = 16  # one source has at most the 16th part of the table for nodes that nobody vouches for
MIN_SHARE = 64  # a small site behind one address, as a table of any size has to take it
PLACE = 4096  # bytes: what a node may take of the table at the price of one
SORTS = 64  # of resources of one node, by type and flags: more than there are
LOOPBACK = "loopback"
MAX_REMEMBERED = 4096  # hosts whose source was made out
_V6_SITE = 64  # bits: who has one IPv6 address has all of its /64


class Standing(IntEnum):
    """What stands behind an entry, beside its own key: nothing, an address that answered, or a pin or certificate."""

    STRANGER = 0
    REACHED = 1
    VOUCHED = 2


class TooManySorts(Exception):
    """A node that says it has more sorts of resources than there are; never leaves core."""


class Heard(NamedTuple):
    """`listed` is the entry as answers carry it; `announce` is it decoded, as far as filters and trust ask for it."""

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
        self._used = 0  # places
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
        """Keep an entry heard from `host`, unless there is no room for it or for more of its source.

        Raises TooManySorts.
        """
        node_id, source = announce.node_id, source_of(host)
        until = now.boot_ns + min(announce.ttl_secs, MAX_TTL_SECS) * NS
        entry = Heard(_needed(announce), listed, until, standing, source)
        held = self._forget(node_id)
        if standing is Standing.STRANGER and held is not None and held.source == source:
            entry = entry._replace(standing=held.standing if held.standing is Standing.REACHED else standing)
        displaced: list[Heard] = []
        refusal = self._make_room(entry, displaced)
        if refusal is not None:
            for gone in (*displaced, *([held] if held else [])):
                self._keep(gone)
            return refusal
        self._keep(entry)
        self._remember(node_id, announce.sequence)
        return Put.DISPLACED if displaced else Put.ACCEPTED

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

    def _make_room(self, entry: Heard, displaced: list[Heard]) -> Put | None:
        """Say why an entry may not come in; where it may in others' places, they are gone, and in `displaced`."""
        standing, source, places = entry.standing, entry.source, self._places(entry)
        if standing is not Standing.VOUCHED:
            below = self._crowds[Standing.STRANGER]
            while self._count(source) + places > self._share_of(source):
                theirs = below.of(source) if standing is Standing.REACHED else ()
                if not self._displace(theirs, displaced):
                    return Put.SOURCE_FULL
        while self._used + places > self._max_nodes:
            if not self._displace(self._weakest(standing, self._count(source) + places), displaced):
                return Put.FULL
        return None

    def _weakest(self, standing: Standing, count: int) -> Collection[int]:
        """Return whose places an entry may take: of those below it, or of its own standing in a source of more."""
        for crowd_of, crowd in self._crowds.items():
            source = crowd.fullest()
            if source is not None and (crowd_of < standing or crowd.count(source) > count):
                return crowd.of(source)
            if crowd_of == standing:
                break
        return ()

    def _displace(self, among: Collection[int], displaced: list[Heard]) -> bool:
        gone = self._forget(next(iter(among))) if among else None
        if gone is not None:
            displaced.append(gone)
        return gone is not None

    def _count(self, source: str) -> int:
        return sum(crowd.count(source) for crowd in self._crowds.values())

    def _places(self, entry: Heard) -> int:
        """A table's bound is one on memory, too: a long entry counts for several. Not in a small table."""
        return min(-(-len(entry.listed) // PLACE) or 1, max(1, self._max_nodes // SHARE))

    def _share_of(self, source: str) -> int:
        return self._max_nodes if source == LOOPBACK else self._share

    def _keep(self, heard: Heard) -> None:
        node_id, places = heard.announce.node_id, self._places(heard)
        self._nodes[node_id] = heard
        self._used += places
        if heard.standing is not Standing.VOUCHED:
            self._crowds[heard.standing].add(heard.source, node_id, places)

    def _forget(self, node_id: int) -> Heard | None:
        held = self._nodes.pop(node_id, None)
        if held is None:
            return None
        self._used -= self._places(held)
        if held.standing is not Standing.VOUCHED:
            self._crowds[held.standing].remove(held.source, node_id)
        return held

    def _remember(self, node_id: int, sequence: int) -> None:
        self._sequences[node_id] = sequence
        self._sequences.move_to_end(node_id)
        while len(self._sequences) > 2 * self._max_nodes:
            self._sequences.popitem(last=False)


def _needed(announce: Announce) -> Announce:
    """Return it with one resource of each sort, and no extension but the certificate.

    Decoded whole, the 64 KiB that a few hundred deflated bytes can be would take a third of a megabyte.
    """
    sorts: dict[tuple[int, int], ResourceSummary] = {}
    for resource in announce.resources:
        sorts.setdefault((resource.resource_type, resource.flags), resource)
    if len(sorts) > SORTS:
        raise TooManySorts
    certificates = (tlv for tlv in announce.extensions if isinstance(tlv, NodeCertificate))
    return announce.replace(resources=tuple(sorts.values()), extensions=tuple(islice(certificates, 1)))


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
