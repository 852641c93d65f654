"""CAP_REQUEST, CAP_REFRESH, CAP_REVOKE (D6, D7)."""

from __future__ import annotations

from fabricbios.core import record
from fabricbios.core.state import Ask, NodeState, Recording
from fabricbios.core.token import Scope
from fabricbios.errors import Refused
from fabricbios.model import ALL_PERMS, Instant, Perm, Status
from fabricbios.ports import LeaseSpec
from fabricbios.wire import CapRefreshParams, CapRequestParams, CapRevokeParams, RevokeBroadcast, Token

MAX_REVOKE_SECS = 86_400


def request(state: NodeState, ask: Ask, params: CapRequestParams, now: Instant) -> bytes:
    """Grant what of the wish the policy allows; a lease-bound token only to the lease's holder."""
    state.fence.check_request(params.epoch or 0)
    perms = Perm(params.perms & ALL_PERMS) & state.perms(ask)
    if not perms:
        raise Refused.of(Status.INSUFFICIENT_PERM, "policy grants none of these permissions")
    resource_id, lease, ends = ask.resource_id, None, 1 << 63
    if params.lease_id:
        lease, ends = _own_lease(state, ask, params.lease_id, now)
        resource_id = lease.resource_id
    elif resource_id and resource_id not in state.admission.offers:
        raise Refused.of(Status.RESOURCE_NOT_FOUND, "no such resource on this node")
    token = Token(
        token_id=state.rng.getrandbits(128),
        issuer=state.setup.node_id,
        audience=params.audience,
        resource_id=resource_id,
        lease_id=lease.lease_id if lease else 0,
        generation=lease.generation if lease else 0,
        perms=int(perms),
        issued_at=now.unix,
        expires_at=min(now.unix + _ttl(state, params.ttl_secs), ends),
        epoch=params.epoch or 0,
    )
    state.audit.note(now, "token.granted", token.lease_id, ask.peer.node_id, repr(perms))
    return state.tokens.mint(token).pack()


def _own_lease(state: NodeState, ask: Ask, lease_id: int, now: Instant) -> tuple[LeaseSpec, int]:
    lease = state.leases.get(lease_id)
    if lease is None or lease.ending:
        past = state.leases.remembered(lease_id, now) if lease is None else None
        known = lease is not None or past is not None
        status = Status.LEASE_EXPIRED if known else Status.RESOURCE_NOT_FOUND
        raise Refused.of(status, "that lease is over" if known else "no such lease")
    if lease.spec.holder != ask.peer.node_id:
        raise Refused.of(Status.INSUFFICIENT_PERM, "only the holder gets a token for a lease")
    if ask.resource_id not in (0, lease.spec.resource_id):
        raise Refused.of(Status.INVALID_ARGS, "the lease is of another resource")
    if lease.expired(now):
        raise Refused.of(Status.LEASE_EXPIRED, "the lease has expired")
    return lease.spec, lease.ends_unix


def _ttl(state: NodeState, wanted: int) -> int:
    if wanted == 0:
        raise Refused.of(Status.INVALID_ARGS, "a ttl of 0")
    return min(wanted, state.setup.max_token_ttl)


def refresh(state: NodeState, ask: Ask, params: CapRefreshParams, now: Instant) -> bytes:
    """Mint the token again with new times and nothing else changed, unless policy has withdrawn one of its permissions.

    Id and caveats stay, so revocation and RATE_LIMIT do too; asking counts against the latter.
    """
    token = state.tokens.authentic(ask.token, ask.peer, now)
    state.tokens.take_rate(token, now)
    state.fence.check_request(token.epoch)
    withdrawn = Perm(token.perms) & ~state.perms(ask)
    if withdrawn:
        raise Refused.of(Status.INSUFFICIENT_PERM, f"policy grants {withdrawn!r} no more: request a new token")
    expires_at = now.unix + _ttl(state, params.ttl_secs)
    if token.lease_id:
        lease = state.leases.get(token.lease_id)
        if lease is None or lease.ending or lease.expired(now) or lease.spec.generation != token.generation:
            raise Refused.of(Status.INVALID_TOKEN, "the token's lease is over or of a newer generation")
        expires_at = min(expires_at, lease.ends_unix)
    state.audit.note(now, "token.refreshed", token.lease_id, ask.peer.node_id, repr(Perm(token.perms)))
    return state.tokens.mint(token.replace(issued_at=now.unix, expires_at=expires_at)).pack()


def revoke(state: NodeState, ask: Ask, params: CapRevokeParams, now: Instant) -> None:
    """Refuse a token from now on, durably; at least as long as any token of that id could live."""
    state.tokens.verify(ask.token, Scope(Perm.REVOKE, ask.resource_id), ask.peer, now)
    if params.ttl_secs == 0:
        raise Refused.of(Status.INVALID_ARGS, "a ttl of 0")
    ttl = min(params.ttl_secs, MAX_REVOKE_SECS)
    held_until = now.unix + max(ttl, state.setup.max_token_ttl)
    state.tokens.revoke(params.token_id, held_until, now, ask.peer.node_id)
    result = RevokeBroadcast(state.setup.node_id, (params.token_id,), now.unix + ttl).pack()
    state.record(record.revoked_entry(params.token_id, held_until), Recording(ask, result))
    state.audit.note(now, "token.revoked", peer=ask.peer.node_id, detail=f"{params.token_id:#034x}")
