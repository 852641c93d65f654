"""The dissector's ProtoFields: what can be filtered on, `fabricbios.<message>.<field>`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntFlag

from fabricbios.model import DpAuth, DpOp
from fabricbios.wire import kinds
from fabricbios.wire.fields import Field
from fabricbios.wire.pages import PageOp
from fabricbios.wire.registry import TABLES, wire_name
from wiredoc.lua_text import table, text, values
from wiredoc.names import HEADER_NAME, sections, table_key

_UINT = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64"}
_ADDRESSES = frozenset(("addr", "control_addr"))  # [16] that are IPv6 or IPv4-mapped


def field_lines() -> Iterator[str]:
    """Yield each field's line once; one name with two meanings is a mistake of ours."""
    lines: Iterable[tuple[str, str]] = _fields()
    seen: dict[str, str] = {}
    for name, line in lines:
        if seen.setdefault(name, line) != line:
            raise ValueError(f"two different fields are called {name}")
    for name, line in seen.items():
        yield f"F[{text(name)}] = {line}"


def _fields() -> Iterator[tuple[str, str]]:
    for section in sections():
        yield _proto(section.name, "none", section.name, (section.cls.__doc__ or "").strip().split("\n")[0])
        for name, field in section.items.items():
            named = field._replace(enum=DpOp) if (section.name, name) == (HEADER_NAME, "op") else field
            yield from _field(section.name, wire_name(name.lstrip("_")), named)
    yield _proto(f"{HEADER_NAME}.page_op", "uint8", "op", "PageOp", values(PageOp))
    yield _proto("frame.reassembled", "bytes", "reassembled", "the whole payload")
    yield _proto("frame.inflated", "bytes", "inflated", "the payload that was COMPRESSED")
    yield _proto(
        "auth.status", "uint8", "auth_tag", "what dp_key says", '{ [0] = "unverified", [1] = "good", [2] = "bad" }'
    )
    yield _proto("auth.mode", "uint8", "dp_auth", "the mode that gives this tag", values(DpAuth))
    for tlvs in TABLES:
        yield from _tlv_fields(table_key(tlvs.name), {t.TAG: t.NAME for t in tlvs.by_tag.values()}, tlvs.narrow)


def _tlv_fields(key: str, names: dict[int, str], narrow: bool) -> Iterator[tuple[str, str]]:
    yield _proto(key, "none", key, "a TLV")
    yield _proto(
        f"{key}.tag", "uint8" if narrow else "uint16", "tag", "", table((k, text(v)) for k, v in names.items())
    )
    yield _proto(f"{key}.len", "uint16", "len", "bytes of the value")
    yield _proto(f"{key}.raw", "bytes", "raw", "the value of an unknown tag")


def _proto(
    name: str, kind: str, label: str, doc: str, values: str = "", mask: str = "", base: str = ""
) -> tuple[str, str]:
    abbrev = text(f"fabricbios.{name}")
    if kind in ("none", "bytes", "string", "ipv6", "ether"):
        middle = ", base.NONE" if kind in ("bytes",) else ""
        if kind == "string":
            middle = ", base.UNICODE"
        return name, f"ProtoField.{kind}({abbrev}, {text(label)}{middle}, {text(doc)})"
    if kind == "bool":
        return name, f"ProtoField.bool({abbrev}, {text(label)}, {base}, nil, {mask}, {text(doc)})"
    shown = base or ("base.HEX" if values and kind == "uint16" else "base.DEC")
    return name, f"ProtoField.{kind}({abbrev}, {text(label)}, {shown}, {values or 'nil'}, nil, {text(doc)})"


def prefix_proto(full: str, kind: kinds.Kind) -> tuple[str, str]:
    counts = isinstance(kind, (kinds.ListOf, kinds.BytesList)) or (
        kind_prefix(kind) == 2 and isinstance(kind, kinds.Tlvs)
    )
    word = "count" if counts else "len"
    name = f"{full}_{word}"
    return _proto(name, _UINT[kind_prefix(kind)], name.rpartition(".")[2], "items" if counts else "bytes")


def _field(section: str, name: str, field: Field) -> Iterator[tuple[str, str]]:
    """Yield the ProtoFields of one place: its own, its prefix's, its bits'."""
    kind, full = field.kind, f"{section}.{name}"
    if isinstance(kind, (kinds.Nested, kinds.Choice, kinds.Tlvs)):
        if kind_prefix(kind):
            yield prefix_proto(full, kind)
        return
    if isinstance(kind, kinds.Variable) and kind_prefix(kind):
        yield prefix_proto(full, kind)
    if isinstance(kind, kinds.BytesList):
        yield _proto(f"{full}_len", "uint32", f"{name}_len", "bytes of one item")
    if isinstance(kind, kinds.ListOf) and not isinstance(kind.item, kinds.FixedKind):
        return
    yield _plain(full, name, field)
    if field.flags is not None:
        yield from _bits(full, field.flags, kind.size)


def _plain(full: str, name: str, field: Field) -> tuple[str, str]:
    kind = _item_of(field.kind)
    if isinstance(kind, (kinds.Int, kinds.LengthOf)):
        shape = "int32" if isinstance(kind, kinds.Int) and kind.signed else _UINT[kind.size]
        base = "base.HEX" if field.flags is not None else ""
        return _proto(full, shape, name, field.doc, values(field.enum) if field.enum else "", base=base)
    if isinstance(kind, (kinds.Text, kinds.Magic)) or name == "magic":
        return _proto(full, "string", name, field.doc)
    if isinstance(kind, kinds.Padding):
        return _proto(full, "uint32", name, "bytes")
    return _proto(full, _octets_shape(name, kind), name, field.doc)


def _item_of(kind: kinds.Kind) -> kinds.Kind:
    """Return what each item of a list or an array is, the kind itself if it is neither."""
    if isinstance(kind, (kinds.ListOf, kinds.Array)) and isinstance(kind.item, kinds.FixedKind):
        return kind.item
    return kind


def _octets_shape(name: str, kind: kinds.Kind) -> str:
    if isinstance(kind, kinds.Octets) and kind.size == 16 and name in _ADDRESSES:
        return "ipv6"
    return "ether" if isinstance(kind, kinds.Octets) and kind.size == 6 else "bytes"


def _bits(full: str, flags: type[IntFlag], size: int) -> Iterator[tuple[str, str]]:
    for flag in flags:
        name = str(flag.name)
        yield _proto(f"{full}.{name.lower()}", "bool", name, "", mask=hex(flag), base=str(8 * size))


def kind_prefix(kind: kinds.Kind) -> int:
    """Return the bytes of the length or count before a field, 0 if there is none."""
    return kinds.PREFIX_SIZE[kind.prefix] if isinstance(kind, kinds.Variable) else 0
