"""ENROLL_REQUEST: certificates only after an admin's approval."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fabricbios.core.state import MAX_PENDING_ENROLMENTS
from fabricbios.model import Op, Perm, Status, id_of_key
from fabricbios.testing import FakeAnswer, FakeNode, peer_of
from fabricbios.wire import Certificate, EnrollRequestParams, Frame, MsgType, Request
from fabricbios.wire.seal import verify_certificate

CONTROLLER = Ed25519PrivateKey.from_private_bytes(b"c" * 32)
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
ID = id_of_key(KEY)


def node_with_controller() -> FakeNode:
    return FakeNode(controller_key=CONTROLLER)


def ask_for_own(node: FakeNode, key: bytes = KEY, host: str = "192.0.2.1") -> FakeAnswer:
    """A stranger, with `key` proved by TLS, asks for its Certificate."""
    peer = peer_of(id_of_key(key), connection=9, stream=4, host=host)._replace(public_key=key)
    request = Request(int(Op.ENROLL_REQUEST), params=EnrollRequestParams(id_of_key(key), key).pack()).pack()
    frame = Frame(int(MsgType.REQUEST), 0, 4, 1, peer.node_id, request).pack()
    node.node.receive(frame, peer, node.clock.now)
    return node.answer(peer)


def test_a_stranger_waits_for_approval_and_then_gets_its_certificate() -> None:
    node = node_with_controller()
    assert ask_for_own(node).status is Status.INSUFFICIENT_PERM
    assert node.node.pending_enrolments() == {ID: KEY}
    assert not node.node.approve_enrolment(5)
    assert node.node.approve_enrolment(ID)
    certificate = Certificate.unpack(ask_for_own(node).result)
    public = CONTROLLER.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert verify_certificate(certificate, public)
    assert (certificate.subject, certificate.public_key, certificate.issuer) == (ID, KEY, id_of_key(public))
    assert certificate.in_its_dates(node.clock.now.unix)
    assert node.node.pending_enrolments() == {}


def test_files_of_the_admin_approve_too() -> None:
    node = node_with_controller()
    node.trust.approved[ID] = KEY
    assert ask_for_own(node).status is Status.OK


def test_an_admin_token_is_an_approval() -> None:
    node = node_with_controller()
    params = EnrollRequestParams(ID, KEY)
    weak, strong = node.token(1, int(Perm.ALLOC)), node.token(1)
    assert node.ask(1, Op.ENROLL_REQUEST, params).status is Status.INSUFFICIENT_PERM
    assert node.ask(1, Op.ENROLL_REQUEST, params, token=weak).status is Status.INSUFFICIENT_PERM
    assert node.ask(1, Op.ENROLL_REQUEST, params, token=strong).status is Status.OK


def test_a_stranger_cannot_ask_for_others_or_use_a_token() -> None:
    node = node_with_controller()
    token = node.token(1, audience=0)
    got = node.ask(99, Op.ENROLL_REQUEST, EnrollRequestParams(ID, KEY), token=token)
    assert got.status is Status.INSUFFICIENT_PERM
    assert node.node.pending_enrolments() == {}


def test_an_id_proves_itself() -> None:
    node = node_with_controller()
    wrong = EnrollRequestParams(ID + 1, KEY)
    assert node.ask(1, Op.ENROLL_REQUEST, wrong, token=node.token(1)).status is Status.INVALID_ARGS
    assert node.ask(99, Op.ENROLL_REQUEST, wrong).status is Status.INSUFFICIENT_PERM


def test_without_a_controller_key_nobody_is_enrolled() -> None:
    node = FakeNode()
    assert ask_for_own(node).status is Status.INSUFFICIENT_PERM
    assert node.ask(1, Op.ENROLL_REQUEST, EnrollRequestParams(ID, KEY)).status is Status.INVALID_OP


def test_pending_enrolments_are_bounded() -> None:
    node = node_with_controller()
    for i in range(MAX_PENDING_ENROLMENTS + 10):
        ask_for_own(node, i.to_bytes(32, "big"))
    assert len(node.node.pending_enrolments()) == MAX_PENDING_ENROLMENTS


def test_strangers_who_filled_the_list_keep_nobody_out() -> None:
    node = node_with_controller()
    for i in range(MAX_PENDING_ENROLMENTS):
        ask_for_own(node, i.to_bytes(32, "big"))
    ask_for_own(node)
    for i in range(MAX_PENDING_ENROLMENTS - 1):
        ask_for_own(node, (1000 + i).to_bytes(32, "big"))
        ask_for_own(node)  # it asks again, as a node does
    assert node.node.approve_enrolment(ID)
    assert ask_for_own(node).status is Status.OK


def test_who_fills_the_list_from_one_address_pushes_out_nobody_at_another() -> None:
    node = node_with_controller()
    ask_for_own(node)
    for i in range(2 * MAX_PENDING_ENROLMENTS):
        ask_for_own(node, i.to_bytes(32, "big"), f"2001:db8::{i:x}")  # all of one /64
    assert len(node.node.pending_enrolments()) == MAX_PENDING_ENROLMENTS
    assert node.node.approve_enrolment(ID)


def test_an_approval_is_good_for_one_certificate() -> None:
    node = node_with_controller()
    ask_for_own(node)
    node.node.approve_enrolment(ID)
    assert [ask_for_own(node).status for _ in range(2)] == [Status.OK, Status.INSUFFICIENT_PERM]
    node.node.approve_enrolment(ID)
    assert ask_for_own(node).status is Status.OK


def test_an_approval_in_files_and_in_memory_is_one() -> None:
    node = node_with_controller()
    ask_for_own(node)
    node.trust.approved[ID] = KEY
    node.node.approve_enrolment(ID)
    assert [ask_for_own(node).status for _ in range(2)] == [Status.OK, Status.INSUFFICIENT_PERM]
