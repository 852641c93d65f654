"""FENCE_CLEAR (D8), SCHEDULER_FENCE_SET and SCHEDULER_FENCE_GET (wire encoding, "Scheduler fencing ops")."""

from __future__ import annotations

from typing import Any

from fabricbios.core import overdue, record
from fabricbios.core.state import Ask, NodeState, Recording
from fabricbios.core.token import Scope
from fabricbios.errors import Refused
from fabricbios.model import Instant, LeaseState, Perm, Status
from fabricbios.wire import FenceClearParams, SchedulerFenceGetResult, SchedulerFenceSetParams


def clear(state: NodeState, ask: Ask, params: FenceClearParams, now: Instant) -> bytes | None:
    """Probe the undos that failed; the answer comes when all succeeded, or one failed again."""
    resource_id = params.resource_id
    state.tokens.verify(ask.token, Scope(Perm.ADMIN, resource_id), ask.peer, now)
    fenced = [lease for lease in state.leases if _is_fenced(lease, resource_id)]
    if not fenced and resource_id not in state.admission.offers:
        raise Refused.of(Status.RESOURCE_NOT_FOUND, "no such resource on this node")
    if not fenced and state.admission.fenced(resource_id):
        raise Refused.of(Status.RESOURCE_FENCED, "what it is made of is gone still")
    if not fenced:
        return b""
    if resource_id in state.clearing:
        raise Refused.of(Status.RESOURCE_BUSY, "that fence is being cleared already")
    state.clearing[resource_id] = (ask.judged(), {lease.spec.lease_id for lease in fenced})
    overdue.expect(state, resource_id, ask, now)
    for lease in fenced:
        lease.clear()
        state.leases.settle(lease)
    state.audit.note(now, "fence.probed", peer=ask.peer.node_id, detail=f"{resource_id:#034x}")
    return None


def _is_fenced(lease: Any, resource_id: int) -> bool:
    return lease.state is LeaseState.FENCED and lease.spec.resource_id == resource_id


def scheduler_set(state: NodeState, ask: Ask, params: SchedulerFenceSetParams, now: Instant) -> None:
    """Install an epoch; it holds, and is answered, once it is on the disk."""
    state.tokens.verify(ask.token, Scope(Perm.ADMIN, ask.resource_id), ask.peer, now)
    pending = max((r.epoch for r in state.recording.values()), default=0)
    state.fence.check_raise(params.new_epoch)
    if params.new_epoch <= pending:
        raise Refused.of(Status.STALE_EPOCH, f"epoch {pending} is being installed")
    state.record(record.epoch_entry(params.new_epoch), Recording(ask, b"", params.new_epoch))


def scheduler_get(state: NodeState, ask: Ask, params: Any, now: Instant) -> bytes:
    return SchedulerFenceGetResult(int(state.fence.epoch > 0), state.fence.epoch).pack()
