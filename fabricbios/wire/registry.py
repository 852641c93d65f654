"""All of the protocol, to walk through: docs, dissector, C headers, property tests and the CLI start here."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum, IntFlag
from types import MappingProxyType

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
from fabricbios.wire.intents import LEASE_INTENT_TLVS
from fabricbios.wire.inventory import INVENTORY_TLVS
from fabricbios.wire.kinds import Choice, FixedKind, ListOf, Nested
from fabricbios.wire.thermal import THERMAL_TLVS
from fabricbios.wire.tlv import Tlv, TlvTable
from fabricbios.wire.token import CAVEATS

__all__ = ["SECTIONS", "TABLES", "TYPES", "enums", "parts", "structs", "wire_name"]

TYPES = MappingProxyType(Message.TYPES)  # type name -> class, in the order of their modules
SECTIONS = (
    frame, certificate, token, discovery, inventory, control, params, thermal, lease, intents, tasklet, gpu, export,
    dataplane, pages, ofi,
)  # fmt: skip
TABLES: tuple[TlvTable, ...] = (
    BINDING_TLVS, INVENTORY_TLVS, LEASE_INTENT_TLVS, THERMAL_TLVS, CAVEATS, CERTIFICATE_EXTENSIONS,
)  # fmt: skip


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
