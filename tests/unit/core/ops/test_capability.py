"""CAP_REQUEST, CAP_REFRESH, CAP_REVOKE."""

import pytest

from fabricbios.core.policy import Limits, Policy
from fabricbios.errors import Refused
from fabricbios.model import Op, Perm, Status
from fabricbios.testing import NODE_ID, TOKEN_KEY, FakeNode
from fabricbios.wire import (
    CapRefreshParams,
    CapRequestParams,
    CapRevokeParams,
    LeaseFreeParams,
    LeaseRenewParams,
    RateLimit,
    RevokeBroadcast,
    SchedulerFenceSetParams,
    Token,
)
from fabricbios.wire.token import attenuate, mac_holds


def wish(node: FakeNode, perms: int = 255, ttl: int = 60, audience: int = 1, **fields: int) -> Status:
    return node.ask(1, Op.CAP_REQUEST, CapRequestParams(perms, ttl, audience, **fields)).status


def test_a_token_says_what_was_granted() -> None:
    node = FakeNode()
    token = Token.unpack(node.token(1, int(Perm.ALLOC), ttl_secs=60, audience=5))
    now = node.clock.now.unix
    assert (token.issuer, token.audience, token.perms) == (NODE_ID, 5, Perm.ALLOC)
    assert (token.issued_at, token.expires_at, token.lease_id, token.generation) == (now, now + 60, 0, 0)
    assert mac_holds(token, TOKEN_KEY)


def test_policy_cuts_the_wish_and_refuses_if_nothing_is_left() -> None:
    policy = Policy(Limits(perms=Perm.READ | Perm.ALLOC), {2: Limits(perms=Perm(0))})
    node = FakeNode(policy=policy)
    assert Token.unpack(node.token(1, 255)).perms == Perm.READ | Perm.ALLOC
    assert wish(node, int(Perm.ADMIN)) is Status.INSUFFICIENT_PERM
    assert wish(node, 0) is Status.INSUFFICIENT_PERM
    with pytest.raises(Refused, match="INSUFFICIENT_PERM"):
        node.token(2)


def test_who_claimed_the_node_has_every_permission() -> None:
    node = FakeNode(policy=Policy(Limits(perms=Perm.READ)))
    node.trust.owners.add(1)
    assert Token.unpack(node.token(1, 255)).perms == 255


def test_ttl_is_shortened_and_never_zero() -> None:
    node = FakeNode()
    token = Token.unpack(node.token(1, ttl_secs=86_400))
    assert token.expires_at - token.issued_at == 300
    assert wish(node, ttl=0) is Status.INVALID_ARGS


def test_a_lease_bound_token_carries_the_generation_and_ends_with_the_lease() -> None:
    node = FakeNode()
    lease = node.alloc(1, secs=30)
    token = Token.unpack(node.token(1, epoch=0, lease_id=lease.lease_id))
    assert (token.lease_id, token.generation, token.expires_at) == (lease.lease_id, 1, lease.expires_at)


def test_a_lease_bound_token_is_the_holders_alone() -> None:
    node = FakeNode()
    lease = node.alloc(2)
    assert wish(node, epoch=0, lease_id=lease.lease_id) is Status.INSUFFICIENT_PERM
    assert wish(node, epoch=0, lease_id=99) is Status.RESOURCE_NOT_FOUND
    node.ask(2, Op.LEASE_FREE, LeaseFreeParams(lease.lease_id))
    assert wish(node, epoch=0, lease_id=lease.lease_id) is Status.LEASE_EXPIRED


def test_a_token_for_a_resource_that_is_not_there() -> None:
    got = FakeNode().ask(1, Op.CAP_REQUEST, CapRequestParams(255, 60, 1), resource_id=5)
    assert got.status is Status.RESOURCE_NOT_FOUND


def install(node: FakeNode, epoch: int) -> Status:
    return node.ask(1, Op.SCHEDULER_FENCE_SET, SchedulerFenceSetParams(epoch), token=node.token(1, epoch=epoch)).status


def test_once_a_fence_is_installed_the_epoch_is_wanted() -> None:
    node = FakeNode()
    assert wish(node, epoch=3) is Status.OK
    assert install(node, 7) is Status.OK
    assert wish(node) is Status.FENCE_REQUIRED
    assert wish(node, epoch=0) is Status.FENCE_REQUIRED
    assert wish(node, epoch=6) is Status.STALE_EPOCH
    assert wish(node, epoch=8) is Status.FENCE_REQUIRED
    assert wish(node, epoch=7) is Status.OK


def test_a_token_of_an_older_epoch_is_stale() -> None:
    node = FakeNode()
    old = node.token(1, epoch=3)
    install(node, 7)
    assert node.ask(1, Op.LEASE_LIST_ACTIVE, token=old).status is Status.STALE_EPOCH
    assert node.ask(1, Op.CAP_REFRESH, CapRefreshParams(60), token=old).status is Status.STALE_EPOCH


def test_refresh_changes_only_the_times() -> None:
    node = FakeNode()
    raw = attenuate(Token.unpack(node.token(1, ttl_secs=60)), RateLimit(5)).pack()
    node.clock.advance(40)
    again = Token.unpack(node.ask(1, Op.CAP_REFRESH, CapRefreshParams(9999), token=raw).result)
    old, now = Token.unpack(raw), node.clock.now.unix
    assert (again.issued_at, again.expires_at) == (now, now + 300)
    assert again.replace(issued_at=0, expires_at=0, mac=b"") == old.replace(issued_at=0, expires_at=0, mac=b"")
    assert mac_holds(again, TOKEN_KEY)


def test_refresh_refuses_what_is_over() -> None:
    node = FakeNode()
    raw = node.token(1, ttl_secs=60)
    assert node.ask(1, Op.CAP_REFRESH, CapRefreshParams(0), token=raw).status is Status.INVALID_ARGS
    assert node.ask(2, Op.CAP_REFRESH, CapRefreshParams(60), token=raw).status is Status.INVALID_TOKEN
    assert node.ask(1, Op.CAP_REFRESH, CapRefreshParams(60)).status is Status.INSUFFICIENT_PERM
    node.clock.advance(60)
    assert node.ask(1, Op.CAP_REFRESH, CapRefreshParams(60), token=raw).status is Status.INVALID_TOKEN


def test_refresh_of_a_lease_bound_token_ends_with_lease_and_generation() -> None:
    node = FakeNode()
    lease = node.alloc(1, secs=60)
    raw = node.token(1, epoch=0, lease_id=lease.lease_id, ttl_secs=30)
    again = node.ask(1, Op.CAP_REFRESH, CapRefreshParams(300), token=raw)
    assert Token.unpack(again.result).expires_at == lease.expires_at
    node.ask(1, Op.LEASE_RENEW, LeaseRenewParams(lease.lease_id, 120), token=raw)
    assert node.ask(1, Op.CAP_REFRESH, CapRefreshParams(300), token=raw).status is Status.INVALID_TOKEN


def test_a_revoked_token_is_refused_by_every_copy_and_over_a_restart() -> None:
    node = FakeNode()
    raw = node.token(1)
    narrowed = attenuate(Token.unpack(raw), RateLimit(5)).pack()
    params = CapRevokeParams(Token.unpack(raw).token_id, 60)
    assert node.ask(1, Op.CAP_REVOKE, params, token=node.token(1, int(Perm.ALLOC))).status is Status.INSUFFICIENT_PERM
    got = node.ask(1, Op.CAP_REVOKE, params, token=node.token(1))
    assert RevokeBroadcast.unpack(got.result) == RevokeBroadcast(NODE_ID, (params.token_id,), node.clock.now.unix + 60)
    node.start()
    for copy in (raw, narrowed):
        assert node.ask(1, Op.LEASE_LIST_ACTIVE, token=copy).status is Status.INVALID_TOKEN
    node.clock.advance(61)
    assert node.ask(1, Op.LEASE_LIST_ACTIVE, token=raw).status is Status.INVALID_TOKEN


def test_a_revocation_that_cannot_be_recorded_is_not_called_done_but_holds() -> None:
    node = FakeNode()
    raw, other = node.token(1), node.token(1)
    node.journal.fail_next = 1
    got = node.ask(1, Op.CAP_REVOKE, CapRevokeParams(Token.unpack(raw).token_id, 60), token=other)
    assert got.status is Status.INTERNAL_ERROR
    assert node.ask(1, Op.LEASE_LIST_ACTIVE, token=raw).status is Status.INVALID_TOKEN


def test_a_token_is_not_refreshed_once_policy_withdrew_one_of_its_permissions() -> None:
    """D6 keeps perms: so it is all of them or none."""
    node = FakeNode()
    raw = node.token(1, int(Perm.READ | Perm.ALLOC | Perm.ADMIN))
    node.node.set_policy(Policy(Limits(perms=Perm.READ | Perm.ALLOC)))
    assert node.ask(1, Op.CAP_REFRESH, CapRefreshParams(60), token=raw).status is Status.INSUFFICIENT_PERM
    node.node.set_policy(Policy(Limits(perms=Perm.READ | Perm.ALLOC | Perm.ADMIN)))
    again = node.ask(1, Op.CAP_REFRESH, CapRefreshParams(60), token=raw)
    assert Token.unpack(again.result).perms == Perm.READ | Perm.ALLOC | Perm.ADMIN


def test_a_delegated_token_is_refreshed_by_whom_policy_grants_as_much() -> None:
    node = FakeNode(policy=Policy(Limits(), {2: Limits(perms=Perm.READ)}))
    wide, narrow = (node.token(1, int(perms), audience=2) for perms in (Perm.READ | Perm.ALLOC, Perm.READ))
    said = [node.ask(2, Op.CAP_REFRESH, CapRefreshParams(60), token=raw).status for raw in (wide, narrow)]
    assert said == [Status.INSUFFICIENT_PERM, Status.OK]


def test_refreshing_counts_against_the_rate_limit() -> None:
    node = FakeNode()
    raw = attenuate(Token.unpack(node.token(1)), RateLimit(2)).pack()
    said = [node.ask(1, Op.CAP_REFRESH, CapRefreshParams(60), token=raw).status for _ in range(3)]
    assert said == [Status.OK, Status.OK, Status.RATE_LIMITED]
