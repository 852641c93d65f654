"""FBMU and FBBU messages on QUIC streams, answered from the same bytes that datagrams reach (D11)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from fabricbios.dataplane.block import BlockPlane
from fabricbios.dataplane.memory import MemoryPlane
from fabricbios.model import BLOCK_SIZE, DpOp, DpStatus
from fabricbios.wire import (
    FbbuError,
    FbbuHello,
    FbbuHelloAck,
    FbbuPing,
    FbbuPong,
    FbbuReadBlock,
    FbbuReadBlockResp,
    FbbuWriteBlock,
    FbbuWriteBlockResp,
    FbmuError,
    FbmuHello,
    FbmuHelloAck,
    FbmuPing,
    FbmuPong,
    FbmuRead,
    FbmuReadResp,
    FbmuWrite,
    FbmuWriteResp,
)
from fabricbios.wire.dataplane import (
    DP_HEADER_SIZE,
    BlockHelloAck,
    DpHeader,
    HelloAck,
    Pong,
    ReadBlockResp,
    ReadResp,
    StatusOnly,
)

MAX_READ, MAX_WRITE = (1 << 20) - DP_HEADER_SIZE - 8, (1 << 20) - DP_HEADER_SIZE - 12
"""What of a message of 1 MiB (D11) is data: HELLO_ACK says what LIMITS said, and what the plane takes."""
MAX_BLOCKS = MAX_WRITE // BLOCK_SIZE
FBMU, FBBU = b"FBMU", b"FBBU"


def _head(m: Any) -> tuple[int, int, int]:
    """Return what an answer repeats of its question (D10)."""
    return m.request_id, m.lease_id, m.nonce


class MemoryStreams:
    """StreamPlane of memory leases."""

    slow = False
    kinds: Mapping[int, Any] = {DpOp.HELLO: FbmuHello, DpOp.READ: FbmuRead, DpOp.WRITE: FbmuWrite, DpOp.PING: FbmuPing}

    def __init__(self, plane: MemoryPlane) -> None:
        self._plane = plane

    def hello(self, message: Any, status: DpStatus) -> tuple[DpStatus, bytes]:
        length = 0
        if not status:
            status, length = self._plane.length(message.lease_id)
        limits = (0, 0) if status else (MAX_READ, MAX_WRITE)
        return status, FbmuHelloAck(*_head(message), HelloAck(status, length, *limits)).pack("quic")

    def lane(self, lease_id: int) -> Hashable:
        return FBMU  # nothing of it blocks

    def serve(self, message: Any, status: DpStatus) -> tuple[bytes, int, int]:
        if isinstance(message, FbmuRead):
            return self._read(message, status)
        if isinstance(message, FbmuWrite):
            return self._write(message, status)
        return self._ping(message, status), 0, 0

    def _ping(self, m: FbmuPing, status: DpStatus) -> bytes:
        """Only a live lease has a PONG: the checks of D10 are the same for every op."""
        status = status or self._plane.length(m.lease_id)[0]
        if status:
            return FbmuError(*_head(m), StatusOnly(status)).pack("quic")
        return FbmuPong(*_head(m), Pong()).pack("quic")

    def _read(self, m: FbmuRead, status: DpStatus) -> tuple[bytes, int, int]:
        data = b""
        if not status:
            status, data = self._plane.read(m.lease_id, m.payload.offset, m.payload.length)
        return FbmuReadResp(*_head(m), ReadResp(status, len(data), data)).pack("quic"), len(data), 0

    def _write(self, m: FbmuWrite, status: DpStatus) -> tuple[bytes, int, int]:
        status = status or self._plane.write(m.lease_id, m.payload.offset, m.payload.data)
        return FbmuWriteResp(*_head(m), StatusOnly(status)).pack("quic"), 0, 0 if status else len(m.payload.data)

    def misfit(self, header: DpHeader, status: DpStatus) -> bytes:
        status = status or self._plane.length(header.lease_id)[0] or DpStatus.BAD_LENGTH
        return FbmuWriteResp(*_head(header), StatusOnly(status)).pack("quic")


class BlockStreams:
    """StreamPlane of block leases; disks take their time, so it is slow."""

    slow = True
    kinds: Mapping[int, Any] = {
        DpOp.HELLO: FbbuHello,
        DpOp.READ: FbbuReadBlock,
        DpOp.WRITE: FbbuWriteBlock,
        DpOp.PING: FbbuPing,
    }

    def __init__(self, plane: BlockPlane) -> None:
        self._plane = plane

    def hello(self, message: Any, status: DpStatus) -> tuple[DpStatus, bytes]:
        blocks = 0
        if not status:
            status, blocks = self._plane.blocks(message.lease_id)
        ack = BlockHelloAck(status, BLOCK_SIZE, blocks, 0 if status else MAX_BLOCKS)
        return status, FbbuHelloAck(*_head(message), ack).pack("quic")

    def lane(self, lease_id: int) -> Hashable:
        return self._plane.device_of(lease_id)

    def serve(self, message: Any, status: DpStatus) -> tuple[bytes, int, int]:
        if isinstance(message, FbbuReadBlock):
            return self._read(message, status)
        if isinstance(message, FbbuWriteBlock):
            return self._write(message, status)
        return self._ping(message, status), 0, 0

    def _ping(self, m: FbbuPing, status: DpStatus) -> bytes:
        status = status or self._plane.blocks(m.lease_id)[0]
        if status:
            return FbbuError(*_head(m), StatusOnly(status)).pack("quic")
        return FbbuPong(*_head(m), Pong()).pack("quic")

    def _read(self, m: FbbuReadBlock, status: DpStatus) -> tuple[bytes, int, int]:
        data = b""
        if not status:
            status, data = self._plane.read(m.lease_id, m.payload.block_index, m.payload.block_count)
        resp = ReadBlockResp(status, len(data) // BLOCK_SIZE, data)
        return FbbuReadBlockResp(*_head(m), resp).pack("quic"), len(data), 0

    def _write(self, m: FbbuWriteBlock, status: DpStatus) -> tuple[bytes, int, int]:
        data = m.payload.block_data
        status = status or self._plane.write(m.lease_id, m.payload.block_index, data)
        return FbbuWriteBlockResp(*_head(m), StatusOnly(status)).pack("quic"), 0, 0 if status else len(data)

    def misfit(self, header: DpHeader, status: DpStatus) -> bytes:
        status = status or self._plane.blocks(header.lease_id)[0] or DpStatus.BAD_LENGTH
        return FbbuWriteBlockResp(*_head(header), StatusOnly(status)).pack("quic")
