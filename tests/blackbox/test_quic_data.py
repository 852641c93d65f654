"""D11: FBMU and FBBU over QUIC. HELLO first, the TLS peer is the holder, messages up to 1 MiB."""

import os
import struct

import pytest
from blackbox import codec
from blackbox.codec import BLOCK, MEM, T_BINDING, tlv16, u16, u128
from blackbox.dataplane import (
    BAD_AUTH,
    BAD_LENGTH,
    ERROR,
    EXPIRED,
    HELLO,
    HELLO_ACK,
    INVALID_LEASE,
    OK,
    OUT_OF_RANGE,
    PING,
    PONG,
    READ,
    READ_RESP,
    WRITE,
    WRITE_RESP,
    Reply,
    message,
    read_reply,
)  # fmt: skip

SIZE = 4 << 20
OVER_QUIC = tlv16(T_BINDING, u16(0x0A00))


def ask(peer, magic: bytes, op: int, lease_id: int, payload: bytes = b"", **fields) -> Reply:
    question = message(magic, op, lease_id, payload, **fields)
    stream = peer.exchange(question)
    assert stream.reset is None, f"reset {stream.reset}"
    reply = read_reply(bytes(stream.data))
    assert (reply.magic, reply.lease_id) == (magic, lease_id)
    assert reply.request_id == fields.get("request_id", 1)
    return reply


def hello(peer, magic: bytes, lease_id: int) -> Reply:
    return ask(peer, magic, HELLO, lease_id, u128(lease_id))


@pytest.fixture
def memory(owner):
    lease = owner.lease(120, 0, MEM, SIZE, OVER_QUIC)
    yield lease
    owner.free(lease.lease_id)


@pytest.fixture
def block(owner):
    lease = owner.lease(120, 0, BLOCK, SIZE, OVER_QUIC)
    yield lease
    owner.free(lease.lease_id)


def test_memory(world, memory):
    with world.peer(world.owner) as peer:
        ack = hello(peer, b"FBMU", memory.lease_id)
        assert ack.op == HELLO_ACK
        assert struct.unpack(">B3xQII", ack.payload) == (OK, *memory.endpoint(3).limits)
        length = memory.endpoint(3).limits[2]
        data = os.urandom(length)
        wrote = ask(peer, b"FBMU", WRITE, memory.lease_id, struct.pack(">QI", 77, length) + data)
        assert (wrote.op, wrote.payload) == (WRITE_RESP, bytes(4))
        length = memory.endpoint(3).limits[1]
        got = ask(peer, b"FBMU", READ, memory.lease_id, struct.pack(">QI", 77, length), request_id=9)
        assert got.op == READ_RESP
        assert got.payload == bytes(4) + struct.pack(">I", length) + data.ljust(length, b"\0")[:length]
        assert ask(peer, b"FBMU", PING, memory.lease_id).op == PONG
        for offset, size, status in (
            (0, 0, BAD_LENGTH),
            (SIZE, 1, OUT_OF_RANGE),
            (0, (1 << 20) + 1, BAD_LENGTH),
            (2**64 - 1, 2, OUT_OF_RANGE),
        ):
            refused = ask(peer, b"FBMU", READ, memory.lease_id, struct.pack(">QI", offset, size))
            assert refused.payload == bytes([status, 0, 0, 0]) + bytes(4)


def test_block(world, block):
    with world.peer(world.owner) as peer:
        ack = hello(peer, b"FBBU", block.lease_id)
        status, size, count, most = struct.unpack(">B3xIQI", ack.payload)
        assert (status, size, count) == (OK, 512, SIZE // 512)
        assert (size, count, most) == block.endpoint(4).geometry
        data = os.urandom(most * 512)
        wrote = ask(peer, b"FBBU", WRITE, block.lease_id, struct.pack(">QI", 5, most) + data)
        assert (wrote.op, wrote.payload) == (WRITE_RESP, bytes(4))
        got = ask(peer, b"FBBU", READ, block.lease_id, struct.pack(">QI", 5, most))
        assert got.payload == bytes(4) + struct.pack(">I", most) + data
        refused = ask(peer, b"FBBU", READ, block.lease_id, struct.pack(">QI", count, 1))
        assert refused.payload == bytes([OUT_OF_RANGE, 0, 0, 0]) + bytes(4)


def test_a_write_is_exactly_12_and_length(world, memory, block):
    """D10 on streams, too: else BAD_LENGTH, and nothing is written; shorter than its parameters it cannot be read."""
    with world.peer(world.owner) as peer:
        for magic, lease, unit in ((b"FBMU", memory, 1), (b"FBBU", block, 512)):
            early = ask(peer, magic, WRITE, lease.lease_id, struct.pack(">QI", 0, 2) + b"\xff" * unit)
            assert (early.op, early.status) == (WRITE_RESP, INVALID_LEASE)  # no HELLO yet
            assert hello(peer, magic, lease.lease_id).status == OK
            for said, sent in ((4, 3 * unit), (3, 4 * unit), (1, 0), (0, unit), (2**32 - 1, unit), (1, unit + 1)):
                refused = ask(peer, magic, WRITE, lease.lease_id, struct.pack(">QI", 0, said) + b"\xff" * sent)
                assert (refused.op, refused.payload) == (WRITE_RESP, bytes([BAD_LENGTH, 0, 0, 0])), (magic, said, sent)
            cut = peer.exchange(message(magic, WRITE, lease.lease_id, bytes(11)))
            assert cut.reset == 1
            data = ask(peer, magic, READ, lease.lease_id, struct.pack(">QI", 0, 4)).payload[8:]
            assert data == bytes(4 * unit)


def test_hello_comes_first(world, memory):
    """The first data stream of a connection for a lease is HELLO: anything else is not served."""
    with world.peer(world.owner) as peer:
        stream = peer.exchange(message(b"FBMU", READ, memory.lease_id, struct.pack(">QI", 0, 4)))
        if stream.reset is None:
            assert read_reply(bytes(stream.data)).status != OK
        assert hello(peer, b"FBMU", memory.lease_id).status == OK
        assert ask(peer, b"FBMU", READ, memory.lease_id, struct.pack(">QI", 0, 4)).status == OK


def test_only_the_holder(world, memory, block, friend):
    for lease, magic, size in ((memory, b"FBMU", 20), (block, b"FBBU", 20)):
        ack = hello(friend, magic, lease.lease_id)
        assert (ack.op, ack.status, len(ack.payload)) == (HELLO_ACK, BAD_AUTH, size)
    with world.peer(None) as nobody:
        stream = nobody.exchange(message(b"FBMU", HELLO, memory.lease_id, u128(memory.lease_id)))
        assert stream.reset is not None or read_reply(bytes(stream.data)).status == BAD_AUTH


def test_ping_is_for_the_holder_of_a_live_lease(world, memory, block):
    with world.peer(world.owner) as peer:
        for magic, lease in ((b"FBMU", memory), (b"FBBU", block)):
            before = ask(peer, magic, PING, lease.lease_id)
            assert (before.op, len(before.payload)) == (ERROR, 4)
            assert hello(peer, magic, lease.lease_id).status == OK
            assert ask(peer, magic, PING, lease.lease_id).op == PONG
            unknown = ask(peer, magic, PING, 424242)
            assert (unknown.op, unknown.payload) == (ERROR, bytes([INVALID_LEASE, 0, 0, 0]))
    with world.peer(None) as nobody:
        refused = ask(nobody, b"FBMU", PING, memory.lease_id)
        assert (refused.op, refused.payload) == (ERROR, bytes([BAD_AUTH, 0, 0, 0]))


def test_unknown_leases(world, block, memory):
    with world.peer(world.owner) as peer:
        for magic in (b"FBMU", b"FBBU"):
            assert hello(peer, magic, 424242).status == INVALID_LEASE
        assert hello(peer, b"FBMU", block.lease_id).status == INVALID_LEASE  # of another plane
        assert hello(peer, b"FBBU", memory.lease_id).status == INVALID_LEASE
        refused = ask(peer, b"FBMU", READ, 424242, struct.pack(">QI", 0, 4))
        assert refused.op in (READ_RESP, ERROR)
        assert refused.status == INVALID_LEASE


@pytest.mark.parametrize(
    "data",
    [
        b"FBXX" + bytes(60),
        b"",
        b"FB",
        message(b"FBMU", HELLO, 1)[:40],
        b"FBMU\2" + bytes(51),
        message(b"FBMU", 0x55, 1),
    ],
    ids=["magic", "empty", "two bytes", "cut header", "version", "op"],
)
def test_what_cannot_be_read(world, data):
    with world.peer(world.owner) as peer:
        stream = peer.exchange(data)
        assert stream.reset == 1 or (stream.data and read_reply(bytes(stream.data)).status != OK)
        peer.done(codec.PING)


def test_the_end(world, owner):
    lease = owner.lease(60, 0, MEM, 1 << 20, OVER_QUIC)
    with world.peer(world.owner) as peer:
        assert hello(peer, b"FBMU", lease.lease_id).status == OK
        owner.free(lease.lease_id)
        stream = peer.exchange(message(b"FBMU", READ, lease.lease_id, struct.pack(">QI", 0, 4)))
        assert stream.reset is None
        assert read_reply(bytes(stream.data)).status in (EXPIRED, INVALID_LEASE)


def test_messages_longer_than_a_mebibyte(world, memory):
    with world.peer(world.owner) as peer:
        assert hello(peer, b"FBMU", memory.lease_id).status == OK
        stream = peer.exchange(
            message(b"FBMU", WRITE, memory.lease_id, struct.pack(">QI", 0, 3 << 20) + bytes(3 << 20))
        )
        assert stream.reset == 1 or read_reply(bytes(stream.data)).status == BAD_LENGTH
        peer.done(codec.PING)
