"""D10: FBMU over UDP in all four modes, one bad datagram after another."""

import os
import struct
from collections.abc import Iterator

import pytest
from blackbox import codec
from blackbox.codec import MEM, T_DP_AUTH, tlv16, u8, u32, u128
from blackbox.dataplane import (
    BAD_LENGTH,
    ERROR,
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
    read_reply,
)  # fmt: skip
from blackbox.programs import poll

MODES = ["HMAC_HEADER", "HMAC_FULL", "BLAKE2S_FULL", "SIPHASH_FULL"]
SIZE = 1 << 16


def line_of(world, lease) -> Line:
    return Line(world.node.port("fbmu"), lease.lease_id, lease.dp_key, lease.dp_auth)


@pytest.fixture(params=range(4), ids=MODES)
def line(request, world, owner) -> Iterator[Line]:
    """A fresh lease in each mode; `limits` beside it."""
    lease = owner.lease(120, 0, MEM, SIZE, tlv16(T_DP_AUTH, u8(request.param)))
    with line_of(world, lease) as line:
        line.limits = lease.endpoint(1).limits
        yield line
    owner.free(lease.lease_id)


@pytest.fixture
def plain(world, owner) -> Iterator[Line]:
    lease = owner.lease(120, 0, MEM, SIZE)
    with line_of(world, lease) as line:
        line.limits = lease.endpoint(1).limits
        yield line
    owner.free(lease.lease_id)


def test_every_op(line):
    hello = line.hello()
    assert hello.op == HELLO_ACK
    assert struct.unpack(">B3xQII", hello.payload) == (OK, *line.limits)
    ping = line.ask(PING)
    assert (ping.op, ping.payload) == (PONG, b"")
    data = os.urandom(line.limits[2])
    wrote = line.write(100, data)
    assert (wrote.op, wrote.payload) == (WRITE_RESP, b"\0\0\0\0")
    size = min(len(data), line.limits[1])
    got = line.read(100, size)
    assert got.op == READ_RESP
    assert got.payload == b"\0\0\0\0" + struct.pack(">I", size) + data[:size]
    assert line.read(0, 100).payload[8:] == bytes(100)
    assert line.read(SIZE - 1, 1).payload[8:] == b"\0"


def test_memory_comes_zeroed(plain):
    for at in range(0, SIZE, 1024):
        assert plain.read(at, 1024).payload[8:] == bytes(1024)


def test_padding(line):
    """READ, HELLO and PING may end in padding, which no tag covers; an unpadded READ is answered too."""
    line.write(0, b"abc")
    for padding in (0, 1, 9, 500):
        got = line.read(0, 3, padding=padding)
        assert got.payload[8:] == b"abc"
        assert line.ask(PING, padding=padding).op == PONG
        assert line.hello(padding=padding).status == OK
    assert line.read(0, 1024, padding=0).payload[4:8] == struct.pack(">I", 1024)


def test_refusals(line):
    max_read, max_write = line.limits[1:]
    for offset, length, status in (
        (0, 0, BAD_LENGTH), (0, max_read + 1, BAD_LENGTH), (0, 2**32 - 1, BAD_LENGTH), (SIZE, 1, OUT_OF_RANGE),
        (SIZE - 3, 4, OUT_OF_RANGE),
        (2**64 - 1, 1, OUT_OF_RANGE), (2**64 - 1, 2, OUT_OF_RANGE), (2**64 - 512, 512, OUT_OF_RANGE), (2**63, 512,
        OUT_OF_RANGE),
    ):  # fmt: skip
        refused = line.read(offset, length, padding=32)
        assert refused.op == READ_RESP
        assert refused.payload == bytes([status, 0, 0, 0]) + bytes(4), (offset, length)
    for offset, data, status in (
        (0, b"", BAD_LENGTH), (SIZE, b"x", OUT_OF_RANGE), (SIZE - 1, b"xy", OUT_OF_RANGE), (2**64 - 1, b"xy",
        OUT_OF_RANGE),
        (2**64 - 1, b"x", OUT_OF_RANGE),
    ):  # fmt: skip
        refused = line.write(offset, data)
        assert (refused.op, refused.payload) == (WRITE_RESP, bytes([status, 0, 0, 0])), (offset, data)
    assert line.write(0, bytes(max_write)).status == OK
    beyond = struct.pack(">QI", 0, max_write + 1)
    assert line.ask(WRITE, beyond + bytes(max_write)).status == BAD_LENGTH
    assert line.dropped(line.question(WRITE, beyond + bytes(max_write + 1)))  # a datagram of over 1472 bytes
    assert line.read(SIZE - 1, 1).payload[8:] == b"\0"


def test_a_write_is_exactly_12_and_length(line):
    """Else BAD_LENGTH, and nothing is written."""
    for said, sent in ((4, 3), (3, 4), (1, 0), (0, 1), (2**32 - 1, 4), (2**32 - 12, 4)):
        refused = line.ask(WRITE, struct.pack(">QI", 0, said) + b"\xff" * sent)
        assert (refused.op, refused.status) == (WRITE_RESP, BAD_LENGTH), (said, sent)
    assert line.read(0, 8).payload[8:] == bytes(8)


def test_dropped_without_an_answer(world, line):
    """Bad tag, unknown lease, malformed header, unknown op, short payload, another lease's HELLO, ERROR."""
    read = struct.pack(">QI", 0, 16)
    question = line.question
    bad = {
        "wrong key": question(READ, read, key=os.urandom(32)),
        "wrong mode": question(READ, read, mode=(line.mode + 1) % 4 if line.mode else 2),
        "unknown lease": question(READ, read, lease_id=line.lease_id ^ 1),
        "other plane": question(READ, read, magic=b"FBBU"),
        "magic": question(READ, read, magic=b"FBIO"),
        "version 0": question(READ, read, version=0),
        "version 2": question(READ, read, version=2),
        "flags": question(READ, read, flags=1),
        "payload_len short": question(READ, read, length=11),
        "payload_len long": question(READ, read, length=13),
        "payload_len huge": question(READ, read, length=2**32 - 1),
        "op 0": question(0),
        "op 0x12": question(0x12, read),
        "HELLO_ACK": question(HELLO_ACK, bytes(20)),
        "READ_RESP": question(READ_RESP, bytes(8)),
        "PONG": question(PONG),
        "ERROR": question(ERROR, bytes(4)),
        "short READ": question(READ, read[:11]),
        "empty READ": question(READ),
        "short WRITE": question(WRITE, read[:8]),
        "short HELLO": question(HELLO, u128(line.lease_id)[:15]),
        "HELLO for another": question(HELLO, u128(line.lease_id ^ 1)),
        "nonce 0": question(READ, read, nonce=0),
        "cut": question(READ, read)[:40],
        "one byte": b"F",
        "empty": b"",
        "junk": os.urandom(700),
    }
    before = world.node.metric("fabricbios_dp_drops_total", plane="fbmu")
    for how, datagram in bad.items():
        assert line.dropped(datagram), how
    assert poll(lambda: world.node.metric("fabricbios_dp_drops_total", plane="fbmu") >= before + len(bad) - 1, 5)


def test_what_the_tag_covers(line):
    """Header 0-39 and the parameters always; the data too, but in HMAC_HEADER; the padding never."""
    good = line.question(WRITE, struct.pack(">QI", 8, 4) + b"data")
    for at in (5, 8, 15, 16, 31, 39, 40, 55, 56, 63, 64, 67):
        forged = bytearray(good)
        forged[at] ^= 1
        assert line.dropped(bytes(forged)), at
    forged = good[:-1] + b"A"
    if line.mode:
        assert line.dropped(forged)
        assert line.read(8, 4).payload[8:] == bytes(4)
    line.send(line.question(READ, struct.pack(">QI", 0, 1), padding=20)[:-1] + b"\x7f")
    answer = line.receive()
    assert answer is not None
    assert answer.op == READ_RESP


def test_the_window(line):
    """Seen before or 1024 and more below the highest: refused. Less than 1008 below: taken."""
    assert line.ask(PING, nonce=5000).op == PONG

    def ping(nonce: int) -> bytes:
        return line.question(PING, nonce=nonce)

    assert line.dropped(ping(5000))
    highest = line.nonce
    for below in (1024, 1025, 4000, highest - 1):
        assert line.dropped(ping(highest - below)), below
        assert line.nonce >= highest
    line.ask(PING, nonce=20_000)
    for below in (1, 500, 1000, 1007):
        assert line.ask(PING, nonce=20_000 - below).op == PONG, below
    for below in (1, 500, 1000, 1007):
        line.send(ping(20_000 - below))
    assert line.receive(0.1) is None
    assert line.ask(PING, nonce=2**64 - 1).op == PONG
    line.send(ping(2**64 - 1))
    assert line.receive(0.1) is None


def test_every_authentic_nonce_moves_the_highest(plain):
    """A refused question counts too."""
    assert plain.ask(READ, struct.pack(">QI", SIZE, 9), nonce=10_000).status == OUT_OF_RANGE
    assert plain.dropped(plain.question(PING, nonce=10_000 - 1024))


def test_a_forged_nonce_moves_nothing(plain):
    plain.ask(PING)
    plain.send(plain.question(PING, nonce=10**9, key=os.urandom(32)))
    plain.nonce = 1
    assert plain.ask(PING).op == PONG


def test_write_order(line):
    """A WRITE only above every earlier WRITE: a late one answers STALE_WRITE and changes nothing."""
    assert line.write(0, b"new", nonce=100).status == OK
    late = line.write(0, b"old", nonce=99)
    assert (late.op, late.payload) == (WRITE_RESP, bytes([STALE_WRITE, 0, 0, 0]))
    assert line.read(0, 3, nonce=98).payload[8:] == b"new"
    assert line.read(0, 3, nonce=200).payload[8:] == b"new"
    assert line.write(0, b"two", nonce=150).status == OK  # a READ above it does not matter
    assert line.read(0, 3).payload[8:] == b"two"


def test_the_order_of_checks(line):
    """Length before range before write order."""
    assert line.write(0, b"x", nonce=1000).status == OK
    assert line.write(SIZE, b"", nonce=999).status == BAD_LENGTH
    assert line.write(SIZE, b"x", nonce=998).status == OUT_OF_RANGE
    assert line.write(0, b"x", nonce=997).status == STALE_WRITE


def test_no_answer_is_longer_than_an_unauthenticated_question(world, plain):
    """Whatever an outsider sends, nothing comes."""
    for size in (0, 1, 55, 56, 57, 100, 1472):
        plain.send((b"FBMU\1\x10" + os.urandom(size))[:size])
    assert plain.receive(0.1) is None
    assert plain.ask(PING).op == PONG


def test_a_new_key_on_attach(world, owner):
    """LEASE_ATTACH: a new DP_KEY, an empty window, no write mark, the same bytes; the old key is dead at once."""
    lease = owner.lease(60, 0, MEM, SIZE)
    with line_of(world, lease) as old:
        assert old.write(0, b"kept", nonce=10**6).status == OK
        fresh = codec.read_grant(owner.done(codec.ATTACH, u128(lease.lease_id)))
        with line_of(world, fresh) as new:
            assert new.dropped(old.question(PING, nonce=10**6 + 1))
            assert new.nonce < 10
            assert new.read(0, 4).payload[8:] == b"kept"
            assert new.write(0, b"more").status == OK
    owner.free(lease.lease_id)


def test_renewal_keeps_the_key_and_grace_the_content(world, owner):
    """At expires_at EXPIRED; LEASE_RENEW in grace brings the lease back with its content."""
    lease = owner.lease(3, 60, MEM, SIZE)
    with line_of(world, lease) as line:
        assert line.write(0, b"content").status == OK
        assert poll(lambda: line.read(0, 7).status == EXPIRED)
        refused = line.read(0, 7)
        assert refused.payload == bytes([EXPIRED, 0, 0, 0]) + bytes(4)
        hello = line.hello()
        assert (hello.status, len(hello.payload)) == (EXPIRED, 20)
        assert line.write(0, b"late").status == EXPIRED
        owner.done(codec.RENEW, u128(lease.lease_id) + u32(60), owner.token(codec.P_RENEW).pack())
        assert line.read(0, 7).payload[8:] == b"content"
    owner.free(lease.lease_id)


def test_io_goes_on_while_warned(world, owner):
    lease = owner.lease(60, 0, MEM, SIZE)
    with line_of(world, lease) as line:
        owner.done(codec.REVOKE, u128(lease.lease_id) + u32(5))
        assert line.write(0, b"still").status == OK
        assert poll(lambda: line.read(0, 5).status == EXPIRED)


def test_freed_memory_is_zeroed_and_the_lease_says_expired(world, owner):
    lease = owner.lease(60, 0, MEM, SIZE)
    with line_of(world, lease) as line:
        for at in range(0, SIZE, 1024):
            line.write(at, b"\xaa" * 1024)
        owner.free(lease.lease_id)
        assert line.read(0, 1).status == EXPIRED
        assert line.hello().status == EXPIRED
        ended = line.ask(PING)
        assert (ended.op, ended.payload) == (ERROR, bytes([EXPIRED, 0, 0, 0]))
        line.send(line.question(PING, key=os.urandom(32)))
        assert line.receive(0.1) is None
    others = [owner.lease(60, 0, MEM, 1 << 20) for _ in range(8)]
    for other in others:
        with line_of(world, other) as line:
            for at in range(0, 1 << 20, 64 << 10):
                assert line.read(at, 1024).payload[8:] == bytes(1024)
        owner.free(other.lease_id)


def test_two_leases_do_not_touch(world, owner):
    one, two = owner.lease(60, 0, MEM, 4096), owner.lease(60, 0, MEM, 4096)
    with line_of(world, one) as first, line_of(world, two) as second:
        first.write(0, b"1" * 1024)
        second.write(0, b"2" * 1024)
        assert first.read(0, 1024).payload[8:] == b"1" * 1024
        assert second.read(0, 1024).payload[8:] == b"2" * 1024
        foreign = second.question(READ, struct.pack(">QI", 0, 4), lease_id=one.lease_id)
        assert second.dropped(foreign)
    for lease in (one, two):
        owner.free(lease.lease_id)


def test_an_answer_goes_to_who_asked(world, plain):
    """Any source address will do: there is no connection."""
    with Line(world.node.port("fbmu"), plain.lease_id, plain.key, plain.mode) as other:
        other.nonce = plain.nonce
        assert other.ask(PING).op == PONG
        assert plain.receive(0.05) is None


def test_many_in_flight(plain):
    questions = [plain.send(plain.question(READ, struct.pack(">QI", n * 16, 16), padding=12)) for n in range(64)]
    nonces = {read_reply(q).nonce for q in questions}
    answers = [plain.receive() for _ in questions]
    assert {a.nonce for a in answers if a} == nonces
