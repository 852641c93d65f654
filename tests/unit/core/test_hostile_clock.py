"""Somebody sets the wall clock, by an hour or by decades, while leases are live: they live by CLOCK_BOOTTIME (D8)."""

import pytest

from fabricbios.model import LeaseState, LeaseStatus, Op, Status
from fabricbios.testing import FakeNode
from fabricbios.wire import (
    LeaseListActiveResult,
    LeaseQueryParams,
    LeaseQueryResult,
    LeaseRenewParams,
    LeaseRenewResult,
)

JUMPS = [3600, -3600, 86_400 * 365, -1_800_000_000]  # the last one: to 1970, as a board without a battery


def query(node: FakeNode, lease_id: int) -> LeaseQueryResult:
    return LeaseQueryResult.unpack(node.ask(1, Op.LEASE_QUERY, LeaseQueryParams(lease_id)).result)


@pytest.mark.parametrize("jump", JUMPS)
def test_a_lease_keeps_its_time_and_says_its_end_by_the_new_clock(jump: int) -> None:
    node = FakeNode()
    lease = node.alloc(1, secs=60)
    node.clock.jump_unix(jump)
    assert query(node, lease.lease_id) == LeaseQueryResult(LeaseStatus.ACTIVE, node.clock.now.unix + 60)
    (item,) = LeaseListActiveResult.unpack(node.ask(1, Op.LEASE_LIST_ACTIVE).result).leases
    assert item.expires_at == node.clock.now.unix + 60
    node.pass_time(59)
    assert query(node, lease.lease_id).lease_status == LeaseStatus.ACTIVE
    node.pass_time(2)
    assert query(node, lease.lease_id).lease_status == LeaseStatus.EXPIRED


@pytest.mark.parametrize("jump", JUMPS)
def test_a_renewal_says_the_end_by_the_new_clock(jump: int) -> None:
    node = FakeNode()
    lease = node.alloc(1, secs=60)
    node.clock.jump_unix(jump)
    got = node.ask(1, Op.LEASE_RENEW, LeaseRenewParams(lease.lease_id, 100), token=node.token(1))
    assert LeaseRenewResult.unpack(got.result).expires_at == node.clock.now.unix + 100


@pytest.mark.parametrize("jump", JUMPS)
def test_a_token_for_the_lease_can_be_had_and_used(jump: int) -> None:
    node = FakeNode()
    lease = node.alloc(1, secs=60)
    node.clock.jump_unix(jump)
    token = node.token(1, epoch=0, lease_id=lease.lease_id)
    assert node.ask(1, Op.LEASE_RENEW, LeaseRenewParams(lease.lease_id, 100), token=token).status is Status.OK


@pytest.mark.parametrize("jump", JUMPS)
def test_tokens_of_the_old_clock_are_refused_not_believed(jump: int) -> None:
    node = FakeNode()
    token = node.token(1)
    node.clock.jump_unix(jump)
    assert node.ask(1, Op.LEASE_LIST_ACTIVE, token=token).status is Status.INVALID_TOKEN
    assert node.ask(1, Op.LEASE_LIST_ACTIVE, token=node.token(1)).status is Status.OK


@pytest.mark.parametrize("jump", JUMPS)
def test_a_successor_adopts_across_the_jump(jump: int) -> None:
    node = FakeNode()
    lease = node.alloc(1, secs=60)
    node.clock.jump_unix(jump)
    node.start()
    node.run()
    assert [held.state for held in node.node.leases()] == [LeaseState.ACTIVE]
    assert query(node, lease.lease_id).expires_at == node.clock.now.unix + 60


def test_a_clock_that_drifts_is_followed_and_one_that_rounds_is_not() -> None:
    node = FakeNode()
    lease = node.alloc(1, secs=600)
    node.clock.jump_unix(0.9)
    assert query(node, lease.lease_id).expires_at == lease.expires_at
    node.clock.jump_unix(4)
    assert query(node, lease.lease_id).expires_at == lease.expires_at + 5  # 4.9 s, rounded up
