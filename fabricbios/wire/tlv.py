"""TLVs: tagged values that a reader may skip (D1), and the tables that say which tags stand where.

A table belongs to a place, not to a number: 0x0901 is a temperature in a GET_THERMAL result and a
lease intent in LEASE_ALLOC's params. Unknown tags are kept as `RawTlv`, so that a message can be
passed on byte for byte; a known tag must be exactly as long as its value.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple

from fabricbios.errors import LocalMisuse, WireError
from fabricbios.wire import compiler
from fabricbios.wire.description import PACK_ERRORS, Struct
from fabricbios.wire.rules import ANY, LIST_LIMIT, Rules


class Tlv(Struct):
    """A value with a tag. TAG is its number, NAME the spec's name for it."""

    TAG: ClassVar[int] = 0
    NAME: ClassVar[str] = ""

    def __init_subclass__(cls, tag: int = 0, name: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.TAG, cls.NAME = tag, name


class RawTlv(NamedTuple):
    """A tag that its table does not know, with its bytes."""

    tag: int
    raw: bytes


TlvValue = Tlv | RawTlv


class TlvTable:
    """The tags that are known at one place; `narrow` has u8 tags (tlv8), otherwise u16 (tlv16).

    A `strict` table refuses unknown tags, in both directions.
    """

    def __init__(self, name: str, types: Iterable[type[Tlv]], *, narrow: bool = False, strict: bool = False) -> None:
        self.name, self.narrow, self.strict = name, narrow, strict
        self.by_tag: dict[int, type[Tlv]] = {t.TAG: t for t in types}
        self.by_name: dict[str, type[Tlv]] = {t.NAME: t for t in self.by_tag.values()}
        self._codes = "BH" if narrow else "HH"
        self._header = struct.Struct(">" + self._codes)
        self._encoders = _Encoders(self)

    def decode(self, data: bytes, at: int, end: int, rules: Rules) -> tuple[TlvValue, ...]:
        """Return the TLVs of a sequence that fills `data[at:end]`."""
        return self._read(data, at, end, rules, None)[0]

    def decode_list(self, data: bytes, at: int, end: int, rules: Rules, count: int) -> tuple[tuple[TlvValue, ...], int]:
        """Return the `count` TLVs from `at` on and where they end."""
        if count > LIST_LIMIT:
            raise WireError(f"{self.name}: more than {LIST_LIMIT} TLVs", at)
        if count * self._header.size > end - at:
            raise WireError(f"{self.name}: a count beyond what is left", at)
        return self._read(data, at, end, rules, count)

    def _read(
        self, data: bytes, at: int, end: int, rules: Rules, count: int | None
    ) -> tuple[tuple[TlvValue, ...], int]:
        """Read `count` TLVs, or all up to the end: one loop, because a call for each is a third of what it takes."""
        found: list[TlvValue] = []
        header, size, by_tag = self._header.unpack_from, self._header.size, self.by_tag
        while at < end if count is None else len(found) < count:
            if end - at < size:
                raise WireError(f"{self.name}: truncated TLV header", at)
            tag, length = header(data, at)
            start = at + size
            stop = start + length
            if stop > end:
                raise WireError(f"{self.name}: TLV 0x{tag:04x} is longer than its buffer", at)
            known = by_tag.get(tag)
            if known is not None:
                value, used = known._decode(data, start, stop, rules)
                if used != stop:
                    raise WireError(f"{self.name}: {known.NAME} is longer than its value", used)
                found.append(value)
            elif self.strict:
                raise WireError(f"{self.name}: unknown type {tag}", at)
            else:
                found.append(RawTlv(tag, data[start:stop]))
            at = stop
        return tuple(found), at

    def encode(self, values: Iterable[TlvValue], rules: Rules) -> bytes:
        """Return the sequence. Raise LocalMisuse for a value that has no place in this table."""
        encoders = self._encoders
        return b"".join([encoders[type(value)](value, rules) for value in values])

    def pack_one(self, value: TlvValue) -> bytes:
        """Return one TLV with its header, outside of any message. Raise LocalMisuse if it cannot be sent."""
        try:
            return self._encoders[type(value)](value, ANY)
        except PACK_ERRORS as e:
            raise LocalMisuse(f"{self.name}: {value!r} cannot be packed: {e}") from e

    def encoder_of(self, kind: type[Any]) -> Callable[[Any, Rules], bytes]:
        """Return what makes the bytes of a value of this type, header and all. Raise LocalMisuse if it has no place."""
        if kind is RawTlv:
            return self._encode_raw
        if kind not in self.by_tag.values():
            raise LocalMisuse(f"{self.name}: {kind.__name__} has no place here")
        return compiler.tagged_encoder(kind, self._codes, kind.TAG)

    def _encode_raw(self, value: RawTlv, rules: Rules) -> bytes:
        if self.strict or value.tag in self.by_tag:
            raise LocalMisuse(f"{self.name}: tag 0x{value.tag:04x} cannot be sent raw")
        return self._header.pack(value.tag, len(value.raw)) + value.raw


class _Encoders(dict[type[Any], Callable[[Any, Rules], bytes]]):
    """Those of one table, by the type of the value; each is compiled when it is first used."""

    def __init__(self, table: TlvTable) -> None:
        super().__init__()
        self._table = table

    def __missing__(self, kind: type[Any]) -> Callable[[Any, Rules], bytes]:
        self[kind] = encoder = self._table.encoder_of(kind)
        return encoder
