"""FBMU and FBBU: the 56-byte header and the payloads of their datagrams (D10) and QUIC messages (D11).

FBMK (`pages`) shares the header. A datagram type such as `FbmuRead` is header and payload in one
value; `DpHeader` is the header alone, for those who look before they decode.
"""

from __future__ import annotations

from typing import ClassVar

from fabricbios.model import DpOp, DpStatus
from fabricbios.wire.description import Message, Struct
from fabricbios.wire.fields import (
    counted,
    fixed,
    length_of,
    magic,
    nested,
    reserved,
    u8,
    u16,
    u32,
    u64,
    u128,
    zeros,
)  # fmt: skip
from fabricbios.wire.rules import Rules, Transport

SOURCE = 'D10, D11; wire encoding, "Constrained dataplane bindings"'

DP_VERSION = 1
DP_HEADER_SIZE = 56
TAGGED_SIZE = 40  # header bytes that every tag covers


class DpHeader(Struct):
    """D10, as it stands; nothing but its length is judged."""

    magic: bytes = fixed(4, "FBMU, FBBU or FBMK")
    version: int = u8("1")
    op: int = u8("DpOp, or PageOp")
    flags: int = u16("0")
    payload_len: int = u32("bytes after the header")
    request_id: int = u32("chosen by the client, not zero for I/O")
    lease_id: int = u128()
    nonce: int = u64("from 1, one up a datagram")
    auth_tag: bytes = fixed(16, "see DpAuth", default=bytes(16))


class Hello(Struct):
    """Is this lease served here, and with what limits?"""

    lease_id: int = u128("the header's")
    padding: int = zeros(default=0)


class HelloAck(Struct):
    """FBMU's answer to HELLO; a refusal has its full length."""

    status: int = u8(enum=DpStatus, closed=True)
    _reserved = reserved(3)
    resource_len: int = u64("bytes leased")
    max_read_len: int = u32()
    max_write_len: int = u32()


class BlockHelloAck(Struct):
    """FBBU's answer to HELLO."""

    status: int = u8(enum=DpStatus, closed=True)
    _reserved = reserved(3)
    block_size: int = u32("512 (D10)")
    device_block_cnt: int = u64("blocks leased")
    max_blocks_per_io: int = u32()


class Read(Struct):
    """Padded so that the answer is not longer than the question (D10)."""

    offset: int = u64("bytes from the start of the lease")
    length: int = u32("bytes; 0 is answered BAD_LENGTH")
    padding: int = zeros(default=0)


class ReadResp(Struct):
    status: int = u8(enum=DpStatus, closed=True)
    _reserved = reserved(3)
    length: int = u32("0 in a refusal")
    data: bytes = counted("length", default=b"")

    def complaint(self, rules: Rules) -> str:
        return "data with a status other than OK" if self.status and self.length else ""


class Write(Struct):
    offset: int = u64("bytes from the start of the lease")
    length: int = u32("bytes")
    data: bytes = counted("length")


class ReadBlock(Struct):
    """Padded so that the answer is not longer than the question (D10)."""

    block_index: int = u64("from the start of the lease")
    block_count: int = u32("0 is answered BAD_LENGTH")
    padding: int = zeros(default=0)


class ReadBlockResp(Struct):
    status: int = u8(enum=DpStatus, closed=True)
    _reserved = reserved(3)
    block_count: int = u32("0 in a refusal")
    block_data: bytes = counted("block_count", blocks=True, default=b"")

    def complaint(self, rules: Rules) -> str:
        return "data with a status other than OK" if self.status and self.block_count else ""


class WriteBlock(Struct):
    block_index: int = u64("from the start of the lease")
    block_count: int = u32()
    block_data: bytes = counted("block_count", blocks=True)


class StatusOnly(Struct):
    """WRITE_RESP and ERROR."""

    status: int = u8(enum=DpStatus, closed=True)
    _reserved = reserved(3)


class Ping(Struct):
    padding: int = zeros(default=0)


class Pong(Struct):
    """Empty."""


class Datagram(Message, abstract=True):
    """Header and payload of one data plane message; subclasses fix magic, op and payload."""

    LIMIT = "datagram"
    TRANSPORT: ClassVar[Transport | None] = "udp"

    _magic = magic(b"FB??")
    version: int = u8("1", default=DP_VERSION, only=(DP_VERSION,), kw_only=True)
    op: int = u8("this message's", default=0, kw_only=True)
    flags: int = u16("0", default=0, only=(0,), kw_only=True)
    _payload_len = length_of("payload")
    request_id: int = u32("chosen by the client")
    lease_id: int = u128()
    nonce: int = u64("one up a datagram; zero is never valid", low=1)
    auth_tag: bytes = fixed(16, "see DpAuth; ignored on QUIC", default=bytes(16), kw_only=True)


class _Io(Datagram, abstract=True):
    """Reading and writing, where a request_id is never zero (FBMT, FBBT)."""

    request_id: int = u32("chosen by the client, not zero", low=1)


class _Greeting(Datagram, abstract=True):
    """A HELLO, whose payload repeats the header's lease_id."""

    def complaint(self, rules: Rules) -> str:
        if self[-1].lease_id != self.lease_id:
            return "HELLO for another lease than the header's"
        return ""


class _Answer(Datagram, abstract=True):
    """An answer with a status; BAD_AUTH is never sent in a datagram."""

    def complaint(self, rules: Rules) -> str:
        if rules.transport == "udp" and self[-1].status == DpStatus.BAD_AUTH:
            return "BAD_AUTH is for QUIC alone"
        return ""


class _IoAnswer(_Answer, _Io, abstract=True):
    """An answer to reading or writing."""


class FbmuHello(_Greeting):
    _magic = magic(b"FBMU")
    op: int = u8(default=DpOp.HELLO, only=(DpOp.HELLO,), kw_only=True)
    payload: Hello = nested(Hello, by="_payload_len")


class FbmuHelloAck(_Answer):
    _magic = magic(b"FBMU")
    op: int = u8(default=DpOp.HELLO_ACK, only=(DpOp.HELLO_ACK,), kw_only=True)
    payload: HelloAck = nested(HelloAck, by="_payload_len")


class FbmuRead(_Io):
    _magic = magic(b"FBMU")
    op: int = u8(default=DpOp.READ, only=(DpOp.READ,), kw_only=True)
    payload: Read = nested(Read, by="_payload_len")


class FbmuReadResp(_IoAnswer):
    _magic = magic(b"FBMU")
    op: int = u8(default=DpOp.READ_RESP, only=(DpOp.READ_RESP,), kw_only=True)
    payload: ReadResp = nested(ReadResp, by="_payload_len")


class FbmuWrite(_Io):
    _magic = magic(b"FBMU")
    op: int = u8(default=DpOp.WRITE, only=(DpOp.WRITE,), kw_only=True)
    payload: Write = nested(Write, by="_payload_len")


class FbmuWriteResp(_IoAnswer):
    _magic = magic(b"FBMU")
    op: int = u8(default=DpOp.WRITE_RESP, only=(DpOp.WRITE_RESP,), kw_only=True)
    payload: StatusOnly = nested(StatusOnly, by="_payload_len")


class FbmuPing(Datagram):
    _magic = magic(b"FBMU")
    op: int = u8(default=DpOp.PING, only=(DpOp.PING,), kw_only=True)
    payload: Ping = nested(Ping, by="_payload_len")


class FbmuPong(Datagram):
    _magic = magic(b"FBMU")
    op: int = u8(default=DpOp.PONG, only=(DpOp.PONG,), kw_only=True)
    payload: Pong = nested(Pong, by="_payload_len")


class FbmuError(_Answer):
    _magic = magic(b"FBMU")
    op: int = u8(default=DpOp.ERROR, only=(DpOp.ERROR,), kw_only=True)
    payload: StatusOnly = nested(StatusOnly, by="_payload_len")


class FbbuHello(_Greeting):
    _magic = magic(b"FBBU")
    op: int = u8(default=DpOp.HELLO, only=(DpOp.HELLO,), kw_only=True)
    payload: Hello = nested(Hello, by="_payload_len")


class FbbuHelloAck(_Answer):
    _magic = magic(b"FBBU")
    op: int = u8(default=DpOp.HELLO_ACK, only=(DpOp.HELLO_ACK,), kw_only=True)
    payload: BlockHelloAck = nested(BlockHelloAck, by="_payload_len")


class FbbuReadBlock(_Io):
    _magic = magic(b"FBBU")
    op: int = u8(default=DpOp.READ, only=(DpOp.READ,), kw_only=True)
    payload: ReadBlock = nested(ReadBlock, by="_payload_len")


class FbbuReadBlockResp(_IoAnswer):
    _magic = magic(b"FBBU")
    op: int = u8(default=DpOp.READ_RESP, only=(DpOp.READ_RESP,), kw_only=True)
    payload: ReadBlockResp = nested(ReadBlockResp, by="_payload_len")


class FbbuWriteBlock(_Io):
    _magic = magic(b"FBBU")
    op: int = u8(default=DpOp.WRITE, only=(DpOp.WRITE,), kw_only=True)
    payload: WriteBlock = nested(WriteBlock, by="_payload_len")


class FbbuWriteBlockResp(_IoAnswer):
    _magic = magic(b"FBBU")
    op: int = u8(default=DpOp.WRITE_RESP, only=(DpOp.WRITE_RESP,), kw_only=True)
    payload: StatusOnly = nested(StatusOnly, by="_payload_len")


class FbbuPing(Datagram):
    _magic = magic(b"FBBU")
    op: int = u8(default=DpOp.PING, only=(DpOp.PING,), kw_only=True)
    payload: Ping = nested(Ping, by="_payload_len")


class FbbuPong(Datagram):
    _magic = magic(b"FBBU")
    op: int = u8(default=DpOp.PONG, only=(DpOp.PONG,), kw_only=True)
    payload: Pong = nested(Pong, by="_payload_len")


class FbbuError(_Answer):
    _magic = magic(b"FBBU")
    op: int = u8(default=DpOp.ERROR, only=(DpOp.ERROR,), kw_only=True)
    payload: StatusOnly = nested(StatusOnly, by="_payload_len")
