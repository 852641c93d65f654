"""LEASE_ALLOC, _RENEW, _FREE, _QUERY, _LIST_ACTIVE, _REVOKE, _ATTACH (wire encoding, D6, D8)."""

from __future__ import annotations

from itertools import chain, islice
from typing import Any

from fabricbios.core import overdue
from fabricbios.core.admission import Granted, Wish
from fabricbios.core.affinity import Here, unmet
from fabricbios.core.consequences import follow
from fabricbios.core.happened import Cause, Job
from fabricbios.core.lease import BOUND, Lease
from fabricbios.core.policy import MAX_GRACE_SECS, MAX_TTL_SECS
from fabricbios.core.state import Ask, NodeState
from fabricbios.core.token import Scope
from fabricbios.errors import Refused
from fabricbios.model import (
    NS,
    Instant,
    LeaseEventKind,
    LeaseState,
    LeaseStatus,
    Perm,
    ResourceType,
    RevokeOutcome,
    Status,
)
from fabricbios.ports import LeaseSpec
from fabricbios.wire import (
    ActiveLease,
    BindingTlv,
    DpAuthTlv,
    LeaseAllocParams,
    LeaseAttachParams,
    LeaseFreeParams,
    LeaseListActiveResult,
    LeaseQueryParams,
    LeaseQueryResult,
    LeaseRenewParams,
    LeaseRevokeParams,
    LeaseRevokeResult,
    RawTlv,
    Token,
)
from fabricbios.wire.intents import AffinityTarget

MAX_LISTED = 4096  # D1
MAX_INTENTS = 64  # of one lease, which keeps them, in the journal too
_KINDS = {int(kind): kind for kind in ResourceType}
ALLOC, RIGHTS = int(Perm.ALLOC), int(Perm.READ | Perm.WRITE)  # plain: flag arithmetic is slow


def alloc(state: NodeState, ask: Ask, params: LeaseAllocParams, now: Instant) -> None:
    """Begin to bind a lease; the answer comes when it is bound."""
    token = state.tokens.authentic(ask.token, ask.peer, now)
    if not token.perms & ALLOC:
        raise Refused.of(Status.INSUFFICIENT_PERM, "the token lacks ALLOC")
    state.tokens.take_rate(token, now)  # what is refused below counts too
    limits = state.policy.of(ask.peer.node_id)
    duration = min(_positive(params.duration_secs), limits.max_ttl, MAX_TTL_SECS)
    grace = min(params.grace_secs, limits.max_grace, MAX_GRACE_SECS)
    if state.draining:
        raise Refused.of(Status.RESOURCE_BUSY, "this node is shutting down")
    if len(state.leases) >= state.setup.max_leases:
        raise Refused.of(Status.CAPACITY_EXCEEDED, "the node's lease table is full")
    wish = _wish(ask, params, token)
    granted = state.admission.admit(wish, limits)
    if wish.intents and (why := unmet(wish.intents, _here(state))):
        raise Refused.of(Status.INVALID_ARGS, why)
    state.tokens.check_scope(token, Scope(Perm.ALLOC, granted.offer.resource.resource_id, None, granted.size))
    spec = _spec(state, ask, wish, granted, token, now.boot_ns + duration * NS)
    ends_unix = _ends_unix(now, duration)
    lease = Lease(spec, granted.offer.steps(spec), grace * NS, ends_unix, state.setup.boot)
    state.wait_for(spec.lease_id, ask)
    state.vouchers.note(ask.peer)
    state.leases.add(lease)


def _here(state: NodeState) -> Here:
    return {
        AffinityTarget.NODE_ID: state.setup.node_id.__eq__,
        AffinityTarget.RESOURCE_ID: state.admission.offers.__contains__,
        AffinityTarget.LEASE_ID: lambda lease_id: state.leases.get(lease_id) is not None,
    }


def _positive(duration_secs: int) -> int:
    if duration_secs == 0:
        raise Refused.of(Status.INVALID_ARGS, "a duration of 0")
    return duration_secs


def _ends_unix(now: Instant, duration: int) -> int:
    """Return the end in Unix seconds, rounded up (D8)."""
    return -(-now.unix_ms // 1000) + duration


def _wish(ask: Ask, params: LeaseAllocParams, token: Token) -> Wish:
    """A token for one resource chooses it where the request does not; of repeated wishes the first counts."""
    kind = None if params.resource_type is None else _KINDS.get(params.resource_type)
    if kind is None and params.resource_type is not None:
        raise Refused.of(Status.INVALID_ARGS, f"resource type {params.resource_type:#06x} is unknown")
    binding, dp_auth, others = _intents(params.intents)
    resource_id = ask.resource_id or token.resource_id
    return Wish(ask.peer.node_id, resource_id, kind, params.requested_bytes, binding, dp_auth, others)


def _intents(tlvs: tuple[Any, ...]) -> tuple[int | None, int | None, tuple[Any, ...]]:
    """Return the wished-for binding, the DP_AUTH, and all intents besides; unknown tags are skipped."""
    bindings: list[int] = []
    dp_auths: list[int] = []
    others: list[Any] = []
    for tlv in tlvs:
        known = type(tlv)
        if known is DpAuthTlv:
            dp_auths.append(tlv.dp_auth)
        elif known is BindingTlv:
            bindings.append(tlv.binding)
        elif known is not RawTlv:
            others.append(tlv)
    if len(bindings) + len(dp_auths) + len(others) > MAX_INTENTS:
        raise Refused.of(Status.INVALID_ARGS, f"more than {MAX_INTENTS} intents")
    return bindings[0] if bindings else None, dp_auths[0] if dp_auths else None, tuple(others)


def _spec(state: NodeState, ask: Ask, wish: Wish, granted: Granted, token: Token, expires_ns: int) -> LeaseSpec:
    """A token that says READ or WRITE limits the lease to that; one that says neither limits nothing."""
    resource = granted.offer.resource
    return LeaseSpec(
        lease_id=state.leases.new_id(state.rng),
        resource_id=resource.resource_id,
        kind=resource.kind,
        binding=granted.binding,
        size=granted.size,
        holder=ask.peer.node_id,
        generation=1,
        dp_auth=granted.dp_auth,
        dp_key=state.rng.randbytes(32),
        rights=token.perms & RIGHTS or RIGHTS,
        expires_ns=expires_ns,
        reached=ask.peer.local[0],
        wishes=wish.intents,
    )


def renew(state: NodeState, ask: Ask, params: LeaseRenewParams, now: Instant) -> None:
    """Put the end off, for the holder or with a token bound to the lease; answered when the data plane knows."""
    lease = _find(state, params.lease_id, now)
    token = state.tokens.authentic(ask.token, ask.peer, now)
    state.tokens.check_scope(token, Scope(Perm.RENEW, lease.spec.resource_id, lease.spec))
    if token.lease_id != lease.spec.lease_id:
        _check_holder(lease, ask)
    state.tokens.take_rate(token, now)
    duration = min(_positive(params.duration_secs), state.policy.of(ask.peer.node_id).max_ttl, MAX_TTL_SECS)
    _check_bound(lease)
    if lease.state is LeaseState.WARNED:
        raise Refused.of(Status.LEASE_EXPIRED, "the lease is being revoked")
    state.vouchers.note(ask.peer)
    lease.change(Job(ask.judged(), expires_ns=now.boot_ns + duration * NS, ends_unix=_ends_unix(now, duration)))
    state.leases.settle(lease)


def attach(state: NodeState, ask: Ask, params: LeaseAttachParams, now: Instant) -> None:
    """Give the holder its bindings again, under a new key; the answer comes when the old key is dead."""
    lease = _find(state, params.lease_id, now)
    _check_holder(lease, ask)
    _check_bound(lease)
    if lease.expired(now):
        raise Refused.of(Status.LEASE_EXPIRED, "the lease has expired")
    state.vouchers.note(ask.peer)
    lease.change(Job(ask.judged(), dp_key=state.rng.randbytes(32), reached=ask.peer.local[0]))
    state.leases.settle(lease)


def free(state: NodeState, ask: Ask, params: LeaseFreeParams, now: Instant) -> None:
    """End a lease; the answer comes when nothing of it is held any more, or says that this takes long."""
    lease = state.leases.get(params.lease_id)
    if lease is None:
        raise Refused.of(Status.RESOURCE_NOT_FOUND, "no such lease")
    _check_holder(lease, ask)
    if lease.state is LeaseState.FENCED:
        raise Refused.of(Status.RESOURCE_FENCED, "teardown failed: an admin must clear the fence")
    if lease.ending:
        raise Refused.of(Status.RESOURCE_NOT_FOUND, "that lease is over")
    _end(state, lease, ask, Cause.FREED, now)


def _end(state: NodeState, lease: Lease, ask: Ask, cause: Cause, now: Instant) -> None:
    state.wait_for(lease.spec.lease_id, ask)
    overdue.expect(state, lease.spec.lease_id, ask, now)
    follow(state, lease, lease.tear_down(cause, now), now)


def revoke(state: NodeState, ask: Ask, params: LeaseRevokeParams, now: Instant) -> bytes | None:
    """Take a lease back: one's own, or another's with a REVOKE token; at once, or after a warning.

    A lease that is unknown or over is an outcome of its own here (NotFound), not a status.
    """
    lease = state.leases.get(params.lease_id)
    if lease is None or lease.state is LeaseState.FREE:
        return LeaseRevokeResult(int(RevokeOutcome.NOT_FOUND)).pack()
    if lease.spec.holder != ask.peer.node_id:
        scope = Scope(Perm.REVOKE, lease.spec.resource_id, lease.spec)
        state.tokens.verify(ask.token, scope, ask.peer, now)
    if lease.state is LeaseState.FENCED:
        return LeaseRevokeResult(int(RevokeOutcome.FENCED)).pack()
    if params.grace_secs and not lease.ending and lease.state in (LeaseState.ACTIVE, LeaseState.WARNED):
        return _warn(state, lease, min(params.grace_secs, MAX_GRACE_SECS), now)
    _end(state, lease, ask, Cause.REVOKED, now)
    return None


def _warn(state: NodeState, lease: Lease, grace_secs: int, now: Instant) -> bytes:
    lease.warn(now.boot_ns + grace_secs * NS)
    state.leases.settle(lease)
    left_ms = max(0, lease.revoke_ns - now.boot_ns) // 1_000_000
    at = -(-(now.unix_ms + left_ms) // 1000)
    state.outbox.push(lease.spec.holder, lease.spec.lease_id, LeaseEventKind.REVOKE_WARNING, at, now)
    state.audit.note(now, "lease.warned", lease.spec.lease_id, lease.spec.holder)
    return LeaseRevokeResult(int(RevokeOutcome.SCHEDULED)).pack()


def query(state: NodeState, ask: Ask, params: LeaseQueryParams, now: Instant) -> bytes:
    lease = state.leases.get(params.lease_id)
    if lease is not None and lease.state is not LeaseState.FREE:
        return LeaseQueryResult(int(_status(lease, now)), lease.ends_unix).pack()
    past = state.leases.remembered(params.lease_id, now)
    if past is None:
        raise Refused.of(Status.RESOURCE_NOT_FOUND, "no such lease")
    return LeaseQueryResult(int(past.status), past.ends_unix).pack()


def _status(lease: Lease, now: Instant) -> LeaseStatus:
    if lease.expired(now):
        return LeaseStatus.EXPIRED
    return LeaseStatus.REVOKED if lease.ending else LeaseStatus.ACTIVE


def list_active(state: NodeState, ask: Ask, params: Any, now: Instant) -> bytes:
    """List the asker's own leases first, then others', 4096 at most (D1); whose those are only an ADMIN token shows."""
    admin = False
    if ask.token:
        token = state.tokens.authentic(ask.token, ask.peer, now)
        admin = bool(token.perms & Perm.ADMIN) and not token.lease_id and not token.resource_id
        state.tokens.take_rate(token, now)
    me = ask.peer.node_id
    own = state.leases.of(me)
    others = (lease for lease in state.leases if lease.spec.holder != me)
    live = (lease for lease in chain(own, others) if not lease.ending)
    items = tuple(_item(lease, admin or lease.spec.holder == me) for lease in islice(live, MAX_LISTED))
    return LeaseListActiveResult(items).pack()


def _item(lease: Lease, shown: bool) -> ActiveLease:
    s = lease.spec
    lease_id, holder = (s.lease_id, s.holder) if shown else (0, 0)
    return ActiveLease(lease_id, s.resource_id, holder, lease.ends_unix, s.size)


def _find(state: NodeState, lease_id: int, now: Instant) -> Lease:
    """Return a lease that is there, or raise what D6 says of one that is unknown, over, or over and forgotten."""
    lease = state.leases.get(lease_id)
    if lease is None and state.leases.remembered(lease_id, now) is None:
        raise Refused.of(Status.RESOURCE_NOT_FOUND, "no such lease")
    if lease is None:
        raise Refused.of(Status.LEASE_EXPIRED, "that lease is over")
    return lease


def _check_holder(lease: Lease, ask: Ask) -> None:
    if lease.spec.holder != ask.peer.node_id:
        raise Refused.of(Status.INSUFFICIENT_PERM, "only the holder may do that")


def _check_bound(lease: Lease) -> None:
    """Refuse what only a bound lease takes."""
    if lease.state is LeaseState.FENCED:
        raise Refused.of(Status.RESOURCE_FENCED, "teardown failed: an admin must clear the fence")
    if lease.ending:
        raise Refused.of(Status.LEASE_EXPIRED, "that lease is over")
    if lease.state not in BOUND or lease.full:
        raise Refused.of(Status.RESOURCE_BUSY, "the lease is busy: ask again")
