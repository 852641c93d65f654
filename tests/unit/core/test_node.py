"""Node as a whole: restarts, drains, pushes, the books."""

from itertools import islice

import pytest

from fabricbios.core.effects import Adopt, Do, Record
from fabricbios.core.policy import Limits, Policy
from fabricbios.errors import LocalMisuse
from fabricbios.model import LeaseEventKind, LeaseState, Op, ResourceType, Status
from fabricbios.testing import FakeDataPlane, FakeNode, parts, peer_of
from fabricbios.wire import (
    FenceClearParams,
    LeaseAllocParams,
    LeaseFreeParams,
    LeaseQueryParams,
    LeaseRenewParams,
    LeaseRevokeParams,
)

MEM = int(ResourceType.MEM)


def count(node: FakeNode, state: LeaseState) -> int:
    return node.node.lease_counts.get((ResourceType.MEM, state), 0)


def test_a_restart_adopts_what_is_whole() -> None:
    node = FakeNode()
    lease = node.alloc(1)
    key = node.plane.held[lease.lease_id].dp_key
    node.ask(1, Op.LEASE_RENEW, LeaseRenewParams(lease.lease_id, 600), token=node.token(1))
    node.start()
    effect = node.node.next_effect()
    assert isinstance(effect, Adopt)
    node.run_one(effect)
    node.run()
    found = node.node.lease(lease.lease_id)
    assert found is not None
    assert (found.state, found.spec.generation) == (LeaseState.ACTIVE, 2)
    assert node.plane.held[lease.lease_id].dp_key == key
    assert node.node.summaries()[0].available == (1 << 30) - 8192
    assert node.ask(1, Op.LEASE_FREE, LeaseFreeParams(lease.lease_id)).status is Status.OK


@pytest.mark.parametrize("so_far", [0, 1, 2], ids=["nothing", "recorded", "reserved"])
def test_a_restart_tears_down_what_is_not(so_far: int) -> None:
    node = FakeNode()
    node.send(1, Op.LEASE_ALLOC, LeaseAllocParams(60, 0, MEM, 4096), token=node.token(1))
    voucher, do = node.node.next_effect(), node.node.next_effect()
    assert isinstance(voucher, Record)
    assert isinstance(do, Do)
    for _ in islice(parts(do, node.plane, node.journal), so_far):
        pass
    assert bool(node.plane.held) is (so_far == 2)
    node.start()
    node.run()
    assert not node.plane.held
    assert node.node.summaries()[0].available == 1 << 30


def test_a_reboot_tears_everything_down() -> None:
    node = FakeNode()
    node.alloc(1)
    node.start(boot="boot-2")
    node.run()
    assert not node.plane.held


def test_hardware_that_goes_takes_its_leases_with_it_and_is_offered_no_more() -> None:
    node = FakeNode()
    lease = node.alloc(1)
    resource_id = node.node.summaries()[0].resource_id
    node.node.lose(resource_id, node.clock.now)
    node.run()
    assert not node.plane.held
    found = node.ask(1, Op.LEASE_QUERY, LeaseQueryParams(lease.lease_id))
    assert (found.status, node.node.summaries()[0].available) == (Status.OK, 0)
    assert node.ask(1, Op.LEASE_ALLOC, LeaseAllocParams(60, 0, MEM, 4096), token=node.token(1)).status is (
        Status.RESOURCE_FENCED
    )
    clear = node.ask(1, Op.FENCE_CLEAR, FenceClearParams(resource_id), token=node.token(1, 255))
    assert clear.status is Status.RESOURCE_FENCED, "no lease to clear, and nothing to lease"
    node.node.regain(resource_id)
    assert node.node.summaries()[0].available == 1 << 30
    node.alloc(1)


def test_a_lease_that_ended_while_nobody_ran_is_expired() -> None:
    node = FakeNode()
    lease = node.alloc(1, secs=10)
    node.clock.advance(30)
    node.start()
    node.run()
    assert not node.plane.held
    got = node.ask(1, Op.LEASE_QUERY, LeaseQueryParams(lease.lease_id))
    assert got.result[0] == 1


def test_a_compacted_journal_restores_the_same() -> None:
    node = FakeNode()
    node.alloc(1, secs=600)
    warned, freed = node.alloc(1), node.alloc(1)
    node.ask(1, Op.LEASE_REVOKE, LeaseRevokeParams(warned.lease_id, 50))
    node.ask(1, Op.LEASE_FREE, LeaseFreeParams(freed.lease_id))
    lines = len(node.journal.lines)
    node.journal.lines.clear()
    for entry in node.node.journal():
        node.journal.append([entry], False)
    assert len(node.journal.lines) < lines
    node.start()
    node.run()
    assert (count(node, LeaseState.ACTIVE), count(node, LeaseState.WARNED)) == (1, 1)


def test_drain_tears_all_down_and_grants_no_more() -> None:
    node = FakeNode()
    node.node.connection_opened(peer_of(1))
    token = node.token(1)
    for _ in range(5):
        node.alloc(1)
    pending = node.send(1, Op.LEASE_ALLOC, LeaseAllocParams(60, 0, MEM, 4096), token=token)
    node.node.drain(node.clock.now)
    assert not node.node.drained
    node.run()
    assert node.node.drained
    assert not node.plane.held
    assert node.answer(pending).status is Status.RESOURCE_BUSY
    assert [e.event for _, e in node.events].count(LeaseEventKind.REVOKED) >= 5
    late = node.ask(1, Op.LEASE_ALLOC, LeaseAllocParams(60, 0, MEM, 4096), token=token)
    assert late.status is Status.RESOURCE_BUSY


def test_what_will_not_go_is_fenced_in_the_journal() -> None:
    node = FakeNode()
    lease = node.alloc(1)
    node.plane.failures["undo", "reserve"] = -1
    node.node.drain(node.clock.now)
    node.run()
    assert not node.node.drained
    stuck = node.node.next_effect()
    assert stuck is None
    records = node.node.fence_rest(node.clock.now)
    assert [r.entry["rec"] for r in records] == ["fenced"]
    for r in records:
        node.journal.append([r.entry], r.durable)
    assert node.node.drained
    assert node.node.next_effect() is None
    node.start()
    node.run()
    assert count(node, LeaseState.FENCED) == 1
    assert node.node.summaries()[0].flags == 1
    assert node.node.lease(lease.lease_id) is not None


def test_reports_after_giving_up_are_ignored() -> None:
    node = FakeNode()
    node.alloc(1)
    node.node.drain(node.clock.now)
    hanging = node.node.next_effect()
    assert hanging is not None
    node.node.fence_rest(node.clock.now)
    node.node.effect_succeeded(hanging, (), node.clock.now)


def test_a_report_nobody_asked_for_is_our_own_bug() -> None:
    node = FakeNode()
    with pytest.raises(LocalMisuse):
        node.node.effect_succeeded(Record(None, {}, True), (), node.clock.now)


def test_events_go_to_the_holders_live_connections() -> None:
    node = FakeNode()
    for connection in (11, 12):
        node.node.connection_opened(peer_of(1, connection=connection))
    node.node.connection_opened(peer_of(2))
    node.node.connection_closed(11)
    node.node.connection_closed(99)
    node.alloc(1, secs=10)
    node.pass_time(11)
    assert [connection for connection, _ in node.events] == [12]


def test_what_is_due_happens_before_a_request_is_served() -> None:
    node = FakeNode()
    lease, token = node.alloc(1, secs=10), node.token(1)
    node.clock.advance(10)
    params = LeaseRenewParams(lease.lease_id, 60)
    assert node.ask(1, Op.LEASE_RENEW, params, token=token).status is Status.LEASE_EXPIRED


def test_the_books_add_up_after_a_busy_day() -> None:
    node = FakeNode(FakeDataPlane(capacity=1 << 20))
    for day in range(200):
        try:
            node.alloc(1 + day % 2, secs=1 + day % 7, grace=day % 3)
        finally:
            node.pass_time(0.5)
    node.pass_time(1000)
    assert not list(node.node.leases())
    assert not any(node.node.lease_counts.values())
    assert node.node.summaries()[0].available == 1 << 20
    assert len(node.node.take_teardowns()) == 200
    assert node.node.take_teardowns() == []
    assert node.node.next_deadline() is None
    assert not node.plane.keys


def test_a_new_policy_holds_from_the_next_request() -> None:
    node = FakeNode()
    node.alloc(1)
    node.node.set_policy(Policy(Limits(max_leases=1)))
    got = node.ask(1, Op.LEASE_ALLOC, LeaseAllocParams(60, 0, MEM, 1), token=node.token(1))
    assert got.status is Status.CAPACITY_EXCEEDED


def test_leases_are_found_by_their_low_half_too() -> None:
    node = FakeNode()
    lease_id = node.alloc(1).lease_id
    found = node.node.lease_by_low(lease_id & (1 << 64) - 1)
    assert found is not None
    assert found.spec.lease_id == lease_id
    assert node.node.lease(lease_id ^ 1 << 100) is None


def test_the_log_is_bounded_and_has_no_secrets() -> None:
    node = FakeNode()
    for _ in range(3000):
        node.token(1)
        node.token(2)
    events = node.node.events()
    assert len(events) == 4096
    assert node.node.events() == []
    assert node.plane.keys == {}
