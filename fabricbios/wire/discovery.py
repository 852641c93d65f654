"""Discovery payloads: ANNOUNCE (D4), SOLICIT and its answers (D5), WITHDRAW (wire encoding)."""

from __future__ import annotations

from enum import IntEnum

from fabricbios.model import Health
from fabricbios.wire.description import Message, Struct
from fabricbios.wire.fields import (
    boolean,
    bytes_,
    fixed,
    list_of,
    list_of_bytes,
    tlvs_in_bytes,
    u8,
    u16,
    u32,
    u64,
    u128,
    zeros,
)  # fmt: skip
from fabricbios.wire.inventory import INVENTORY_TLVS, ResourceSummary
from fabricbios.wire.rules import Rules
from fabricbios.wire.tlv import TlvValue

SOURCE = 'D4, D5; wire encoding, "WITHDRAW payload", "SOLICIT filters", "Relay discovery profile"'

COOKIE_SIZE = 32


class Announce(Message):
    """What a node tells everybody about itself, signed with its own key."""

    node_id: int = u128("id of public_key (D3)")
    sequence: int = u64("Unix milliseconds, never below the last one")
    timestamp: int = u64("Unix seconds")
    ttl_secs: int = u32("a receiver drops the entry after this")
    health: int = u16("DEGRADED, DRAINING, MAINTENANCE", flags=Health)
    site_id: int = u32()
    row_id: int = u32()
    rack_id: int = u32()
    custom: bytes = fixed(32, "locality in the admin's own terms")
    control_addr: bytes = fixed(16, "IPv6, or IPv4-mapped")
    control_port: int = u16("QUIC")
    public_key: bytes = fixed(32, "raw Ed25519 key")
    resources: tuple[ResourceSummary, ...] = list_of(ResourceSummary)
    extensions: tuple[TlvValue, ...] = tlvs_in_bytes(INVENTORY_TLVS, default=())


class FilterField(IntEnum):
    """SOLICIT filter fields of the core registry (wire encoding)."""

    RESOURCE_TYPE = 1
    NODE_ID = 2
    SITE_ID = 3
    ROW_ID = 4
    RACK_ID = 5
    LOCALITY_CUSTOM = 6
    RESOURCE_FLAGS = 7


class FilterOp(IntEnum):
    EQ = 1
    GT = 2
    LT = 3
    CONTAINS = 4


FIRST_EXTENSION_FIELD = 0x40
_ORDERED = frozenset((FilterOp.EQ, FilterOp.GT, FilterOp.LT))
_MASKED = frozenset((FilterOp.EQ, FilterOp.CONTAINS))
FILTER_OPS: dict[int, frozenset[FilterOp]] = {
    FilterField.RESOURCE_TYPE: frozenset((FilterOp.EQ,)),
    FilterField.NODE_ID: frozenset((FilterOp.EQ,)),
    FilterField.SITE_ID: _ORDERED,
    FilterField.ROW_ID: _ORDERED,
    FilterField.RACK_ID: _ORDERED,
    FilterField.LOCALITY_CUSTOM: _MASKED,
    FilterField.RESOURCE_FLAGS: _MASKED,
}


class Filter(Struct):
    """One condition of a SOLICIT; all of them must hold. Shorter values stand at the start of `value`."""

    field: int = u8("FilterField, or 0x40-0xFF of an extension or vendor", enum=FilterField)
    op: int = u8("FilterOp", enum=FilterOp, closed=True)
    value: bytes = fixed(32)

    def complaint(self, rules: Rules) -> str:
        if self.field >= FIRST_EXTENSION_FIELD:
            return ""
        ops = FILTER_OPS.get(self.field)
        if ops is None:
            return f"filter field 0x{self.field:02x} is not assigned"
        return "" if self.op in ops else f"filter field {self.field} does not take op {self.op}"


class Solicit(Message):
    """Who is there? Padded by who asks, so that the answer is never longer than the question (D5)."""

    query_type: int = boolean("0 all, 1 filtered")
    filters: tuple[Filter, ...] = list_of(Filter, default=())
    cookie: bytes = bytes_("from a SOLICIT_RETRY, empty at first", default=b"")
    padding: int = zeros("ignored", default=0)

    def complaint(self, rules: Rules) -> str:
        return "filters with query_type 0" if self.filters and not self.query_type else ""


class SolicitRetry(Message):
    """Ask again with this cookie, to prove your address."""

    cookie: bytes = bytes_("32 bytes that only their maker reads")

    def complaint(self, rules: Rules) -> str:
        return "" if len(self.cookie) == COOKIE_SIZE else f"the cookie is not {COOKIE_SIZE} bytes"


class SolicitResponse(Message):
    """The RESPONSE on UDP 5700: ANNOUNCE payloads as they were heard (wire encoding, "Relay discovery profile")."""

    announce_payload_bytes: tuple[bytes, ...] = list_of_bytes("whole ANNOUNCE payloads")


class WithdrawReason(IntEnum):
    GRACEFUL_SHUTDOWN = 0
    MAINTENANCE = 1
    RESOURCE_EXHAUSTION = 2
    POLICY = 3


class Withdraw(Message):
    """The node leaves. 25 bytes; the old form of 16 has the node_id alone and is only read."""

    node_id: int = u128("who leaves")
    sequence: int = u64("shared with ANNOUNCE", default=0, tail=True)
    reason: int = u8("why", default=WithdrawReason.GRACEFUL_SHUTDOWN, enum=WithdrawReason, closed=True)
