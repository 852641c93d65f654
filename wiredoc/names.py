"""Names of the spec for everything described, and the parts that generated texts are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fabricbios.wire.dataplane import Datagram, DpHeader
from fabricbios.wire.description import Struct, type_name
from fabricbios.wire.fields import Field
from fabricbios.wire.kinds import Nested
from fabricbios.wire.registry import TYPES, structs
from fabricbios.wire.tlv import Tlv

HEADER_NAME = "dp"  # the 56 bytes before every data plane message


class Section(NamedTuple):
    """One described thing: `name` is unique, `items` everything on the wire in order."""

    name: str
    cls: type[Struct]
    items: dict[str, Field]


def spec_name(cls: type[Struct]) -> str:
    """Return a unique lower-case name: the type's, or the tag's for a TLV."""
    if issubclass(cls, Tlv):
        return cls.NAME.lower().removeprefix("tlv_")
    return HEADER_NAME if cls is DpHeader else type_name(cls.__name__)


def table_key(name: str) -> str:
    """Return a TLV table's name as an identifier."""
    return name.replace(" ", "_")


def datagrams() -> dict[str, type[Datagram]]:
    """Return the data plane messages, page operations included, by type name."""
    return {n: c for n, c in TYPES.items() if issubclass(c, Datagram)}


def payload_of(cls: type[Datagram]) -> type[Struct]:
    """Return what a data plane message carries."""
    kind = cls.ITEMS["payload"].kind
    assert isinstance(kind, Nested)
    return kind.item


def sections() -> Iterator[Section]:
    """Yield every struct once. A datagram's payload stands under the datagram's own name."""
    payloads = {payload_of(c) for c in datagrams().values()}
    for cls in structs():
        if not issubclass(cls, Datagram) and cls not in payloads:
            yield Section(spec_name(cls), cls, cls.ITEMS)
    yield Section(HEADER_NAME, DpHeader, DpHeader.ITEMS)
    for name, message in datagrams().items():
        payload = payload_of(message)
        yield Section(name, payload, payload.ITEMS)
