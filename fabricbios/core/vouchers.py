"""By which certificate each holder of leases was last trusted: what trust in it rests on when it is not connected.

It is in the journal. A daemon that starts knows nobody yet, and has to judge leases for whose holders a controller
vouched: without their certificates it could not tell those of a controller that was taken away meanwhile from those
of one that stayed, and would leave the first a lease, or take one from the second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping

from fabricbios.core import record
from fabricbios.core.effects import Effect, Record
from fabricbios.ports import StreamPeer

ROOM = 1024


class Vouchers:
    """Certificates by node id, kept for those whom `holds` says still hold something; b"" where only a pin vouches.

    `records` takes the journal's entries. They come before those of the lease, and are on the disk with them.
    """

    def __init__(self, holds: Callable[[int], bool], records: deque[Record]) -> None:
        self._holds = holds
        self._records = records
        self._of: dict[int, bytes] = {}
        self._writing: dict[Effect, int] = {}
        self._unwritten: set[int] = set()
        self._full = ROOM

    def __len__(self) -> int:
        return len(self._of)

    def note(self, peer: StreamPeer) -> None:
        """A trusted peer has, or renews, a lease."""
        node_id, certificate = peer.node_id, peer.certificate
        if self._of.get(node_id) == certificate and node_id not in self._unwritten:
            return
        if len(self._of) >= self._full:
            self._forget_the_idle()
        self._of[node_id] = certificate
        self._unwritten.discard(node_id)
        effect = Record(None, record.voucher_entry(node_id, certificate), durable=False)
        self._writing[effect] = node_id
        self._records.append(effect)

    def of(self, node_id: int) -> bytes | None:
        """Return the certificate, b"" for who was pinned; None where a journal of before this was kept says nothing."""
        return self._of.get(node_id)

    def recorded(self, effect: Effect, failed: bool) -> bool:
        """Whether this was an entry of ours. One that could not be written is written at the next occasion."""
        node_id = self._writing.pop(effect, None)
        if node_id is not None and failed:
            self._unwritten.add(node_id)
        return node_id is not None

    def restore(self, kept: Mapping[int, bytes]) -> None:
        """Take over what the journal says."""
        self._of.update(kept)

    def entries(self, holders: Collection[int]) -> Iterator[record.Entry]:
        """Yield what a journal holds of these, and of nobody else, when it is compacted."""
        for node_id, certificate in self._of.items():
            if node_id in holders:
                yield record.voucher_entry(node_id, certificate)

    def _forget_the_idle(self) -> None:
        self._of = {node_id: kept for node_id, kept in self._of.items() if self._holds(node_id)}
        self._unwritten &= self._of.keys()
        self._full = max(ROOM, 2 * len(self._of))
