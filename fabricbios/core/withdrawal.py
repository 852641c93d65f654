"""What ends when an identity is trusted no more: its connections, and its leases with their data paths.

The sources are silent (docs/spec/decisions.md, "What a node does beyond the sources"). Who withdraws a key expects that
it opens nothing from then on; a lease may run for a day, and its data paths ask nobody.
"""

from __future__ import annotations

from collections import Counter

from fabricbios.core.consequences import follow
from fabricbios.core.happened import Cause
from fabricbios.core.lease import Lease
from fabricbios.core.state import NodeState
from fabricbios.model import Instant, LeaseState

_OVER = (LeaseState.FREE, LeaseState.FENCED)


def end_distrusted(state: NodeState, now: Instant) -> None:
    """Call after what is trusted has changed: close connections and revoke leases of whom that takes the trust from.

    Who is connected and trusted keeps its leases, whoever vouched for it when it got them: certificates are renewed.
    Who never was trusted loses nothing by it and goes on as the stranger it is: it may be asking to be enrolled.
    """
    leases = _revoke_leases(state, _note_trusted(state, now), now)
    connections = _close_connections(state, leases)
    for node_id in {**leases, **connections}:
        detail = f"{leases[node_id]} leases revoked, {connections[node_id]} connections closed"
        state.audit.note(now, "trust.withdrawn", peer=node_id, detail=detail)


def _note_trusted(state: NodeState, now: Instant) -> set[int]:
    """Return who is connected and trusted, and remember by what: the next to ask may be a daemon after us."""
    trusted = [peer for peer in state.outbox.peers() if state.trust.trusted(peer, now)]
    for peer in trusted:
        if state.leases.of(peer.node_id):
            state.vouchers.note(peer)
    return {peer.node_id for peer in trusted}


def _revoke_leases(state: NodeState, trusted: set[int], now: Instant) -> Counter[int]:
    revoked: Counter[int] = Counter()
    for lease in list(state.leases):
        holder = lease.spec.holder
        stands = holder in trusted or state.trust.stands(holder, state.vouchers.of(holder))
        if not stands and not _over(lease):
            revoked[holder] += 1
            follow(state, lease, lease.tear_down(Cause.REVOKED, now), now)
    return revoked


def _close_connections(state: NodeState, revoked: Counter[int]) -> Counter[int]:
    """What they were told just now is on its way first (QuicServer.disconnect)."""
    closed: Counter[int] = Counter()
    peers = state.outbox.peers()
    had_trust = {p.node_id for p in peers if state.outbox.had_trust(p.connection)} | revoked.keys()
    for peer in peers:
        if peer.node_id in had_trust - {0} and not state.trust.stands(peer.node_id, peer.certificate):
            closed[peer.node_id] += 1
            state.outbox.close(peer.connection)
    return closed


def _over(lease: Lease) -> bool:
    return lease.ending or lease.state in _OVER
