"""A node as discovery found it: for the client library, for tables and for documents."""

from __future__ import annotations

import ipaddress
from enum import IntEnum, IntFlag
from typing import Any, NamedTuple

from fabricbios.model import Binding, Health, Instant, ResourceFlags, ResourceType, hex128
from fabricbios.wire.inventory import ResourceSummary, Transports
from fabricbios.wire.proof import Entry

_SKEW_SECS = 30  # D2: how far clocks may be apart


class NodeEntry(NamedTuple):
    """One node as it was found. `flaw` is "" when its own signature proves all of this, and is recent."""

    node_id: int
    public_key: bytes
    address: str
    port: int
    health: Health
    site_id: int
    row_id: int
    rack_id: int
    resources: tuple[ResourceSummary, ...]
    transports: tuple[int, ...]
    sequence: int
    timestamp: int  # Unix s, by the node's clock
    ttl_secs: int
    age_secs: int  # since the relay heard it, or since it was signed
    flaw: str
    source: str  # who told us

    @property
    def verified(self) -> bool:
        return not self.flaw

    @property
    def endpoint(self) -> str:
        """HOST:PORT of the control plane, as -H takes it."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def to_json(self) -> dict[str, Any]:
        """Return it as docs/schema/nodes.json has it."""
        return {
            "node_id": hex128(self.node_id),
            "public_key": self.public_key.hex(),
            "address": self.address,
            "port": self.port,
            "health": _names(self.health),
            "site_id": self.site_id,
            "row_id": self.row_id,
            "rack_id": self.rack_id,
            "resources": [_resource(r) for r in self.resources],
            "transports": [_name(Binding, t) for t in self.transports],
            "sequence": self.sequence,
            "timestamp": self.timestamp,
            "ttl_secs": self.ttl_secs,
            "age_secs": self.age_secs,
            "verified": self.verified,
            "flaw": self.flaw,
            "source": self.source,
        }


def _resource(summary: ResourceSummary) -> dict[str, Any]:
    return {
        "resource_id": hex128(summary.resource_id),
        "type": _name(ResourceType, summary.resource_type),
        "flags": _names(ResourceFlags(summary.flags)),
        "capacity": summary.capacity,
        "available": summary.available,
    }


def _names(flags: IntFlag) -> list[str]:
    return [flag.name.lower() for flag in type(flags) if flag in flags and flag.name]


def _name(enum: type[IntEnum], value: int) -> str:
    """Return the name of a value, or the number that has none here (D1: unknown ones are skipped, not refused)."""
    try:
        return enum(value).name.lower()
    except ValueError:
        return f"0x{value:04x}"


def node_entry(entry: Entry, source: str, now: Instant) -> NodeEntry:
    """Return what people are shown; an old word told again, however well signed, is no proof of today."""
    announce = entry.announce
    flaw = entry.flaw
    signed = entry.signed_ms // 1000 if entry.signed_ms is not None else announce.timestamp
    if not flaw and not -_SKEW_SECS <= now.unix - signed <= announce.ttl_secs + _SKEW_SECS:
        flaw = "signed too long ago, or in the future"
    transports = next((tuple(t.transports) for t in announce.extensions if isinstance(t, Transports)), ())
    return NodeEntry(
        node_id=announce.node_id,
        public_key=announce.public_key,
        address=address_text(announce.control_addr),
        port=announce.control_port,
        health=Health(announce.health),
        site_id=announce.site_id,
        row_id=announce.row_id,
        rack_id=announce.rack_id,
        resources=announce.resources,
        transports=transports,
        sequence=announce.sequence,
        timestamp=announce.timestamp,
        ttl_secs=announce.ttl_secs,
        age_secs=max(0, now.unix - (entry.seen if entry.seen is not None else signed)),
        flaw=flaw,
        source=source,
    )


def address_text(packed: bytes) -> str:
    """Return 16 bytes as people write them; IPv4-mapped ones as IPv4."""
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)
