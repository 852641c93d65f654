"""LEASE_LIST_ACTIVE: whose leases an asker sees, and how much of them (D7)."""

from fabricbios.model import (
    Op,
    Perm,
    ResourceType,
    Status,
)
from fabricbios.testing import FakeDataPlane, FakeNode
from fabricbios.wire import (
    LeaseAllocParams,
    LeaseFreeParams,
    LeaseListActiveResult,
    LeaseRevokeParams,
)


def listed(node: FakeNode, who: int, **fields: object) -> list[tuple[int, int, int]]:
    got = node.ask(who, Op.LEASE_LIST_ACTIVE, run=False, **fields)
    return [(e.lease_id, e.holder, e.alloc_bytes) for e in LeaseListActiveResult.unpack(got.result).leases]


def test_others_are_listed_without_names_unless_asked_by_an_admin() -> None:
    node = FakeNode()
    theirs, mine = node.alloc(2, size=4096), node.alloc(1)
    assert listed(node, 1) == [(mine.lease_id, 1, 8192), (0, 0, 4096)]
    assert listed(node, 1, token=node.token(1)) == [(mine.lease_id, 1, 8192), (theirs.lease_id, 2, 4096)]
    assert listed(node, 1, token=node.token(1, int(Perm.READ))) == [(mine.lease_id, 1, 8192), (0, 0, 4096)]
    assert node.ask(1, Op.LEASE_LIST_ACTIVE, token=b"junk").status is Status.INVALID_TOKEN


def test_what_is_being_torn_down_is_not_listed() -> None:
    node = FakeNode()
    node.alloc(1, secs=10, grace=50)
    warned, freed = node.alloc(1), node.alloc(1)
    node.ask(1, Op.LEASE_REVOKE, LeaseRevokeParams(warned.lease_id, 100))
    node.plane.failures["undo", "open"] = -1
    node.send(1, Op.LEASE_FREE, LeaseFreeParams(freed.lease_id))
    node.pass_time(11)
    assert len(listed(node, 1)) == 2


def test_the_list_has_an_end() -> None:
    node = FakeNode(FakeDataPlane(capacity=1 << 40))
    token = node.token(1)
    for _ in range(4100):
        node.send(1, Op.LEASE_ALLOC, LeaseAllocParams(60, 0, ResourceType.MEM, 1), token=token)
    assert len(listed(node, 2)) == 4096
