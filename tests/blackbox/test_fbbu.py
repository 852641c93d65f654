"""D10: FBBU over UDP; what differs from FBMU, and the padding rule of its two-word parameters, in all four modes."""

import os
import struct
from collections.abc import Iterator

import pytest
from blackbox.codec import BLOCK, T_DP_AUTH, tlv16, u8, u128
from blackbox.dataplane import (
    BAD_LENGTH,
    EXPIRED,
    HELLO,
    HELLO_ACK,
    OK,
    OUT_OF_RANGE,
    PING,
    PONG,
    READ,
    READ_RESP,
    STALE_WRITE,
    WRITE,
    WRITE_RESP,
    Line,
)  # fmt: skip
from blackbox.programs import poll

BLOCKS = 2048


def line_of(world, lease) -> Line:
    return Line(world.node.port("fbbu"), lease.lease_id, lease.dp_key, lease.dp_auth, b"FBBU")


@pytest.fixture(params=range(4), ids=["HMAC_HEADER", "HMAC_FULL", "BLAKE2S_FULL", "SIPHASH_FULL"])
def line(request, world, owner) -> Iterator[Line]:
    lease = owner.lease(120, 0, BLOCK, BLOCKS * 512, tlv16(T_DP_AUTH, u8(request.param)))
    with line_of(world, lease) as line:
        yield line
    owner.free(lease.lease_id)


def at(index: int, count: int) -> bytes:
    return struct.pack(">QI", index, count)


def read(line: Line, index: int, count: int, padding: int = 1024):
    return line.ask(READ, at(index, count), padding=padding)


def write(line: Line, index: int, data: bytes, count: int | None = None, **knobs):
    return line.ask(WRITE, at(index, len(data) // 512 if count is None else count) + data, **knobs)


def test_every_op(line):
    hello = line.hello()
    assert hello.op == HELLO_ACK
    assert struct.unpack(">B3xIQI", hello.payload) == (OK, 512, BLOCKS, 2)
    assert line.ask(PING).op == PONG
    data = os.urandom(1024)
    wrote = write(line, 7, data)
    assert (wrote.op, wrote.payload) == (WRITE_RESP, bytes(4))
    got = read(line, 7, 2)
    assert got.op == READ_RESP
    assert got.payload == bytes(4) + struct.pack(">I", 2) + data
    assert read(line, 8, 1, padding=0).payload[8:] == data[512:]
    assert read(line, BLOCKS - 1, 1).payload[8:] == bytes(512)  # zeroed before it was granted
    assert read(line, 0, 2).payload[8:] == bytes(1024)


def test_refusals(line):
    last = BLOCKS - 1
    for index, count, status in (
        (0, 0, BAD_LENGTH), (0, 3, BAD_LENGTH), (0, 2**32 - 1, BAD_LENGTH), (0, 2**23, BAD_LENGTH), (BLOCKS, 1,
        OUT_OF_RANGE),
        (last, 2, OUT_OF_RANGE), (2**64 - 1, 1, OUT_OF_RANGE), (2**64 - 1, 2, OUT_OF_RANGE), (2**55, 1,
        OUT_OF_RANGE), (2**63, 2, OUT_OF_RANGE),
    ):  # fmt: skip
        refused = read(line, index, count)
        assert (refused.op, refused.payload) == (READ_RESP, bytes([status, 0, 0, 0]) + bytes(4)), (index, count)
    for index, data, count, status in (
        (0, b"", 0, BAD_LENGTH), (0, bytes(512), 2, BAD_LENGTH), (0, bytes(1024), 1, BAD_LENGTH), (0, bytes(511),
        1, BAD_LENGTH),
        (0, bytes(513), 1, BAD_LENGTH), (0, bytes(512), 3, BAD_LENGTH), (0, b"", 2**23, BAD_LENGTH), (BLOCKS,
        bytes(512), 1, OUT_OF_RANGE),
        (last, bytes(1024), 2, OUT_OF_RANGE), (2**64 - 1, bytes(512), 1, OUT_OF_RANGE), (2**55, bytes(512), 1,
        OUT_OF_RANGE),
    ):  # fmt: skip
        refused = write(line, index, data, count)
        assert (refused.op, refused.payload) == (WRITE_RESP, bytes([status, 0, 0, 0])), (index, len(data), count)


def test_dropped_without_an_answer(line):
    question = line.question
    for how, datagram in {
        "wrong key": question(READ, at(0, 1), key=os.urandom(32)),
        "FBMU": question(READ, at(0, 1), magic=b"FBMU"),
        "unknown lease": question(READ, at(0, 1), lease_id=line.lease_id ^ 1),
        "unknown op": question(0x22, at(0, 1)),
        "short READ": question(READ, at(0, 1)[:11]),
        "short WRITE": question(WRITE, at(0, 1)[:11]),
        "HELLO for another": question(HELLO, u128(line.lease_id ^ 1)),
        "payload_len": question(READ, at(0, 1), length=5),
        "nonce 0": question(READ, at(0, 1), nonce=0),
    }.items():
        assert line.dropped(datagram), how
    replay = question(READ, at(0, 1))
    line.send(replay)
    assert line.receive().op == READ_RESP
    assert line.dropped(replay)


def test_write_order_and_window(line):
    assert write(line, 0, b"n" * 512, nonce=3000).status == OK
    assert write(line, 0, b"o" * 512, nonce=2999).status == STALE_WRITE
    assert read(line, 0, 1).payload[8:] == b"n" * 512
    assert line.dropped(line.question(PING, nonce=line.nonce - 1024))


def test_what_the_tag_covers(line):
    """The parameters always; the data too, but in HMAC_HEADER."""
    good = line.question(WRITE, at(0, 1) + b"d" * 512)
    assert line.dropped(good[:60] + bytes([good[60] ^ 1]) + good[61:])
    assert line.dropped(line.question(WRITE, at(0, 1) + b"d" * 512, covered=0))
    if line.mode:
        assert line.dropped(good[:-1] + b"x")
        assert read(line, 0, 1).payload[8:] == bytes(512)


def test_another_plane_does_not_know_the_lease(world, line):
    with Line(world.node.port("fbmu"), line.lease_id, line.key, line.mode) as wrong:
        wrong.send(wrong.question(PING))
        assert wrong.receive(0.1) is None


def test_the_end_and_wiping(world, owner):
    """EXPIRED after the end; the next holder finds zeros."""
    lease = owner.lease(60, 0, BLOCK, 1 << 20)
    with line_of(world, lease) as line:
        for index in range(0, BLOCKS, 2):
            line.send(line.question(WRITE, at(index, 2) + b"\xaa" * 1024))
            assert line.receive().status == OK
        owner.free(lease.lease_id)
        assert poll(lambda: read(line, 0, 1).status == EXPIRED, 10)
        assert write(line, 0, bytes(512)).status == EXPIRED
        assert line.hello().status == EXPIRED
    whole = owner.lease(60, 0, BLOCK, 15 << 20)
    with line_of(world, whole) as line:
        count = whole.endpoint(2).geometry[1]
        assert all(read(line, index, 2).payload[8:] == bytes(1024) for index in range(0, count - 2, 61))
    owner.free(whole.lease_id)
