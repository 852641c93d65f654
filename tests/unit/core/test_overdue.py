"""Who waits for a teardown has an answer before he gives up; the teardown goes on all the same."""

import pytest

from fabricbios.core.overdue import ANSWER_WITHIN_NS
from fabricbios.errors import FabricError
from fabricbios.model import NS, LeaseState, Op, ResourceType, Status
from fabricbios.ports import StreamPeer
from fabricbios.testing import FakeAnswer, FakeNode
from fabricbios.wire import FenceClearParams, LeaseFreeParams, LeaseRevokeParams

SECONDS = ANSWER_WITHIN_NS / NS


class SlowNode(FakeNode):
    """Its device does not answer until `go`: effects are given out, and never reported."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = False

    def run(self) -> None:
        if not self.hangs:
            super().run()

    def go(self) -> None:
        self.hangs = False
        self.run()


def answered(node: FakeNode, peer: StreamPeer) -> FakeAnswer | None:
    try:
        return node.answer(peer)
    except FabricError:
        return None


@pytest.mark.parametrize("op", [Op.LEASE_FREE, Op.LEASE_REVOKE])
def test_who_ends_a_lease_on_a_device_that_hangs_is_told_in_time(op: Op) -> None:
    node = SlowNode()
    lease = node.alloc(1)
    node.hangs = True
    params = LeaseFreeParams(lease.lease_id) if op == Op.LEASE_FREE else LeaseRevokeParams(lease.lease_id, 0)
    asked = node.send(1, op, params)
    node.pass_time(SECONDS - 0.1)
    assert answered(node, asked) is None
    node.pass_time(0.2)
    said = answered(node, asked)
    assert said is not None
    assert (said.status, said.reason) == (
        Status.RESOURCE_BUSY, "access is over, and the teardown goes on: it takes long",
    )  # fmt: skip
    assert node.plane.held, "nothing is given to anybody"
    node.go()
    assert not node.plane.held
    assert node.node.lease_counts[ResourceType.MEM, LeaseState.TEARING_DOWN] == 0


def test_each_waits_his_own_time() -> None:
    node = SlowNode()
    lease = node.alloc(1)
    node.hangs = True
    asked = []
    for _ in range(2):
        asked.append(node.send(1, Op.LEASE_REVOKE, LeaseRevokeParams(lease.lease_id, 0)))
        node.pass_time(5)
    assert [answered(node, peer) is not None for peer in asked] == [True, False]
    node.pass_time(5)
    assert answered(node, asked[1]) is not None


def test_who_has_his_answer_gets_no_other_and_wakes_nobody() -> None:
    node = FakeNode()
    lease = node.alloc(1)
    assert node.ask(1, Op.LEASE_FREE, LeaseFreeParams(lease.lease_id)).status is Status.OK
    deadline = node.node.next_deadline()
    assert deadline is not None
    assert deadline > node.clock.now.boot_ns + ANSWER_WITHIN_NS
    assert not node.node._state.waiting


def test_a_fence_that_takes_long_to_clear_is_answered_too_and_cleared() -> None:
    node = SlowNode()
    node.plane.failures["undo", "open"] = -1
    lease = node.alloc(1)
    node.send(1, Op.LEASE_REVOKE, LeaseRevokeParams(lease.lease_id, 0))
    node.run()
    node.pass_time(6)
    resource = node.offers[0].resource.resource_id
    node.plane.failures.clear()
    node.hangs = True
    asked = node.send(1, Op.FENCE_CLEAR, FenceClearParams(resource), token=node.token(1, 255))
    node.pass_time(SECONDS + 1)
    said = answered(node, asked)
    assert said is not None
    assert said.status is Status.RESOURCE_BUSY
    again = node.send(1, Op.FENCE_CLEAR, FenceClearParams(resource), token=node.token(1, 255))
    assert node.answer(again).status is Status.RESOURCE_BUSY, "it is being cleared still"
    node.go()
    assert node.node.summaries()[0].flags == 0
    assert not node.node._state.clearing
    assert node.ask(1, Op.FENCE_CLEAR, FenceClearParams(resource), token=node.token(1, 255)).status is Status.OK
