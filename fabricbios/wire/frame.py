"""The common frame (D2): a UDP datagram on port 5700, one message a direction on a QUIC stream."""

from __future__ import annotations

from enum import IntEnum, IntFlag

from fabricbios.wire.description import Message
from fabricbios.wire.fields import When, counted, fixed, length_of, magic, u8, u16, u32, u64, u128
from fabricbios.wire.rules import Rules

SOURCE = "D2"


class MsgType(IntEnum):
    ANNOUNCE = 0x01
    SOLICIT = 0x02
    WITHDRAW = 0x03
    SOLICIT_RETRY = 0x04
    REQUEST = 0x10
    RESPONSE = 0x11
    REVOKE_BROADCAST = 0x12
    LEASE_EVENT = 0x13
    ERROR = 0x7F


class FrameFlag(IntFlag):
    SIGNED = 0x0001
    CONTINUED = 0x0002
    FINAL = 0x0004
    FRAG_V2 = 0x0008
    COMPRESSED = 0x0010


HEADER_SIZE = 44
FRAG_SIZE = 8
SIGNATURE_SIZE = 64

_FRAGMENT = FrameFlag.CONTINUED | FrameFlag.FINAL
_NOT_ON_QUIC = int(_FRAGMENT | FrameFlag.FRAG_V2 | FrameFlag.COMPRESSED)
_FRAGMENT_BITS, _FRAG_V2, _FINAL = int(_FRAGMENT), int(FrameFlag.FRAG_V2), int(FrameFlag.FINAL)


class Frame(Message):
    """D2. The payload stands as it is on the wire: deflated if COMPRESSED, a part if fragmented."""

    LIMIT = "frame"

    _magic = magic(b"FBIO")
    version: int = u8("0; others are refused", default=0, only=(0,), kw_only=True)
    msg_type: int = u8("what the payload is", enum=MsgType, closed=True)
    flags: int = u16("FrameFlag bits", flags=FrameFlag)
    request_id: int = u64("chosen by who asks, repeated by who answers")
    nonce: int = u64("Unix milliseconds of a signed frame, never twice")
    sender: int = u128("the sender's node_id")
    _payload_len = length_of("payload")
    frag_offset: int | None = u32("first byte in the whole payload", default=None, kw_only=True,
                                  when=When("flags", mask=FrameFlag.FRAG_V2))  # fmt: skip
    frag_total_len: int | None = u32("the whole payload's length", default=None, kw_only=True,
                                     when=When("flags", mask=FrameFlag.FRAG_V2))  # fmt: skip
    payload: bytes = counted("_payload_len", "payload_len bytes")
    signature: bytes | None = fixed(64, "Ed25519 over the tag and all bytes before", default=None, kw_only=True,
                                    when=When("flags", mask=FrameFlag.SIGNED))  # fmt: skip

    @property
    def fragmented(self) -> bool:
        """True for a part of a message."""
        return bool(self.flags & _FRAGMENT_BITS)

    def complaint(self, rules: Rules) -> str:
        flags = self.flags
        if not flags & ~1:
            return ""
        if flags & _FRAGMENT_BITS == _FRAGMENT_BITS:
            return "CONTINUED and FINAL are both set"
        if rules.transport == "quic" and flags & _NOT_ON_QUIC:
            return "fragment flags and COMPRESSED are errors on QUIC"
        return self._fragment_complaint() if flags & _FRAG_V2 else ""

    def _fragment_complaint(self) -> str:
        """Judge frag_offset and frag_total_len (wire encoding, "Fragmentation", and D2)."""
        if self.frag_offset is None or self.frag_total_len is None:
            return "FRAG_V2 without its offset and length"
        stop = self.frag_offset + len(self.payload)
        if stop > self.frag_total_len:
            return "the fragment goes past frag_total_len"
        if not self.fragmented:
            whole = self.frag_offset == 0 and stop == self.frag_total_len
            return "" if whole else "an unfragmented frame must be the whole payload"
        if bool(self.flags & _FINAL) != (stop == self.frag_total_len):
            return "FINAL must be set on the last fragment, and only there"
        return ""
