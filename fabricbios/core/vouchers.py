"""By which certificate each holder of leases was last trusted: what trust in it rests on when it is not connected."""

from __future__ import annotations

from collections.abc import Callable

from fabricbios.ports import StreamPeer

ROOM = 1024


class Vouchers:
    """Certificates by node id, kept for those whom `holds` says still hold something."""

    def __init__(self, holds: Callable[[int], bool]) -> None:
        self._holds = holds
        self._of: dict[int, bytes] = {}
        self._full = ROOM

    def __len__(self) -> int:
        return len(self._of)

    def note(self, peer: StreamPeer) -> None:
        """A trusted peer has, or renews, a lease. One without a certificate is pinned, which needs no memory."""
        if not peer.certificate:
            return
        self._of[peer.node_id] = peer.certificate
        if len(self._of) > self._full:
            self._of = {node_id: kept for node_id, kept in self._of.items() if self._holds(node_id)}
            self._full = max(ROOM, 2 * len(self._of))

    def of(self, node_id: int) -> bytes:
        """Return the certificate, b"" where none is known: pinned, or of before this daemon's time."""
        return self._of.get(node_id, b"")
