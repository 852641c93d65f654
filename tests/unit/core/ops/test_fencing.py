"""FENCE_CLEAR and the scheduler's fence."""

from fabricbios.model import LeaseState, Op, Perm, ResourceType, Status
from fabricbios.testing import FakeNode
from fabricbios.wire import (
    FenceClearParams,
    LeaseFreeParams,
    SchedulerFenceGetResult,
    SchedulerFenceSetParams,
)


def fenced_node(leases: int = 1) -> FakeNode:
    node = FakeNode()
    ids = [node.alloc(1).lease_id for _ in range(leases)]
    node.plane.failures["undo", "open"] = -1
    for lease_id in ids:
        node.send(1, Op.LEASE_FREE, LeaseFreeParams(lease_id))
    node.run()
    node.pass_time(6)
    assert node.node.lease_counts[ResourceType.MEM, LeaseState.FENCED] == leases
    return node


def clear(node: FakeNode, perms: int = 255, resource_id: int | None = None) -> Status:
    resource = node.offers[0].resource.resource_id if resource_id is None else resource_id
    return node.ask(1, Op.FENCE_CLEAR, FenceClearParams(resource), token=node.token(1, perms)).status


def test_clearing_probes_first() -> None:
    node = fenced_node()
    assert clear(node) is Status.RESOURCE_FENCED
    assert node.plane.held
    node.plane.failures.clear()
    assert clear(node) is Status.OK
    assert not node.plane.held
    assert node.node.summaries()[0].flags == 0
    node.alloc(1)


def test_every_fenced_lease_of_the_resource_must_go() -> None:
    node = fenced_node(leases=3)
    node.plane.failures["undo", "open"] = 1
    assert clear(node) is Status.RESOURCE_FENCED
    assert node.node.summaries()[0].flags == 1
    assert clear(node) is Status.OK
    assert node.node.summaries()[0].available == 1 << 30


def test_who_may_clear_what() -> None:
    node = fenced_node()
    assert clear(node, int(Perm.REVOKE)) is Status.INSUFFICIENT_PERM
    assert clear(node, resource_id=5) is Status.RESOURCE_NOT_FOUND
    assert clear(FakeNode()) is Status.OK
    got = node.ask(1, Op.FENCE_CLEAR, FenceClearParams(node.offers[0].resource.resource_id))
    assert got.status is Status.INSUFFICIENT_PERM


def set_epoch(node: FakeNode, epoch: int, token: bytes) -> Status:
    return node.ask(1, Op.SCHEDULER_FENCE_SET, SchedulerFenceSetParams(epoch), token=token).status


def get_epoch(node: FakeNode) -> SchedulerFenceGetResult:
    return SchedulerFenceGetResult.unpack(node.ask(2, Op.SCHEDULER_FENCE_GET).result)


def test_an_epoch_only_rises_and_survives_a_restart() -> None:
    node = FakeNode()
    token = node.token(1)
    assert get_epoch(node) == SchedulerFenceGetResult(0, 0)
    assert set_epoch(node, 0, token) is Status.INVALID_ARGS
    assert set_epoch(node, 5, token) is Status.OK
    assert [set_epoch(node, e, token) for e in (0, 4, 5)] == [Status.STALE_EPOCH] * 3
    assert set_epoch(node, (1 << 64) - 1, token) is Status.OK
    node.start()
    assert get_epoch(node) == SchedulerFenceGetResult(1, (1 << 64) - 1)


def test_an_epoch_that_cannot_be_recorded_does_not_hold() -> None:
    node = FakeNode()
    token = node.token(1)
    node.journal.fail_next = 1
    assert set_epoch(node, 5, token) is Status.INTERNAL_ERROR
    assert get_epoch(node).installed == 0


def test_an_epoch_being_recorded_is_not_overtaken() -> None:
    node = FakeNode()
    token = node.token(1)
    first = node.send(1, Op.SCHEDULER_FENCE_SET, SchedulerFenceSetParams(5), token=token)
    assert set_epoch(node, 5, token) is Status.STALE_EPOCH
    assert node.answer(first).status is Status.OK


def test_only_an_admin_sets_it() -> None:
    node = FakeNode()
    assert set_epoch(node, 5, node.token(1, int(Perm.ALLOC))) is Status.INSUFFICIENT_PERM
    assert set_epoch(node, 5, b"") is Status.INSUFFICIENT_PERM
