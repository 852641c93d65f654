"""REQUEST, RESPONSE and LEASE_EVENT payloads (D6)."""

from __future__ import annotations

from fabricbios.model import LeaseEventKind, Op, Status
from fabricbios.wire.description import Message
from fabricbios.wire.fields import When, boolean, bytes_, fixed, u8, u16, u64, u128
from fabricbios.wire.rules import Rules

SOURCE = 'D6; wire encoding, "Control plane ops"'


class Request(Message):
    """One op. An unknown op decodes: it is answered with INVALID_OP."""

    op: int = u16("what to do", enum=Op)
    resource_id: int = u128("on what; zero lets the node choose", default=0)
    token: bytes = bytes_("a Token, or empty", default=b"")
    params: bytes = bytes_("as the op has them", default=b"")
    has_presenter: int = boolean("0 on QUIC, where TLS knows the peer", default=0)
    presenter_id: int | None = u128("who asks", default=None, when=When("has_presenter", 1))
    presenter_sig: bytes | None = fixed(64, "its signature", default=None, when=When("has_presenter", 1))

    def complaint(self, rules: Rules) -> str:
        if rules.transport is None:
            return ""
        if rules.transport == "quic":
            return "has_presenter is 0 on QUIC" if self.has_presenter else ""
        return "" if self.has_presenter else "a REQUEST on UDP names its presenter"


class Response(Message):
    """The answer on QUIC; `result` is an ErrorResult where the status is not OK."""

    status: int = u16("how it went", enum=Status, closed=True)
    op: int = u16("the question's", enum=Op)
    result: bytes = bytes_("as the op has it", default=b"")


class LeaseEvent(Message):
    """What happened to a lease, for its holder."""

    lease_id: int = u128()
    event: int = u8("what", enum=LeaseEventKind, closed=True)
    at: int = u64("Unix seconds")
