"""A message's bytes, field by field. What is shown, put together again, is what the codec packs."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntFlag
from typing import Any, NamedTuple

from fabricbios.wire import kinds
from fabricbios.wire.description import Struct
from fabricbios.wire.fields import Field
from fabricbios.wire.registry import wire_name
from fabricbios.wire.tlv import RawTlv, TlvTable
from wiredoc.pages import grid

_SHOWN = 16  # bytes of a long field that are printed


class Piece(NamedTuple):
    """Bytes of one field, its name, and what they say."""

    data: bytes
    name: str
    meaning: str = ""


def annotated(value: Struct) -> str:
    """Return a table of the message's bytes."""
    found = list(pieces(value))
    assert b"".join(p.data for p in found) == value.pack(), type(value).__name__
    rows, at = [], 0
    for piece in found:
        if piece.data:
            rows.append((str(at), f"`{shortened(piece.data)}`", piece.name, piece.meaning))
        at += len(piece.data)
    return grid(("offset", "bytes", "field", "meaning"), rows)


def shortened(data: bytes) -> str:
    """Return hex digits, of a long field its beginning and its length."""
    if len(data) <= 2 * _SHOWN:
        return data.hex(" ", -4)
    return f"{data[:_SHOWN].hex(' ', -4)} ... ({len(data)} bytes)"


def dump(data: bytes) -> str:
    """Return all bytes, 32 a line."""
    lines = (f"{at:04x}  {data[at : at + 32].hex(' ', -4)}" for at in range(0, len(data), 32))
    return "```\n" + "\n".join(lines) + "\n```\n"


def pieces(value: Struct) -> Iterator[Piece]:
    """Yield the bytes of every place of a message in order."""
    held = dict(zip(value.FIELDS, value, strict=True))
    for name, field in value.ITEMS.items():
        if (field.when or field.tail) and held.get(name) is None:
            continue
        yield from _place(wire_name(name.lstrip("_")), field, held.get(name), held)


def _place(name: str, field: Field, value: Any, held: dict[str, Any]) -> Iterator[Piece]:
    kind = field.kind
    match kind:
        case kinds.Magic():
            yield Piece(kind.value, "magic", f'"{kind.value.decode()}"')
        case kinds.Reserved():
            yield Piece(bytes(kind.size), "reserved")
        case kinds.LengthOf():
            size = _size(held[kind.target])
            yield Piece(size.to_bytes(4, "big"), name, str(size))
        case kinds.FixedKind():
            yield Piece(_fixed(kind, value), name, _meaning(field, value))
        case kinds.Nested():
            yield from (p._replace(name=f"{name}.{p.name}") for p in pieces(value))
        case kinds.Tlvs():
            yield from _tlvs(name, kind, value)
        case _:
            yield from _variable(name, kind, value)


def _size(value: Any) -> int:
    return len(value.pack()) if isinstance(value, Struct) else len(value)


def _variable(name: str, kind: kinds.Kind, value: Any) -> Iterator[Piece]:
    if isinstance(kind, kinds.Padding):
        yield Piece(bytes(value), name, f"{value} zeros")
        return
    assert isinstance(kind, (kinds.Bytes, kinds.Rest, kinds.Counted)), kind
    data = value.encode() if isinstance(value, str) else value
    if size := kinds.PREFIX_SIZE[kind.prefix]:
        yield Piece(len(data).to_bytes(size, "big"), f"{name}, length", str(len(data)))
    yield Piece(data, name, value if isinstance(value, str) else "")


def _fixed(kind: kinds.FixedKind, value: Any) -> bytes:
    if isinstance(kind, kinds.Octets):
        return bytes(value)
    if isinstance(kind, kinds.Array):
        return b"".join(v.to_bytes(kind.item.size, "big") for v in value)
    signed = isinstance(kind, kinds.Int) and kind.signed
    return int(value).to_bytes(kind.size, "big", signed=signed)


def _meaning(field: Field, value: Any) -> str:
    if field.enum is not None and value in set(field.enum):
        return str(field.enum(value).name)
    if field.flags is not None and value:
        return _flags(field.flags, value)
    return str(value) if isinstance(field.kind, kinds.Int) else ""


def _flags(flags: type[IntFlag], value: int) -> str:
    return " | ".join(str(f.name) for f in flags if f & value)


def _tlvs(name: str, kind: kinds.Tlvs, value: Any) -> Iterator[Piece]:
    inside = [p for tlv in value for p in _tlv(kind.table, tlv)]
    counted = {"": 0, "H": len(value), "I": sum(len(p.data) for p in inside)}[kind.prefix]
    if size := kinds.PREFIX_SIZE[kind.prefix]:
        yield Piece(
            counted.to_bytes(size, "big"), f"{name}, {'count' if kind.prefix == 'H' else 'length'}", str(counted)
        )
    yield from inside


def _tlv(table: TlvTable, tlv: Any) -> Iterator[Piece]:
    packed = table.pack_one(tlv)
    head = 3 if table.narrow else 4
    if isinstance(tlv, RawTlv):
        yield Piece(packed, "unknown tag")
        return
    yield Piece(packed[:head], f"{tlv.NAME}: tag, length", f"{tlv.TAG:#06x}, {len(packed) - head}")
    yield from (p._replace(name=f"{tlv.NAME}: {p.name}") for p in pieces(tlv))
