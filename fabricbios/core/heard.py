"""What a relay has heard: the latest valid ANNOUNCE of each node, bounded, each for its own time (D4)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from fabricbios.model import NS, Instant
from fabricbios.wire.discovery import Announce

MAX_TTL_SECS = 86_400  # nobody is believed for longer than a day


class Heard(NamedTuple):
    """`listed` is the entry as answers carry it. `vouched` means pinned or certified, not just self-proven."""

    announce: Announce
    listed: bytes
    until_ns: int
    vouched: bool


class HeardNodes:
    """Entries by node id. Sequences are remembered beyond their entry, so that no old word comes back."""

    def __init__(self, max_nodes: int) -> None:
        self._max_nodes = max_nodes
        self._nodes: OrderedDict[int, Heard] = OrderedDict()  # heard longest ago first
        self._sequences: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, node_id: int) -> Heard | None:
        return self._nodes.get(node_id)

    def is_new(self, node_id: int, sequence: int) -> bool:
        """Whether a sequence is above the last one of its node."""
        return sequence > self._sequences.get(node_id, -1)

    def put(self, announce: Announce, listed: bytes, vouched: bool, now: Instant) -> bool:
        """Keep an entry; False where the table is full. Who is vouched for takes the place of who is not."""
        if announce.node_id not in self._nodes and len(self._nodes) >= self._max_nodes:
            displaced = next((i for i, h in self._nodes.items() if not h.vouched), None) if vouched else None
            if displaced is None:
                return False
            del self._nodes[displaced]
        until = now.boot_ns + min(announce.ttl_secs, MAX_TTL_SECS) * NS
        self._nodes[announce.node_id] = Heard(announce, listed, until, vouched)
        self._nodes.move_to_end(announce.node_id)
        self._remember(announce.node_id, announce.sequence)
        return True

    def drop(self, node_id: int, sequence: int) -> None:
        """The node is gone by its own word; a 16-byte WITHDRAW has sequence 0 and moves nothing."""
        self._nodes.pop(node_id, None)
        self._remember(node_id, max(sequence, self._sequences.get(node_id, -1)))

    def expire(self, now: Instant) -> int:
        """Drop what is over; return how many that were."""
        over = [i for i, heard in self._nodes.items() if heard.until_ns <= now.boot_ns]
        for node_id in over:
            del self._nodes[node_id]
        return len(over)

    def live(self, now: Instant) -> Iterator[Heard]:
        return (heard for heard in self._nodes.values() if heard.until_ns > now.boot_ns)

    def _remember(self, node_id: int, sequence: int) -> None:
        self._sequences[node_id] = sequence
        self._sequences.move_to_end(node_id)
        while len(self._sequences) > 2 * self._max_nodes:
            self._sequences.popitem(last=False)
