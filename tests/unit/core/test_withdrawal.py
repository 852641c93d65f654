"""Trust that is withdrawn: what ends with it, and what does not."""

from fabricbios.core import vouchers
from fabricbios.core.vouchers import Vouchers
from fabricbios.model import Instant, LeaseEventKind, LeaseState, Op, Status
from fabricbios.ports import StreamPeer
from fabricbios.testing import FakeNode, FakeTrust, peer_of
from fabricbios.wire import LeaseAllocParams, LeaseQueryParams


def states(node: FakeNode) -> dict[int, LeaseState]:
    return {lease.spec.lease_id: lease.state for lease in node.node.leases()}


def distrust(node: FakeNode, *ids: int) -> None:
    node.trust.ids -= set(ids)
    node.node.trust_changed(node.clock.now)
    node.run()
    node.pass_time(0)


def test_its_leases_end_at_once_and_others_live_on() -> None:
    node = FakeNode()
    lost, kept = node.alloc(1, grace=60), node.alloc(2)
    distrust(node, 1)
    assert states(node) == {lost.lease_id: LeaseState.FREE, kept.lease_id: LeaseState.ACTIVE}
    assert [lease_id for verb, _, lease_id in node.plane.calls if verb == "undo"] == [lost.lease_id] * 2
    assert node.ask(2, Op.LEASE_QUERY, LeaseQueryParams(kept.lease_id)).status is Status.OK


def test_its_connections_are_told_and_closed_and_others_are_not() -> None:
    node = FakeNode()
    for connection, who in ((1, 1), (11, 1), (2, 2), (5, 0)):  # the last showed no key
        node.node.connection_opened(peer_of(who, connection or who)._replace(connection=connection))
    node.alloc(1)
    distrust(node, 1)
    assert sorted(node.closed) == [1, 11]
    assert {(c, LeaseEventKind(e.event)) for c, e in node.events} == {
        (1, LeaseEventKind.REVOKED),
        (11, LeaseEventKind.REVOKED),
    }


def test_a_lease_that_is_being_bound_is_not_answered_for() -> None:
    node = FakeNode()
    asked = node.send(1, Op.LEASE_ALLOC, LeaseAllocParams(60, 0, 2, 8192), token=node.token(1))
    distrust(node, 1)
    assert node.answer(asked).status is not Status.OK
    assert set(states(node).values()) <= {LeaseState.FREE}


def test_what_a_predecessor_left_of_somebody_distrusted_since_is_not_adopted() -> None:
    node = FakeNode()
    lost, kept = node.alloc(1), node.alloc(2)
    node.trust.ids.discard(1)
    node.start()
    distrust(node)
    assert states(node) == {lost.lease_id: LeaseState.FREE, kept.lease_id: LeaseState.ACTIVE}
    assert ("adopt", "", lost.lease_id) not in node.plane.calls


def test_a_lease_that_is_over_or_fenced_is_left_alone() -> None:
    node = FakeNode()
    lease = node.alloc(1)
    node.plane.failures["undo", node.plane.steps(node.node.lease(lease.lease_id).spec)[0]] = -1
    distrust(node, 1)
    node.pass_time(6)
    assert states(node) == {lease.lease_id: LeaseState.FENCED}
    distrust(node)
    assert states(node) == {lease.lease_id: LeaseState.FENCED}


def test_nothing_that_was_granted_is_touched_where_nothing_was_withdrawn() -> None:
    node = FakeNode()
    lease = node.alloc(1)
    node.node.connection_opened(peer_of(1))
    distrust(node)
    assert states(node) == {lease.lease_id: LeaseState.ACTIVE}
    assert node.closed == []


class ByCertificate(FakeTrust):
    """Trusts whoever shows b"new"."""

    def trusted(self, peer: StreamPeer, now: Instant) -> bool:
        return peer.certificate == b"new"

    def stands(self, node_id: int, certificate: bytes) -> bool:
        return certificate == b"new"


def test_who_came_back_with_another_certificate_keeps_what_it_got_with_the_old_one() -> None:
    node = FakeNode()
    back, gone = node.alloc(1), node.alloc(2)
    for who, certificate in ((1, b"new"), (2, b"old")):
        node.node.connection_opened(peer_of(who)._replace(certificate=certificate))
    node.node._state.trust = ByCertificate()
    distrust(node)
    assert states(node) == {back.lease_id: LeaseState.ACTIVE, gone.lease_id: LeaseState.FREE}
    assert node.closed == [2]


def test_certificates_are_remembered_of_holders_only(monkeypatch) -> None:
    monkeypatch.setattr(vouchers, "ROOM", 4)
    kept = Vouchers(lambda holder: holder < 3)
    for who in range(1, 6):
        kept.note(peer_of(who)._replace(certificate=b"c%d" % who))
    kept.note(peer_of(9))
    assert len(kept) == 2
    assert [kept.of(who) for who in (1, 2, 5, 9)] == [b"c1", b"c2", b"", b""]
