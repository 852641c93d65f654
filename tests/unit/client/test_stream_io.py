"""Reads and writes over QUIC: what bounds their time is each message, not how many there are."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from fabricbios.client import stream_io
from fabricbios.client.message_pace import MOST_AT_ONCE as AT_ONCE
from fabricbios.client.plane import FBMU, Codec
from fabricbios.client.stream_io import StreamIo
from fabricbios.errors import TimedOut
from fabricbios.model import DpOp, DpStatus
from fabricbios.transport import Link
from fabricbios.wire import FbmuHello, FbmuHelloAck, FbmuWrite, FbmuWriteResp, HelloAck, StatusOnly

LEASE, PIECE = 7, 1000


class SlowLink:
    """A node that takes `seconds` for every message, and says `status` to a WRITE."""

    def __init__(self, seconds: float, status: DpStatus = DpStatus.OK) -> None:
        self.seconds, self.status, self.writes = seconds, status, 0

    async def request(self, message: bytes, timeout: float, moving: bool = False) -> bytes:
        if message[5] == DpOp.HELLO:
            hello = FbmuHello.unpack(message, "quic")
            head = hello.request_id, hello.lease_id, hello.nonce
            return FbmuHelloAck(*head, HelloAck(DpStatus.OK, 1 << 20, PIECE, PIECE)).pack("quic")
        await asyncio.sleep(self.seconds)
        self.writes += 1
        write = FbmuWrite.unpack(message, "quic")
        return FbmuWriteResp(write.request_id, write.lease_id, write.nonce, StatusOnly(self.status)).pack("quic")


def written(link: SlowLink, pieces: int, timeout: float) -> None:
    async def connect() -> Link:
        return cast(Link, cast(Any, link))

    async def body() -> None:
        io = StreamIo(connect, Codec(FBMU, LEASE, None), PIECE, PIECE)
        await io.write(0, memoryview(bytes(pieces * PIECE)), timeout)

    asyncio.run(body())


def test_a_transfer_may_take_longer_than_one_of_its_messages() -> None:
    link = SlowLink(0.05)
    written(link, 5 * AT_ONCE, 0.1)
    assert link.writes == 5 * AT_ONCE


def test_a_data_plane_that_stays_busy_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_io, "BUSY_SECONDS", 0.001)
    with pytest.raises(TimedOut, match=r"busy for 0\.1 s"):
        written(SlowLink(0, DpStatus.BUSY), 2 * AT_ONCE, 0.1)
