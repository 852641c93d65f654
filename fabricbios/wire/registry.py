"""All of the protocol, to walk through: docs, dissector, C headers, property tests and the CLI start here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from types import MappingProxyType

from fabricbios.model import Op

# Importing a module is what registers its messages.
from fabricbios.wire import (
    certificate,
    control,
    dataplane,
    discovery,
    export,
    frame,
    gpu,
    intents,
    inventory,
    lease,
    ofi,
    pages,
    params,
    tasklet,
    thermal,
    token,
)  # fmt: skip
from fabricbios.wire.bindings import BINDING_TLVS
from fabricbios.wire.certificate import CERTIFICATE_EXTENSIONS
from fabricbios.wire.description import Message, Struct
from fabricbios.wire.fields import Field
from fabricbios.wire.frame import MsgType
from fabricbios.wire.intents import LEASE_INTENT_TLVS
from fabricbios.wire.inventory import INVENTORY_TLVS
from fabricbios.wire.kinds import Choice, FixedKind, ListOf, Nested
from fabricbios.wire.thermal import THERMAL_TLVS
from fabricbios.wire.tlv import Tlv, TlvTable
from fabricbios.wire.token import CAVEATS

TYPES = MappingProxyType(Message.TYPES)  # type name -> class, in the order of their modules
SECTIONS = (
    frame, certificate, token, discovery, inventory, control, params, thermal, lease, intents, tasklet, gpu, export,
    dataplane, pages, ofi,
)  # fmt: skip
TABLES: tuple[TlvTable, ...] = (
    BINDING_TLVS, INVENTORY_TLVS, LEASE_INTENT_TLVS, THERMAL_TLVS, CAVEATS, CERTIFICATE_EXTENSIONS,
)  # fmt: skip
PAYLOADS: dict[MsgType, type[Message]] = {
    MsgType.ANNOUNCE: discovery.Announce,
    MsgType.SOLICIT: discovery.Solicit,
    MsgType.WITHDRAW: discovery.Withdraw,
    MsgType.SOLICIT_RETRY: discovery.SolicitRetry,
    MsgType.REQUEST: control.Request,
    MsgType.RESPONSE: control.Response,  # on QUIC; on UDP 5700 it is discovery.SolicitResponse
    MsgType.REVOKE_BROADCAST: certificate.RevokeBroadcast,
    MsgType.LEASE_EVENT: control.LeaseEvent,
}
_OTHER_RESULTS: dict[Op, type[Message]] = {
    Op.ENROLL_REQUEST: certificate.Certificate,
    Op.CAP_REQUEST: token.Token,
    Op.CAP_REFRESH: token.Token,
    Op.CAP_REVOKE: certificate.RevokeBroadcast,
}


def params_of(op: Op) -> type[Message]:
    """Return what a REQUEST's params are for `op`."""
    return TYPES[f"{op.name.lower()}_params"]


def result_of(op: Op) -> type[Message]:
    """Return what a RESPONSE's result is for `op` where the status is OK."""
    return _OTHER_RESULTS.get(op) or TYPES[f"{op.name.lower()}_result"]


def source_of(cls: type[Struct]) -> str:
    """Return where the spec or a decision lays the struct down."""
    found: str = sys.modules[cls.__module__].SOURCE
    return found


def parts(cls: type[Struct]) -> Iterator[type[Struct]]:
    """Yield the structs that a struct is made of, itself not included."""
    for field in cls.ITEMS.values():
        kind = field.kind
        if isinstance(kind, Choice):
            yield from kind.table.values()
        elif isinstance(kind, (ListOf, Nested)) and not isinstance(kind.item, FixedKind):
            yield kind.item


def structs() -> tuple[type[Struct], ...]:
    """Return every described class once: messages, TLVs, and what they are made of."""
    found: dict[type[Struct], None] = {}

    def visit(cls: type[Struct]) -> None:
        if cls not in found:
            found[cls] = None
            for part in parts(cls):
                visit(part)

    tlvs: list[type[Tlv]] = [t for table in TABLES for t in table.by_tag.values()]
    for cls in (*TYPES.values(), *tlvs):
        visit(cls)
    return tuple(found)


def enums() -> tuple[type[IntEnum] | type[IntFlag], ...]:
    """Return every enum that some field names."""
    fields: list[Field] = [f for cls in structs() for f in cls.FIELDS.values()]
    return tuple(dict.fromkeys(e for f in fields for e in (f.enum, f.flags) if e is not None))


def wire_name(name: str) -> str:
    """Return a field's name as the spec has it: `class_` is `class`."""
    return name.rstrip("_")
