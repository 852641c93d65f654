"""OFI two-sided messages (OFI_ACCESS_MODEL 0x02): framed send and receive with a lease in each request."""

from __future__ import annotations

from enum import IntEnum

from fabricbios.wire.description import Message
from fabricbios.wire.fields import rest, u8, u64
from fabricbios.wire.rules import Rules

SOURCE = 'wire encoding, "Two-sided messaging protocol"'

OP_SHIFT = 56  # the op is the high byte of `generation`
GENERATION_MASK = (1 << OP_SHIFT) - 1


class OfiOp(IntEnum):
    WRITE = 1
    READ = 2


class OfiStatus(IntEnum):
    OK = 0x00
    LEASE_REVOKED = 0x10
    LEASE_EXPIRED = 0x11
    STALE_GENERATION = 0x12


class OfiRequest(Message):
    """32 bytes and, for WRITE, `len` bytes of payload."""

    lease_id: int = u64("low half of the lease_id (D13)")
    generation: int = u64("op in the high byte, the lease's generation below")
    offset: int = u64("bytes from the start of the lease")
    len: int = u64("bytes to move")
    payload: bytes = rest("WRITE's data", default=b"")

    @property
    def op(self) -> int:
        """An OfiOp, once the request has been decoded."""
        return self.generation >> OP_SHIFT

    def complaint(self, rules: Rules) -> str:
        if self.op == OfiOp.READ:
            return "a READ with a payload" if self.payload else ""
        if self.op != OfiOp.WRITE:
            return "the high byte of generation is no op"
        return "" if self.len == len(self.payload) else "a WRITE whose payload is not len bytes"


class OfiResponse(Message):
    """One status byte and READ's data."""

    status: int = u8(enum=OfiStatus, closed=True)
    payload: bytes = rest("READ's data", default=b"")
