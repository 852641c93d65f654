"""D1, D2, D6 on a control stream: what resets it, what is a BAD_REQUEST, what limits hold."""

import pytest
from blackbox import codec
from blackbox.codec import (
    BAD_REQUEST,
    COMPRESSED,
    CONTINUED,
    FINAL,
    FRAG_V2,
    INVALID_OP,
    OK,
    PING,
    REQUEST,
    SIGNED,
    frame,
    lp,
    request,
    u16,
    u32,
    u128,
)  # fmt: skip
from blackbox.keys import Key


def reset(peer, data: bytes, *, fin: bool = True) -> int:
    stream = peer.wait(peer.open(data, fin=fin))
    assert not stream.data, bytes(stream.data)
    assert stream.reset is not None, "answered, not reset"
    assert peer.closed is None, "one bad stream costs the connection"
    return stream.reset


def test_the_answering_frame(world, owner):
    """A RESPONSE repeats the request_id and has the node as sender and a nonce of its own."""
    first = owner.ask_frame(request(PING), request_id=0xDEADBEEF_00000001, nonce=5)
    second = owner.ask_frame(request(PING), request_id=2, nonce=5)
    for got, request_id in ((first, 0xDEADBEEF_00000001), (second, 2)):
        assert got.msg_type == codec.RESPONSE
        assert got.request_id == request_id
        assert got.sender == world.node.node_id
        assert got.nonce not in (0, 5)
        assert not got.flags & ~SIGNED
        if got.signature:
            got.verify(world.public_key())
    assert first.nonce != second.nonce
    assert codec.read_response(first.payload).status == OK


BAD_FRAMES = {
    "magic": {"magic": b"FBIX"},
    "version": {"version": 1},
    "unknown flag": {"flags": 0x20},
    "high flag": {"flags": 0x8000},
    "COMPRESSED on QUIC": {"flags": COMPRESSED},
    "CONTINUED on QUIC": {"flags": CONTINUED},
    "FINAL on QUIC": {"flags": FINAL},
    "FRAG_V2 on QUIC": {"flags": FRAG_V2, "middle": u32(0) + u32(35)},
    "shorter than its length": {"length": 36},
    "longer than its length": {"length": 34},
    "4 GiB": {"length": 0xFFFFFFFF},
}


@pytest.mark.parametrize("how", BAD_FRAMES)
def test_a_frame_that_cannot_be_read(owner, how):
    assert reset(owner, frame(REQUEST, request(PING), sender=owner.sender, **BAD_FRAMES[how])) == 1


def test_msg_types(owner):
    """Unknown ones reset. Known ones that are no REQUEST are no question on a control stream."""
    for msg_type in (0, 5, 0x0F, 0x14, 0xFF):
        assert reset(owner, frame(msg_type, request(PING), sender=owner.sender)) == 1


def test_empty_and_cut_streams(owner):
    whole = frame(REQUEST, request(PING), sender=owner.sender)
    for n in (0, 1, 3, 4, 43, 44, len(whole) - 1):
        assert reset(owner, whole[:n]) == 1, n


def test_two_frames_on_one_stream(owner):
    whole = frame(REQUEST, request(PING), sender=owner.sender)
    assert reset(owner, whole + whole) == 1


def test_a_signature_is_not_needed_but_must_hold(world, owner):
    good = frame(REQUEST, request(PING), sender=owner.sender, sign=world.owner)
    assert codec.read_response(codec.read_frame(bytes(owner.exchange(good).data)).payload).status == OK
    assert reset(owner, good[:-1] + bytes([good[-1] ^ 1])) == 1
    assert reset(owner, frame(REQUEST, request(PING), sender=owner.sender, sign=Key.new())) == 1


def test_the_sender_is_the_peer(world, owner):
    """The frame's sender must be the TLS peer (zero without a certificate)."""
    for sender in (0, owner.sender ^ 1, world.friend.id, world.node.node_id):
        stream = owner.exchange(frame(REQUEST, request(codec.GET_INVENTORY), sender=sender))
        if stream.reset is None:
            answer = codec.read_response(codec.read_frame(bytes(stream.data)).payload)
            assert answer.status != OK
        else:
            assert stream.reset == 1
    with world.peer(None) as nobody:
        nobody.sender = world.owner.id
        stream = nobody.exchange(frame(REQUEST, request(PING), sender=world.owner.id))
        assert stream.reset == 1 or codec.read_response(codec.read_frame(bytes(stream.data)).payload).status != OK


PAYLOADS = {
    "empty": (b"", 0),
    "one byte": (b"\0", 0),
    "op alone": (u16(PING), PING),
    "no presenter": (request(PING, presenter=b""), PING),
    "presenter 2": (request(PING, presenter=b"\2"), PING),
    "presenter on QUIC": (request(PING, presenter=b"\1" + bytes(80)), PING),
    "trailing": (request(PING) + b"\0", PING),
    "token of 4 GiB": (u16(PING) + u128(0) + u32(0xFFFFFFFF) + b"x" * 8, PING),
    "params of 4 GiB": (u16(PING) + u128(0) + lp(b"") + u32(0xFFFFFFFF) + b"\0", PING),
    "params where none are": (request(PING, b"\0"), PING),
    "identity with params": (request(codec.GET_IDENTITY, b"x"), codec.GET_IDENTITY),
    "cap_request of 23": (request(codec.CAP_REQUEST, bytes(23)), codec.CAP_REQUEST),
    "cap_request of 25": (request(codec.CAP_REQUEST, bytes(25)), codec.CAP_REQUEST),
    "cap_request of 40": (request(codec.CAP_REQUEST, bytes(40)), codec.CAP_REQUEST),
    "cap_request of 49": (request(codec.CAP_REQUEST, bytes(49)), codec.CAP_REQUEST),
    "time_sync of 7": (request(codec.TIME_SYNC, bytes(7)), codec.TIME_SYNC),
    "query of 15": (request(codec.QUERY, bytes(15)), codec.QUERY),
    "free of 17": (request(codec.FREE, bytes(17)), codec.FREE),
    "list with params": (request(codec.LIST_ACTIVE, b"\0"), codec.LIST_ACTIVE),
}  # fmt: skip


@pytest.mark.parametrize("how", PAYLOADS)
def test_a_payload_that_cannot_be_read(owner, how):
    payload, op = PAYLOADS[how]
    answer = codec.read_response(owner.ask_frame(payload).payload)
    assert answer.status == BAD_REQUEST
    assert answer.op == op
    assert answer.reason


@pytest.mark.parametrize("op", [0, 8, 0x0B, 0x103, 0x204, 0x20D, 0x7777, 0xFFFF])
def test_unknown_ops(owner, op):
    assert owner.refused(op) == INVALID_OP


def test_limits_before_and_after_trust(world, owner):
    """4 KiB a request before a peer is trusted, 64 KiB after."""

    def sized(n: int) -> bytes:
        return request(0x7777, bytes(n - 27))

    assert codec.read_response(owner.ask_frame(sized(60_000)).payload).status == INVALID_OP
    too_long = owner.exchange(frame(REQUEST, sized(70_000), sender=owner.sender))
    assert refused_or_reset(too_long)
    with world.peer(None) as nobody:
        assert codec.read_response(nobody.ask_frame(sized(4000)).payload).status in (
            INVALID_OP,
            codec.INSUFFICIENT_PERM,
        )
        assert refused_or_reset(nobody.exchange(frame(REQUEST, sized(5000))))
        nobody.done(PING)


def refused_or_reset(stream) -> bool:
    if stream.reset is not None:
        return stream.reset == 1
    return codec.read_response(codec.read_frame(bytes(stream.data)).payload).status == BAD_REQUEST


def test_a_stranger_floods_a_stream(world):
    """Nothing past the limit is waited for: the reset comes although the stream never ends."""
    with world.peer(None) as nobody:
        assert reset(nobody, frame(REQUEST, b"", length=1 << 30)[:44] + bytes(6000), fin=False) == 1


def test_bytes_one_by_one(owner):
    whole = frame(REQUEST, request(PING), sender=owner.sender)
    stream = owner.open(whole[:1], fin=False)
    for at in range(1, len(whole)):
        owner.more(stream, whole[at : at + 1], fin=False)
        owner.pump(lambda: True)
    owner.more(stream, b"", fin=True)
    answer = codec.read_response(codec.read_frame(bytes(owner.wait(stream).data)).payload)
    assert answer.status == OK


def test_many_in_flight(world):
    """64 streams a connection: as many questions at once, each answered on its own stream."""
    with world.peer(world.owner) as peer:
        streams = [peer.open(frame(REQUEST, request(PING), sender=peer.sender, request_id=n)) for n in range(64)]
        for n, stream in enumerate(streams):
            assert codec.read_frame(bytes(peer.wait(stream).data)).request_id == n
