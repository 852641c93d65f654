"""The dissector's description of messages: which handler of engine.lua reads each place, and how it is judged."""

from __future__ import annotations

from collections.abc import Iterator

from fabricbios.wire import kinds
from fabricbios.wire.dataplane import Datagram
from fabricbios.wire.description import Struct
from fabricbios.wire.fields import Field
from fabricbios.wire.pages import PageDatagram
from fabricbios.wire.registry import TABLES, wire_name
from wiredoc.lua_fields import kind_prefix, prefix_proto
from wiredoc.lua_text import table, text
from wiredoc.names import HEADER_NAME, Section, datagrams, sections, spec_name, table_key


def struct_lines() -> Iterator[str]:
    """Yield one Lua table a struct."""
    yield from (_struct(section) for section in (*sections(), *_datagrams()))


def _struct(section: Section) -> str:
    rows = [_row(section.name, section.cls, n, f) for n, f in section.items.items()]
    inside = "".join(f"\n\t{row}," for row in rows)
    return f"STRUCTS[{text(section.name)}] = {{{inside}\n}}" if rows else f"STRUCTS[{text(section.name)}] = {{}}"


def _datagrams() -> Iterator[Section]:
    """Yield each data plane message whole, under another name than its payload's."""
    for name, cls in datagrams().items():
        yield Section(f"message {name}", cls, cls.ITEMS)


def _row(section: str, cls: type[Struct], name: str, field: Field) -> str:
    """Return the engine's descriptor of one place."""
    wire = wire_name(name.lstrip("_"))
    key = _key(section, cls, wire)
    row: dict[str, str] = {"n": text(wire), "f": text(key), **_shape(section, cls, wire, field)}
    if kind_prefix(field.kind):
        row["pf"] = text(prefix_proto(key, field.kind)[0])
    row |= _limits(key, field)
    return table([("k", row.pop("k")), *row.items()])


def _key(section: str, cls: type[Struct], wire: str) -> str:
    """Return the ProtoField's name; the header's fields are the same for all data plane messages."""
    if not issubclass(cls, Datagram):
        return f"{section}.{wire}"
    return f"{HEADER_NAME}.{'page_op' if wire == 'op' and issubclass(cls, PageDatagram) else wire}"


def _limits(key: str, field: Field) -> dict[str, str]:
    row: dict[str, str] = {}
    if field.allowed:
        row["only"] = table((v, "true") for v in field.allowed)
    if field.flags is not None:
        row["mask"] = hex(field.mask or 0)
        bits = (table([("f", text(f"{key}.{str(b.name).lower()}")), ("bit", str(int(b)))]) for b in field.flags)
        row["bits"] = "{ " + ", ".join(bits) + " }"
    for limit in ("low", "high"):
        if getattr(field, limit) is not None:
            row[limit] = str(getattr(field, limit))
    if field.when:
        what = ("mask", field.when.mask) if field.when.mask else ("value", field.when.value)
        row["when"] = table([("by", text(field.when.name)), (what[0], str(int(what[1])))])
    return row | ({"tail": "true"} if field.tail else {})


def _shape(section: str, cls: type[Struct], wire: str, field: Field) -> dict[str, str]:
    """Return `k`, the handler's name, and what that handler wants to know."""
    kind = field.kind
    if isinstance(kind, kinds.Int):
        return {"k": text("int"), "size": str(kind.size), **({"signed": "true"} if kind.signed else {})}
    if isinstance(kind, kinds.LengthOf):
        return {"k": text("int"), "size": "4"}
    if isinstance(kind, kinds.Array):
        return {"k": text("array"), "size": str(kind.item.size), "count": str(kind.count)}
    if isinstance(kind, kinds.FixedKind):
        return {"k": text("octets"), "size": str(kind.size)}
    return _variable_shape(section, cls, wire, kind)


def _variable_shape(section: str, cls: type[Struct], wire: str, kind: kinds.Kind) -> dict[str, str]:
    prefix = {"prefix": str(kind_prefix(kind))}
    match kind:
        case kinds.Text():
            return {"k": text("text"), **prefix}
        case kinds.Bytes() | kinds.Rest():
            return {"k": text("bytes"), **prefix}
        case kinds.Padding():
            return {"k": text("padding")}
        case kinds.Counted():
            return {"k": text("counted"), "by": text(kind.by.lstrip("_")), **({"blocks": "true"} if kind.unit else {})}
        case kinds.ListOf():
            item = {} if isinstance(kind.item, kinds.FixedKind) else {"item": text(spec_name(kind.item))}
            return {"k": text("list"), "least": str(kind.item_size), **item, **prefix}
        case kinds.BytesList():
            holds = {"holds": text("announce")} if wire == "announce_payload_bytes" else {}
            return {"k": text("byteslist"), "lf": text(f"{section}.{wire}_len"), **holds, **prefix}
        case kinds.Tlvs():
            return {"k": text("tlvs"), "table": text(table_key(kind.table.name)), **prefix}
        case kinds.Choice():
            items = table((int(k), text(spec_name(v))) for k, v in kind.table.items())
            return {"k": text("choice"), "by": text(kind.by), "items": items, **prefix}
        case kinds.Nested() if issubclass(cls, Datagram):
            return {"k": text("flat"), "by": text("payload_len"), "item": text(section.removeprefix("message "))}
        case kinds.Nested():
            return {"k": text("nested"), "item": text(spec_name(kind.item))}
    raise ValueError(f"no handler for {type(kind).__name__}")


def tlv_tables() -> str:
    rows = []
    for tlvs in TABLES:
        tags = table((t.TAG, text(spec_name(t))) for t in tlvs.by_tag.values())
        names = table((t.TAG, text(t.NAME)) for t in tlvs.by_tag.values())
        key = table_key(tlvs.name)
        flags = f"narrow = {str(tlvs.narrow).lower()}, strict = {str(tlvs.strict).lower()}"
        rows.append(f"\t[{text(key)}] = {{ key = {text(key)}, {flags},\n\t\ttags = {tags},\n\t\tnames = {names} }},")
    return "local TLV_TABLES = {\n" + "\n".join(rows) + "\n}"
