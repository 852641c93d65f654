"""The client's own packing against the wire's classes, in every mode and on both planes."""

import pytest

from fabricbios.client.plane import FBBU, FBMU, Codec, Greeting
from fabricbios.model import DpAuth, DpOp, DpStatus
from fabricbios.wire import (
    BlockHelloAck,
    FbbuHelloAck,
    FbbuReadBlock,
    FbbuReadBlockResp,
    FbbuWriteBlock,
    FbmuError,
    FbmuHello,
    FbmuHelloAck,
    FbmuPing,
    FbmuPong,
    FbmuRead,
    FbmuReadResp,
    FbmuWrite,
    FbmuWriteResp,
    HelloAck,
    Pong,
    ReadBlockResp,
    ReadResp,
    StatusOnly,
    Tagger,
    with_tag,
)

LEASE, KEY = 0xABCDEF << 70 | 5, bytes(range(32))
MODES = list(DpAuth)


def codec(mode: DpAuth, plane: object = FBMU) -> Codec:
    return Codec(plane, LEASE, Tagger(mode, KEY))  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
def test_questions_are_what_the_wire_says(mode: DpAuth) -> None:
    tagger = Tagger(mode, KEY)
    read = FbmuRead.unpack(codec(mode).read(7, 4096, 1400)[0], "udp")
    assert (read.nonce, read.lease_id, read.payload.offset, read.payload.length) == (7, LEASE, 4096, 1400)
    write = FbmuWrite.unpack(codec(mode).write(8, 5, b"data")[0], "udp")
    assert (write.payload.offset, write.payload.data) == (5, b"data")
    hello = FbmuHello.unpack(codec(mode).greet(DpOp.HELLO, 9)[0], "udp")
    ping = FbmuPing.unpack(codec(mode).greet(DpOp.PING, 10)[0], "udp")
    for message in (read, write, hello, ping):
        assert message.request_id
        assert tagger.tag_of(message.pack("udp")) == message.auth_tag


@pytest.mark.parametrize("mode", MODES)
def test_block_questions_count_in_blocks(mode: DpAuth) -> None:
    tagger = Tagger(mode, KEY)
    read = FbbuReadBlock.unpack(codec(mode, FBBU).read(7, 1024, 1024)[0], "udp")
    assert (read.payload.block_index, read.payload.block_count) == (2, 2)
    write = FbbuWriteBlock.unpack(codec(mode, FBBU).write(8, 512, bytes(1024))[0], "udp")
    assert (write.payload.block_index, write.payload.block_count) == (1, 2)
    assert all(tagger.tag_of(m.pack("udp")) == m.auth_tag for m in (read, write))


@pytest.mark.parametrize("mode", MODES)
def test_no_question_is_shorter_than_its_answer(mode: DpAuth) -> None:
    for length in (1, 4, 5, 512, 1408):
        question = codec(mode).read(1, 0, length)[0]
        answer = FbmuReadResp(1, LEASE, 1, ReadResp(DpStatus.OK, length, bytes(length))).pack("udp")
        assert len(answer) <= len(question) <= 1472
    ack = FbmuHelloAck(1, LEASE, 1, HelloAck(0, 1, 1, 1)).pack("udp")
    assert len(codec(mode).greet(DpOp.HELLO, 1)[0]) >= len(ack)


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_is_taken_only_with_its_tag(mode: DpAuth) -> None:
    mine = codec(mode)
    _, question = mine.read(7, 0, 4)
    bare = FbmuReadResp(7, LEASE, 7, ReadResp(DpStatus.OK, 4, b"leaf")).pack("udp")
    tag = question.tag if mode == DpAuth.HMAC_HEADER else Tagger(mode, KEY).tag_of(bare)
    good = memoryview(with_tag(bare, tag))
    assert mine.nonce_of(good) == 7
    assert mine.proves(good, question)
    assert mine.status(good, question) == DpStatus.OK
    assert bytes(mine.data(good, question) or b"") == b"leaf"
    assert not mine.proves(memoryview(bare), question)
    if mode != DpAuth.HMAC_HEADER:
        assert not mine.proves(memoryview(bytes(good[:-1]) + b"d"), question)


def test_an_answer_to_something_else_is_none() -> None:
    mine = Codec(FBMU, LEASE, None)
    _, question = mine.read(7, 0, 4)
    write = memoryview(FbmuWriteResp(7, LEASE, 7, StatusOnly(DpStatus.OK)).pack("quic"))
    other = memoryview(FbmuReadResp(8, LEASE, 7, ReadResp(DpStatus.OK, 4, b"leaf")).pack("quic"))
    short = memoryview(FbmuReadResp(7, LEASE, 7, ReadResp(DpStatus.OK, 3, b"lea")).pack("quic"))
    assert mine.status(write, question) == -1
    assert mine.status(other, question) == -1
    assert mine.data(short, question) is None
    assert mine.nonce_of(memoryview(FbmuPong(7, LEASE + 1, 7, Pong()).pack())) == 0
    assert mine.nonce_of(memoryview(b"FBMU")) == 0
    assert mine.nonce_of(short[:-1]) == 0
    error = memoryview(FbmuError(7, LEASE, 7, StatusOnly(DpStatus.EXPIRED)).pack("quic"))
    assert mine.status(error, question) == DpStatus.EXPIRED


def test_greetings_are_in_bytes_on_both_planes() -> None:
    ack = memoryview(FbmuHelloAck(1, LEASE, 1, HelloAck(0, 1 << 30, 1408, 1404)).pack())
    assert Codec(FBMU, LEASE, None).greeting(ack) == Greeting(1 << 30, 1408, 1404)
    block = memoryview(FbbuHelloAck(1, LEASE, 1, BlockHelloAck(0, 512, 2048, 2)).pack())
    assert Codec(FBBU, LEASE, None).greeting(block) == Greeting(1 << 20, 1024, 1024)
    assert Codec(FBMU, LEASE, None).greeting(block[:-1]) is None


def test_block_data_is_counted_in_blocks() -> None:
    mine = Codec(FBBU, LEASE, None)
    _, question = mine.read(7, 0, 1024)
    answer = memoryview(FbbuReadBlockResp(7, LEASE, 7, ReadBlockResp(0, 2, bytes(1024))).pack("quic"))
    assert len(mine.data(answer, question) or b"") == 1024
