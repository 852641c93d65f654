"""Values as JSON and back: the form of the golden vectors and of `fabricbios wire`.

u64 and u128 are "0x" and all their digits, smaller numbers are numbers, bytes are hex, UTF-8 is a
string, padding the number of its bytes, an absent field null; a TLV is {"tag", "name", "value"}, an
unknown one {"tag", "raw"}. Reading is a little wider: any number may also be written as a number.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fabricbios.errors import LocalMisuse
from fabricbios.wire import kinds
from fabricbios.wire.description import Struct
from fabricbios.wire.fields import REQUIRED, U32, Field
from fabricbios.wire.registry import wire_name
from fabricbios.wire.tlv import RawTlv, TlvTable, TlvValue

Json = Any
_HEX_KINDS = (kinds.Octets, kinds.Bytes, kinds.Rest, kinds.Counted)


def to_json(value: Struct) -> dict[str, Json]:
    """Return the fields of a value by their spec names."""
    return {wire_name(n): _field_to_json(f.kind, v) for (n, f), v in zip(value.FIELDS.items(), value, strict=True)}


def from_json(cls: type[Struct], fields: Json) -> Any:
    """Return a value of `cls`. Raise LocalMisuse for names, types or numbers that do not fit."""
    given = _expect(dict, fields, cls.__name__)
    names = {wire_name(n): n for n in cls.FIELDS}
    unknown = given.keys() - names.keys()
    if unknown:
        raise LocalMisuse(f"{cls.__name__} has no field {', '.join(sorted(map(str, unknown)))}")
    return cls(**{n: _field_from_json(cls, wire, cls.FIELDS[n], given) for wire, n in names.items()})


def _field_to_json(kind: kinds.Kind, value: Any) -> Json:
    if value is None:
        return None
    if isinstance(kind, (kinds.Int, kinds.U128)):
        return _number_to_json(kind, value)
    if isinstance(kind, kinds.Text):
        return value
    if isinstance(kind, _HEX_KINDS):
        return bytes(value).hex()
    if isinstance(kind, (kinds.Nested, kinds.Choice)):
        return to_json(value)
    if isinstance(kind, kinds.Tlvs):
        return [tlv_to_json(t) for t in value]
    if isinstance(kind, kinds.ListOf):
        item = kind.item
        return [_number_to_json(item, v) if isinstance(item, kinds.FixedKind) else to_json(v) for v in value]
    if isinstance(kind, kinds.BytesList):
        return [v.hex() for v in value]
    return list(value) if isinstance(kind, kinds.Array) else value


def _number_to_json(kind: kinds.FixedKind, value: int) -> Json:
    return value if kind.size <= U32.size else f"0x{value:0{2 * kind.size}x}"


def tlv_to_json(tlv: TlvValue) -> dict[str, Json]:
    """Return one TLV as the vectors have it."""
    if isinstance(tlv, RawTlv):
        return {"tag": tlv.tag, "raw": tlv.raw.hex()}
    return {"tag": tlv.TAG, "name": tlv.NAME, "value": to_json(tlv)}


def _field_from_json(cls: type[Struct], name: str, field: Field, fields: dict[str, Json]) -> Any:
    label = f"{cls.__name__}.{name}"
    given = fields.get(name)
    if given is None:
        if field.default is REQUIRED:
            raise LocalMisuse(f"{label} is missing")
        return field.default
    if isinstance(field.kind, kinds.Choice):
        chosen = field.kind.table.get(number(fields.get(field.kind.by), field.kind.by))
        if chosen is None:
            raise LocalMisuse(f"unknown {field.kind.by}")
        return from_json(chosen, given)
    return _value_from_json(field.kind, given, label)


def _value_from_json(kind: kinds.Kind, given: Json, label: str) -> Any:
    if isinstance(kind, (kinds.Int, kinds.U128, kinds.Padding)):
        return number(given, label)
    if isinstance(kind, kinds.Text):
        return _expect(str, given, label)
    if isinstance(kind, _HEX_KINDS):
        return octets(given, label)
    if isinstance(kind, kinds.Nested):
        return from_json(kind.item, given)
    return _many_from_json(kind, _expect(list, given, label), label)


def _many_from_json(kind: kinds.Kind, given: list[Json], label: str) -> tuple[Any, ...]:
    if isinstance(kind, kinds.Tlvs):
        return tlvs_from_json(kind.table, given)
    if isinstance(kind, kinds.BytesList):
        return tuple(octets(v, label) for v in given)
    assert isinstance(kind, (kinds.ListOf, kinds.Array))
    item = kind.item
    if isinstance(item, kinds.FixedKind):
        return tuple(number(v, label) for v in given)
    return tuple(from_json(item, v) for v in given)


def tlvs_from_json(table: TlvTable, given: Iterable[Json]) -> tuple[TlvValue, ...]:
    """Return the TLVs of a sequence."""
    return tuple(_tlv_from_json(table, _expect(dict, v, table.name)) for v in given)


def _tlv_from_json(table: TlvTable, given: dict[str, Json]) -> TlvValue:
    tag = number(given.get("tag"), "tag")
    if "raw" in given:
        return RawTlv(tag, octets(given["raw"], "raw"))
    known = table.by_tag.get(tag)
    if known is None or given.get("name", known.NAME) != known.NAME:
        raise LocalMisuse(f"{table.name}: no TLV 0x{tag:04x} {given.get('name', '')}".rstrip())
    value: TlvValue = from_json(known, given.get("value"))
    return value


def number(given: Json, label: str) -> int:
    """Return a number, or one in hexadecimal digits. Raise LocalMisuse if it is neither."""
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    try:
        return int(_expect(str, given, label), 16)
    except ValueError:
        raise LocalMisuse(f"{label}: neither a number nor 0x and hexadecimal digits") from None


def octets(given: Json, label: str) -> bytes:
    """Return the bytes of a hexadecimal string. Raise LocalMisuse if it is none."""
    try:
        return bytes.fromhex(_expect(str, given, label))
    except ValueError:
        raise LocalMisuse(f"{label}: not hexadecimal digits") from None


def _expect(kind: type[Any], given: Json, label: str) -> Any:
    if not isinstance(given, kind):
        raise LocalMisuse(f"{label}: {type(given).__name__} where {kind.__name__} belongs")
    return given
