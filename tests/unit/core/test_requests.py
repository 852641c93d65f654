"""From bytes to a handler: resets, BAD_REQUEST, strangers, unknown ops (D1, D2, D3, D6)."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fabricbios.core import requests
from fabricbios.core.outbox import BAD_FRAME, Reset
from fabricbios.core.requests import HANDLERS, TRUSTED_LIMIT, UNTRUSTED_LIMIT
from fabricbios.model import Op, ResourceType, Status, id_of_key
from fabricbios.ports import StreamPeer
from fabricbios.testing import NODE_ID, FakeNode, peer_of
from fabricbios.wire import (
    CapRequestParams,
    Frame,
    LeaseAllocParams,
    LeaseFreeParams,
    MsgType,
    RawTlv,
    Request,
    Response,
)
from fabricbios.wire.seal import sign_frame


def frame(payload: bytes, sender: int = 1, msg_type: MsgType = MsgType.REQUEST) -> Frame:
    return Frame(int(msg_type), 0, 77, 5, sender, payload)


def send_raw(node: FakeNode, data: bytes, peer: StreamPeer | None = None) -> list[tuple[bytes, object]]:
    node.node.receive(data, peer or peer_of(1, stream=4), node.clock.now)
    return list(node.node.datagrams_to_send(node.clock.now))


PING = Request(int(Op.PING)).pack()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"FBIO",
        b"GET / HTTP/1.1\r\n\r\n",
        frame(PING).pack()[:-1],
        frame(PING).pack() + b"\0",
        frame(PING, msg_type=MsgType.RESPONSE).pack(),
        frame(PING, msg_type=MsgType.ANNOUNCE).pack(),
        frame(bytes(TRUSTED_LIMIT + 1)).pack(),
        frame(PING).pack()[:40] + b"\xff\xff\xff\xff" + PING,
    ],
)
def test_a_frame_that_cannot_be_read_resets_the_stream(data: bytes) -> None:
    node = FakeNode()
    assert send_raw(node, data) == [(b"", Reset(1, 4, BAD_FRAME))]
    assert node.node.op_counts["unreadable", "RESET"] == 1


def test_a_stranger_may_send_less() -> None:
    node = FakeNode(trusted=())
    oversized = frame(bytes(UNTRUSTED_LIMIT + 1)).pack()
    assert send_raw(node, oversized)[0][1] == Reset(1, 4, BAD_FRAME)
    assert node.node.request_limit(peer_of(1), node.clock.now) == UNTRUSTED_LIMIT
    assert FakeNode().node.request_limit(peer_of(1), node.clock.now) == TRUSTED_LIMIT


@pytest.mark.parametrize(
    ("payload", "op"),
    [
        (b"", 0),
        (b"\x02", 0),
        (b"\x02\x00", Op.LEASE_ALLOC),
        (PING + b"\0", Op.PING),
        (PING[:18] + b"\xff\xff\xff\xff" + PING[22:], Op.PING),
        (Request(int(Op.PING), has_presenter=1, presenter_id=1, presenter_sig=bytes(64)).pack(), Op.PING),
    ],
)
def test_a_payload_that_cannot_be_read_is_a_bad_request(payload: bytes, op: int) -> None:
    ((data, _),) = send_raw(FakeNode(), frame(payload).pack())
    response = Response.unpack(Frame.unpack(data, "quic").payload)
    assert (response.status, response.op) == (Status.BAD_REQUEST, op)


def test_an_answer_repeats_the_request_id_and_has_a_nonce_of_its_own() -> None:
    node = FakeNode()
    frames = [Frame.unpack(send_raw(node, frame(PING).pack())[0][0], "quic") for _ in range(3)]
    assert {(f.request_id, f.sender, f.msg_type) for f in frames} == {(77, NODE_ID, MsgType.RESPONSE)}
    assert [f.nonce - node.clock.now.unix_ms for f in frames] == [0, 1, 2]


def test_params_that_do_not_decode_are_a_bad_request_with_a_reason() -> None:
    got = FakeNode().ask(1, Op.LEASE_FREE, b"short")
    assert got.status is Status.BAD_REQUEST
    assert got.reason
    assert FakeNode().ask(1, Op.PING, b"x").status is Status.BAD_REQUEST


def test_the_sender_must_be_the_tls_peer() -> None:
    ((data, _),) = send_raw(FakeNode(), frame(PING, sender=2).pack())
    assert Response.unpack(Frame.unpack(data, "quic").payload).status == Status.INSUFFICIENT_PERM


def signed(key: Ed25519PrivateKey, by: Ed25519PrivateKey) -> tuple[bytes, StreamPeer]:
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    peer = peer_of(id_of_key(public), stream=4)._replace(public_key=public)
    return sign_frame(frame(PING, sender=peer.node_id), by).pack(), peer


def test_a_signature_that_is_there_must_hold() -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    data, peer = signed(key, key)
    assert send_raw(FakeNode(), data, peer)[0][0] != b""
    data, peer = signed(key, other)
    assert send_raw(FakeNode(), data, peer)[0][0] == b""
    nobody = peer_of(0, connection=3, stream=4)
    assert send_raw(FakeNode(), sign_frame(frame(PING, sender=0), key).pack(), nobody)[0][0] == b""


@pytest.mark.parametrize("op", [int(op) for op in Op] + [0x7777])
def test_a_stranger_gets_ping_and_identity_and_nothing_else(op: int) -> None:
    for stranger in (0, 99):
        got = FakeNode().ask(stranger, op, b"")
        if op in (Op.PING, Op.GET_IDENTITY):
            assert got.status is Status.OK
        else:
            assert got.status is Status.INSUFFICIENT_PERM


@pytest.mark.parametrize("op", [0, 0x0008, 0x7777, 0xFFFF])
def test_an_unknown_op_is_invalid(op: int) -> None:
    assert FakeNode().ask(1, op).status is Status.INVALID_OP


@pytest.mark.parametrize("op", sorted(set(Op) - set(HANDLERS)))
def test_a_known_op_that_is_not_served_says_so(op: Op) -> None:
    got = FakeNode().ask(1, op)
    assert got.status is Status.INVALID_OP
    assert op.name in got.reason


def test_answers_are_counted_by_op_and_status_under_bounded_names() -> None:
    node = FakeNode()
    for op in range(0x7000, 0x7010):
        node.ask(1, op)
    node.ask(1, Op.PING)
    assert dict(node.node.op_counts) == {("unknown", "INVALID_OP"): 16, ("PING", "OK"): 1}


def test_the_first_proven_key_claims_by_cap_request_alone() -> None:
    node = FakeNode(trusted=())
    node.trust.claimable = True
    assert node.ask(1, Op.GET_INVENTORY).status is Status.INSUFFICIENT_PERM
    assert node.ask(1, Op.CAP_REQUEST, b"junk").status is Status.INSUFFICIENT_PERM
    assert not node.trust.ids
    assert node.ask(0, Op.CAP_REQUEST, CapRequestParams(255, 60, 0)).status is Status.INSUFFICIENT_PERM
    assert node.ask(1, Op.CAP_REQUEST, CapRequestParams(255, 60, 1)).status is Status.OK
    assert node.ask(2, Op.CAP_REQUEST, CapRequestParams(255, 60, 2)).status is Status.INSUFFICIENT_PERM
    assert node.ask(2, Op.LEASE_FREE, LeaseFreeParams(5)).status is Status.INSUFFICIENT_PERM


ALLOC = LeaseAllocParams(60, 0, int(ResourceType.MEM), 8192)


def test_what_is_asked_again_is_judged_again() -> None:
    node = FakeNode()
    token = node.token(1)
    assert [node.ask(1, Op.LEASE_ALLOC, ALLOC, token=token).status for _ in range(3)] == [Status.OK] * 3
    assert node.ask(2, Op.LEASE_ALLOC, ALLOC, token=token).status is Status.INVALID_TOKEN
    assert node.ask(3, Op.LEASE_ALLOC, ALLOC, token=token).status is Status.INSUFFICIENT_PERM
    assert node.ask(1, Op.LEASE_ALLOC, ALLOC).status is Status.INSUFFICIENT_PERM
    node.clock.advance(301)
    assert node.ask(1, Op.LEASE_ALLOC, ALLOC, token=token).status is Status.INVALID_TOKEN


def test_the_same_bytes_of_another_sender_are_refused() -> None:
    node = FakeNode()
    assert node.ask(1, Op.PING).status is Status.OK
    ((data, _),) = send_raw(node, frame(PING, sender=2).pack())
    assert Response.unpack(Frame.unpack(data, "quic").payload).status == Status.INSUFFICIENT_PERM


def test_of_what_was_read_only_so_much_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_READ", 4)
    node = FakeNode()
    for grace in range(9):
        node.ask(1, Op.LEASE_ALLOC, ALLOC.replace(grace_secs=grace))
    node.ask(1, Op.LEASE_ALLOC, ALLOC.replace(intents=(RawTlv(0x7F01, bytes(requests.SHORT)),)))
    node.ask(1, Op.LEASE_FREE, LeaseFreeParams(1))
    node.ask(3, Op.PING)
    read = node.node._state.read.values()
    assert [r.params.grace_secs for r in read] == [5, 6, 7, 8]
