"""Trust that is withdrawn: what ends with it, and what does not."""

import json
from collections import deque

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from discovery_rig import key, node_id, pins, raw, store, stream_peer

from fabricbios import testing
from fabricbios.core import vouchers
from fabricbios.core.effects import Record
from fabricbios.core.vouchers import Vouchers
from fabricbios.model import Instant, LeaseEventKind, LeaseState, Op, Status
from fabricbios.ports import StreamPeer, TrustedKeys
from fabricbios.testing import FakeNode, FakeTrust, SimClock, peer_of
from fabricbios.wire import LeaseAllocParams, LeaseQueryParams
from fabricbios.wire.enrolment import issue


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


def test_certificates_are_remembered_of_holders_and_of_who_is_about_to_be_one(monkeypatch) -> None:
    monkeypatch.setattr(vouchers, "ROOM", 4)
    kept = Vouchers(lambda holder: holder < 3, deque())
    for who in range(1, 6):
        kept.note(peer_of(who)._replace(certificate=b"c%d" % who))
    assert [kept.of(who) for who in (1, 2, 3, 4, 5)] == [b"c1", b"c2", None, None, b"c5"]
    kept.note(peer_of(1))
    assert kept.of(1) == b""


def test_a_voucher_is_written_when_it_is_new_and_again_when_it_could_not_be() -> None:
    records: deque[Record] = deque()
    kept = Vouchers(lambda _: True, records)
    for _ in range(3):
        kept.note(peer_of(1))
    assert len(records) == 1
    assert kept.recorded(records.popleft(), failed=True)
    kept.note(peer_of(1))
    assert kept.recorded(records.popleft(), failed=False)
    kept.note(peer_of(1))
    assert not records


def detail_of(node: FakeNode) -> dict[int, str]:
    return {e.peer: e.detail for e in node.node.events() if e.name == "trust.withdrawn"}


def test_who_never_was_trusted_keeps_its_connection_and_is_not_said_to_have_lost_any_trust() -> None:
    node = FakeNode()
    node.node.connection_opened(peer_of(7))
    assert node.ask(7, Op.PING).status is Status.OK
    distrust(node)
    assert node.closed == []
    assert detail_of(node) == {}


def test_the_log_says_who_lost_what() -> None:
    node = FakeNode(trusted=(1, 2, 3))
    for connection, who in ((1, 1), (11, 1), (2, 2)):
        node.node.connection_opened(peer_of(who, connection))
    node.alloc(1)
    node.alloc(3)
    distrust(node, 1, 2, 3)
    assert detail_of(node) == {
        1: "1 leases revoked, 2 connections closed",
        2: "0 leases revoked, 1 connections closed",
        3: "1 leases revoked, 0 connections closed",
    }
    distrust(node)
    assert detail_of(node) == {}  # once is enough, even before the transport has closed them


A, B = key(101), key(102)
CERTIFIED, PINNED = key(103), key(104)


def certified_by(controller: Ed25519PrivateKey, clock: SimClock) -> bytes:
    return issue(controller, raw(CERTIFIED), clock.now.unix - 5, clock.now.unix + 86_400).pack()


def certified_node(monkeypatch, controller: Ed25519PrivateKey) -> FakeNode:
    """A node with two controllers and a pin, where a certified and a pinned peer have a lease each."""
    node = FakeNode()
    peers = {
        node_id(PINNED): stream_peer(PINNED),
        node_id(CERTIFIED): stream_peer(CERTIFIED, certified_by(controller, node.clock)),
    }
    monkeypatch.setattr(testing, "peer_of", lambda who, stream: peers[who]._replace(connection=who, stream=stream))
    node.trust = store("certified", controllers=pins(A, B), peers=pins(PINNED))
    node.start()
    for who in peers:
        node.alloc(who, secs=3600)
    return node


def holders(node: FakeNode) -> set[int]:
    return {lease.spec.holder for lease in node.node.leases() if lease.state is LeaseState.ACTIVE}


def restart(node: FakeNode, **keys: dict[int, bytes]) -> None:
    node.trust = store("certified", **keys)
    node.start()
    distrust_nobody(node)


def distrust_nobody(node: FakeNode) -> None:
    node.node.trust_changed(node.clock.now)
    node.run()
    node.pass_time(0)


def test_a_pin_that_is_withdrawn_ends_what_rests_on_it_where_controllers_vouch_for_others(monkeypatch) -> None:
    node = certified_node(monkeypatch, A)
    node.trust.reload(TrustedKeys(controllers=pins(A, B)))
    distrust_nobody(node)
    assert holders(node) == {node_id(CERTIFIED)}


def test_a_controller_that_was_taken_away_while_the_node_was_down_vouches_for_nobody(monkeypatch) -> None:
    node = certified_node(monkeypatch, A)
    restart(node, controllers=pins(B), peers=pins(PINNED))
    assert holders(node) == {node_id(PINNED)}


def test_who_did_not_come_back_since_a_restart_loses_nothing_with_anothers_controller(monkeypatch) -> None:
    node = certified_node(monkeypatch, B)
    restart(node, controllers=pins(A, B), peers=pins(PINNED))
    node.journal.lines = [json.dumps(entry) for entry in node.node.journal()]
    restart(node, controllers=pins(A, B), peers=pins(PINNED))
    node.trust.reload(TrustedKeys(controllers=pins(B), peers=pins(PINNED)))
    distrust_nobody(node)
    assert holders(node) == {node_id(CERTIFIED), node_id(PINNED)}


def test_a_journal_of_before_vouchers_were_kept_takes_no_lease_from_anybody(monkeypatch) -> None:
    node = certified_node(monkeypatch, A)
    node.journal.lines = [line for line in node.journal.lines if '"voucher"' not in line]
    restart(node, controllers=pins(A, B), peers=pins(PINNED))
    assert holders(node) == {node_id(CERTIFIED), node_id(PINNED)}
