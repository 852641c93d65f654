"""What ends when an identity is trusted no more: its connections, and its leases with their data paths.

The sources are silent (docs/spec/decisions.md, "What a node does beyond the sources"). Who withdraws a key expects that
it opens nothing from then on; a lease may run for a day, and its data paths ask nobody.
"""

from __future__ import annotations

from fabricbios.core.consequences import follow
from fabricbios.core.happened import Cause
from fabricbios.core.lease import Lease
from fabricbios.core.state import NodeState
from fabricbios.model import Instant, LeaseState

_OVER = (LeaseState.FREE, LeaseState.FENCED)


def end_distrusted(state: NodeState, now: Instant) -> None:
    """Call after what is trusted has changed: close connections and revoke leases of whom that takes the trust from.

    Who is connected and trusted keeps its leases, whoever vouched for it when it got them: certificates are renewed.
    """
    trusted = {peer.node_id for peer in state.outbox.peers() if state.trust.trusted(peer, now)}
    ended: dict[int, int] = {}
    for lease in list(state.leases):
        holder = lease.spec.holder
        stands = holder in trusted or state.trust.stands(holder, state.vouchers.of(holder))
        if not stands and not _over(lease):
            ended[holder] = ended.get(holder, 0) + 1
            follow(state, lease, lease.tear_down(Cause.REVOKED, now), now)
    for peer in state.outbox.peers():
        if peer.node_id and not state.trust.stands(peer.node_id, peer.certificate):
            ended.setdefault(peer.node_id, 0)
            state.outbox.close(peer.connection)
    for node_id, leases in ended.items():
        state.audit.note(now, "trust.withdrawn", peer=node_id, detail=f"{leases} leases revoked")


def _over(lease: Lease) -> bool:
    return lease.ending or lease.state in _OVER
