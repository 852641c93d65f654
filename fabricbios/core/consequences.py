"""What follows when something happened to a lease: answers to who waits, events to its holder, the books.

LEASE_EVENT's `at` is the instant that matters to the holder (Unix s): the end of a warning's grace, the
lease's end when it expired or was renewed, else now. A holder that frees its own lease gets no event.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

from fabricbios.core.happened import Cause, Happened, What
from fabricbios.core.lease import Lease
from fabricbios.core.state import Ask, NodeState
from fabricbios.model import NS, Binding, Instant, LeaseEventKind, Op, RevokeOutcome, Status
from fabricbios.wire import (
    BindingTlv,
    DpAuthTlv,
    Generation,
    LeaseAllocResult,
    LeaseAttachResult,
    LeaseRenewResult,
    LeaseRevokeResult,
)

Consequence = Callable[[NodeState, Lease, Happened, Instant], None]

_NAMES = {what: f"lease.{what.name.lower()}" for what in What}
_STATUS_OF = {
    errno.ENOSPC: Status.CAPACITY_EXCEEDED,
    errno.ENOMEM: Status.CAPACITY_EXCEEDED,
    errno.EBUSY: Status.RESOURCE_BUSY,
    errno.ETIMEDOUT: Status.RESOURCE_BUSY,
}


def follow(state: NodeState, lease: Lease, happened: Sequence[Happened], now: Instant) -> None:
    """Call after every call of a Lease's methods that may have changed it."""
    state.leases.settle(lease)
    for h in happened:
        detail = str(h.error) if h.error else ""
        state.audit.note(now, _NAMES[h.what], lease.spec.lease_id, lease.spec.holder, detail)
        consequence = _CONSEQUENCES.get(h.what)
        if consequence is not None:
            consequence(state, lease, h, now)


def answered_tlvs(lease: Lease, from_plane: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the data plane's TLVs in its order (endpoints, each with its LIMITS, D10), then what core knows.

    GENERATION and BINDING always, DP_AUTH where datagrams carry a tag; none twice.
    """
    spec = lease.spec
    ours: list[Any] = [Generation(spec.generation), BindingTlv(int(spec.binding))]
    if spec.binding is Binding.UDP:
        ours.append(DpAuthTlv(int(spec.dp_auth)))
    said = {type(tlv) for tlv in from_plane}
    return (*from_plane, *(tlv for tlv in ours if type(tlv) not in said))


def _pop_asker(state: NodeState, lease: Lease, op: Op) -> Ask | None:
    """Take who waits for this op away from those who wait for others."""
    waiting = state.askers.get(lease.spec.lease_id, [])
    found = next((a for a in waiting if a.op == op), None)
    if found is not None:
        waiting.remove(found)
        if not waiting:
            del state.askers[lease.spec.lease_id]
    return found


def _push(state: NodeState, lease: Lease, event: LeaseEventKind, at: int, now: Instant) -> None:
    state.outbox.push(lease.spec.holder, lease.spec.lease_id, event, at, now)


def _bound(state: NodeState, lease: Lease, h: Happened, now: Instant) -> None:
    ask = _pop_asker(state, lease, Op.LEASE_ALLOC)
    if ask is not None:
        result = LeaseAllocResult(lease.spec.lease_id, lease.ends_unix, answered_tlvs(lease, h.tlvs))
        state.outbox.answer(ask, result.pack(), now)


def _bind_failed(state: NodeState, lease: Lease, h: Happened, now: Instant) -> None:
    ask = _pop_asker(state, lease, Op.LEASE_ALLOC)
    if ask is None:
        return
    if h.error is not None:
        status = _STATUS_OF.get(h.error.errno or 0, Status.INTERNAL_ERROR)
        state.outbox.refuse(ask, status, "the resource could not be bound", now)
    elif lease.cause is Cause.EXPIRED:
        state.outbox.refuse(ask, Status.LEASE_EXPIRED, "the lease was over before it was bound", now)
    else:
        state.outbox.refuse(ask, Status.RESOURCE_BUSY, "the lease was taken back before it was bound", now)


def _renewed(state: NodeState, lease: Lease, h: Happened, now: Instant) -> None:
    if h.job is not None:
        result = LeaseRenewResult(lease.ends_unix, (Generation(lease.spec.generation),))
        state.outbox.answer(h.job.asker, result.pack(), now)
    _push(state, lease, LeaseEventKind.RENEWED, lease.ends_unix, now)


def _rekeyed(state: NodeState, lease: Lease, h: Happened, now: Instant) -> None:
    if h.job is not None:
        result = LeaseAttachResult(lease.spec.lease_id, lease.ends_unix, answered_tlvs(lease, h.tlvs))
        state.outbox.answer(h.job.asker, result.pack(), now)


def _change_failed(state: NodeState, lease: Lease, h: Happened, now: Instant) -> None:
    if h.job is not None:
        state.outbox.refuse(h.job.asker, Status.INTERNAL_ERROR, "the data plane could not change the lease", now)


def _change_refused(state: NodeState, lease: Lease, h: Happened, now: Instant) -> None:
    if h.job is not None:
        state.outbox.refuse(h.job.asker, Status.LEASE_EXPIRED, "the lease ended first", now)


def _expired(state: NodeState, lease: Lease, h: Happened, now: Instant) -> None:
    _push(state, lease, LeaseEventKind.EXPIRED, lease.ends_unix, now)


def _ending(state: NodeState, lease: Lease, h: Happened, now: Instant) -> None:
    if lease.cause is Cause.REVOKED:
        _push(state, lease, LeaseEventKind.REVOKED, now.unix, now)


def _freed(state: NodeState, lease: Lease, h: Happened, now: Instant) -> None:
    _time_teardown(state, lease, now)
    for ask in state.askers.pop(lease.spec.lease_id, ()):
        done = LeaseRevokeResult(int(RevokeOutcome.TORN_DOWN)).pack() if ask.op == Op.LEASE_REVOKE else b""
        state.outbox.answer(ask, done, now)
    _cleared(state, lease, now)


def _cleared(state: NodeState, lease: Lease, now: Instant) -> None:
    """FENCE_CLEAR is answered when the last fenced lease of the resource is gone."""
    ask, left = state.clearing.get(lease.spec.resource_id, (None, set[int]()))
    left.discard(lease.spec.lease_id)
    if left or lease.spec.resource_id not in state.clearing:
        return
    del state.clearing[lease.spec.resource_id]
    if ask is not None:
        state.outbox.answer(ask, b"", now)


def _fenced(state: NodeState, lease: Lease, h: Happened, now: Instant) -> None:
    _time_teardown(state, lease, now)
    _push(state, lease, LeaseEventKind.FENCED, now.unix, now)
    for ask in state.askers.pop(lease.spec.lease_id, ()):
        if ask.op == Op.LEASE_REVOKE:
            state.outbox.answer(ask, LeaseRevokeResult(int(RevokeOutcome.FENCED)).pack(), now)
        else:
            state.outbox.refuse(ask, Status.RESOURCE_FENCED, "teardown failed: the resource is fenced", now)


def _clear_failed(state: NodeState, lease: Lease, h: Happened, now: Instant) -> None:
    ask, _ = state.clearing.pop(lease.spec.resource_id, (None, None))
    if ask is not None:
        state.outbox.refuse(ask, Status.RESOURCE_FENCED, "the teardown step still fails", now)


def _forgotten(state: NodeState, lease: Lease, h: Happened, now: Instant) -> None:
    state.leases.drop(lease)


def _time_teardown(state: NodeState, lease: Lease, now: Instant) -> None:
    if lease.teardown is not None:
        state.teardowns.append((lease.spec.kind, (now.boot_ns - lease.teardown.began_ns) / NS))


_CONSEQUENCES: dict[What, Consequence] = {
    What.BOUND: _bound,
    What.BIND_FAILED: _bind_failed,
    What.RENEWED: _renewed,
    What.REKEYED: _rekeyed,
    What.CHANGE_FAILED: _change_failed,
    What.CHANGE_REFUSED: _change_refused,
    What.EXPIRED: _expired,
    What.ENDING: _ending,
    What.FREED: _freed,
    What.FENCED: _fenced,
    What.CLEAR_FAILED: _clear_failed,
    What.FORGOTTEN: _forgotten,
}
